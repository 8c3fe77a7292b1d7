package kinds

import (
	"fmt"
	"math"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutils "k8s.io/utils/net"
)

const notCounted = "must be a non-negative integer"

// validatePodStatus refuses statuses that no node reports.
func validatePodStatus(o, old *corev1.Pod) field.ErrorList {
	p, at := &podCheck{spec: &o.Spec, meta: &o.ObjectMeta}, field.NewPath("status")
	s, was := &o.Status, &old.Status
	p.annotationUpdates(field.NewPath("metadata", "annotations"), o.Annotations, old.Annotations)
	p.conditions(at.Child("conditions"), s.Conditions)
	if o.Spec.NodeName != old.Spec.NodeName {
		p.forbidden(at.Child("nodeName"), "may not be changed directly")
	}
	if n := s.NominatedNodeName; n != "" && n != was.NominatedNodeName {
		p.name(at.Child("nominatedNodeName"), n)
		if old.Spec.NodeName != "" {
			p.forbidden(at.Child("nominatedNodeName"), "may not be set on pods that are already bound to a node")
		}
	}
	if s.ObservedGeneration < 0 {
		p.invalid(at.Child("observedGeneration"), s.ObservedGeneration, notCounted)
	}
	p.immutable(at.Child("qosClass"), s.QOSClass, was.QOSClass)
	p.transitions(at, old, s)
	p.claimStatuses(at.Child("resourceClaimStatuses"), s.ResourceClaimStatuses)
	p.extendedClaim(at.Child("extendedResourceClaimStatus"), s.ExtendedResourceClaimStatus)
	p.podIPs(at.Child("podIPs"), s, was)
	p.hostIPs(at.Child("hostIPs"), s, was)
	for _, c := range containerStatuses(s) {
		p.users(at.Child(c.name), c.list)
	}
	p.health(at.Child("containerStatuses"), s.ContainerStatuses, o.Spec.Containers, s)
	p.health(at.Child("initContainerStatuses"), s.InitContainerStatuses, o.Spec.InitContainers, s)
	for i, c := range s.EphemeralContainerStatuses {
		if len(c.AllocatedResourcesStatus) > 0 {
			p.forbidden(at.Child("ephemeralContainerStatuses").Index(i).Child("allocatedResourcesStatus"), "must not be specified in container status")
		}
	}
	return p.list
}

type statusList struct {
	name string
	list []corev1.ContainerStatus
}

func containerStatuses(s *corev1.PodStatus) []statusList {
	return []statusList{
		{"containerStatuses", s.ContainerStatuses}, {"initContainerStatuses", s.InitContainerStatuses}, {"ephemeralContainerStatuses", s.EphemeralContainerStatuses},
	}
}

func (p *podCheck) conditions(at *field.Path, all []corev1.PodCondition) {
	for i, c := range all {
		if c.ObservedGeneration < 0 {
			p.invalid(at.Index(i).Child("observedGeneration"), c.ObservedGeneration, notCounted)
		}
		switch c.Type {
		case corev1.PodScheduled, corev1.PodReady, corev1.PodInitialized:
		default:
			p.qualifiedName(at.Index(i).Child("Type"), string(c.Type))
		}
	}
}

// transitions checks that containers which have ended for good stay so.
func (p *podCheck) transitions(at *field.Path, old *corev1.Pod, s *corev1.PodStatus) {
	ended := func(name string, now, before []corev1.ContainerStatus, restarts func(name string, code int32) bool) {
		for i := range before {
			was := before[i].State.Terminated
			if was == nil {
				continue
			}
			n := slices.IndexFunc(now, func(c corev1.ContainerStatus) bool { return c.Name == before[i].Name && c.State.Terminated == nil })
			if n >= 0 && !restarts(before[i].Name, was.ExitCode) {
				p.forbidden(at.Child(name).Index(i).Child("state"), "may not be transitioned to non-terminated state")
			}
		}
	}
	any := restartsAll(&old.Spec)
	of := func(cs []corev1.Container) func(name string, code int32) bool {
		return func(name string, code int32) bool {
			i := slices.IndexFunc(cs, func(c corev1.Container) bool { return c.Name == name })
			return any || i >= 0 && restartsAfter(&cs[i], old.Spec.RestartPolicy, code)
		}
	}
	ended("containerStatuses", s.ContainerStatuses, old.Status.ContainerStatuses, of(old.Spec.Containers))
	ended("initContainerStatuses", s.InitContainerStatuses, old.Status.InitContainerStatuses, of(old.Spec.InitContainers))
	ended("ephemeralContainerStatuses", s.EphemeralContainerStatuses, old.Status.EphemeralContainerStatuses, func(string, int32) bool { return false })
}

