package extender_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	api "k8s.io/kube-scheduler/extender/v1"

	"github.com/keelson-io/keelson/orchestrator/scheduler/config"
	"github.com/keelson-io/keelson/orchestrator/scheduler/extender"
	"github.com/keelson-io/keelson/orchestrator/scheduler/framework"
)

// serve answers verbs with what the functions return.
func serve(t *testing.T, verbs map[string]func(*json.Decoder) any) string {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f := verbs[r.URL.Path]
		if f == nil || r.Method != http.MethodPost || r.Header.Get("Content-Type") != "application/json" {
			http.Error(w, "no such verb", http.StatusTeapot)
			return
		}
		require.NoError(t, json.NewEncoder(w).Encode(f(json.NewDecoder(r.Body))))
	}))
	t.Cleanup(s.Close)
	return s.URL
}

func decoded[T any](t *testing.T, d *json.Decoder) *T {
	out := new(T)
	require.NoError(t, d.Decode(out))
	return out
}

func newClient(t *testing.T, c config.Extender) framework.Extender {
	list, err := extender.New(&config.Configuration{Extenders: []config.Extender{c}})
	require.NoError(t, err)
	require.Len(t, list, 1)
	return list[0]
}

func nodes() []*framework.NodeInfo {
	var out []*framework.NodeInfo
	for _, name := range []string{"n1", "n2", "n3"} {
		out = append(out, framework.NewNodeInfo(&v1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}))
	}
	return out
}

