package kinds

import (
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

// storedPod is a pod as it is after its creation.
func storedPod(change ...func(o *corev1.Pod)) *corev1.Pod {
	o := simplePod(change...)
	podKind().Create(o)
	podKind().Default(o)
	return o
}

func gated(o *corev1.Pod) {
	o.Spec.SchedulingGates = []corev1.PodSchedulingGate{{Name: "example.com/a"}, {Name: "example.com/b"}}
}

func onNodes(values ...string) *corev1.Affinity {
	return &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{
		NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchExpressions: []corev1.NodeSelectorRequirement{
			{Key: "zone", Operator: corev1.NodeSelectorOpIn, Values: values},
		}}},
	}}}
}

func TestPodUpdate(t *testing.T) {
	type change = func(o *corev1.Pod)
	for _, c := range []struct {
		name     string
		from, to change
		want     string // in the error; "": there is none
	}{
		{"nothing", nil, nil, ""},
		{"image", nil, func(o *corev1.Pod) { o.Spec.Containers[0].Image = "j" }, ""},
		{"no image", nil, func(o *corev1.Pod) { o.Spec.Containers[0].Image = "" }, "spec.containers[0].image: Required value"},
		{"padded image", nil, func(o *corev1.Pod) { o.Spec.Containers[0].Image = " j" }, "must not have leading or trailing whitespace"},
		{"command", nil, func(o *corev1.Pod) { o.Spec.Containers[0].Command = []string{"x"} }, "spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`,"},
		{"another container", nil, func(o *corev1.Pod) {
			o.Spec.Containers = append(o.Spec.Containers, corev1.Container{Name: "d", Image: "i"})
		}, "spec.containers: Forbidden: pod updates may not add or remove containers"},
		{"deadline", nil, func(o *corev1.Pod) { o.Spec.ActiveDeadlineSeconds = ptr.To[int64](5) }, ""},
		{"earlier", func(o *corev1.Pod) { o.Spec.ActiveDeadlineSeconds = ptr.To[int64](5) }, func(o *corev1.Pod) { o.Spec.ActiveDeadlineSeconds = ptr.To[int64](4) }, ""},
		{"later", func(o *corev1.Pod) { o.Spec.ActiveDeadlineSeconds = ptr.To[int64](5) }, func(o *corev1.Pod) { o.Spec.ActiveDeadlineSeconds = ptr.To[int64](6) },
			"spec.activeDeadlineSeconds: Invalid value: 6: must be less than or equal to previous value"},
		{"no deadline", func(o *corev1.Pod) { o.Spec.ActiveDeadlineSeconds = ptr.To[int64](5) }, func(o *corev1.Pod) { o.Spec.ActiveDeadlineSeconds = nil },
			"must not update from a positive integer to nil value"},
		{"toleration", nil, func(o *corev1.Pod) {
			o.Spec.Tolerations = []corev1.Toleration{{Key: "a", Operator: corev1.TolerationOpExists}}
		}, ""},
		{"toleration gone", func(o *corev1.Pod) {
			o.Spec.Tolerations = []corev1.Toleration{{Key: "a", Operator: corev1.TolerationOpExists}}
		}, func(o *corev1.Pod) { o.Spec.Tolerations = nil }, "spec.tolerations: Forbidden: existing toleration can not be modified except its tolerationSeconds"},
		{"toleration seconds", func(o *corev1.Pod) {
			o.Spec.Tolerations = []corev1.Toleration{{Key: "a", Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: ptr.To[int64](1)}}
		}, func(o *corev1.Pod) { o.Spec.Tolerations[0].TolerationSeconds = ptr.To[int64](2) }, ""},
		{"gate removed", gated, func(o *corev1.Pod) { o.Spec.SchedulingGates = o.Spec.SchedulingGates[1:] }, ""},
		{"gate added", gated, func(o *corev1.Pod) {
			o.Spec.SchedulingGates = append(o.Spec.SchedulingGates, corev1.PodSchedulingGate{Name: "example.com/c"})
		}, "spec.schedulingGates[2].name: Forbidden: only deletion is allowed, but found new scheduling gate 'example.com/c'"},
		{"gated: selector added", gated, func(o *corev1.Pod) { o.Spec.NodeSelector = map[string]string{"a": "b"} }, ""},
		{"gated: selector changed", func(o *corev1.Pod) { gated(o); o.Spec.NodeSelector = map[string]string{"a": "c"} },
			func(o *corev1.Pod) { o.Spec.NodeSelector = map[string]string{"a": "b"} }, "only additions to spec.nodeSelector are allowed"},
		{"not gated: selector added", nil, func(o *corev1.Pod) { o.Spec.NodeSelector = map[string]string{"a": "b"} }, "pod updates may not change fields other than"},
		{"gated: affinity added", gated, func(o *corev1.Pod) { o.Spec.Affinity = onNodes("x") }, ""},
		{"gated: affinity narrowed", func(o *corev1.Pod) { gated(o); o.Spec.Affinity = onNodes("x", "y") }, func(o *corev1.Pod) {
			terms := o.Spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms
			terms[0].MatchExpressions = append(terms[0].MatchExpressions, corev1.NodeSelectorRequirement{Key: "b", Operator: corev1.NodeSelectorOpExists})
		}, ""},
		{"gated: affinity changed", func(o *corev1.Pod) { gated(o); o.Spec.Affinity = onNodes("x") }, func(o *corev1.Pod) { o.Spec.Affinity = onNodes("y") },
			"only additions are allowed (no mutations or deletions)"},
		{"gated: affinity gone", func(o *corev1.Pod) { gated(o); o.Spec.Affinity = onNodes("x") }, func(o *corev1.Pod) { o.Spec.Affinity = nil },
			"no additions/deletions to non-empty NodeSelectorTerms list are allowed"},
		{"mirror", nil, func(o *corev1.Pod) { o.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: "x"} }, "may not add mirror pod annotation"},
	} {
		t.Run(c.name, func(t *testing.T) {
			old := storedPod()
			if c.from != nil {
				old = storedPod(c.from)
			}
			o := old.DeepCopy()
			if c.to != nil {
				c.to(o)
			}
			k, before := podKind(), old.DeepCopy()
			k.Default(o)
			k.Update(o, old)
			errs := k.ValidateUpdate(o, old)
			require.Equal(t, before, old, "the old one is not changed")
			if c.want == "" {
				require.Empty(t, errs)
			} else {
				require.ErrorContains(t, errs.ToAggregate(), c.want)
			}
		})
	}
}

