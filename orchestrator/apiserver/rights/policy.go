package rights

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"

	"github.com/keelson-io/keelson/orchestrator/kinds"
)

// Policy is the compiled roles and bindings of a cluster.
type Policy struct {
	cluster atomic.Pointer[scope]
	spaces  sync.Map // namespace -> *scope

	mu       sync.Mutex // for changes
	cells    map[roleKey]*cell
	bindings map[bindingKey]*binding
}

type roleKey struct{ kind, namespace, name string }

type bindingKey struct{ namespace, name string } // namespace "": a ClusterRoleBinding

// cell is a place for the rules of a role.
type cell struct {
	rules atomic.Pointer[ruleset] // nil: no such role
	key   roleKey
	refs  int // bindings, and one for the role itself; under Policy.mu
	there bool
}

// binding is a compiled RoleBinding or ClusterRoleBinding.
type binding struct {
	bindingKey
	ref      rbacv1.RoleRef
	subjects []rbacv1.Subject
	cell     *cell // nil: the reference is of no known kind
}

// grant is a binding as one of its subjects has it.
type grant struct {
	*binding
	reason string
}

// scope is the grants of the cluster or of a namespace.
type scope struct {
	users, groups map[string][]grant // sorted by binding
	bindings      int
}

// NewPolicy returns a Policy that allows nothing.
func NewPolicy() *Policy {
	p := &Policy{cells: map[roleKey]*cell{}, bindings: map[bindingKey]*binding{}}
	p.cluster.Store(&scope{})
	return p
}

// Set puts roles and bindings in, or in the place of those with the same names. Other objects are ignored.
func (p *Policy) Set(objects ...kinds.Object) {
	p.mu.Lock()
	defer p.mu.Unlock()
	d := draft{Policy: p}
	for _, o := range objects {
		d.set(o)
	}
	d.publish()
}

// Remove takes roles and bindings out. What is not there, and other objects, are ignored.
func (p *Policy) Remove(objects ...kinds.Object) {
	p.mu.Lock()
	defer p.mu.Unlock()
	d := draft{Policy: p}
	for _, o := range objects {
		if key, ok := roleOf(o); ok {
			d.removeRole(key)
		} else if b := bindingOf(o); b != nil {
			d.unbind(b.bindingKey)
		}
	}
	d.publish()
}

// Replace makes these all roles and bindings that there are.
func (p *Policy) Replace(objects ...kinds.Object) {
	p.mu.Lock()
	defer p.mu.Unlock()
	d := draft{Policy: p}
	roles, bindings := map[roleKey]bool{}, map[bindingKey]bool{}
	for _, o := range objects {
		d.set(o)
		if key, ok := roleOf(o); ok {
			roles[key] = true
		} else if b := bindingOf(o); b != nil {
			bindings[b.bindingKey] = true
		}
	}
	for key := range p.bindings {
		if !bindings[key] {
			d.unbind(key)
		}
	}
	for key := range p.cells {
		if !roles[key] {
			d.removeRole(key)
		}
	}
	d.publish()
}

// draft is a change: copies of the scopes that it touches, which are published together.
type draft struct {
	*Policy
	scopes map[string]*scope
}

func (d *draft) set(o kinds.Object) {
	switch o := o.(type) {
	case *rbacv1.ClusterRole:
		d.setRole(roleKey{"ClusterRole", "", o.Name}, o.Rules)
	case *rbacv1.Role:
		d.setRole(roleKey{"Role", o.Namespace, o.Name}, o.Rules)
	default:
		if b := bindingOf(o); b != nil {
			d.bind(b)
		}
	}
}

func roleOf(o kinds.Object) (roleKey, bool) {
	switch o := o.(type) {
	case *rbacv1.ClusterRole:
		return roleKey{"ClusterRole", "", o.Name}, true
	case *rbacv1.Role:
		return roleKey{"Role", o.Namespace, o.Name}, true
	}
	return roleKey{}, false
}

func bindingOf(o kinds.Object) *binding {
	switch o := o.(type) {
	case *rbacv1.ClusterRoleBinding:
		return &binding{bindingKey: bindingKey{"", o.Name}, ref: o.RoleRef, subjects: o.Subjects}
	case *rbacv1.RoleBinding:
		return &binding{bindingKey: bindingKey{o.Namespace, o.Name}, ref: o.RoleRef, subjects: o.Subjects}
	}
	return nil
}

func (d *draft) cell(key roleKey) *cell {
	c := d.cells[key]
	if c == nil {
		c = &cell{key: key}
		d.cells[key] = c
	}
	return c
}

func (d *draft) release(c *cell) {
	if c.refs--; c.refs == 0 {
		delete(d.cells, c.key)
	}
}

