package usage

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/utils/ptr"
)

var now = time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)

func list(s string) corev1.ResourceList {
	out := corev1.ResourceList{}
	for part := range strings.FieldsSeq(s) {
		k, v, _ := strings.Cut(part, "=")
		out[corev1.ResourceName(k)] = resource.MustParse(v)
	}
	return out
}

func text(l corev1.ResourceList) string {
	var parts []string
	for k, v := range l {
		parts = append(parts, string(k)+"="+v.String())
	}
	slices.Sort(parts)
	return strings.Join(parts, " ")
}

func pod(requests, limits string, change ...func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Resources: corev1.ResourceRequirements{Requests: list(requests), Limits: list(limits)}}}}}
	for _, f := range change {
		f(p)
	}
	return p
}

func claim(size, class string, change ...func(*corev1.PersistentVolumeClaim)) *corev1.PersistentVolumeClaim {
	c := &corev1.PersistentVolumeClaim{Spec: corev1.PersistentVolumeClaimSpec{Resources: corev1.VolumeResourceRequirements{Requests: list("storage=" + size)}}}
	if class != "" {
		c.Spec.StorageClassName = &class
	}
	for _, f := range change {
		f(c)
	}
	return c
}

func TestOf(t *testing.T) {
	core := func(s string) schema.GroupResource { return schema.GroupResource{Resource: s} }
	for name, c := range map[string]struct {
		resource schema.GroupResource
		o        runtime.Object
		want     string
	}{
		"pod":   {pods, pod("cpu=1 hugepages-2Mi=4Mi example.com/gpu=1", "memory=2 example.com/gpu=1"), "count/pods=1 cpu=1 hugepages-2Mi=4Mi limits.memory=2 pods=1 requests.cpu=1 requests.example.com/gpu=1 requests.hugepages-2Mi=4Mi"},
		"ended": {pods, pod("cpu=1", "", func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded }), "count/pods=1"},
		"overdue": {pods, pod("", "", func(p *corev1.Pod) {
			p.DeletionTimestamp, p.DeletionGracePeriodSeconds = ptr.To(metav1.NewTime(now.Add(-time.Minute))), ptr.To(int64(30))
		}), "count/pods=1"},
		"going": {pods, pod("", "", func(p *corev1.Pod) {
			p.DeletionTimestamp, p.DeletionGracePeriodSeconds = ptr.To(metav1.NewTime(now)), ptr.To(int64(30))
		}), "count/pods=1 pods=1"},
		"init": {pods, pod("cpu=1", "", func(p *corev1.Pod) {
			p.Spec.InitContainers = []corev1.Container{{Resources: corev1.ResourceRequirements{Requests: list("cpu=3")}}}
		}), "count/pods=1 cpu=3 pods=1 requests.cpu=3"},
		"configmap":  {core("configmaps"), &corev1.ConfigMap{}, "configmaps=1 count/configmaps=1"},
		"deployment": {schema.GroupResource{Group: "apps", Resource: "deployments"}, &corev1.ConfigMap{}, "count/deployments.apps=1"},
		"service":    {services, &corev1.Service{Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeNodePort, Ports: make([]corev1.ServicePort, 3)}}, "count/services=1 services.loadbalancers=0 services.nodeports=3 services=1"},
		"balancer":   {services, &corev1.Service{Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer, AllocateLoadBalancerNodePorts: ptr.To(false), Ports: []corev1.ServicePort{{NodePort: 30000}, {}}}}, "count/services=1 services.loadbalancers=1 services.nodeports=1 services=1"},
		"claim":      {volumeClaims, claim("1500m", "gold"), "count/persistentvolumeclaims=1 gold.storageclass.storage.k8s.io/persistentvolumeclaims=1 gold.storageclass.storage.k8s.io/requests.storage=2 persistentvolumeclaims=1 requests.storage=2"},
		"grown":      {volumeClaims, claim("1", "", func(c *corev1.PersistentVolumeClaim) { c.Status.AllocatedResources = list("storage=5") }), "count/persistentvolumeclaims=1 persistentvolumeclaims=1 requests.storage=5"},
		"devices": {deviceClaims, &resourcev1.ResourceClaim{Spec: resourcev1.ResourceClaimSpec{Devices: resourcev1.DeviceClaim{Requests: []resourcev1.DeviceRequest{
			{Exactly: &resourcev1.ExactDeviceRequest{DeviceClassName: "gpu", AllocationMode: resourcev1.DeviceAllocationModeExactCount, Count: 2}},
			{FirstAvailable: []resourcev1.DeviceSubRequest{
				{DeviceClassName: "gpu", AllocationMode: resourcev1.DeviceAllocationModeExactCount, Count: 1},
				{DeviceClassName: "gpu", AllocationMode: resourcev1.DeviceAllocationModeExactCount, Count: 3},
				{DeviceClassName: "tpu", AllocationMode: resourcev1.DeviceAllocationModeAll},
			}},
		}}}}, "count/resourceclaims.resource.k8s.io=1 gpu.deviceclass.resource.k8s.io/devices=5 tpu.deviceclass.resource.k8s.io/devices=32"},
	} {
		require.Equal(t, c.want, text(For(c.resource).Of(c.o, now)), name)
	}
	require.Nil(t, For(core("events")))
}

