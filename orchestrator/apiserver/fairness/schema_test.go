package fairness

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/keelson-io/keelson/orchestrator/apiserver/request"
	"github.com/keelson-io/keelson/orchestrator/kinds"
)

// With the default objects requests come where kube-apiserver's documentation says.
func TestDefaultsClassify(t *testing.T) {
	l := limiter(t, 600)
	for _, d := range Defaults() {
		l.Set(d.Object)
	}
	resource := func(verb, group, resource, sub, namespace string) *request.Info {
		return &request.Info{IsResource: true, Verb: verb, Group: group, Resource: resource, Subresource: sub, Namespace: namespace}
	}
	path := func(p string) *request.Info { return &request.Info{Verb: "get", Path: p} }
	all := "system:authenticated"
	for _, c := range []struct {
		user          *request.User
		info          *request.Info
		schema, level string
	}{
		{user("a", "system:masters", all), resource("create", "", "pods", "", "x"), "exempt", "exempt"},
		{user("a", all), path("/healthz"), "probes", "exempt"},
		{user("a", all), path("/readyz"), "probes", "exempt"},
		{user("a", all), path("/metrics"), "global-default", "global-default"},
		{user("system:node:n", "system:nodes", all), resource("update", "", "nodes", "status", ""), "system-node-high", "node-high"},
		{user("system:node:n", "system:nodes", all), resource("patch", "coordination.k8s.io", "leases", "", "kube-node-lease"), "system-node-high", "node-high"},
		{user("system:node:n", "system:nodes", all), resource("list", "", "pods", "", ""), "system-nodes", "system"},
		{user("system:kube-scheduler", all), resource("update", "coordination.k8s.io", "leases", "", "kube-system"), "system-leader-election", "leader-election"},
		{user("system:kube-scheduler", all), resource("list", "", "pods", "", ""), "kube-scheduler", "workload-high"},
		{user("system:serviceaccount:kube-system:x", all, "system:serviceaccounts"), resource("list", "", "pods", "", ""), "kube-system-service-accounts", "workload-high"},
		{user("system:serviceaccount:kube-system2:x", all, "system:serviceaccounts"), resource("list", "", "pods", "", ""), "service-accounts", "workload-low"},
		{user("jane", all), resource("list", "", "pods", "", ""), "global-default", "global-default"},
		{user("system:anonymous", "system:unauthenticated"), path("/version"), "global-default", "global-default"},
		{user("odd"), path("/version"), "catch-all", "catch-all"},
	} {
		s := l.config.Load().classify(c.user, c.info)
		require.Equal(t, c.schema, s.object.Name, "%s %+v", c.user.Name, c.info)
		require.Equal(t, c.level, s.level.name)
	}
	// 600 seats in 245 shares.
	for level, seats := range map[string]int{"exempt": 0, "catch-all": 13, "system": 74, "node-high": 98, "leader-election": 25, "workload-high": 98, "workload-low": 245, "global-default": 49} {
		require.Equal(t, seats, l.levels[level].share.nominal, level)
	}
}

func TestMatches(t *testing.T) {
	rule := func(s flowcontrolv1.Subject, paths ...string) []flowcontrolv1.PolicyRulesWithSubjects {
		return []flowcontrolv1.PolicyRulesWithSubjects{{
			Subjects:         []flowcontrolv1.Subject{s},
			NonResourceRules: []flowcontrolv1.NonResourcePolicyRule{{Verbs: []string{"get"}, NonResourceURLs: paths}},
			ResourceRules: []flowcontrolv1.ResourcePolicyRule{
				{Verbs: []string{"get", "list"}, APIGroups: []string{"apps"}, Resources: []string{"deployments/scale", "daemonsets"}, Namespaces: []string{"a"}},
			},
		}}
	}
	jane := flowcontrolv1.Subject{Kind: "User", User: &flowcontrolv1.UserSubject{Name: "jane"}}
	in := func(namespace, verb, resource, sub string) *request.Info {
		return &request.Info{IsResource: true, Verb: verb, Group: "apps", Namespace: namespace, Resource: resource, Subresource: sub}
	}
	for _, c := range []struct {
		info *request.Info
		want bool
	}{
		{in("a", "get", "deployments", "scale"), true},
		{in("a", "get", "deployments", ""), false},
		{in("a", "get", "deployments", "status"), false},
		{in("a", "get", "daemonsets", ""), true},
		{in("a", "get", "daemonsets", "status"), false},
		{in("b", "get", "daemonsets", ""), false},
		{in("", "list", "daemonsets", ""), false},
		{in("a", "watch", "daemonsets", ""), false},
		{&request.Info{Verb: "get", Path: "/a"}, true},
		{&request.Info{Verb: "get", Path: "/a/b"}, true},
		{&request.Info{Verb: "get", Path: "/ab"}, false},
		{&request.Info{Verb: "get", Path: "/c/d"}, true},
		{&request.Info{Verb: "get", Path: "/c"}, false},
		{&request.Info{Verb: "post", Path: "/a"}, false},
	} {
		require.Equal(t, c.want, matches(rule(jane, "/a", "/c/*"), user("jane"), c.info), "%+v", c.info)
		require.False(t, matches(rule(jane, "/a", "/c/*"), user("joe"), c.info))
	}
	account := flowcontrolv1.Subject{Kind: "ServiceAccount", ServiceAccount: &flowcontrolv1.ServiceAccountSubject{Namespace: "ns", Name: "x"}}
	a := &request.Info{Verb: "get", Path: "/a"}
	require.True(t, matches(rule(account, "/a"), user("system:serviceaccount:ns:x"), a))
	require.False(t, matches(rule(account, "/a"), user("system:serviceaccount:ns:y"), a))
	account.ServiceAccount.Name = "*"
	require.True(t, matches(rule(account, "/a"), user("system:serviceaccount:ns:y"), a))
	require.False(t, matches(rule(account, "/a"), user("system:serviceaccount:ns2:y"), a))
}

