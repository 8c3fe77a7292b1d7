package rights

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/keelson-io/keelson/orchestrator/apiserver/request"
	"github.com/keelson-io/keelson/orchestrator/kinds"
)

// naive decides as the documentation of RBAC reads, with no thought of speed.
type naive struct{ objects map[string]kinds.Object }

func nameOf(o kinds.Object) string { return fmt.Sprintf("%T/%s/%s", o, o.GetNamespace(), o.GetName()) }

func (n naive) allows(a Attributes) bool {
	for _, o := range n.objects {
		switch b := o.(type) {
		case *rbacv1.ClusterRoleBinding:
			if n.subject(b.Subjects, "", a.User) && n.role(b.RoleRef, "", a) {
				return true
			}
		case *rbacv1.RoleBinding:
			if a.Namespace != "" && b.Namespace == a.Namespace && n.subject(b.Subjects, b.Namespace, a.User) && n.role(b.RoleRef, b.Namespace, a) {
				return true
			}
		}
	}
	return false
}

func (naive) subject(subjects []rbacv1.Subject, namespace string, u *request.User) bool {
	for _, s := range subjects {
		switch s.Kind {
		case "User":
			if s.Name == u.Name {
				return true
			}
		case "Group":
			if slices.Contains(u.Groups, s.Name) {
				return true
			}
		case "ServiceAccount":
			ns := s.Namespace
			if ns == "" {
				ns = namespace
			}
			if ns != "" && u.Name == "system:serviceaccount:"+ns+":"+s.Name {
				return true
			}
		}
	}
	return false
}

func (n naive) role(ref rbacv1.RoleRef, namespace string, a Attributes) bool {
	var rules []rbacv1.PolicyRule
	switch ref.Kind {
	case "ClusterRole":
		if r, ok := n.objects["*v1.ClusterRole//"+ref.Name].(*rbacv1.ClusterRole); ok {
			rules = r.Rules
		}
	case "Role":
		if r, ok := n.objects["*v1.Role/"+namespace+"/"+ref.Name].(*rbacv1.Role); ok {
			rules = r.Rules
		}
	}
	return slices.ContainsFunc(rules, func(r rbacv1.PolicyRule) bool { return naiveRule(r, a) })
}

func naiveRule(r rbacv1.PolicyRule, a Attributes) bool {
	has := func(list []string, what ...string) bool {
		return slices.ContainsFunc(what, func(w string) bool { return slices.Contains(list, w) })
	}
	if !has(r.Verbs, "*", a.Verb) {
		return false
	}
	if !a.IsResource {
		return slices.ContainsFunc(r.NonResourceURLs, func(u string) bool {
			return u == "*" || u == a.Path || strings.HasSuffix(u, "*") && strings.HasPrefix(a.Path, strings.TrimRight(u, "*"))
		})
	}
	resource := a.Resource
	if a.Subresource != "" {
		resource += "/" + a.Subresource
	}
	if !has(r.Resources, "*", resource) && (a.Subresource == "" || !has(r.Resources, "*/"+a.Subresource)) {
		return false
	}
	return has(r.APIGroups, "*", a.Group) && (len(r.ResourceNames) == 0 || has(r.ResourceNames, a.Name))
}

type random struct{ *rand.Rand }

func (r random) some(values []string, most int) []string {
	var list []string
	for range max(r.IntN(most+1), r.IntN(most+1)) {
		list = append(list, values[r.IntN(len(values))])
	}
	return list
}

func (r random) one(values []string) string { return values[r.IntN(len(values))] }

func vocabulary(s string) []string { return strings.Split(s, " ") }

