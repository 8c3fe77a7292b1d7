package admission

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/keelson-io/keelson/internal/clock"
	"github.com/keelson-io/keelson/orchestrator/kinds"
)

// quotaStore has quotas, and a cache that is behind until it is read afresh.
type quotaStore struct {
	mu            sync.Mutex
	cached, fresh map[string]*corev1.ResourceQuota
	writes        int
}

func newQuotaStore(all ...*corev1.ResourceQuota) *quotaStore {
	s := &quotaStore{cached: map[string]*corev1.ResourceQuota{}, fresh: map[string]*corev1.ResourceQuota{}}
	for _, q := range all {
		q.Namespace, q.UID, q.ResourceVersion = "ns", types.UID(q.Name), "1"
		s.cached[q.Name], s.fresh[q.Name] = q, q
	}
	return s
}

func (s *quotaStore) Get(_ context.Context, r schema.GroupResource, _, name string, fresh bool) (kinds.Object, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if q := s.fresh[name]; q != nil && fresh {
		return q, nil
	}
	return nil, apierrors.NewNotFound(r, name)
}

func (s *quotaStore) List(context.Context, schema.GroupResource, string) (out []kinds.Object, _ error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, q := range s.cached {
		out = append(out, q)
	}
	return out, nil
}

func (s *quotaStore) SetUsed(_ context.Context, q *corev1.ResourceQuota) (*corev1.ResourceQuota, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fresh[q.Name].ResourceVersion != q.ResourceVersion {
		return nil, apierrors.NewConflict(resourceQuotas, q.Name, nil)
	}
	n, _ := strconv.Atoi(q.ResourceVersion)
	q = q.DeepCopy()
	q.ResourceVersion = strconv.Itoa(n + 1)
	s.fresh[q.Name] = q
	s.writes++
	return q, nil
}

func (s *quotaStore) used(name string) map[string]string {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := map[string]string{}
	for k, v := range s.fresh[name].Status.Used {
		out[string(k)] = v.String()
	}
	return out
}

// list makes a resource list of "cpu=1 memory=2".
func list(s string) corev1.ResourceList {
	out := corev1.ResourceList{}
	for part := range strings.FieldsSeq(s) {
		k, v, _ := strings.Cut(part, "=")
		out[corev1.ResourceName(k)] = resource.MustParse(v)
	}
	return out
}

func testQuota(name, hard, used string) *corev1.ResourceQuota {
	return &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.ResourceQuotaSpec{Hard: list(hard)}, Status: corev1.ResourceQuotaStatus{Hard: list(hard), Used: list(used)}}
}

func createRequest(resource string, o runtime.Object) *Attributes {
	return &Attributes{Operation: Create, Kind: kind("", resource), Namespace: "ns", Object: o}
}

func cpuPod(requests string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: corev1.PodSpec{
		Containers: []corev1.Container{{Name: "c", Resources: corev1.ResourceRequirements{Requests: list(requests)}}},
	}}
}

func TestQuotaRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		quota *corev1.ResourceQuota
		a     *Attributes
		want  string
	}{
		"count":   {testQuota("q", "pods=2 count/pods=5", "pods=2 count/pods=2"), createRequest("pods", cpuPod("")), `pods "p" is forbidden: exceeded quota: q, requested: pods=1, used: pods=2, limited: pods=2`},
		"cpu":     {testQuota("q", "requests.cpu=1 cpu=1", "requests.cpu=800m cpu=800m"), createRequest("pods", cpuPod("cpu=500m")), `pods "p" is forbidden: exceeded quota: q, requested: cpu=500m,requests.cpu=500m, used: cpu=800m,requests.cpu=800m, limited: cpu=1,requests.cpu=1`},
		"stated":  {testQuota("q", "requests.cpu=1 limits.memory=1", "requests.cpu=0 limits.memory=0"), createRequest("pods", cpuPod("")), `pods "p" is forbidden: failed quota: q: must specify limits.memory for: c; requests.cpu for: c`},
		"unknown": {testQuota("q", "configmaps=1", ""), createRequest("configmaps", &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{GenerateName: "x-"}}), `configmaps "x-" is forbidden: status unknown for quota: q, resources: configmaps`},
		"object":  {testQuota("q", "count/things.example.com=0", "count/things.example.com=0"), &Attributes{Operation: Create, Kind: kind("example.com", "things"), Namespace: "ns", Name: "t", Object: &corev1.Secret{}}, `things.example.com "t" is forbidden: exceeded quota: q, requested: count/things.example.com=1, used: count/things.example.com=0, limited: count/things.example.com=0`},
		"gpu":     {testQuota("q", "requests.example.com/gpu=1", "requests.example.com/gpu=0"), createRequest("pods", cpuPod("example.com/gpu=2")), `requested: requests.example.com/gpu=2, used: requests.example.com/gpu=0, limited: requests.example.com/gpu=1`},
		"other":   {testQuota("q", "pods=0", "pods=0"), createRequest("secrets", &corev1.Secret{}), ""},
		"status":  {testQuota("q", "services=0", "services=0"), &Attributes{Operation: Update, Kind: kind("", "services"), Subresource: "status", Namespace: "ns", Object: &corev1.Service{}, Old: &corev1.Service{}}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			s := newQuotaStore(c.quota)
			p := &ResourceQuota{Lookup: s, Quotas: s, Clock: clock.Real}
			err := p.Validate(t.Context(), c.a)
			if c.want == "" {
				require.NoError(t, err)
				return
			}
			require.True(t, apierrors.IsForbidden(err), "%v", err)
			require.ErrorContains(t, err, c.want)
			require.Zero(t, s.writes)
		})
	}
}

