package objectstore

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/keelson-io/keelson/orchestrator/kinds"
)

// step is one write as its writer saw it.
type step struct {
	revision  int64
	namespace string
	name      string
	label     string // the state that it made; "": deleted
}

func (s step) id() string { return s.namespace + "/" + s.name }

// model is the history of everything, to be asked when it is complete.
type model struct {
	mu    sync.Mutex
	steps []step
}

func (m *model) add(s step) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.steps = append(m.steps, s)
}

// at is the names that match at a revision, in order.
func (m *model) at(revision int64, match func(step) bool) []string {
	state := map[string]step{}
	for _, s := range m.steps {
		if s.revision <= revision {
			state[s.id()] = s
		}
	}
	var out []string
	for id, s := range state {
		if s.label != "" && match(s) {
			out = append(out, id+"="+s.label)
		}
	}
	slices.Sort(out)
	return out
}

// since is what a watch tells of the changes after a revision.
func (m *model) since(revision int64, match func(step) bool) []string {
	var out []string
	state := map[string]step{}
	for _, s := range m.steps {
		prev, there := state[s.id()]
		now, before := s.label != "" && match(s), there && prev.label != "" && match(prev)
		state[s.id()] = s
		if s.revision <= revision {
			continue
		}
		switch {
		case now && before:
			out = append(out, fmt.Sprintf("MODIFIED %s=%s %d", s.id(), s.label, s.revision))
		case now:
			out = append(out, fmt.Sprintf("ADDED %s=%s %d", s.id(), s.label, s.revision))
		case before:
			out = append(out, fmt.Sprintf("DELETED %s=%s %d", s.id(), prev.label, s.revision))
		}
	}
	return out
}

func text(o metav1.Object) string {
	return o.GetNamespace() + "/" + o.GetName() + "=" + o.GetLabels()["l"]
}

// selection is a query and what it means.
type selection struct {
	name      string
	namespace string
	labels    string
	fields    string
	match     func(step) bool
}

func selections() []selection {
	return []selection{
		{name: "all", match: func(step) bool { return true }},
		{name: "namespace", namespace: "a", match: func(s step) bool { return s.namespace == "a" }},
		{name: "label", labels: "l in (1,2)", match: func(s step) bool { return s.label == "1" || s.label == "2" }},
		{name: "node", fields: "spec.nodeName=2", match: func(s step) bool { return s.label == "2" }},
		{name: "name", namespace: "b", fields: "metadata.name=n3", match: func(s step) bool { return s.id() == "b/n3" }},
	}
}

func (s selection) selectors(t testing.TB) (labels.Selector, fields.Selector) {
	return parse(t, s.labels), fields.ParseSelectorOrDie(s.fields)
}

// observer checks lists and watches, once the model is complete.
type observer struct {
	sel     selection
	begin   int64 // of a watch: the revision of its initial state
	initial []string
	events  []string
	lists   []observed
}

type observed struct {
	revision int64
	names    []string
}

func TestModel(t *testing.T) {
	const writers, writes = 4, 150
	f := start(t)
	// A small log, and short pages, so that everything happens.
	small := func(c *Config) { c.PageSize = 7 }
	stores := []*Collection{f.store(t, small).Collection(podKind()), f.store(t, small).Collection(podKind())}
	m := &model{}
	for _, id := range []string{"n1", "n2"} {
		it := create(t, stores[0], labelled("a", id, "1"))
		m.add(step{it.Revision, "a", id, "1"})
	}

	run, stop := context.WithCancel(ctx)
	var watching, working sync.WaitGroup
	var observers []*observer
	for i, c := range stores {
		for _, sel := range selections() {
			o := &observer{sel: sel}
			observers = append(observers, o)
			watching.Go(func() { o.watch(t, run, c) })
			working.Go(func() { o.list(t, c, rand.New(rand.NewPCG(uint64(i), 7))) })
		}
	}
	for w := range writers {
		working.Go(func() { write(t, m, stores[w%2], rand.New(rand.NewPCG(uint64(w), 1)), writes) })
	}
	working.Wait()
	slices.SortFunc(m.steps, func(a, b step) int { return int(a.revision - b.revision) })
	last := m.steps[len(m.steps)-1].revision
	for i := 1; i < len(m.steps); i++ {
		require.Less(t, m.steps[i-1].revision, m.steps[i].revision)
	}
	for _, c := range stores {
		_, err := c.List(ctx, ListQuery{ResourceVersion: rv(last), Match: metav1.ResourceVersionMatchNotOlderThan})
		require.NoError(t, err)
	}
	time.Sleep(200 * time.Millisecond) // until the streams have read what is there
	stop()
	watching.Wait()
	for _, o := range observers {
		require.Equal(t, m.at(o.begin, o.sel.match), o.initial, o.sel.name)
		require.Equal(t, m.since(o.begin, o.sel.match), o.events, o.sel.name)
		require.NotEmpty(t, o.lists)
		for _, l := range o.lists {
			require.Equal(t, m.at(l.revision, o.sel.match), l.names, "%s at %d", o.sel.name, l.revision)
		}
	}
}