func (r random) rule() rbacv1.PolicyRule {
	p := rbacv1.PolicyRule{Verbs: r.some(vocabulary("get list watch create update patch delete deletecollection bind use * *"), 4)}
	if r.IntN(4) == 0 {
		p.NonResourceURLs = r.some(vocabulary("* /healthz /api/* /apis/apps/* /a*b /logs/** /version/"), 3)
	} else {
		p.APIGroups = r.some([]string{"", "apps", "batch", "*"}, 2)
		p.Resources = r.some(vocabulary("pods pods/log */log pods/* deployments */scale deployments/scale * a/b/c nodes"), 3)
		if r.IntN(3) == 0 {
			p.ResourceNames = r.some([]string{"a", "b", ""}, 2)
		}
	}
	return p
}

func (r random) rules() []rbacv1.PolicyRule {
	var rules []rbacv1.PolicyRule
	for range r.IntN(7) {
		rules = append(rules, r.rule())
	}
	return rules
}

func (r random) object() kinds.Object {
	meta := metav1.ObjectMeta{Name: r.one(vocabulary("a b c d"))}
	ref := rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: r.one(vocabulary("Role ClusterRole ClusterRole Other")), Name: r.one(vocabulary("a b c d"))}
	var subjects []rbacv1.Subject
	for range 1 + r.IntN(5) {
		s := rbacv1.Subject{Kind: r.one(vocabulary("User Group ServiceAccount Thing")), Name: r.one(vocabulary("x y z"))}
		if s.Kind == "ServiceAccount" {
			s.Namespace = r.one([]string{"", "n1", "n2"})
		}
		subjects = append(subjects, s)
	}
	namespace := r.one([]string{"n1", "n2"})
	switch r.IntN(4) {
	case 0:
		return &rbacv1.ClusterRole{ObjectMeta: meta, Rules: r.rules()}
	case 1:
		meta.Namespace = namespace
		return &rbacv1.Role{ObjectMeta: meta, Rules: r.rules()}
	case 2:
		if ref.Kind == "Role" {
			ref.Kind = "ClusterRole"
		}
		return &rbacv1.ClusterRoleBinding{ObjectMeta: meta, RoleRef: ref, Subjects: subjects}
	}
	meta.Namespace = namespace
	return &rbacv1.RoleBinding{ObjectMeta: meta, RoleRef: ref, Subjects: subjects}
}

func (r random) ask() Attributes {
	u := &request.User{Name: r.one(vocabulary("x y system:serviceaccount:n1:x system:serviceaccount:n2:y w")), Groups: r.some(vocabulary("x y z system:authenticated"), 2)}
	a := Attributes{User: u, Verb: r.one(vocabulary("get list watch create update patch delete deletecollection bind use proxy")), IsResource: r.IntN(5) > 0}
	if !a.IsResource {
		a.Path = r.one(vocabulary("/healthz /healthz/x /api /api/ /api/v1 /apis/apps/v1 /a /ab /logs/x /version /version/"))
		return a
	}
	a.Group, a.Resource = r.one([]string{"", "apps", "batch"}), r.one(vocabulary("pods deployments nodes a a/b pods/log"))
	a.Subresource, a.Name = r.one([]string{"", "", "log", "scale", "*", "c", "b/c"}), r.one([]string{"", "a", "c"})
	a.Namespace = r.one([]string{"", "n1", "n2", "n3"})
	return a
}

func TestRandomPolicies(t *testing.T) {
	ctx := context.Background()
	allowed, asked := 0, 0
	for seed := range uint64(30) {
		r := random{rand.New(rand.NewPCG(seed, 1))}
		p, n := NewPolicy(), naive{map[string]kinds.Object{}}
		for range 60 {
			var batch []kinds.Object
			for range 1 + r.IntN(3) {
				batch = append(batch, r.object())
			}
			switch r.IntN(10) {
			case 0, 1, 2:
				p.Remove(batch...)
				for _, o := range batch {
					delete(n.objects, nameOf(o))
				}
			case 3:
				n.objects = map[string]kinds.Object{}
				for _, o := range batch {
					n.objects[nameOf(o)] = o
				}
				p.Replace(batch...)
			default:
				p.Set(batch...)
				for _, o := range batch {
					n.objects[nameOf(o)] = o
				}
			}
			for range 30 {
				a := r.ask()
				d, reason, err := p.Authorize(ctx, a)
				require.NoError(t, err)
				require.Equal(t, n.allows(a), d == Allow, "seed %d: %+v by %+v: %s", seed, a, a.User, reason)
				if asked++; d == Allow {
					allowed++
					require.Contains(t, reason, "RBAC: allowed by ")
					rules, _ := p.RulesFor(a.User, a.Namespace)
					require.True(t, RulesAllow(a, rules...))
				}
			}
		}
		p.Replace()
		require.Empty(t, p.cells)
		require.Empty(t, p.bindings)
		require.Empty(t, p.cluster.Load().users)
		require.Empty(t, p.cluster.Load().groups)
	}
	require.Greater(t, allowed, asked/50, "the random policies allow next to nothing")
}