func TestEphemeralContainers(t *testing.T) {
	s := podKind().Subresource("ephemeralcontainers")
	debug := func(o *corev1.Pod) {
		o.Spec.EphemeralContainers = []corev1.EphemeralContainer{{EphemeralContainerCommon: corev1.EphemeralContainerCommon{Name: "debug", Image: "i"}}}
	}
	old := storedPod()
	o := old.DeepCopy()
	debug(o)
	o.Spec.Containers[0].Image, o.Labels = "other", map[string]string{"a": "b"}
	defaultPod(o)
	s.Prepare(o, old)
	require.Equal(t, "i", o.Spec.Containers[0].Image)
	require.Empty(t, o.Labels)
	require.Empty(t, s.Validate(o, old))
	changed := o.DeepCopy()
	changed.Spec.EphemeralContainers[0].Image = "j"
	require.ErrorContains(t, s.Validate(changed, o).ToAggregate(), `existing ephemeral containers "debug" may not be changed`)
	require.ErrorContains(t, s.Validate(old, o).ToAggregate(), `existing ephemeral containers "debug" may not be removed`)
	changed = o.DeepCopy()
	changed.Spec.EphemeralContainers[0].LivenessProbe = &corev1.Probe{}
	require.ErrorContains(t, s.Validate(changed, old).ToAggregate(),
		"spec.ephemeralContainers[0].livenessProbe: Forbidden: cannot be set for an Ephemeral Container")
}

