package garbage

import (
	"slices"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
)

// object names an object of which only a reference may be known.
type object struct {
	kind      schema.GroupVersionKind
	namespace string
	name      string
	uid       types.UID
}

// node is an object in the graph. The graph's mutex guards it.
type node struct {
	object
	owners     []metav1.OwnerReference
	dependents map[types.UID]*node
	deleting   bool // it has a deletionTimestamp
	foreground bool // and waits for its dependents
	virtual    bool // it was named by a dependent and has not been seen
}

// graph is described in the package comment.
type graph struct {
	mu    sync.Mutex
	nodes map[types.UID]*node
	// gone are UIDs that the API server does not have, so that it need not be asked again.
	gone      map[types.UID]struct{}
	goneOrder []types.UID
}

const maxGone = 10_000

func newGraph() *graph {
	return &graph{nodes: map[types.UID]*node{}, gone: map[types.UID]struct{}{}}
}

// work is what is to be looked at after a change of the graph.
type work struct {
	deletions []types.UID
	orphans   []types.UID
}

// seen notes an object as it is now.
func (g *graph) seen(o object, m metav1.Object) (w work) {
	g.mu.Lock()
	defer g.mu.Unlock()
	n := g.nodes[o.uid]
	fresh := n == nil || n.virtual
	if n == nil {
		n = &node{dependents: map[types.UID]*node{}}
		g.nodes[o.uid] = n
	}
	n.object, n.virtual = o, false
	w.deletions = g.setOwners(n, m.GetOwnerReferences())
	n.deleting = m.GetDeletionTimestamp() != nil
	n.foreground = n.deleting && slices.Contains(m.GetFinalizers(), metav1.FinalizerDeleteDependents)
	switch {
	case n.deleting && slices.Contains(m.GetFinalizers(), metav1.FinalizerOrphanDependents):
		w.orphans = append(w.orphans, o.uid)
	case n.foreground:
		w.deletions = append(w.deletions, o.uid)
		for uid := range n.dependents {
			w.deletions = append(w.deletions, uid)
		}
	case fresh && len(n.owners) > 0:
		w.deletions = append(w.deletions, o.uid)
	}
	return w
}

// setOwners changes the edges from a node to its owners, and returns what has to be looked at for it: the node if it lost an
// owner or has one that is not known, and owners that wait for their dependents.
func (g *graph) setOwners(n *node, owners []metav1.OwnerReference) (look []types.UID) {
	for _, old := range n.owners {
		if slices.ContainsFunc(owners, func(r metav1.OwnerReference) bool { return r.UID == old.UID && blocks(&r) == blocks(&old) }) {
			continue
		}
		if o := g.nodes[old.UID]; o != nil {
			delete(o.dependents, n.uid)
			if o.foreground {
				look = append(look, o.uid)
			}
			g.dropIdle(o)
		}
		look = append(look, n.uid)
	}
	for _, r := range owners {
		o := g.nodes[r.UID]
		if o == nil {
			o = &node{object: reference(&r, n.namespace), dependents: map[types.UID]*node{}, virtual: true}
			g.nodes[r.UID] = o
			look = append(look, r.UID)
		}
		o.dependents[n.uid] = n
		if o.foreground {
			look = append(look, o.uid, n.uid)
		}
	}
	n.owners = owners
	return look
}

// dropIdle forgets a virtual node that nobody names any more.
func (g *graph) dropIdle(n *node) {
	if n.virtual && len(n.dependents) == 0 {
		delete(g.nodes, n.uid)
	}
}

func blocks(r *metav1.OwnerReference) bool {
	return r.BlockOwnerDeletion != nil && *r.BlockOwnerDeletion
}

func reference(r *metav1.OwnerReference, namespace string) object {
	gv, _ := schema.ParseGroupVersion(r.APIVersion) // nonsense has no mapping
	return object{kind: gv.WithKind(r.Kind), namespace: namespace, name: r.Name, uid: r.UID}
}

// went notes that an object is gone.
func (g *graph) went(uid types.UID) (w work) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.noteGone(uid)
	n := g.nodes[uid]
	if n == nil {
		return w
	}
	for _, r := range n.owners {
		if o := g.nodes[r.UID]; o != nil {
			delete(o.dependents, uid)
			if o.foreground {
				w.deletions = append(w.deletions, o.uid)
			}
			g.dropIdle(o)
		}
	}
	for dep := range n.dependents {
		w.deletions = append(w.deletions, dep)
	}
	if len(n.dependents) == 0 {
		delete(g.nodes, uid)
		return w
	}
	// Dependents still name it; it goes with the last of them.
	n.virtual, n.owners, n.deleting, n.foreground = true, nil, false, false
	return w
}

func (g *graph) noteGone(uid types.UID) {
	if _, known := g.gone[uid]; known {
		return
	}
	g.gone[uid] = struct{}{}
	if g.goneOrder = append(g.goneOrder, uid); len(g.goneOrder) > maxGone {
		delete(g.gone, g.goneOrder[0])
		g.goneOrder = g.goneOrder[1:]
	}
}

// isGone says whether an object is known not to exist.
func (g *graph) isGone(uid types.UID) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	_, gone := g.gone[uid]
	return gone
}

// view is a copy of what a worker needs of a node.
type view struct {
	object
	virtual, deleting, foreground bool
	owners                        []metav1.OwnerReference
	dependents                    []object
	blocking                      []types.UID // dependents that keep a foreground deletion from its end
}

func (g *graph) view(uid types.UID) *view {
	g.mu.Lock()
	defer g.mu.Unlock()
	n := g.nodes[uid]
	if n == nil {
		return nil
	}
	v := &view{object: n.object, virtual: n.virtual, deleting: n.deleting, foreground: n.foreground, owners: n.owners}
	for _, d := range n.dependents {
		v.dependents = append(v.dependents, d.object)
		for i := range d.owners {
			if d.owners[i].UID == uid && blocks(&d.owners[i]) {
				v.blocking = append(v.blocking, d.uid)
			}
		}
	}
	return v
}

// state says what is known of an owner: whether it was seen, and whether it waits for its dependents.
func (g *graph) state(uid types.UID) (known, foreground bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	n := g.nodes[uid]
	if n == nil || n.virtual {
		return false, false
	}
	return true, n.foreground
}

// anyForeground says whether one of an object's dependents waits for its own.
func (g *graph) anyForeground(uid types.UID) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	n := g.nodes[uid]
	if n == nil {
		return false
	}
	for _, d := range n.dependents {
		if d.foreground {
			return true
		}
	}
	return false
}