func labelled(namespace, name, label string) *corev1.Pod {
	p := pod(namespace, name, "l", label)
	p.Spec.NodeName = label
	return p
}

// write changes objects at random. Everything that was written goes into the model.
func write(t *testing.T, m *model, c *Collection, rnd *rand.Rand, n int) {
	refused := errors.New("refused")
	for range n {
		namespace, name, label := []string{"a", "b"}[rnd.IntN(2)], fmt.Sprint("n", rnd.IntN(8)), fmt.Sprint(1+rnd.IntN(3))
		var it *Item
		var err error
		s := step{namespace: namespace, name: name, label: label}
		switch rnd.IntN(6) {
		case 0, 1, 2:
			it, err = c.Create(ctx, labelled(namespace, name, label))
		case 3, 4:
			it, err = c.Update(ctx, namespace, name, func(cur *Item) (kinds.Object, error) {
				if cur.Object.GetLabels()["l"] == label {
					return nil, refused
				}
				p := cur.Object.DeepCopyObject().(*corev1.Pod)
				p.Labels["l"], p.Spec.NodeName = label, label
				return p, nil
			})
		case 5:
			s.label = ""
			it, err = c.Delete(ctx, namespace, name, nil)
		}
		if err != nil {
			if !errors.Is(err, refused) && !apierrors.IsAlreadyExists(err) && !apierrors.IsNotFound(err) {
				t.Errorf("write: %v", err)
			}
			continue
		}
		s.revision = it.Revision
		m.add(s)
	}
}

func (o *observer) watch(t *testing.T, run context.Context, c *Collection) {
	ls, fs := o.sel.selectors(t)
	yes := true
	s, err := c.Watch(ctx, WatchQuery{
		Namespace: o.sel.namespace, Labels: ls, Fields: fs, SendInitialEvents: &yes, Match: metav1.ResourceVersionMatchNotOlderThan, Bookmarks: true,
	})
	if err != nil {
		t.Error(err)
		return
	}
	defer s.Close()
	for {
		events, err := s.Next(run)
		if run.Err() != nil {
			return
		}
		if err != nil {
			t.Error(err)
			return
		}
		for _, e := range events {
			switch {
			case e.InitialEnd:
				o.begin = e.Revision
			case o.begin == 0:
				o.initial = append(o.initial, text(e.Item.Object))
			default:
				o.events = append(o.events, fmt.Sprintf("%s %s %s", e.Type, text(e.Item.Object), e.Item.Object.GetResourceVersion()))
			}
		}
	}
}

// list reads lists in pages until some are there.
func (o *observer) list(t *testing.T, c *Collection, rnd *rand.Rand) {
	ls, fs := o.sel.selectors(t)
	for range 40 {
		q := ListQuery{Namespace: o.sel.namespace, Labels: ls, Fields: fs, Limit: []int64{0, 1, 3}[rnd.IntN(3)]}
		if len(o.lists) > 0 && rnd.IntN(3) == 0 {
			q.ResourceVersion, q.Match = rv(o.lists[rnd.IntN(len(o.lists))].revision), metav1.ResourceVersionMatchExact
		}
		var seen observed
		for {
			p, err := c.List(ctx, q)
			if err != nil {
				t.Error(err)
				return
			}
			if seen.revision != 0 && seen.revision != p.Revision {
				t.Errorf("pages of %d and %d", seen.revision, p.Revision)
			}
			seen.revision = p.Revision
			for _, it := range p.Items {
				seen.names = append(seen.names, text(it.Object))
			}
			if q.Continue = p.Continue; q.Continue == "" {
				break
			}
			q.ResourceVersion, q.Match = "", ""
		}
		o.lists = append(o.lists, seen)
	}
}