func TestResize(t *testing.T) {
	s := podKind().Subresource("resize")
	request := func(cpu, memory string) corev1.ResourceRequirements {
		l := corev1.ResourceList{}
		for name, q := range map[corev1.ResourceName]string{corev1.ResourceCPU: cpu, corev1.ResourceMemory: memory} {
			if q != "" {
				l[name] = resource.MustParse(q)
			}
		}
		return corev1.ResourceRequirements{Requests: l}
	}
	old := storedPod(func(o *corev1.Pod) { o.Spec.Containers[0].Resources = request("1", "1Gi") })
	for _, c := range []struct {
		name   string
		change func(o *corev1.Pod)
		want   string
	}{
		{"more", func(o *corev1.Pod) { o.Spec.Containers[0].Resources = request("2", "1Gi") }, ""},
		{"image is ignored", func(o *corev1.Pod) { o.Spec.Containers[0].Image = "other" }, ""},
		{"removed", func(o *corev1.Pod) { o.Spec.Containers[0].Resources = request("", "1Gi") },
			"spec.containers[0].resources.requests: Forbidden: resource requests cannot be removed"},
		{"storage", func(o *corev1.Pod) {
			o.Spec.Containers[0].Resources.Requests[corev1.ResourceEphemeralStorage] = resource.MustParse("1Gi")
		}, "spec: Forbidden: only cpu and memory resources are mutable"},
		{"quality of service", func(o *corev1.Pod) {
			o.Spec.Containers[0].Resources.Limits = o.Spec.Containers[0].Resources.Requests
		}, "Pod QOS Class may not change as a result of resizing"},
		{"renamed", func(o *corev1.Pod) { o.Spec.Containers[0].Name = "d" }, "containers may not be renamed or reordered on resize"},
		{"added", func(o *corev1.Pod) {
			o.Spec.Containers = append(o.Spec.Containers, corev1.Container{Name: "d", Image: "i"})
		}, "spec.containers: Forbidden: containers may not be added or removed on resize"},
	} {
		t.Run(c.name, func(t *testing.T) {
			o, before := old.DeepCopy(), old.DeepCopy()
			c.change(o)
			defaultPod(o)
			s.Prepare(o, old)
			errs := s.Validate(o, old)
			require.Equal(t, before, old)
			if c.want == "" {
				require.Empty(t, errs)
			} else {
				require.ErrorContains(t, errs.ToAggregate(), c.want)
			}
		})
	}
}

func TestPodStatusUpdate(t *testing.T) {
	never := func(o *corev1.Pod) { o.Spec.RestartPolicy, o.Spec.NodeName = corev1.RestartPolicyNever, "n" }
	old := storedPod(never)
	ended := corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 1}}
	old.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "c", State: ended}}
	old.OwnerReferences = []metav1.OwnerReference{{Name: "owner"}}
	for _, c := range []struct {
		name   string
		change func(o *corev1.Pod)
		want   string
	}{
		{"running", func(o *corev1.Pod) { o.Status.Phase = corev1.PodRunning }, ""},
		{"one address", func(o *corev1.Pod) { o.Status.PodIP = "10.0.0.1" }, ""},
		{"class is kept", func(o *corev1.Pod) { o.Status.QOSClass = "" }, ""},
		{"class", func(o *corev1.Pod) { o.Status.QOSClass = corev1.PodQOSGuaranteed }, "status.qosClass: Invalid value: \"Guaranteed\": field is immutable"},
		{"again", func(o *corev1.Pod) { o.Status.ContainerStatuses[0].State = corev1.ContainerState{} },
			"status.containerStatuses[0].state: Forbidden: may not be transitioned to non-terminated state"},
		{"one family", func(o *corev1.Pod) { o.Status.PodIPs = []corev1.PodIP{{IP: "10.0.0.1"}, {IP: "10.0.0.2"}} },
			"may specify no more than one IP for each IP family"},
		{"no address", func(o *corev1.Pod) { o.Status.PodIPs = []corev1.PodIP{{IP: "x"}} }, "status.podIPs[0]: Invalid value: \"x\": must be a valid IP address"},
		{"nominated", func(o *corev1.Pod) { o.Status.NominatedNodeName = "m" }, "may not be set on pods that are already bound to a node"},
		{"condition", func(o *corev1.Pod) { o.Status.Conditions = []corev1.PodCondition{{Type: "not ok"}} }, "status.conditions[0].Type: Invalid value"},
	} {
		t.Run(c.name, func(t *testing.T) {
			k, o, before := podKind(), old.DeepCopy(), old.DeepCopy()
			c.change(o)
			k.Default(o)
			o.OwnerReferences = nil
			k.UpdateStatus(o, old)
			require.Equal(t, old.OwnerReferences, o.OwnerReferences)
			errs := k.ValidateStatus(o, old)
			require.Equal(t, before, old)
			if c.want == "" {
				require.Empty(t, errs)
			} else {
				require.ErrorContains(t, errs.ToAggregate(), c.want)
			}
		})
	}
}