func TestQuotaCharges(t *testing.T) {
	s := newQuotaStore(testQuota("a", "services=5 services.nodeports=3 services.loadbalancers=1", "services=0 services.nodeports=0 services.loadbalancers=0"), testQuota("b", "pods=1", "pods=0"))
	p := &ResourceQuota{Lookup: s, Quotas: s, Clock: clock.Real}
	service := func(t corev1.ServiceType, ports int) *corev1.Service {
		return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "s", ResourceVersion: "1"}, Spec: corev1.ServiceSpec{Type: t, Ports: make([]corev1.ServicePort, ports)}}
	}
	require.NoError(t, p.Validate(t.Context(), createRequest("services", service(corev1.ServiceTypeClusterIP, 2))))
	require.Equal(t, map[string]string{"services": "1", "services.nodeports": "0", "services.loadbalancers": "0"}, s.used("a"))
	a := createRequest("services", service(corev1.ServiceTypeLoadBalancer, 2))
	a.Operation, a.Old = Update, service(corev1.ServiceTypeClusterIP, 2)
	a.DryRun = true
	require.NoError(t, p.Validate(t.Context(), a))
	require.Equal(t, "0", s.used("a")["services.nodeports"])
	a.DryRun = false
	require.NoError(t, p.Validate(t.Context(), a), "the cache is old, but the store is asked")
	require.Equal(t, map[string]string{"services": "1", "services.nodeports": "2", "services.loadbalancers": "1"}, s.used("a"))
	a.Object, a.Old = a.Old, a.Object
	require.NoError(t, p.Validate(t.Context(), a))
	require.Equal(t, "2", s.used("a")["services.nodeports"], "what is given back is the controller's business")
	require.Equal(t, map[string]string{"pods": "0"}, s.used("b"))
}

func TestQuotaScopes(t *testing.T) {
	deadline := cpuPod("cpu=1")
	deadline.Spec.ActiveDeadlineSeconds = ptr.To(int64(5))
	classed := cpuPod("")
	classed.Spec.PriorityClassName = "high"
	scoped := func(s corev1.ResourceQuotaScope) *corev1.ResourceQuota {
		q := testQuota("q", "pods=0", "pods=0")
		q.Spec.Scopes = []corev1.ResourceQuotaScope{s}
		return q
	}
	classes := func(op corev1.ScopeSelectorOperator, values ...string) *corev1.ResourceQuota {
		q := testQuota("q", "pods=0", "pods=0")
		q.Spec.ScopeSelector = &corev1.ScopeSelector{MatchExpressions: []corev1.ScopedResourceSelectorRequirement{{ScopeName: corev1.ResourceQuotaScopePriorityClass, Operator: op, Values: values}}}
		return q
	}
	for i, c := range []struct {
		quota   *corev1.ResourceQuota
		pod     *corev1.Pod
		refused bool
	}{
		{scoped(corev1.ResourceQuotaScopeTerminating), deadline, true},
		{scoped(corev1.ResourceQuotaScopeTerminating), cpuPod(""), false},
		{scoped(corev1.ResourceQuotaScopeNotTerminating), deadline, false},
		{scoped(corev1.ResourceQuotaScopeBestEffort), cpuPod(""), true},
		{scoped(corev1.ResourceQuotaScopeBestEffort), cpuPod("cpu=1"), false},
		{scoped(corev1.ResourceQuotaScopeNotBestEffort), cpuPod("memory=1"), true},
		{scoped(corev1.ResourceQuotaScopeCrossNamespacePodAffinity), cpuPod(""), false},
		{classes(corev1.ScopeSelectorOpIn, "high"), classed, true},
		{classes(corev1.ScopeSelectorOpIn, "low"), classed, false},
		{classes(corev1.ScopeSelectorOpNotIn, "low"), cpuPod(""), true},
		{classes(corev1.ScopeSelectorOpDoesNotExist), classed, false},
	} {
		s := newQuotaStore(c.quota)
		err := (&ResourceQuota{Lookup: s, Quotas: s, Clock: clock.Real}).Validate(t.Context(), createRequest("pods", c.pod))
		require.Equal(t, c.refused, apierrors.IsForbidden(err), "%d: %v", i, err)
	}
}

func TestQuotaInParallel(t *testing.T) {
	defer goleak.VerifyNone(t)
	s := newQuotaStore(testQuota("q", "pods=10", "pods=0"), testQuota("r", "count/pods=100", "count/pods=0"))
	p := &ResourceQuota{Lookup: s, Quotas: s, Clock: clock.Real}
	var wait sync.WaitGroup
	results := make(chan error, 40)
	for i := range cap(results) {
		wait.Go(func() {
			pod := cpuPod("")
			pod.Name = fmt.Sprint(i)
			results <- p.Validate(t.Context(), createRequest("pods", pod))
		})
	}
	wait.Wait()
	close(results)
	passed := 0
	for err := range results {
		if err == nil {
			passed++
		} else {
			require.ErrorContains(t, err, "exceeded quota: q, requested: pods=1, used: pods=10, limited: pods=10")
		}
	}
	require.Equal(t, 10, passed)
	require.Equal(t, "10", s.used("q")["pods"])
	require.Equal(t, "10", s.used("r")["count/pods"], "what one quota refuses is not charged to another")
}