func (d *draft) setRole(key roleKey, rules []rbacv1.PolicyRule) {
	c := d.cell(key)
	if !c.there {
		c.there = true
		c.refs++
	} else if equality.Semantic.DeepEqual(c.rules.Load().source, rules) {
		return
	}
	c.rules.Store(compile(rules))
}

func (d *draft) removeRole(key roleKey) {
	if c := d.cells[key]; c != nil && c.there {
		c.there = false
		c.rules.Store(nil)
		d.release(c)
	}
}

func (d *draft) bind(b *binding) {
	old := d.bindings[b.bindingKey]
	if old != nil && old.ref == b.ref && slices.Equal(old.subjects, b.subjects) {
		return
	}
	switch b.ref.Kind {
	case "Role":
		b.cell = d.cell(roleKey{"Role", b.namespace, b.ref.Name})
	case "ClusterRole":
		b.cell = d.cell(roleKey{"ClusterRole", "", b.ref.Name})
	}
	if b.cell != nil {
		b.cell.refs++
	}
	d.unbind(b.bindingKey)
	d.bindings[b.bindingKey] = b
	s := d.scope(b.namespace)
	s.bindings++
	for i := range b.subjects {
		if where, name := s.subject(&b.subjects[i], b.namespace); where != nil {
			s.add(where, name, grant{b, b.reason(&b.subjects[i])})
		}
	}
}

func (d *draft) unbind(key bindingKey) {
	b := d.bindings[key]
	if b == nil {
		return
	}
	delete(d.bindings, key)
	s := d.scope(key.namespace)
	s.bindings--
	for i := range b.subjects {
		if where, name := s.subject(&b.subjects[i], key.namespace); where != nil {
			s.drop(where, name, b)
		}
	}
	if b.cell != nil {
		d.release(b.cell)
	}
}

// scope returns a copy of a scope that can be changed until it is published; its slices are shared.
func (d *draft) scope(namespace string) *scope {
	if s := d.scopes[namespace]; s != nil {
		return s
	}
	s := &scope{users: map[string][]grant{}, groups: map[string][]grant{}}
	if old := d.Policy.scope(namespace); old != nil {
		s.bindings = old.bindings
		maps.Copy(s.users, old.users)
		maps.Copy(s.groups, old.groups)
	}
	if d.scopes == nil {
		d.scopes = map[string]*scope{}
	}
	d.scopes[namespace] = s
	return s
}

func (d *draft) publish() {
	for namespace, s := range d.scopes {
		switch {
		case namespace == "":
			d.cluster.Store(s)
		case s.bindings == 0:
			d.spaces.Delete(namespace)
		default:
			d.spaces.Store(namespace, s)
		}
	}
}

// scope returns that of a namespace, nil if there are no bindings in it; "" is the cluster.
func (p *Policy) scope(namespace string) *scope {
	if namespace == "" {
		return p.cluster.Load()
	}
	if s, ok := p.spaces.Load(namespace); ok {
		return s.(*scope)
	}
	return nil
}

// serviceAccountPrefix begins the user name of a service account.
const serviceAccountPrefix = "system:serviceaccount:"

// subject returns where the grants of a subject are, nil if it can match nobody.
func (s *scope) subject(sub *rbacv1.Subject, namespace string) (map[string][]grant, string) {
	switch sub.Kind {
	case rbacv1.UserKind:
		return s.users, sub.Name
	case rbacv1.GroupKind:
		return s.groups, sub.Name
	case rbacv1.ServiceAccountKind:
		if namespace = cmp.Or(sub.Namespace, namespace); namespace != "" {
			return s.users, serviceAccountPrefix + namespace + ":" + sub.Name
		}
	}
	return nil, ""
}

func (s *scope) add(where map[string][]grant, name string, g grant) {
	list := where[name]
	i, found := slices.BinarySearchFunc(list, g, func(a, b grant) int { return cmp.Compare(a.name, b.name) })
	if !found { // else the binding names the subject twice
		where[name] = slices.Insert(slices.Clip(list), i, g)
	}
}

func (s *scope) drop(where map[string][]grant, name string, b *binding) {
	list := slices.DeleteFunc(slices.Clone(where[name]), func(g grant) bool { return g.binding == b })
	if len(list) == 0 {
		delete(where, name)
	} else {
		where[name] = list
	}
}

// reason says why a subject is allowed what the binding gives.
func (b *binding) reason(s *rbacv1.Subject) string {
	who := s.Name
	if s.Kind == rbacv1.ServiceAccountKind {
		who += "/" + cmp.Or(s.Namespace, b.namespace)
	}
	kind, name := "ClusterRoleBinding", b.name
	if b.namespace != "" {
		kind, name = "RoleBinding", b.name+"/"+b.namespace
	}
	return fmt.Sprintf("RBAC: allowed by %s %q of %s %q to %s %q", kind, name, b.ref.Kind, b.ref.Name, s.Kind, who)
}
