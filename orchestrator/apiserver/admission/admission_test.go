package admission

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/utils/ptr"

	"github.com/keelson-io/keelson/orchestrator/kinds"
)

// table is objects by resource, namespace and name; those in late are found by fresh reads only.
type table struct{ all, late map[string]kinds.Object }

func (t table) Get(_ context.Context, r schema.GroupResource, namespace, name string, fresh bool) (kinds.Object, error) {
	key := r.String() + "/" + namespace + "/" + name
	if o := t.all[key]; o != nil {
		return o, nil
	}
	if o := t.late[key]; fresh && o != nil {
		return o, nil
	}
	return nil, apierrors.NewNotFound(r, name)
}

func (t table) List(_ context.Context, r schema.GroupResource, namespace string) (out []kinds.Object, _ error) {
	for k, o := range t.all {
		if strings.HasPrefix(k, r.String()+"/"+namespace) {
			out = append(out, o)
		}
	}
	return out, nil
}

func kind(group, resource string) *kinds.Kind {
	k := &kinds.Kind{Resource: resource}
	k.Group = group
	return k
}

func namespace(name string, phase corev1.NamespacePhase) *corev1.Namespace {
	return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}, Status: corev1.NamespaceStatus{Phase: phase}}
}

func TestNamespaceLifecycle(t *testing.T) {
	p := &NamespaceLifecycle{Immortal: []string{"default"}, Lookup: table{
		all:  map[string]kinds.Object{"namespaces//a": namespace("a", corev1.NamespaceActive), "namespaces//going": namespace("going", corev1.NamespaceTerminating)},
		late: map[string]kinds.Object{"namespaces//new": namespace("new", corev1.NamespaceActive)},
	}}
	create := func(ns string) error {
		return p.Mutate(t.Context(), &Attributes{Operation: Create, Kind: kind("", "configmaps"), Namespace: ns, Name: "x"})
	}
	require.NoError(t, create("a"))
	require.NoError(t, create("new"))
	require.True(t, apierrors.IsNotFound(create("none")))
	err := create("going")
	require.True(t, apierrors.IsForbidden(err))
	require.True(t, apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause))
	require.Equal(t, `configmaps "x" is forbidden: unable to create new content in namespace going because it is being terminated`, err.Error())

	remove := func(name string) error {
		return p.Validate(t.Context(), &Attributes{Operation: Delete, Kind: kind("", "namespaces"), Name: name, Namespace: name})
	}
	require.True(t, apierrors.IsForbidden(remove("default")))
	require.NoError(t, remove("a"))
	require.NoError(t, p.Validate(t.Context(), &Attributes{Operation: Delete, Kind: kind("", "configmaps"), Namespace: "going", Name: "x"}))
}

func podRequest(pod *corev1.Pod) *Attributes {
	return &Attributes{Operation: Create, Kind: kind("", "pods"), Namespace: "ns", Name: pod.Name, Object: pod}
}

func TestTolerations(t *testing.T) {
	p := &DefaultTolerationSeconds{Seconds: 300}
	pod := &corev1.Pod{Spec: corev1.PodSpec{Tolerations: []corev1.Toleration{
		{Key: corev1.TaintNodeNotReady, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute},
	}}}
	require.NoError(t, p.Mutate(t.Context(), podRequest(pod)))
	require.Len(t, pod.Spec.Tolerations, 2)
	require.Equal(t, corev1.TaintNodeUnreachable, pod.Spec.Tolerations[1].Key)
	require.EqualValues(t, 300, *pod.Spec.Tolerations[1].TolerationSeconds)
	require.NoError(t, p.Mutate(t.Context(), podRequest(pod)))
	require.Len(t, pod.Spec.Tolerations, 2, "again")
}

func TestPriority(t *testing.T) {
	class := func(name string, value int32, global bool) *schedulingv1.PriorityClass {
		return &schedulingv1.PriorityClass{ObjectMeta: metav1.ObjectMeta{Name: name}, Value: value, GlobalDefault: global, PreemptionPolicy: ptr.To(corev1.PreemptNever)}
	}
	const prefix = "priorityclasses.scheduling.k8s.io//"
	classes := map[string]kinds.Object{prefix + "high": class("high", 1000, false)}
	p := &Priority{Lookup: table{all: classes, late: map[string]kinds.Object{prefix + "new": class("new", 5, false)}}}
	admit := func(name string, priority *int32) (*corev1.Pod, error) {
		pod := &corev1.Pod{Spec: corev1.PodSpec{PriorityClassName: name, Priority: priority}}
		return pod, p.Mutate(t.Context(), podRequest(pod))
	}
	pod, err := admit("high", nil)
	require.NoError(t, err)
	require.EqualValues(t, 1000, *pod.Spec.Priority)
	require.Equal(t, corev1.PreemptNever, *pod.Spec.PreemptionPolicy)
	pod, err = admit("", nil)
	require.NoError(t, err)
	require.EqualValues(t, 0, *pod.Spec.Priority)
	require.Equal(t, corev1.PreemptLowerPriority, *pod.Spec.PreemptionPolicy)
	pod, err = admit("new", nil)
	require.NoError(t, err)
	require.EqualValues(t, 5, *pod.Spec.Priority)
	_, err = admit("none", nil)
	require.ErrorContains(t, err, "no PriorityClass with name none was found")
	_, err = admit("high", ptr.To(int32(7)))
	require.True(t, apierrors.IsForbidden(err))

	classes[prefix+"usual"] = class("usual", 10, true)
	pod, err = admit("", nil)
	require.NoError(t, err)
	require.Equal(t, "usual", pod.Spec.PriorityClassName)
	require.EqualValues(t, 10, *pod.Spec.Priority)
	second := &Attributes{Operation: Create, Kind: kind(schedulingv1.GroupName, "priorityclasses"), Object: class("other", 1, true)}
	require.True(t, apierrors.IsForbidden(p.Validate(t.Context(), second)))
	second.Object = class("usual", 20, true)
	require.NoError(t, p.Validate(t.Context(), second))
}