func TestNames(t *testing.T) {
	in := slices.Sorted(func(yield func(corev1.ResourceName) bool) {
		for k := range list("pods=1 cpu=1 requests.example.com/gpu=1 requests.kubernetes.io/x=1 hugepages-1Gi=1 services=1 gold.storageclass.storage.k8s.io/requests.storage=1 requests.storage=1 x.deviceclass.resource.k8s.io/devices=1 configmaps=1") {
			if !yield(k) {
				return
			}
		}
	})
	for r, want := range map[schema.GroupResource][]corev1.ResourceName{
		pods: {"cpu", "hugepages-1Gi", "pods", "requests.example.com/gpu"}, services: {"services"},
		volumeClaims: {"gold.storageclass.storage.k8s.io/requests.storage", "requests.storage"},
		deviceClaims: {"x.deviceclass.resource.k8s.io/devices"}, {Resource: "configmaps"}: {"configmaps"},
		{Group: "example.com", Resource: "configmaps"}: nil,
	} {
		require.Equal(t, want, For(r).Names(in), r)
	}
}

func TestTotal(t *testing.T) {
	spec := &corev1.ResourceQuotaSpec{Hard: list("pods=5 requests.cpu=9 secrets=1"), Scopes: []corev1.ResourceQuotaScope{corev1.ResourceQuotaScopeNotBestEffort}}
	objects := slices.Values([]runtime.Object{pod("cpu=1", ""), pod("", ""), pod("cpu=500m", "", func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed }), pod("cpu=250m", "")})
	total, err := For(pods).Total(spec, objects, now)
	require.NoError(t, err)
	require.Equal(t, "pods=2 requests.cpu=1250m", text(total))
	total, err = For(schema.GroupResource{Resource: "secrets"}).Total(spec, slices.Values([]runtime.Object{&corev1.Secret{}}), now)
	require.NoError(t, err)
	require.Equal(t, "secrets=0", text(total), "a scope that secrets do not have")
	spec.ScopeSelector = &corev1.ScopeSelector{MatchExpressions: []scope{{ScopeName: corev1.ResourceQuotaScopePriorityClass, Operator: "Like"}}}
	_, err = For(pods).Total(spec, objects, now)
	require.ErrorContains(t, err, "not a valid scope selector operator")
}

func TestVolumeAttributesClass(t *testing.T) {
	old := claim("1", "")
	o := claim("1", "", func(c *corev1.PersistentVolumeClaim) { c.Status.CurrentVolumeAttributesClassName = ptr.To("fast") })
	require.True(t, VolumeClaimTakesOther(o, old))
	require.False(t, VolumeClaimTakesOther(old, old))
	spec := corev1.ResourceQuotaSpec{ScopeSelector: &corev1.ScopeSelector{MatchExpressions: []scope{{
		ScopeName: corev1.ResourceQuotaScopeVolumeAttributesClass, Operator: corev1.ScopeSelectorOpIn, Values: []string{"fast"},
	}}}}
	q := &corev1.ResourceQuota{Spec: spec, Status: corev1.ResourceQuotaStatus{Hard: list("requests.storage=1")}}
	for o, want := range map[*corev1.PersistentVolumeClaim]bool{o: true, old: false} {
		in, err := For(volumeClaims).Matches(q, o)
		require.NoError(t, err)
		require.Equal(t, want, in)
	}
}

func TestChanged(t *testing.T) {
	ended := pod("cpu=1", "", func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded })
	terminating := pod("cpu=1", "", func(p *corev1.Pod) { p.Spec.ActiveDeadlineSeconds = ptr.To(int64(5)) })
	labelled := pod("cpu=1", "", func(p *corev1.Pod) { p.Labels = map[string]string{"a": "b"} })
	for _, c := range []struct {
		old, o runtime.Object
		want   bool
	}{
		{pod("cpu=1", ""), ended, true},
		{pod("cpu=1", ""), pod("cpu=500m", ""), true},
		{pod("cpu=1", ""), terminating, true},
		{pod("cpu=1", ""), labelled, false},
		{claim("1", ""), claim("2", ""), true},
		{claim("1", ""), claim("1", "", func(c *corev1.PersistentVolumeClaim) { c.Status.CurrentVolumeAttributesClassName = ptr.To("fast") }), true},
		{claim("1", ""), claim("1", ""), false},
		{&corev1.Service{}, &corev1.Service{Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer}}, true},
	} {
		r := pods
		switch c.o.(type) {
		case *corev1.PersistentVolumeClaim:
			r = volumeClaims
		case *corev1.Service:
			r = services
		}
		require.Equal(t, c.want, For(r).Changed(c.old, c.o, now), "%v", c.o)
	}
}