// restartsAll says that some container can restart all the others.
func restartsAll(s *corev1.PodSpec) bool {
	all := false
	containersOf(s, func(c *corev1.Container) {
		for _, r := range c.RestartPolicyRules {
			all = all || r.Action == corev1.ContainerRestartRuleActionRestartAllContainers
		}
	})
	return all
}

// restartsAfter says that a container starts again after it ended with a code.
func restartsAfter(c *corev1.Container, ofPod corev1.RestartPolicy, code int32) bool {
	policy := string(ofPod)
	if c.RestartPolicy != nil {
		for _, r := range c.RestartPolicyRules {
			if e := r.ExitCodes; e != nil && slices.Contains(e.Values, code) == (e.Operator == corev1.ContainerRestartRuleOnExitCodesOpIn) {
				return true
			}
		}
		policy = string(*c.RestartPolicy)
	}
	switch policy {
	case string(corev1.RestartPolicyNever):
		return false
	case string(corev1.RestartPolicyOnFailure):
		return code != 0
	}
	return true
}

func (p *podCheck) claimStatuses(at *field.Path, all []corev1.PodResourceClaimStatus) {
	seen := map[string]bool{}
	for i, s := range all {
		at := at.Index(i)
		if !slices.ContainsFunc(p.spec.ResourceClaims, func(c corev1.PodResourceClaim) bool { return c.Name == s.Name }) {
			p.invalid(at.Child("name"), s.Name, "must match the name of an entry in `spec.resourceClaims`")
		}
		unique(&p.problems, seen, at.Child("name"), s.Name)
		if n := s.ResourceClaimName; n != nil {
			p.name(at.Child("resourceClaimName"), *n)
		}
	}
}

// extendedClaim checks the claim that was made for extended resources.
func (p *podCheck) extendedClaim(at *field.Path, s *corev1.PodExtendedResourceClaimStatus) {
	if s == nil {
		return
	}
	containers := map[string]*corev1.Container{}
	for _, cs := range [][]corev1.Container{p.spec.InitContainers, p.spec.Containers} {
		for i := range cs {
			containers[cs[i].Name] = &cs[i]
		}
	}
	mappings := at.Child("requestMappings")
	if len(s.RequestMappings) == 0 {
		p.required(mappings, "at least one request mapping is required")
	}
	seen := map[corev1.ContainerExtendedResourceRequest]bool{}
	for i, m := range s.RequestMappings {
		here := mappings.Index(i)
		if c := containers[m.ContainerName]; c == nil {
			p.invalid(here.Child("containerName"), m.ContainerName, "must match the name of an entry in spec.initContainers.name or spec.containers.name")
		} else if _, ok := c.Resources.Requests[corev1.ResourceName(m.ResourceName)]; !ok {
			p.invalid(here.Child("resourceName"), m.ResourceName,
				"must match the extended resource name of an entry in spec.initContainers.resources.requests or spec.containers.resources.requests")
		}
		p.label(at.Child("requestName"), m.RequestName)
		if seen[m] {
			p.duplicate(here.Child("containerName"), m.ContainerName)
			p.duplicate(here.Child("resourceName"), m.ResourceName)
			p.duplicate(here.Child("requestName"), m.RequestName)
		}
		seen[m] = true
	}
	if p.have(at.Child("resourceClaimName"), s.ResourceClaimName) {
		p.name(at.Child("resourceClaimName"), s.ResourceClaimName)
	}
}

func (p *podCheck) podIPs(at *field.Path, s, old *corev1.PodStatus) {
	all, known := make([]string, len(s.PodIPs)), make([]string, len(old.PodIPs))
	for i := range old.PodIPs {
		known[i] = old.PodIPs[i].IP
	}
	for i := range s.PodIPs {
		all[i] = s.PodIPs[i].IP
		p.ipAddress(at.Index(i), all[i], known...)
	}
	p.onePerFamily(at, all, s.PodIPs)
	switch one, some := s.PodIP != "", len(all) > 0; {
	case one != some:
		p.invalid(at, s.PodIPs, "podIP and podIPs must either both be set or both be unset")
	case some && s.PodIP != all[0]:
		p.invalid(at.Index(0).Child("ip"), all[0], "must be equal to `podIP`")
	}
}