func TestServiceAccountToken(t *testing.T) {
	no := false
	p := &ServiceAccount{Lookup: table{all: map[string]kinds.Object{
		"serviceaccounts/ns/default": &corev1.ServiceAccount{ImagePullSecrets: []corev1.LocalObjectReference{{Name: "pull"}}},
		"serviceaccounts/ns/quiet":   &corev1.ServiceAccount{AutomountServiceAccountToken: &no},
	}}}
	pod := &corev1.Pod{Spec: corev1.PodSpec{
		InitContainers: []corev1.Container{{Name: "i"}},
		Containers:     []corev1.Container{{Name: "a"}, {Name: "own", VolumeMounts: []corev1.VolumeMount{{Name: "mine", MountPath: tokenMountPath}}}},
	}}
	require.NoError(t, p.Mutate(t.Context(), podRequest(pod)))
	require.Equal(t, "default", pod.Spec.ServiceAccountName)
	require.Equal(t, "pull", pod.Spec.ImagePullSecrets[0].Name)
	require.Len(t, pod.Spec.Volumes, 1)
	require.Len(t, pod.Spec.Volumes[0].Projected.Sources, 3)
	for _, c := range []corev1.Container{pod.Spec.InitContainers[0], pod.Spec.Containers[0]} {
		require.Equal(t, []corev1.VolumeMount{{Name: pod.Spec.Volumes[0].Name, ReadOnly: true, MountPath: tokenMountPath}}, c.VolumeMounts)
	}
	require.Equal(t, "mine", pod.Spec.Containers[1].VolumeMounts[0].Name)
	require.NoError(t, p.Mutate(t.Context(), podRequest(pod)))
	require.Len(t, pod.Spec.Volumes, 1, "again")

	quiet := &corev1.Pod{Spec: corev1.PodSpec{ServiceAccountName: "quiet", Containers: []corev1.Container{{Name: "a"}}}}
	require.NoError(t, p.Mutate(t.Context(), podRequest(quiet)))
	require.Empty(t, quiet.Spec.Volumes)
	err := p.Mutate(t.Context(), podRequest(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "x"}, Spec: corev1.PodSpec{ServiceAccountName: "none"}}))
	require.EqualError(t, err, `pods "x" is forbidden: error looking up service account ns/none: serviceaccounts "none" not found`)
}

// appearing is a lookup that finds the default service account at the n-th look into the store.
type appearing struct {
	table
	n *int
}

func (l appearing) Get(ctx context.Context, r schema.GroupResource, namespace, name string, fresh bool) (kinds.Object, error) {
	if fresh {
		if *l.n--; *l.n <= 0 && name == "default" {
			return &corev1.ServiceAccount{}, nil
		}
	}
	return l.table.Get(ctx, r, namespace, name, fresh)
}

// TestServiceAccountOfNewNamespace makes a pod before the namespace has its service account.
func TestServiceAccountOfNewNamespace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := 3
		p := &ServiceAccount{Lookup: appearing{n: &n}}
		pod := func(account string) *Attributes {
			return podRequest(&corev1.Pod{Spec: corev1.PodSpec{ServiceAccountName: account, Containers: []corev1.Container{{Name: "a"}}}})
		}
		require.NoError(t, p.Mutate(t.Context(), pod("")))
		n = 1000
		require.True(t, apierrors.IsForbidden(p.Mutate(t.Context(), pod(""))))
		n = 3
		require.True(t, apierrors.IsForbidden(p.Mutate(t.Context(), pod("other"))), "only the default one is awaited")
		require.Equal(t, 2, n)
	})
}

func TestTaintNewNodes(t *testing.T) {
	n := &corev1.Node{}
	a := &Attributes{Operation: Create, Kind: kind("", "nodes"), Object: n}
	require.NoError(t, TaintNewNodes{}.Mutate(t.Context(), a))
	require.NoError(t, TaintNewNodes{}.Mutate(t.Context(), a))
	require.Equal(t, []corev1.Taint{{Key: corev1.TaintNodeNotReady, Effect: corev1.TaintEffectNoSchedule}}, n.Spec.Taints)
}

// order notes in which order plugins are asked.
type order struct {
	asked *[]string
	name  string
	err   error
}

func (o order) Mutate(context.Context, *Attributes) error {
	*o.asked = append(*o.asked, "mutate "+o.name)
	return o.err
}

func (o order) Validate(context.Context, *Attributes) error {
	*o.asked = append(*o.asked, "validate "+o.name)
	return nil
}

func TestChain(t *testing.T) {
	var asked []string
	c := NewChain(order{&asked, "a", nil}, TaintNewNodes{}, order{&asked, "b", errors.New("no")}, order{&asked, "c", nil})
	a := &Attributes{Operation: Create, Kind: kind("", "pods"), Object: &corev1.Pod{}}
	require.ErrorContains(t, c.Mutate(t.Context(), a), "no")
	require.NoError(t, c.Validate(t.Context(), a))
	require.Equal(t, []string{"mutate a", "mutate b", "validate a", "validate b", "validate c"}, asked)
}
