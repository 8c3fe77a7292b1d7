package admission

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/keelson-io/keelson/orchestrator/apiserver/request"
	"github.com/keelson-io/keelson/orchestrator/apiserver/rights"
	"github.com/keelson-io/keelson/orchestrator/kinds"
)

// allowed is the users that may do things, as "verb resource/subresource namespace/name".
type allowed map[string]bool

func (l allowed) Authorize(_ context.Context, a rights.Attributes) (rights.Decision, string, error) {
	what := a.Verb + " " + a.Resource
	if a.Subresource != "" {
		what += "/" + a.Subresource
	}
	if l[a.User.Name+": "+what+" "+a.Namespace+"/"+a.Name] {
		return rights.Allow, "", nil
	}
	return rights.NoOpinion, "because", nil
}

type kindTable map[schema.GroupVersionKind]*kinds.Kind

func (t kindTable) ByKind(k schema.GroupVersionKind) *kinds.Kind { return t[k] }

func TestOwnerReferences(t *testing.T) {
	replicaSet := kind("apps", "replicasets")
	replicaSet.Namespaced = true
	p := &OwnerReferences{
		Kinds: kindTable{{Group: "apps", Version: "v1", Kind: "ReplicaSet"}: replicaSet, {Version: "v1", Kind: "Node"}: kind("", "nodes")},
		Authorizer: allowed{
			"one: delete pods ns/p": true, "one: update replicasets/finalizers ns/rs": true,
			"node: update nodes/finalizers /n": true, "all: update */finalizers /*": true,
		},
	}
	ref := func(apiVersion, kind, name string, block bool) metav1.OwnerReference {
		return metav1.OwnerReference{APIVersion: apiVersion, Kind: kind, Name: name, UID: types.UID(name), BlockOwnerDeletion: ptr.To(block)}
	}
	rs := ref("apps/v1", "ReplicaSet", "rs", true)
	pod := func(refs ...metav1.OwnerReference) *corev1.Pod {
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", OwnerReferences: refs}}
	}
	const (
		prefix    = `pods "p" is forbidden: `
		noDelete  = prefix + "cannot set an ownerRef on a resource you can't delete: because, <nil>"
		noBlock   = prefix + "cannot set blockOwnerDeletion if an ownerReference refers to a resource you can't set finalizers on: because, <nil>"
		noMapping = prefix + `cannot set blockOwnerDeletion in this case because cannot find RESTMapping for APIVersion x/v1 Kind Y: no matches for kind "Y" in version "x/v1"`
	)
	for name, c := range map[string]struct {
		user   string
		o, old *corev1.Pod
		want   string
	}{
		"none":                   {"nobody", pod(), nil, ""},
		"not blocking":           {"nobody", pod(ref("apps/v1", "ReplicaSet", "rs", false)), nil, ""},
		"blocking":               {"nobody", pod(rs), nil, noBlock},
		"blocking, may":          {"one", pod(rs), nil, ""},
		"blocking, may another":  {"one", pod(ref("apps/v1", "ReplicaSet", "other", true)), nil, noBlock},
		"cluster-scoped":         {"node", pod(ref("v1", "Node", "n", true)), nil, ""},
		"unknown":                {"one", pod(ref("x/v1", "Y", "y", true)), nil, noMapping},
		"everything":             {"all", pod(ref("x/v1", "Y", "y", true)), nil, ""},
		"kept":                   {"nobody", pod(rs), pod(rs), ""},
		"removed":                {"nobody", pod(), pod(rs), noDelete},
		"removed, may":           {"one", pod(), pod(rs), ""},
		"added, may":             {"one", pod(rs), pod(), ""},
		"blocks now":             {"one", pod(ref("v1", "Node", "n", true)), pod(ref("v1", "Node", "n", false)), noBlock},
		"blocked before already": {"one", pod(ref("v1", "Node", "n", true), rs), pod(ref("v1", "Node", "n", true)), ""},
	} {
		a := &Attributes{Operation: Create, Kind: kind("", "pods"), Namespace: "ns", Name: "p", Object: c.o, User: &request.User{Name: c.user}}
		if c.old != nil {
			a.Operation, a.Old = Update, c.old
		}
		err := p.Validate(t.Context(), a)
		if c.want == "" {
			require.NoError(t, err, name)
		} else {
			require.EqualError(t, err, c.want, name)
		}
		a.Subresource = "status"
		require.NoError(t, p.Validate(t.Context(), a), name)
	}
}
