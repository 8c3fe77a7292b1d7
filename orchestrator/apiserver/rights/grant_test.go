package rights

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/component-helpers/auth/rbac/validation"

	"github.com/keelson-io/keelson/orchestrator/apiserver/request"
	"github.com/keelson-io/keelson/orchestrator/kinds"
)

// TestMissing compares with the implementation that kubectl uses.
func TestMissing(t *testing.T) {
	covered := 0
	for seed := range uint64(5000) {
		r := random{rand.New(rand.NewPCG(seed, 4))}
		owned, wanted := r.rules(), r.rules()
		if r.IntN(2) == 0 { // else next to nothing is covered
			owned = append(owned, wanted...)
			if len(owned) > 1 {
				owned = owned[1:]
			}
		}
		ok, want := validation.Covers(owned, wanted)
		got := Missing(owned, wanted)
		require.Equal(t, ok, len(got) == 0)
		require.Equal(t, want, append([]rbacv1.PolicyRule{}, got...), "owned %v wanted %v", owned, wanted)
		if ok {
			covered++
		}
	}
	require.Greater(t, covered, 250)
}

// TestGrantedIsAllowed: what is not missing is allowed, as far as a rule can be asked for.
func TestGrantedIsAllowed(t *testing.T) {
	for seed := range uint64(1000) {
		r := random{rand.New(rand.NewPCG(seed, 5))}
		owned, wanted := r.rules(), r.rules()
		if len(Missing(owned, wanted)) > 0 {
			continue
		}
		for range 50 {
			if a := r.ask(); RulesAllow(a, wanted...) {
				require.True(t, RulesAllow(a, owned...), "owned %v wanted %v asked %+v", owned, wanted, a)
			}
		}
	}
}

func object(name string) metav1.ObjectMeta { return metav1.ObjectMeta{Name: name} }

func in(namespace, name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Name: name, Namespace: namespace}
}

func clusterRole(name string, rules ...rbacv1.PolicyRule) *rbacv1.ClusterRole {
	return &rbacv1.ClusterRole{ObjectMeta: object(name), Rules: rules}
}

func bindUser(user, role string) *rbacv1.ClusterRoleBinding {
	return &rbacv1.ClusterRoleBinding{ObjectMeta: object(user + "-" + role), RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role},
		Subjects: []rbacv1.Subject{{Kind: "User", Name: user}}}
}

func does(verb, group, resource string, names ...string) rbacv1.PolicyRule {
	return rbacv1.PolicyRule{Verbs: []string{verb}, APIGroups: []string{group}, Resources: []string{resource}, ResourceNames: names}
}

