package kinds

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"
)

// containersOf calls visit for every container of a pod, of whatever sort.
func containersOf(s *corev1.PodSpec, visit func(c *corev1.Container)) {
	for i := range s.InitContainers {
		visit(&s.InitContainers[i])
	}
	for i := range s.Containers {
		visit(&s.Containers[i])
	}
	for i := range s.EphemeralContainers {
		visit((*corev1.Container)(&s.EphemeralContainers[i].EphemeralContainerCommon))
	}
}

// defaultPod fills in a pod. What a Pod alone gets comes first, since a template does not get it.
func defaultPod(o *corev1.Pod) {
	s := &o.Spec
	if p := s.TerminationGracePeriodSeconds; p != nil && *p < 0 {
		s.TerminationGracePeriodSeconds = ptr.To[int64](1)
	}
	for _, cs := range [][]corev1.Container{s.InitContainers, s.Containers} {
		for i := range cs {
			requestsFromLimits(&cs[i].Resources)
			for j := range cs[i].Ports {
				if p := &cs[i].Ports[j]; s.HostNetwork {
					fillZero(&p.HostPort, p.ContainerPort)
				}
			}
		}
	}
	fill(&s.EnableServiceLinks, corev1.DefaultEnableServiceLinks)
	defaultPodSpec(s)
	defaultPodStatus(&o.Status)
}

// requestsFromLimits requests what is limited.
func requestsFromLimits(r *corev1.ResourceRequirements) {
	if r.Limits != nil && r.Requests == nil {
		r.Requests = corev1.ResourceList{}
	}
	for name, q := range r.Limits {
		if _, set := r.Requests[name]; !set {
			r.Requests[name] = q.DeepCopy()
		}
	}
}

func defaultPodStatus(s *corev1.PodStatus) {
	switch {
	case s.PodIP != "" && (len(s.PodIPs) == 0 || s.PodIPs[0].IP != s.PodIP): // the single one is the one that old clients set
		s.PodIPs = []corev1.PodIP{{IP: s.PodIP}}
	case s.PodIP == "" && len(s.PodIPs) > 0:
		s.PodIP = s.PodIPs[0].IP
	}
	for _, all := range [][]corev1.ContainerStatus{s.InitContainerStatuses, s.ContainerStatuses, s.EphemeralContainerStatuses} {
		for i := range all {
			roundQuantities(all[i].AllocatedResources)
			roundUpAll(all[i].Resources)
		}
	}
	roundQuantities(s.AllocatedResources)
	roundUpAll(s.Resources)
}

// roundUpAll rounds what is asked for up to thousandths.
func roundUpAll(r *corev1.ResourceRequirements) {
	if r != nil {
		roundQuantities(r.Limits, r.Requests)
	}
}

// defaultTemplate fills in a template of pods.
func defaultTemplate(t *corev1.PodTemplateSpec) { defaultPodSpec(&t.Spec) }

// defaultPodSpec fills in what pods and pod templates have in common.
func defaultPodSpec(s *corev1.PodSpec) {
	fillZero(&s.ServiceAccountName, s.DeprecatedServiceAccount)
	s.DeprecatedServiceAccount = s.ServiceAccountName
	fillZero(&s.DNSPolicy, corev1.DNSClusterFirst)
	fillZero(&s.RestartPolicy, corev1.RestartPolicyAlways)
	fillZero(&s.SchedulerName, corev1.DefaultSchedulerName)
	fill(&s.SecurityContext, corev1.PodSecurityContext{})
	fill(&s.TerminationGracePeriodSeconds, int64(corev1.DefaultTerminationGracePeriodSeconds))
	for i := range s.Volumes {
		defaultVolume(&s.Volumes[i])
	}
	containersOf(s, defaultContainer)
	roundQuantities(s.Overhead)
	roundUpAll(s.Resources)
}

func defaultContainer(c *corev1.Container) {
	fillZero(&c.ImagePullPolicy, pullPolicy(c.Image))
	fillZero(&c.TerminationMessagePath, corev1.TerminationMessagePathDefault)
	fillZero(&c.TerminationMessagePolicy, corev1.TerminationMessageReadFile)
	for i := range c.Ports {
		fillZero(&c.Ports[i].Protocol, corev1.ProtocolTCP)
	}
	for i := range c.Env {
		from := c.Env[i].ValueFrom
		if from == nil {
			continue
		}
		defaultFieldRef(from.FieldRef)
		if from.FileKeyRef != nil {
			fill(&from.FileKeyRef.Optional, false)
		}
	}
	roundUpAll(&c.Resources)
	for _, p := range []*corev1.Probe{c.LivenessProbe, c.ReadinessProbe, c.StartupProbe} {
		defaultProbe(p)
	}
	if l := c.Lifecycle; l != nil {
		for _, h := range []*corev1.LifecycleHandler{l.PostStart, l.PreStop} {
			if h != nil {
				defaultHTTPGet(h.HTTPGet)
			}
		}
	}
}