func TestFilter(t *testing.T) {
	for _, capable := range []bool{false, true} {
		url := serve(t, map[string]func(*json.Decoder) any{"/filter": func(d *json.Decoder) any {
			args := decoded[api.ExtenderArgs](t, d)
			require.Equal(t, "p", args.Pod.Name)
			out := api.ExtenderFilterResult{FailedNodes: api.FailedNodesMap{"n1": "full"}, FailedAndUnresolvableNodes: api.FailedNodesMap{"n3": "wrong"}}
			if capable {
				require.Equal(t, []string{"n1", "n2", "n3"}, *args.NodeNames)
				out.NodeNames = &[]string{"n2"}
			} else {
				require.Len(t, args.Nodes.Items, 3)
				out.Nodes = &v1.NodeList{Items: args.Nodes.Items[1:2]}
			}
			return out
		}})
		e := newClient(t, config.Extender{URLPrefix: url + "/", FilterVerb: "filter", NodeCacheCapable: capable})
		all := nodes()
		fit, failed, unresolvable, err := e.Filter(t.Context(), &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p"}}, all)
		require.NoError(t, err)
		require.Equal(t, all[1:2], fit)
		require.Equal(t, map[string]string{"n1": "full"}, failed)
		require.Equal(t, map[string]string{"n3": "wrong"}, unresolvable)
	}
}

func TestFilterFails(t *testing.T) {
	url := serve(t, map[string]func(*json.Decoder) any{
		"/error":   func(*json.Decoder) any { return api.ExtenderFilterResult{Error: "no"} },
		"/invents": func(*json.Decoder) any { return api.ExtenderFilterResult{NodeNames: &[]string{"n9"}} },
	})
	for verb, message := range map[string]string{
		"error":   "no",
		"invents": `extender "` + url + `" claims a filtered node "n9" which is not found in the input node list`,
		"missing": "failed missing with extender at URL " + url + "/missing, code 418",
	} {
		e := newClient(t, config.Extender{URLPrefix: url, FilterVerb: verb, NodeCacheCapable: true})
		_, _, _, err := e.Filter(t.Context(), &v1.Pod{}, nodes())
		require.EqualError(t, err, message)
	}
}

func TestPrioritizeAndBind(t *testing.T) {
	url := serve(t, map[string]func(*json.Decoder) any{
		"/rank": func(*json.Decoder) any { return api.HostPriorityList{{Host: "n1", Score: 7}} },
		"/bind": func(d *json.Decoder) any {
			args := decoded[api.ExtenderBindingArgs](t, d)
			require.Equal(t, &api.ExtenderBindingArgs{PodName: "p", PodNamespace: "ns", PodUID: "u", Node: "n1"}, args)
			return api.ExtenderBindingResult{Error: "refused"}
		},
	})
	e := newClient(t, config.Extender{URLPrefix: url, PrioritizeVerb: "rank", BindVerb: "bind", Weight: 3})
	require.Equal(t, framework.ExtenderVerbs{Prioritize: true, Bind: true}, e.Verbs())
	scores, weight, err := e.Prioritize(t.Context(), &v1.Pod{}, nodes())
	require.NoError(t, err)
	require.Equal(t, map[string]int64{"n1": 7}, scores)
	require.Equal(t, int64(3), weight)
	err = e.Bind(t.Context(), &v1.Binding{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p", UID: "u"}, Target: v1.ObjectReference{Name: "n1"}})
	require.EqualError(t, err, "refused")
}

func TestPreempt(t *testing.T) {
	url := serve(t, map[string]func(*json.Decoder) any{
		"/full": func(d *json.Decoder) any {
			args := decoded[api.ExtenderPreemptionArgs](t, d)
			require.Equal(t, "a", args.NodeNameToVictims["n1"].Pods[0].Name)
			return api.ExtenderPreemptionResult{NodeNameToMetaVictims: map[string]*api.MetaVictims{
				"n1": {Pods: []*api.MetaPod{{UID: "b"}}, NumPDBViolations: 1},
			}}
		},
		"/names": func(d *json.Decoder) any {
			args := decoded[api.ExtenderPreemptionArgs](t, d)
			require.Equal(t, "a", args.NodeNameToMetaVictims["n1"].Pods[0].UID)
			return api.ExtenderPreemptionResult{NodeNameToMetaVictims: map[string]*api.MetaVictims{"n2": {Pods: []*api.MetaPod{{UID: "b"}}}}}
		},
	})
	all := nodes()
	for _, name := range []string{"a", "b"} {
		all[0].AddPod(framework.NewPodInfo(&v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name)}}))
	}
	candidates := map[string]*framework.Victims{"n1": {Pods: all[0].Pods[:1]}}
	e := newClient(t, config.Extender{URLPrefix: url, PreemptVerb: "full"})
	got, err := e.Preempt(t.Context(), &v1.Pod{}, candidates, framework.NewSnapshot(nil, all...))
	require.NoError(t, err)
	require.Equal(t, map[string]*framework.Victims{"n1": {Pods: all[0].Pods[1:], Violations: 1}}, got)
	e = newClient(t, config.Extender{URLPrefix: url, PreemptVerb: "names", NodeCacheCapable: true})
	_, err = e.Preempt(t.Context(), &v1.Pod{}, candidates, framework.NewSnapshot(nil, all...))
	require.EqualError(t, err, "extender: "+url+" claims to preempt pod (UID: b) on node: n2, but the pod is not found on that node")
}

func TestInterested(t *testing.T) {
	e := newClient(t, config.Extender{URLPrefix: "http://x", ManagedResources: []config.ManagedResource{{Name: "example.com/gpu", IgnoredByScheduler: true}}})
	plain := &v1.Pod{Spec: v1.PodSpec{Containers: []v1.Container{{}}}}
	require.False(t, e.Interested(plain))
	list := v1.ResourceList{"example.com/gpu": resource.MustParse("1")}
	require.True(t, e.Interested(&v1.Pod{Spec: v1.PodSpec{InitContainers: []v1.Container{{Resources: v1.ResourceRequirements{Limits: list}}}}}))
	require.True(t, newClient(t, config.Extender{}).Interested(plain))
	require.Equal(t, []string{"example.com/gpu"}, extender.IgnoredResources(&config.Configuration{Extenders: []config.Extender{
		{ManagedResources: []config.ManagedResource{{Name: "example.com/gpu", IgnoredByScheduler: true}, {Name: "example.com/other"}}},
	}}))
}