func TestEscalation(t *testing.T) {
	p := NewPolicy()
	var stored []kinds.Object
	g := &Guard{Policy: p, Authorizer: Chain{Privileged{}, p}, Rules: func(_ context.Context, ref rbacv1.RoleRef, namespace string) ([]rbacv1.PolicyRule, error) {
		for _, o := range stored {
			switch o := o.(type) {
			case *rbacv1.ClusterRole:
				if ref.Kind == "ClusterRole" && o.Name == ref.Name {
					return o.Rules, nil
				}
			case *rbacv1.Role:
				if ref.Kind == "Role" && o.Name == ref.Name && o.Namespace == namespace {
					return o.Rules, nil
				}
			}
		}
		return nil, apierrors.NewNotFound(schema.GroupResource{Group: rbacv1.GroupName, Resource: strings.ToLower(ref.Kind) + "s"}, ref.Name)
	}}
	read := rbacv1.PolicyRule{Verbs: []string{"get", "list"}, APIGroups: []string{"", "apps"}, Resources: []string{"pods", "pods/log"}}
	stored = append(Defaults(), clusterRole("reader", read), bindUser("bob", "reader"),
		clusterRole("binder", does("bind", rbacv1.GroupName, "clusterroles", "cluster-admin")), bindUser("bob", "binder"),
		clusterRole("climber", does("escalate", rbacv1.GroupName, "roles", "special")), bindUser("bob", "climber"),
		&rbacv1.RoleBinding{ObjectMeta: in("ns", "bob"), RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "admin"}, Subjects: []rbacv1.Subject{{Kind: "User", Name: "bob"}}},
		&rbacv1.Role{ObjectMeta: in("ns", "strong"), Rules: all()},
	)
	p.Set(stored...)
	stored = append(stored, &rbacv1.Role{ObjectMeta: in("ns", "just-made"), Rules: []rbacv1.PolicyRule{read}}) // the policy has not heard of it
	bob, root := &request.User{Name: "bob", Groups: []string{"g"}}, &request.User{Name: "root", Groups: []string{Masters}}
	ref := func(kind, name string) rbacv1.RoleRef {
		return rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: kind, Name: name}
	}
	old := clusterRole("x", all()...)
	collected := old.DeepCopy()
	collected.Finalizers, collected.OwnerReferences = []string{"f"}, []metav1.OwnerReference{{Name: "o"}}
	gathering := clusterRole("x", read)
	gathering.AggregationRule = &rbacv1.AggregationRule{ClusterRoleSelectors: []metav1.LabelSelector{{}}}
	for _, c := range []struct {
		name   string
		user   *request.User
		o, old kinds.Object
		want   string
	}{
		{"what he has", bob, clusterRole("x", read), nil, ""},
		{"a part of what he has", bob, clusterRole("x", does("get", "", "pods", "a")), nil, ""},
		{"more than he has", bob, clusterRole("x", read, does("delete", "", "pods"), does("create", "", "pods")), nil,
			"clusterroles.rbac.authorization.k8s.io \"x\" is forbidden: user \"bob\" (groups=[\"g\"]) is attempting to grant RBAC permissions not currently held:\n{APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"delete\" \"create\"]}"},
		{"URLs", bob, clusterRole("x", rbacv1.PolicyRule{Verbs: []string{"get"}, NonResourceURLs: []string{"/x"}}), nil, `{NonResourceURLs:["/x"], Verbs:["get"]}`},
		{"names", bob, clusterRole("x", does("delete", "", "pods", "b", "a")), nil, "{APIGroups:[\"\"], Resources:[\"pods\"], ResourceNames:[\"a\"], Verbs:[\"delete\"]}\n{APIGroups:[\"\"], Resources:[\"pods\"], ResourceNames:[\"b\"], Verbs:[\"delete\"]}"},
		{"root", root, clusterRole("x", all()...), nil, ""},
		{"aggregation", bob, gathering, nil, "must have cluster-admin privileges to use the aggregationRule"},
		{"aggregation that was", bob, clusterRole("x", read), gathering, "must have cluster-admin privileges to use the aggregationRule"},
		{"garbage collection", bob, collected, old, ""},
		{"no garbage collection", bob, clusterRole("x", append(all(), read)...), old, "is attempting to grant"},
		{"a role of what he has here", bob, &rbacv1.Role{ObjectMeta: object("x"), Rules: []rbacv1.PolicyRule{read}}, nil, ""},
		{"a role of more", bob, &rbacv1.Role{ObjectMeta: object("x"), Rules: all()}, nil, `roles.rbac.authorization.k8s.io "x" is forbidden`},
		{"escalate", bob, &rbacv1.Role{ObjectMeta: object("special"), Rules: all()}, nil, ""},
		{"bind what he has", bob, bindUser("eve", "reader"), nil, ""},
		{"bind", bob, bindUser("eve", "cluster-admin"), nil, ""},
		{"bind more", bob, bindUser("eve", "system:node"), nil, "clusterrolebindings.rbac.authorization.k8s.io \"eve-system:node\" is forbidden: user \"bob\""},
		{"bind nothing", bob, bindUser("eve", "nowhere"), nil, `clusterroles.rbac.authorization.k8s.io "nowhere" not found`},
		{"bind a role of more", bob, &rbacv1.RoleBinding{ObjectMeta: object("x"), RoleRef: ref("Role", "strong")}, nil, `rolebindings.rbac.authorization.k8s.io "x" is forbidden`},
		{"bind a role that was just made", bob, &rbacv1.RoleBinding{ObjectMeta: object("x"), RoleRef: ref("Role", "just-made")}, nil, ""},
		{"bind a role that is not there", bob, &rbacv1.RoleBinding{ObjectMeta: object("x"), RoleRef: ref("Role", "none")}, nil, `roles.rbac.authorization.k8s.io "none" not found`},
		{"bind a thing", bob, &rbacv1.RoleBinding{ObjectMeta: object("x"), RoleRef: ref("Thing", "none")}, nil, `unsupported role reference kind: "Thing"`},
		{"root binds what is not there", root, bindUser("eve", "nowhere"), nil, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := c.o.DeepCopyObject()
			err := g.Check(context.Background(), c.user, "ns", c.o, c.old)
			require.Equal(t, before, c.o)
			if c.want == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorContains(t, err, c.want)
			var status apierrors.APIStatus
			require.ErrorAs(t, err, &status)
		})
	}
}

// TestDefaults: the policy was compared, object by object, with that of Kubernetes 1.37.2; this is what it was.
func TestDefaults(t *testing.T) {
	objects := Defaults()
	require.Len(t, objects, 141)
	h := sha256.New()
	counts := map[string]int{}
	for _, o := range objects {
		data, err := json.Marshal(o)
		require.NoError(t, err)
		h.Write(data)
		counts[o.GetObjectKind().GroupVersionKind().Kind]++
		require.Equal(t, "rbac-defaults", o.GetLabels()["kubernetes.io/bootstrapping"])
		require.Equal(t, "true", o.GetAnnotations()[rbacv1.AutoUpdateAnnotationKey])
	}
	require.Equal(t, "8b1fe9a3f1d77c986668e731c1e960ac8cd2bf90d678c1165c44c393e17da352", fmt.Sprintf("%x", h.Sum(nil)))
	require.Equal(t, map[string]int{"ClusterRole": 73, "Role": 7, "ClusterRoleBinding": 54, "RoleBinding": 7}, counts)

	// Bindings refer to roles that are there.
	p := NewPolicy()
	p.Set(objects...)
	for _, b := range p.bindings {
		require.NotNil(t, b.rules(), b.name)
	}
	for _, bad := range []string{"x", "ClusterRole", "Thing a", "ClusterRole a\n  a b", "ClusterRoleBinding a ClusterRole/b\n  User", "ClusterRoleBinding a b", "  * * *", "RoleBinding a/b Role/c\n  Dog x"} {
		_, err := parseDefaults(bad)
		require.Error(t, err, bad)
	}
}

