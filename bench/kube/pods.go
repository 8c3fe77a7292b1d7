package kube

import (
	"strconv"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

// podWorkload is a kind of pods to be scheduled.
type podWorkload struct {
	name, doc string
	pod       func(i, nodes int) *corev1.Pod
	filler    func(i, nodes int) *corev1.Pod // one for each node, there first; nil: none
}

// Labels of the pods: set is the same for all that are measured together.
const (
	set    = "set"
	urgent = "keelson-bench-urgent"
)

// colours spreads pods over so many colours that those of one fit on a part of the nodes, one each.
func colour(i, nodes int) string { return "colour-" + strconv.Itoa(i/max(1, nodes/2)) }

var podWorkloads = []podWorkload{
	{name: "plain", doc: "pods with requests of processor time and memory", pod: func(int, int) *corev1.Pod { return plain("plain", "100m") }},
	{name: "affinity", doc: "pods that must be in a zone with others of theirs", pod: func(int, int) *corev1.Pod {
		p := plain("affinity", "100m")
		p.Spec.Affinity = &corev1.Affinity{PodAffinity: &corev1.PodAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{{
			LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{set: "affinity"}}, TopologyKey: corev1.LabelTopologyZone,
		}}}}
		return p
	}},
	{name: "anti-affinity", doc: "pods that may not be on a node with others of their colour, of which there is one for every two nodes", pod: func(i, nodes int) *corev1.Pod {
		p := plain("anti-affinity", "100m")
		p.Labels["colour"] = colour(i, nodes)
		p.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{{
			LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"colour": p.Labels["colour"]}}, TopologyKey: corev1.LabelHostname,
		}}}}
		return p
	}},
	{name: "spread", doc: "pods that are spread evenly over zones", pod: func(int, int) *corev1.Pod {
		p := plain("spread", "100m")
		p.Spec.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{{
			MaxSkew: 5, TopologyKey: corev1.LabelTopologyZone, WhenUnsatisfiable: corev1.DoNotSchedule,
			LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{set: "spread"}},
		}}
		return p
	}},
	{name: "preemption", doc: "urgent pods, on nodes that are full of others", pod: func(int, int) *corev1.Pod {
		p := plain("preemption", "20")
		p.Spec.PriorityClassName = urgent
		return p
	}, filler: func(int, int) *corev1.Pod { return plain("filler", "20") }},
}

func plain(of, cpu string) *corev1.Pod {
	return &corev1.Pod{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
		ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{set: of}},
		Spec: corev1.PodSpec{
			TerminationGracePeriodSeconds: ptr.To(int64(0)),
			Containers: []corev1.Container{{
				Name: "pause", Image: "registry.k8s.io/pause:3.10.1",
				Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{
					corev1.ResourceCPU: resource.MustParse(cpu), corev1.ResourceMemory: resource.MustParse("500Mi"),
				}},
			}},
		},
	}
}
