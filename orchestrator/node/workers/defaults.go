package workers

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"
)

// Priorities of the classes that exist in every cluster. Static pods name them before any API server can resolve them.
const (
	nodeCritical    = "system-node-critical"
	clusterCritical = "system-cluster-critical"
)

// setPodDefaults fills in what an API server would have, in pods that come from files.
func setPodDefaults(s *corev1.PodSpec) {
	set(&s.RestartPolicy, corev1.RestartPolicyAlways)
	set(&s.DNSPolicy, corev1.DNSClusterFirst)
	if s.TerminationGracePeriodSeconds == nil {
		s.TerminationGracePeriodSeconds = ptr.To(int64(defaultGrace.Seconds()))
	}
	if s.SecurityContext == nil {
		s.SecurityContext = &corev1.PodSecurityContext{}
	}
	if s.EnableServiceLinks == nil {
		s.EnableServiceLinks = ptr.To(true)
	}
	if s.Priority == nil {
		switch s.PriorityClassName {
		case nodeCritical:
			s.Priority = ptr.To(int32(2000001000))
		case clusterCritical:
			s.Priority = ptr.To(int32(2000000000))
		}
	}
	for i := range s.Volumes {
		setVolumeDefaults(&s.Volumes[i])
	}
	for _, list := range [][]corev1.Container{s.InitContainers, s.Containers} {
		for i := range list {
			setContainerDefaults(&list[i], s.HostNetwork)
		}
	}
}

func setVolumeDefaults(v *corev1.Volume) {
	const mode = int32(0o644)
	if h := v.HostPath; h != nil && h.Type == nil {
		h.Type = ptr.To(corev1.HostPathUnset)
	}
	if s := v.Secret; s != nil && s.DefaultMode == nil {
		s.DefaultMode = ptr.To(mode)
	}
	if c := v.ConfigMap; c != nil && c.DefaultMode == nil {
		c.DefaultMode = ptr.To(mode)
	}
	if d := v.DownwardAPI; d != nil && d.DefaultMode == nil {
		d.DefaultMode = ptr.To(mode)
	}
	if p := v.Projected; p != nil && p.DefaultMode == nil {
		p.DefaultMode = ptr.To(mode)
	}
	if v.VolumeSource == (corev1.VolumeSource{}) {
		v.EmptyDir = &corev1.EmptyDirVolumeSource{}
	}
}

func setContainerDefaults(c *corev1.Container, hostNetwork bool) {
	set(&c.TerminationMessagePath, defaultMessage)
	set(&c.TerminationMessagePolicy, corev1.TerminationMessageReadFile)
	if c.ImagePullPolicy == "" {
		c.ImagePullPolicy = corev1.PullIfNotPresent
		if strings.HasSuffix(withTag(c.Image), ":latest") {
			c.ImagePullPolicy = corev1.PullAlways
		}
	}
	for i := range c.Ports {
		set(&c.Ports[i].Protocol, corev1.ProtocolTCP)
		if hostNetwork {
			set(&c.Ports[i].HostPort, c.Ports[i].ContainerPort)
		}
	}
	for name, q := range c.Resources.Limits {
		if _, ok := c.Resources.Requests[name]; !ok {
			if c.Resources.Requests == nil {
				c.Resources.Requests = corev1.ResourceList{}
			}
			c.Resources.Requests[name] = q
		}
	}
	for _, p := range []*corev1.Probe{c.LivenessProbe, c.ReadinessProbe, c.StartupProbe} {
		if p == nil {
			continue
		}
		set(&p.PeriodSeconds, 10)
		set(&p.TimeoutSeconds, 1)
		set(&p.SuccessThreshold, 1)
		set(&p.FailureThreshold, 3)
		setGetDefaults(p.HTTPGet)
	}
	if l := c.Lifecycle; l != nil {
		for _, h := range []*corev1.LifecycleHandler{l.PostStart, l.PreStop} {
			if h != nil {
				setGetDefaults(h.HTTPGet)
			}
		}
	}
}

func setGetDefaults(g *corev1.HTTPGetAction) {
	if g != nil {
		set(&g.Path, "/")
		set(&g.Scheme, corev1.URISchemeHTTP)
	}
}