func TestReconcileDefaults(t *testing.T) {
	find := func(kind, name string) Default {
		for _, d := range Defaults() {
			if d.GetName() == name && d.GetObjectKind().GroupVersionKind().Kind == kind {
				return d
			}
		}
		t.Fatal(kind, name)
		return Default{}
	}
	stored := func(d Default, generation int64, annotation string, change bool) kinds.Object {
		o := d.DeepCopyObject().(kinds.Object)
		o.SetGeneration(generation)
		o.SetAnnotations(map[string]string{"other": "kept"})
		if annotation != "" {
			o.SetAnnotations(map[string]string{"other": "kept", flowcontrolv1.AutoUpdateAnnotationKey: annotation})
		}
		if l, ok := o.(*flowcontrolv1.PriorityLevelConfiguration); ok && change {
			l.Spec.Limited.NominalConcurrencyShares = ptr.To[int32](7)
		}
		return o
	}
	shares := func(o kinds.Object) int32 {
		return *o.(*flowcontrolv1.PriorityLevelConfiguration).Spec.Limited.NominalConcurrencyShares
	}
	suggested, mandatory := find("PriorityLevelConfiguration", "workload-low"), find("PriorityLevelConfiguration", "catch-all")
	require.Nil(t, suggested.Reconcile(stored(suggested, 1, "true", false)))
	require.Nil(t, suggested.Reconcile(stored(suggested, 2, "false", true)), "who changes it has it so")
	o := suggested.Reconcile(stored(suggested, 5, "true", true))
	require.EqualValues(t, 100, shares(o))
	o = suggested.Reconcile(stored(suggested, 2, "", true))
	require.EqualValues(t, 7, shares(o), "it was changed")
	require.Equal(t, map[string]string{"other": "kept", flowcontrolv1.AutoUpdateAnnotationKey: "false"}, o.GetAnnotations())
	o = suggested.Reconcile(stored(suggested, 1, "", true))
	require.EqualValues(t, 100, shares(o), "it is of an older version")
	require.Equal(t, "true", o.GetAnnotations()[flowcontrolv1.AutoUpdateAnnotationKey])
	o = mandatory.Reconcile(stored(mandatory, 9, "false", true))
	require.EqualValues(t, 5, shares(o))
	require.Equal(t, "true", o.GetAnnotations()[flowcontrolv1.AutoUpdateAnnotationKey])
	require.Nil(t, mandatory.Reconcile(stored(mandatory, 9, "true", false)))

	require.False(t, Obsolete(stored(suggested, 1, "true", false)))
	old := stored(suggested, 1, "true", false)
	old.SetName("of-an-older-version")
	require.True(t, Obsolete(old))
	old.SetAnnotations(nil)
	require.False(t, Obsolete(old))
}

func TestDanglings(t *testing.T) {
	now := time.Unix(100, 0)
	s := schemaObject("s", "g", "work", 10)
	l := limiter(t, 10, s)
	d := l.Danglings(now)
	require.Len(t, d, 1)
	require.Equal(t, "NotFound", d[0].Condition.Reason)
	s = s.DeepCopy()
	s.Status.Conditions = []flowcontrolv1.FlowSchemaCondition{d[0].Condition}
	l.Set(s)
	require.Empty(t, l.Danglings(now))
	l.Set(levelObject("work", 1, 0, 0, 0))
	d = l.Danglings(now.Add(time.Minute))
	require.Len(t, d, 1)
	require.Equal(t, flowcontrolv1.FlowSchemaCondition{
		Type: "Dangling", Status: "False", Reason: "Found", LastTransitionTime: metav1.NewTime(now.Add(time.Minute)),
		Message: `This FlowSchema references the PriorityLevelConfiguration object named "work" and it exists`,
	}, d[0].Condition)
}

// However few seats there are, a level that has shares keeps one.
func TestLastSeat(t *testing.T) {
	l := limiter(t, 2)
	for _, d := range Defaults() {
		l.Set(d.Object)
	}
	for range 20 {
		_, err := l.Enter(t.Context(), user("admin", "system:masters"), getPods, 1)
		require.NoError(t, err)
	}
	l.mu.Lock()
	l.adjust(time.Now())
	l.mu.Unlock()
	for name, s := range l.levels {
		if name != "exempt" {
			require.Equal(t, 1, s.seats, name)
		}
	}
}