func TestRules(t *testing.T) {
	rule := func(groups, resources, verbs string, names ...string) rbacv1.PolicyRule {
		return rbacv1.PolicyRule{APIGroups: strings.Split(groups, ","), Resources: strings.Split(resources, ","), Verbs: strings.Split(verbs, ","), ResourceNames: names}
	}
	url := func(verbs string, urls ...string) rbacv1.PolicyRule {
		return rbacv1.PolicyRule{NonResourceURLs: urls, Verbs: strings.Split(verbs, ",")}
	}
	res := func(verb, group, resource, sub, name string) Attributes {
		return Attributes{IsResource: true, Verb: verb, Group: group, Resource: resource, Subresource: sub, Name: name}
	}
	get := func(path string) Attributes { return Attributes{Verb: "get", Path: path} }
	for _, c := range []struct {
		name string
		rule rbacv1.PolicyRule
		a    Attributes
		want bool
	}{
		{"same", rule("", "pods", "get"), res("get", "", "pods", "", "x"), true},
		{"another verb", rule("", "pods", "get"), res("list", "", "pods", "", ""), false},
		{"another group", rule("", "pods", "get"), res("get", "apps", "pods", "", ""), false},
		{"every group", rule("*", "pods", "get"), res("get", "apps", "pods", "", ""), true},
		{"every verb", rule("", "pods", "*"), res("frobnicate", "", "pods", "", ""), true},
		{"a verb of one's own", rule("", "pods", "frobnicate"), res("frobnicate", "", "pods", "", ""), true},
		{"another verb of one's own", rule("", "pods", "frobnicate"), res("bind", "", "pods", "", ""), false},
		{"subresource is another resource", rule("", "pods", "get"), res("get", "", "pods", "log", ""), false},
		{"subresource", rule("", "pods/log", "get"), res("get", "", "pods", "log", ""), true},
		{"subresource does not give the resource", rule("", "pods/log", "get"), res("get", "", "pods", "", ""), false},
		{"resource with a slash is as good", rule("", "pods/log", "get"), res("get", "", "pods/log", "", ""), true},
		{"subresource of all", rule("*", "*/scale", "get"), res("get", "apps", "deployments", "scale", ""), true},
		{"another subresource of all", rule("*", "*/scale", "get"), res("get", "apps", "deployments", "status", ""), false},
		{"subresource of all gives no resource", rule("*", "*/scale", "get"), res("get", "apps", "deployments", "", ""), false},
		{"pods/* is no wildcard", rule("", "pods/*", "get"), res("get", "", "pods", "log", ""), false},
		{"everything has subresources", rule("", "*", "get"), res("get", "", "pods", "log", ""), true},
		{"name", rule("", "pods", "get", "a"), res("get", "", "pods", "", "a"), true},
		{"another name", rule("", "pods", "get", "a"), res("get", "", "pods", "", "b"), false},
		{"names and a list", rule("", "pods", "list", "a"), res("list", "", "pods", "", ""), false},
		{"names and a list of one", rule("", "pods", "list", "a"), res("list", "", "pods", "", "a"), true},
		{"names and a creation, which has none", rule("", "pods", "create", "a"), res("create", "", "pods", "", ""), false},
		{"creation of a subresource has one", rule("", "pods/eviction", "create", "a"), res("create", "", "pods", "eviction", "a"), true},
		{"the empty name", rule("", "pods", "create", ""), res("create", "", "pods", "", ""), true},
		{"resources give no URL", rule("*", "*", "*"), get("/healthz"), false},
		{"URLs give no resource", url("*", "*"), res("get", "", "pods", "", ""), false},
		{"URL", url("get", "/healthz"), get("/healthz"), true},
		{"below a URL", url("get", "/healthz"), get("/healthz/etcd"), false},
		{"every URL", url("get", "*"), get("/x"), true},
		{"URLs by prefix", url("get", "/healthz/*"), get("/healthz/etcd"), true},
		{"the prefix has its slash", url("get", "/healthz/*"), get("/healthz"), false},
		{"stars count at the end only", url("get", "/a*b"), get("/axb"), false},
		{"verb of a URL", url("get", "*"), Attributes{Verb: "post", Path: "/x"}, false},
	} {
		require.Equal(t, c.want, RulesAllow(c.a, c.rule), c.name)
		require.Equal(t, c.want, naiveRule(c.rule, c.a), "naive: %s", c.name)
	}
}

