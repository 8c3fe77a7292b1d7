package workers

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/utils/ptr"
)

// Paths of /proc and /sys that are hidden from containers, and those that they cannot write, unless they have procMount
// Unmasked.
var (
	maskedPaths = []string{
		"/proc/asound", "/proc/acpi", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list", "/proc/timer_stats",
		"/proc/sched_debug", "/proc/scsi", "/sys/firmware", "/sys/devices/virtual/powercap",
	}
	readonlyPaths = []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
)

// effective is what holds for a container: its own security context, and the pod's where it says nothing.
func effective(p *corev1.Pod, c *corev1.Container) *corev1.SecurityContext {
	e := &corev1.SecurityContext{}
	if c.SecurityContext != nil {
		e = c.SecurityContext.DeepCopy()
	}
	s := p.Spec.SecurityContext
	if s == nil {
		return e
	}
	inherit(&e.RunAsUser, s.RunAsUser)
	inherit(&e.RunAsGroup, s.RunAsGroup)
	inherit(&e.RunAsNonRoot, s.RunAsNonRoot)
	inherit(&e.SELinuxOptions, s.SELinuxOptions)
	inherit(&e.SeccompProfile, s.SeccompProfile)
	inherit(&e.AppArmorProfile, s.AppArmorProfile)
	return e
}

func inherit[T any](own **T, pod *T) {
	if *own == nil {
		*own = pod
	}
}

// imageUser is as whom an image runs if nobody says otherwise.
type imageUser struct {
	uid  *int64 // nil if the image names its user
	name string
}

// checkNonRoot refuses a container that must not run as root and would, or might.
func checkNonRoot(p *corev1.Pod, c *corev1.Container, u imageUser) error {
	e := effective(p, c)
	if !ptr.Deref(e.RunAsNonRoot, false) {
		return nil
	}
	where := fmt.Sprintf("(pod: %q, container: %s)", podName(p), c.Name)
	switch {
	case e.RunAsUser != nil:
		if *e.RunAsUser == 0 {
			return fmt.Errorf("container's runAsUser breaks non-root policy %s", where)
		}
	case u.uid != nil && *u.uid == 0:
		return fmt.Errorf("container has runAsNonRoot and image will run as root %s", where)
	case u.uid == nil && u.name != "":
		return fmt.Errorf("container has runAsNonRoot and image has non-numeric user (%s), cannot verify user is non-root %s", u.name, where)
	}
	return nil
}

// securityContext is what the runtime has to know about the rights of a container.
func (ws *Workers) securityContext(p *corev1.Pod, s start, u imageUser) *runtimeapi.LinuxContainerSecurityContext {
	c := s.container
	e := effective(p, c)
	sc := &runtimeapi.LinuxContainerSecurityContext{
		Privileged: ptr.Deref(e.Privileged, false), ReadonlyRootfs: ptr.Deref(e.ReadOnlyRootFilesystem, false),
		NoNewPrivs:       e.AllowPrivilegeEscalation != nil && !*e.AllowPrivilegeEscalation,
		NamespaceOptions: ws.namespaces(p), SelinuxOptions: selinux(e.SELinuxOptions),
		Seccomp: ws.seccomp(e.SeccompProfile, ptr.Deref(e.Privileged, false)), Apparmor: apparmor(p, c, e.AppArmorProfile),
		MaskedPaths: maskedPaths, ReadonlyPaths: readonlyPaths,
	}
	if e.ProcMount != nil && *e.ProcMount == corev1.UnmaskedProcMount {
		sc.MaskedPaths, sc.ReadonlyPaths = []string{}, []string{}
	}
	if e.Capabilities != nil {
		sc.Capabilities = &runtimeapi.Capability{}
		for _, a := range e.Capabilities.Add {
			sc.Capabilities.AddCapabilities = append(sc.Capabilities.AddCapabilities, string(a))
		}
		for _, d := range e.Capabilities.Drop {
			sc.Capabilities.DropCapabilities = append(sc.Capabilities.DropCapabilities, string(d))
		}
	}
	switch {
	case e.RunAsUser != nil:
		sc.RunAsUser = &runtimeapi.Int64Value{Value: *e.RunAsUser}
	case u.uid != nil:
		sc.RunAsUser = &runtimeapi.Int64Value{Value: *u.uid}
	default:
		sc.RunAsUsername = u.name
	}
	if e.RunAsGroup != nil {
		sc.RunAsGroup = &runtimeapi.Int64Value{Value: *e.RunAsGroup}
		if sc.RunAsUser == nil && sc.RunAsUsername == "" { // a group alone is an error
			sc.RunAsUser = &runtimeapi.Int64Value{}
		}
	}
	sc.SupplementalGroups, sc.SupplementalGroupsPolicy = groups(p)
	if s.target != "" {
		sc.NamespaceOptions.Pid, sc.NamespaceOptions.TargetId = runtimeapi.NamespaceMode_TARGET, s.target
	}
	return sc
}