func (p *podCheck) hostIPs(at *field.Path, s, old *corev1.PodStatus) {
	if len(s.HostIPs) == 0 {
		return
	}
	if s.HostIP != s.HostIPs[0].IP {
		p.invalid(at.Index(0).Child("ip"), s.HostIPs[0].IP, "must be equal to `hostIP`")
	}
	all, known := make([]string, len(s.HostIPs)), make([]string, len(old.HostIPs))
	for i := range old.HostIPs {
		known[i] = old.HostIPs[i].IP
	}
	for i := range s.HostIPs {
		all[i] = s.HostIPs[i].IP
		p.ipAddress(at.Index(i), all[i], known...)
	}
	p.onePerFamily(at, all, s.HostIPs)
}

func (p *podCheck) onePerFamily(at *field.Path, all []string, value any) {
	if len(all) < 2 {
		return
	}
	dual, err := netutils.IsDualStackIPStrings(all)
	if err != nil {
		p.add(field.InternalError(at, fmt.Errorf("failed to check for dual stack with error:%v", err))) //nolint:errorlint // it is a message
	}
	if !dual || len(all) > 2 {
		p.invalid(at, value, "may specify no more than one IP for each IP family")
	}
}

// users checks whom containers run as.
func (p *podCheck) users(at *field.Path, all []corev1.ContainerStatus) {
	windows := p.spec.OS != nil && p.spec.OS.Name == corev1.Windows
	linux := p.spec.OS == nil || p.spec.OS.Name == corev1.Linux
	for i := range all {
		if all[i].User == nil || all[i].User.Linux == nil {
			continue
		}
		at, u := at.Index(i).Child("user", "linux"), all[i].User.Linux
		if windows {
			p.forbidden(at, unfitForWindows)
		}
		if !linux {
			continue
		}
		if u.UID < 0 || u.UID > math.MaxUint32 {
			p.invalid(at.Child("uid"), u.UID, fmt.Sprintf("must be between 0 and %d, inclusive", int64(math.MaxUint32)))
		}
		p.groupID(at.Child("gid"), &u.GID)
		for g := range u.SupplementalGroups {
			p.groupID(at.Child("supplementalGroups").Index(g), &u.SupplementalGroups[g])
		}
	}
}

const claimPrefix = "claim:"

// health checks what is said of the health of devices.
func (p *podCheck) health(at *field.Path, all []corev1.ContainerStatus, cs []corev1.Container, s *corev1.PodStatus) {
	for i := range all {
		n := slices.IndexFunc(cs, func(c corev1.Container) bool { return c.Name == all[i].Name })
		for j, r := range all[i].AllocatedResourcesStatus {
			at := at.Index(i).Child("allocatedResourcesStatus").Index(j)
			if n >= 0 {
				p.healthName(at.Child("name"), r.Name, &cs[n], s.ExtendedResourceClaimStatus)
			}
			ids := map[corev1.ResourceID]bool{}
			for k, h := range r.Resources {
				at := at.Child("resources").Index(k)
				oneOf(&p.problems, at.Child("health"), h.Health,
					corev1.ResourceHealthStatusHealthy, corev1.ResourceHealthStatusUnhealthy, corev1.ResourceHealthStatusUnknown)
				if m := h.Message; m != nil && *m == "" {
					p.required(at.Child("message"), "must be non-empty if specified")
				} else if m != nil && len(*m) > corev1.ResourceHealthMessageMaxLength {
					p.add(field.TooLong(at.Child("message"), *m, corev1.ResourceHealthMessageMaxLength))
				}
				unique(&p.problems, ids, at.Child("resourceID"), h.ResourceID)
			}
		}
	}
}

// healthName checks that a resource is one that the container asks for.
func (p *podCheck) healthName(at *field.Path, name corev1.ResourceName, c *corev1.Container, extended *corev1.PodExtendedResourceClaimStatus) {
	claim, isClaim := strings.CutPrefix(string(name), claimPrefix)
	if !isClaim {
		if _, ok := c.Resources.Requests[name]; !ok {
			p.invalid(at, name, "must match one of the container's resource requests")
		}
		return
	}
	known := sets.Set[string]{}
	for _, r := range c.Resources.Claims {
		known.Insert(strings.TrimSuffix(r.Name+"/"+r.Request, "/"))
	}
	if extended != nil {
		for _, m := range extended.RequestMappings {
			if q, ok := c.Resources.Requests[corev1.ResourceName(m.ResourceName)]; ok && !q.IsZero() && m.ContainerName == c.Name {
				known.Insert(extended.ResourceClaimName + "/" + m.RequestName)
			}
		}
	}
	if !known.Has(claim) {
		p.invalid(at, name, "must match one of the container's resource claims as 'claim:<claimName>/<requestName>' when container.resources.claims[*].request is set "+
			"or 'claim:<claimName>' when it is empty")
	}
}