func TestReasons(t *testing.T) {
	p, ctx := NewPolicy(), context.Background()
	p.Set(
		&rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "gone"}, RoleRef: rbacv1.RoleRef{Kind: "ClusterRole", Name: "nowhere"},
			Subjects: []rbacv1.Subject{{Kind: "Group", Name: "g"}, {Kind: "User", Name: "u"}}},
		&rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "b", Namespace: "n"}, RoleRef: rbacv1.RoleRef{Kind: "Role", Name: "r"},
			Subjects: []rbacv1.Subject{{Kind: "ServiceAccount", Name: "sa"}}},
		&rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: "r", Namespace: "n"}, Rules: all()},
	)
	a := Attributes{User: &request.User{Name: "system:serviceaccount:n:sa"}, Verb: "get", IsResource: true, Resource: "pods", Namespace: "n"}
	d, reason, err := p.Authorize(ctx, a)
	require.NoError(t, err)
	require.Equal(t, Allow, d)
	require.Equal(t, `RBAC: allowed by RoleBinding "b/n" of Role "r" to ServiceAccount "sa/n"`, reason)

	a.User = &request.User{Name: "u", Groups: []string{"g"}}
	d, reason, err = p.Authorize(ctx, a)
	require.NoError(t, err)
	require.Equal(t, NoOpinion, d)
	require.Equal(t, `RBAC: clusterrole.rbac.authorization.k8s.io "nowhere" not found`, reason)

	a.Name = "p<b>"
	require.EqualError(t, Forbidden(a, ""), `pods "p<b>" is forbidden: User "u" cannot get resource "pods" in API group "" in the namespace "n"`)
	a.Namespace, a.Group, a.Subresource, a.Name, a.Verb = "", "x.io", "log", "", "list"
	require.EqualError(t, Forbidden(a, "because"), `pods.x.io is forbidden: User "u" cannot list resource "pods/log" in API group "x.io" at the cluster scope: because`)
	require.EqualError(t, Forbidden(Attributes{User: a.User, Verb: "get", Path: "/x"}, ""), `forbidden: User "u" cannot get path "/x"`)

	chain := Chain{p, Privileged{}}
	a.User = &request.User{Name: "root", Groups: []string{Masters}}
	d, _, err = chain.Authorize(ctx, a)
	require.NoError(t, err)
	require.Equal(t, Allow, d)
	a.User = &request.User{Name: "u"}
	d, reason, _ = chain.Authorize(ctx, a)
	require.Equal(t, NoOpinion, d)
	require.Contains(t, reason, "nowhere")
}