// groups are the supplemental groups of all processes of a pod.
func groups(p *corev1.Pod) (ids []int64, policy runtimeapi.SupplementalGroupsPolicy) {
	s := p.Spec.SecurityContext
	if s == nil {
		return nil, policy
	}
	if s.FSGroup != nil {
		ids = append(ids, *s.FSGroup)
	}
	for _, g := range s.SupplementalGroups {
		if !slices.Contains(ids, g) {
			ids = append(ids, g)
		}
	}
	if ptr.Deref(s.SupplementalGroupsPolicy, corev1.SupplementalGroupsPolicyMerge) == corev1.SupplementalGroupsPolicyStrict {
		policy = runtimeapi.SupplementalGroupsPolicy_Strict
	}
	return ids, policy
}

// namespaces says which namespaces a pod has for itself.
func (ws *Workers) namespaces(p *corev1.Pod) *runtimeapi.NamespaceOption {
	o := &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_CONTAINER}
	if p.Spec.HostNetwork {
		o.Network = runtimeapi.NamespaceMode_NODE
	}
	if p.Spec.HostIPC {
		o.Ipc = runtimeapi.NamespaceMode_NODE
	}
	switch {
	case p.Spec.HostPID:
		o.Pid = runtimeapi.NamespaceMode_NODE
	case ptr.Deref(p.Spec.ShareProcessNamespace, false):
		o.Pid = runtimeapi.NamespaceMode_POD
	}
	o.UsernsOptions = ws.users.options(p)
	return o
}

func selinux(s *corev1.SELinuxOptions) *runtimeapi.SELinuxOption {
	if s == nil {
		return nil
	}
	return &runtimeapi.SELinuxOption{User: s.User, Role: s.Role, Type: s.Type, Level: s.Level}
}

func (ws *Workers) seccomp(s *corev1.SeccompProfile, privileged bool) *runtimeapi.SecurityProfile {
	unconfined := &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Unconfined}
	if privileged {
		return unconfined
	}
	if s == nil {
		if ws.cfg.Options.SeccompDefault {
			return &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault}
		}
		return unconfined
	}
	switch s.Type {
	case corev1.SeccompProfileTypeRuntimeDefault:
		return &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault}
	case corev1.SeccompProfileTypeLocalhost:
		return &runtimeapi.SecurityProfile{
			ProfileType: runtimeapi.SecurityProfile_Localhost, LocalhostRef: filepath.Join(ws.cfg.Options.SeccompDir, filepath.Clean("/"+ptr.Deref(s.LocalhostProfile, ""))),
		}
	}
	return unconfined
}

// apparmorAnnotation names the profile of a container in pods that were written before there was a field for it.
const apparmorAnnotation = "container.apparmor.security.beta.kubernetes.io/"

func apparmor(p *corev1.Pod, c *corev1.Container, a *corev1.AppArmorProfile) *runtimeapi.SecurityProfile {
	if a == nil {
		switch old := p.Annotations[apparmorAnnotation+c.Name]; {
		case old == "runtime/default":
			a = &corev1.AppArmorProfile{Type: corev1.AppArmorProfileTypeRuntimeDefault}
		case old == "unconfined":
			a = &corev1.AppArmorProfile{Type: corev1.AppArmorProfileTypeUnconfined}
		case strings.HasPrefix(old, "localhost/"):
			a = &corev1.AppArmorProfile{Type: corev1.AppArmorProfileTypeLocalhost, LocalhostProfile: ptr.To(strings.TrimPrefix(old, "localhost/"))}
		default:
			return nil
		}
	}
	switch a.Type {
	case corev1.AppArmorProfileTypeRuntimeDefault:
		return &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault}
	case corev1.AppArmorProfileTypeLocalhost:
		return &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Localhost, LocalhostRef: ptr.Deref(a.LocalhostProfile, "")}
	}
	return &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Unconfined}
}

// podName is how messages to users name a pod: name_namespace(uid).
func podName(p *corev1.Pod) string {
	return fmt.Sprintf("%s_%s(%s)", p.Name, p.Namespace, p.UID)
}
