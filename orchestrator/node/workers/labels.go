package workers

import (
	"encoding/json"
	"fmt"
	"hash/fnv"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	kubelettypes "k8s.io/kubelet/pkg/types"
)

// Labels and annotations of sandboxes and containers in the runtime. The first group is what kubelets write, and what crictl and
// collectors of metrics and logs look for; the second is our own.
const (
	labelName      = kubelettypes.KubernetesPodNameLabel
	labelNamespace = kubelettypes.KubernetesPodNamespaceLabel
	labelUID       = kubelettypes.KubernetesPodUIDLabel
	labelContainer = kubelettypes.KubernetesContainerNameLabel

	annotationHash          = "io.kubernetes.container.hash"
	annotationRestarts      = "io.kubernetes.container.restartCount"
	annotationMessagePath   = "io.kubernetes.container.terminationMessagePath"
	annotationMessagePolicy = "io.kubernetes.container.terminationMessagePolicy"
	annotationPreStop       = "io.kubernetes.container.preStopHandler"
	annotationPorts         = "io.kubernetes.container.ports"
	annotationGrace         = "io.kubernetes.pod.terminationGracePeriod"

	// annotationBackOff is how long a restart of this container waits after its end.
	annotationBackOff = "node.keelson.io/back-off"
	// annotationRound counts how often all containers of the pod were restarted together.
	annotationRound = "node.keelson.io/round"
)

// podLabels are the labels of a pod's sandbox: the pod's own, and those by which it is found.
func podLabels(p *corev1.Pod) map[string]string {
	l := make(map[string]string, len(p.Labels)+3)
	for k, v := range p.Labels {
		l[k] = v
	}
	l[labelName], l[labelNamespace], l[labelUID] = p.Name, p.Namespace, string(p.UID)
	return l
}

func containerLabels(p *corev1.Pod, c *corev1.Container) map[string]string {
	return map[string]string{labelName: p.Name, labelNamespace: p.Namespace, labelUID: string(p.UID), labelContainer: c.Name}
}

func containerAnnotations(p *corev1.Pod, s start) map[string]string {
	c := s.container
	a := map[string]string{
		annotationHash: containerHash(c), annotationRestarts: strconv.Itoa(int(s.attempt)),
		annotationMessagePath: c.TerminationMessagePath, annotationMessagePolicy: string(c.TerminationMessagePolicy),
		annotationBackOff: s.backOff.String(), annotationRound: strconv.Itoa(s.round),
	}
	if g := p.Spec.TerminationGracePeriodSeconds; g != nil {
		a[annotationGrace] = strconv.FormatInt(*g, 10)
	}
	if c.Lifecycle != nil && c.Lifecycle.PreStop != nil {
		if raw, err := json.Marshal(c.Lifecycle.PreStop); err == nil {
			a[annotationPreStop] = string(raw)
		}
	}
	if len(c.Ports) > 0 {
		if raw, err := json.Marshal(c.Ports); err == nil {
			a[annotationPorts] = string(raw)
		}
	}
	return a
}

// containerHash changes with what a running container cannot take on: its image. Resources change in place, and the rest of a
// container's spec cannot be changed.
func containerHash(c *corev1.Container) string {
	h := fnv.New32a()
	_, _ = fmt.Fprintf(h, "%q %q", c.Name, c.Image)
	return strconv.FormatUint(uint64(h.Sum32()), 16)
}

// owner is the pod that an object in the runtime belongs to; ok is false if it is none of ours.
func owner(labels map[string]string) (uid types.UID, ok bool) {
	uid = types.UID(labels[labelUID])
	return uid, uid != ""
}

func parseInt(s string) int {
	n, err := strconv.Atoi(s)
	if err != nil {
		return 0
	}
	return n
}

func parseDuration(s string) time.Duration {
	d, err := time.ParseDuration(s)
	if err != nil {
		return 0
	}
	return d
}