// TestConcurrentChanges is for the race detector. Rights that are never taken away are seen all the time.
func TestConcurrentChanges(t *testing.T) {
	p := NewPolicy()
	p.Set(Defaults()...)
	admin := Attributes{User: &request.User{Name: "a", Groups: []string{Masters}}, Verb: "get", IsResource: true, Resource: "pods", Namespace: "n1"}
	var wg sync.WaitGroup
	for seed := range uint64(2) {
		wg.Go(func() {
			r := random{rand.New(rand.NewPCG(seed, 2))}
			for range 500 {
				if o := r.object(); r.IntN(2) == 0 {
					p.Set(o)
				} else {
					p.Remove(o)
				}
			}
		})
		wg.Go(func() {
			r := random{rand.New(rand.NewPCG(seed, 3))}
			for range 2000 {
				_, _, _ = p.Authorize(context.Background(), r.ask())
				if d, _, _ := p.Authorize(context.Background(), admin); d != Allow {
					t.Error("the administrator lost his rights")
					return
				}
			}
		})
	}
	wg.Wait()
}

// fiftyBindings is a policy in which a user has fifty bindings, cluster-wide and in a namespace, among those of others.
func fiftyBindings() (*Policy, Attributes) {
	p := NewPolicy()
	p.Set(Defaults()...)
	var objects []kinds.Object
	for i := range 1000 {
		name := fmt.Sprintf("r%d", i)
		who := rbacv1.Subject{Kind: "User", Name: fmt.Sprintf("u%d", i%20)} // 50 each
		resources := []string{fmt.Sprintf("things%d", i), fmt.Sprintf("things%d/status", i)}
		rules := []rbacv1.PolicyRule{
			{Verbs: []string{"get", "list", "watch"}, APIGroups: []string{"x.io"}, Resources: resources},
			{Verbs: []string{"create", "update", "patch", "delete"}, APIGroups: []string{"x.io"}, Resources: resources},
			{Verbs: []string{"get", "list", "watch"}, APIGroups: []string{"", "apps"}, Resources: []string{"services", "deployments", "daemonsets", "endpoints"}},
		}
		objects = append(objects, &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: name}, Rules: rules})
		ref := rbacv1.RoleRef{Kind: "ClusterRole", Name: name}
		if i%40 < 20 {
			objects = append(objects, &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: name}, RoleRef: ref, Subjects: []rbacv1.Subject{who}})
		} else {
			objects = append(objects, &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "n"}, RoleRef: ref, Subjects: []rbacv1.Subject{who}})
		}
	}
	p.Set(objects...)
	u := &request.User{Name: "u7", Groups: []string{"devs", "staff", "system:authenticated"}}
	return p, Attributes{User: u, IsResource: true, Verb: "get", Resource: "pods", Namespace: "n", Name: "x"}
}

func TestDecisionsAllocateNothing(t *testing.T) {
	p, a := fiftyBindings()
	require.Zero(t, testing.AllocsPerRun(100, func() { _, _, _ = p.Authorize(context.Background(), a) }))
	a.Resource = "services"
	require.Zero(t, testing.AllocsPerRun(100, func() { _, _, _ = p.Authorize(context.Background(), a) }))
}

func BenchmarkAuthorize(b *testing.B) {
	p, denied := fiftyBindings()
	last := denied
	last.Group, last.Resource, last.Subresource = "x.io", "things987", "status"
	for name, a := range map[string]Attributes{"denied": denied, "allowed last": last} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_, _, _ = p.Authorize(context.Background(), a)
			}
		})
	}
}

func BenchmarkSet(b *testing.B) {
	p, _ := fiftyBindings()
	o := &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "r", Namespace: "n"}, RoleRef: rbacv1.RoleRef{Kind: "ClusterRole", Name: "view"}}
	for i := 0; b.Loop(); i++ {
		c := o.DeepCopy()
		c.Subjects = []rbacv1.Subject{{Kind: "User", Name: fmt.Sprint("v", i%100)}}
		p.Set(c)
	}
}