func defaultFieldRef(r *corev1.ObjectFieldSelector) {
	if r != nil {
		fillZero(&r.APIVersion, "v1")
	}
}

func defaultProbe(p *corev1.Probe) {
	if p == nil {
		return
	}
	fillZero(&p.TimeoutSeconds, 1)
	fillZero(&p.PeriodSeconds, 10)
	fillZero(&p.SuccessThreshold, 1)
	fillZero(&p.FailureThreshold, 3)
	defaultHTTPGet(p.HTTPGet)
	if p.GRPC != nil {
		fill(&p.GRPC.Service, "")
	}
}

func defaultHTTPGet(g *corev1.HTTPGetAction) {
	if g != nil {
		fillZero(&g.Path, "/")
		fillZero(&g.Scheme, corev1.URISchemeHTTP)
	}
}

func defaultVolume(v *corev1.Volume) {
	s := &v.VolumeSource
	if ptr.AllPtrFieldsNil(s) {
		s.EmptyDir = &corev1.EmptyDirVolumeSource{}
	}
	if i := s.Image; i != nil {
		fillZero(&i.PullPolicy, pullPolicy(i.Reference))
	}
	if s.HostPath != nil {
		fill(&s.HostPath.Type, corev1.HostPathUnset)
	}
	if s.Secret != nil {
		fill(&s.Secret.DefaultMode, corev1.SecretVolumeSourceDefaultMode)
	}
	if s.ConfigMap != nil {
		fill(&s.ConfigMap.DefaultMode, corev1.ConfigMapVolumeSourceDefaultMode)
	}
	if s.DownwardAPI != nil {
		fill(&s.DownwardAPI.DefaultMode, corev1.DownwardAPIVolumeSourceDefaultMode)
		defaultDownwardFiles(s.DownwardAPI.Items)
	}
	if s.Projected != nil {
		defaultProjected(s.Projected)
	}
	if e := s.Ephemeral; e != nil && e.VolumeClaimTemplate != nil {
		defaultClaimSpec(&e.VolumeClaimTemplate.Spec)
	}
	defaultDisk(s)
}

// defaultDisk fills in what drivers outside of the cluster get.
func defaultDisk(s *corev1.VolumeSource) {
	if s.ISCSI != nil {
		fillZero(&s.ISCSI.ISCSIInterface, "default")
	}
	if r := s.RBD; r != nil {
		fillZero(&r.RBDPool, "rbd")
		fillZero(&r.RadosUser, "admin")
		fillZero(&r.Keyring, "/etc/ceph/keyring")
	}
	if d := s.AzureDisk; d != nil {
		fill(&d.CachingMode, corev1.AzureDataDiskCachingReadWrite)
		fill(&d.FSType, "ext4")
		fill(&d.ReadOnly, false)
		fill(&d.Kind, corev1.AzureSharedBlobDisk)
	}
	if d := s.ScaleIO; d != nil {
		fillZero(&d.StorageMode, "ThinProvisioned")
		fillZero(&d.FSType, "xfs")
	}
}

func defaultDownwardFiles(items []corev1.DownwardAPIVolumeFile) {
	for i := range items {
		defaultFieldRef(items[i].FieldRef)
	}
}

// tokenSeconds is how long a projected token of a service account is good.
const tokenSeconds = 3600

func defaultProjected(p *corev1.ProjectedVolumeSource) {
	fill(&p.DefaultMode, corev1.ProjectedVolumeSourceDefaultMode)
	for i := range p.Sources {
		if d := p.Sources[i].DownwardAPI; d != nil {
			defaultDownwardFiles(d.Items)
		}
		if t := p.Sources[i].ServiceAccountToken; t != nil {
			fill(&t.ExpirationSeconds, tokenSeconds)
		}
	}
}

// defaultClaimSpec fills in a claim that is part of something else.
func defaultClaimSpec(s *corev1.PersistentVolumeClaimSpec) {
	fill(&s.VolumeMode, corev1.PersistentVolumeFilesystem)
	roundQuantities(s.Resources.Limits, s.Resources.Requests)
}