func TestReconcile(t *testing.T) {
	find := func(name string) kinds.Object {
		for _, o := range Defaults() {
			if o.GetName() == name {
				return o
			}
		}
		t.Fatal(name)
		return nil
	}
	expected := find("system:discovery").(*rbacv1.ClusterRole)
	got, op, err := Reconcile(expected.DeepCopy(), expected)
	require.NoError(t, err)
	require.Equal(t, Keep, op)
	require.Equal(t, expected, got)

	have := expected.DeepCopy()
	have.ResourceVersion, have.Labels = "7", map[string]string{"mine": "x"}
	have.Rules = []rbacv1.PolicyRule{does("get", "", "pods"), {Verbs: []string{"*"}, NonResourceURLs: []string{"/api", "/api/*", "/apis*", "/healthz"}}}
	before := have.DeepCopy()
	got, op, err = Reconcile(have, expected)
	require.NoError(t, err)
	require.Equal(t, before, have)
	require.Equal(t, Update, op)
	require.Equal(t, "7", got.GetResourceVersion())
	require.Equal(t, map[string]string{"mine": "x", "kubernetes.io/bootstrapping": "rbac-defaults"}, got.GetLabels())
	rules := got.(*rbacv1.ClusterRole).Rules
	require.Equal(t, have.Rules, rules[:2], "what was there stays")
	require.Empty(t, Missing(rules, expected.Rules))
	require.Empty(t, Missing(have.Rules, rules[:2]))
	_, op, _ = Reconcile(got, expected)
	require.Equal(t, Keep, op, "once is enough")

	have.Annotations = map[string]string{rbacv1.AutoUpdateAnnotationKey: "false"}
	got, op, err = Reconcile(have, expected)
	require.NoError(t, err)
	require.Equal(t, Keep, op)
	require.Same(t, have, got)

	edit := find("edit").(*rbacv1.ClusterRole)
	plain := edit.DeepCopy()
	plain.AggregationRule = nil
	got, op, err = Reconcile(plain, edit)
	require.NoError(t, err)
	require.Equal(t, Update, op)
	require.Equal(t, edit.AggregationRule, got.(*rbacv1.ClusterRole).AggregationRule)

	b := find("system:basic-user")
	binding := Defaults()[len(Defaults())-1].(*rbacv1.RoleBinding)
	changed := binding.DeepCopy()
	changed.Subjects = []rbacv1.Subject{{Kind: "User", Name: "x"}}
	got, op, err = Reconcile(changed, binding)
	require.NoError(t, err)
	require.Equal(t, Update, op)
	require.Equal(t, append(changed.Subjects, binding.Subjects...), got.(*rbacv1.RoleBinding).Subjects)
	changed.RoleRef.Name = "other"
	got, op, err = Reconcile(changed, binding)
	require.NoError(t, err)
	require.Equal(t, Recreate, op)
	require.Equal(t, binding, got)
	_, _, err = Reconcile(b, binding)
	require.Error(t, err)
}

func TestReview(t *testing.T) {
	p := NewPolicy()
	p.Set(Defaults()...)
	s := p.Review(&request.User{Name: "u", Groups: []string{"system:authenticated"}}, "ns")
	require.False(t, s.Incomplete)
	require.NotEmpty(t, s.ResourceRules)
	require.NotEmpty(t, s.NonResourceRules)
	s = p.Review(&request.User{Name: "root", Groups: []string{Masters}}, "ns")
	require.Equal(t, []string{"*"}, s.ResourceRules[0].Resources)
	s = p.Review(&request.User{Name: "nobody"}, "ns")
	require.NotNil(t, s.ResourceRules)
	require.Empty(t, s.ResourceRules)
	s = p.Review(&request.User{Name: "system:node:n", Groups: []string{NodesGroup}}, "ns")
	require.True(t, s.Incomplete)
	require.Equal(t, "node authorizer does not support user rule resolution", s.EvaluationError)
	p.Set(bindUser("lost", "nowhere"))
	s = p.Review(&request.User{Name: "lost"}, "ns")
	require.False(t, s.Incomplete)
	require.Equal(t, `clusterrole.rbac.authorization.k8s.io "nowhere" not found`, s.EvaluationError)
}

func bobUser() *request.User { return &request.User{Name: "bob"} }
