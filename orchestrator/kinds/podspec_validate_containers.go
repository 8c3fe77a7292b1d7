package kinds

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// podCheck checks a pod, or a pod template.
type podCheck struct {
	problems
	spec *corev1.PodSpec
	// meta is nil for a template.
	meta *metav1.ObjectMeta
	// volumes are those that are well-formed, by name.
	volumes map[string]*corev1.VolumeSource
	claims  sets.Set[string]
}

func (p *podCheck) hostUsers() bool { return p.spec.HostUsers == nil || *p.spec.HostUsers }

// containersAt calls visit for every container with its path.
func containersAt(s *corev1.PodSpec, at *field.Path, visit func(c *corev1.Container, at *field.Path)) {
	for i := range s.InitContainers {
		visit(&s.InitContainers[i], at.Child("initContainers").Index(i))
	}
	for i := range s.Containers {
		visit(&s.Containers[i], at.Child("containers").Index(i))
	}
	for i := range s.EphemeralContainers {
		visit((*corev1.Container)(&s.EphemeralContainers[i].EphemeralContainerCommon), at.Child("ephemeralContainers").Index(i))
	}
}

func (p *podCheck) containers(at *field.Path) {
	if len(p.spec.Containers) == 0 {
		p.required(at, "")
		return
	}
	names := map[string]bool{}
	for i := range p.spec.Containers {
		c, at := &p.spec.Containers[i], at.Index(i)
		p.container(c, at)
		unique(&p.problems, names, at.Child("name"), c.Name)
		p.lifecycle(c.Lifecycle, at.Child("lifecycle"))
		p.probes(c, at)
		p.restartRules(c, at)
	}
	p.hostPorts(p.spec.Containers, at)
}

func (p *podCheck) initContainers(at *field.Path) {
	names := map[string]bool{}
	for _, c := range p.spec.Containers {
		names[c.Name] = true
	}
	for i := range p.spec.InitContainers {
		c, here := &p.spec.InitContainers[i], at.Index(i)
		p.container(c, here)
		if c.RestartPolicy != nil {
			p.restartRules(c, here)
		} else if len(c.RestartPolicyRules) > 0 {
			p.required(here.Child("restartPolicy"), "must specify restartPolicy when restart rules are used")
		}
		if names[c.Name] {
			p.duplicate(here.Child("name"), c.Name)
		} else if c.Name != "" {
			names[c.Name] = true
		}
		p.hostPorts(p.spec.InitContainers[i:i+1], at)
		if isSidecar(c) {
			p.lifecycle(c.Lifecycle, here.Child("lifecycle"))
			p.probes(c, here)
			continue
		}
		for _, f := range []struct {
			name string
			set  bool
		}{
			{"lifecycle", c.Lifecycle != nil},
			{"livenessProbe", c.LivenessProbe != nil},
			{"readinessProbe", c.ReadinessProbe != nil},
			{"startupProbe", c.StartupProbe != nil},
		} {
			if f.set {
				p.forbidden(here.Child(f.name), "may not be set for init containers without restartPolicy=Always")
			}
		}
		for j, r := range c.ResizePolicy {
			if r.RestartPolicy == corev1.RestartContainer {
				p.invalid(here.Child("resizePolicy").Index(j).Child("restartPolicy"), r.RestartPolicy,
					"must not be set to 'RestartContainer' for non-sidecar initContainers")
			}
		}
	}
}

// ephemeralFields are those that an ephemeral container may have.
var ephemeralFields = []string{"Name", "Image", "Command", "Args", "WorkingDir", "EnvFrom", "Env", "VolumeMounts", "VolumeDevices",
	"TerminationMessagePath", "TerminationMessagePolicy", "ImagePullPolicy", "SecurityContext", "Stdin", "StdinOnce", "TTY"}

func (p *podCheck) ephemeralContainers(at *field.Path) {
	targets, names := map[string]bool{}, map[string]bool{}
	for _, cs := range [][]corev1.Container{p.spec.Containers, p.spec.InitContainers} {
		for _, c := range cs {
			targets[c.Name], names[c.Name] = true, true
		}
	}
	const unfit = "cannot be set for an Ephemeral Container"
	for i := range p.spec.EphemeralContainers {
		e, at := &p.spec.EphemeralContainers[i], at.Index(i)
		c := (*corev1.Container)(&e.EphemeralContainerCommon)
		p.container(c, at)
		p.imagePadding(c, at)
		unique(&p.problems, names, at.Child("name"), e.Name)
		if t := e.TargetContainerName; t != "" && !targets[t] {
			p.notFound(at.Child("targetContainerName"), t)
		}
		p.onlyFields(at, e.EphemeralContainerCommon, unfit, ephemeralFields...)
		for j, m := range e.VolumeMounts {
			if m.SubPath != "" {
				p.forbidden(at.Child("volumeMounts").Index(j).Child("subPath"), unfit)
			}
			if m.SubPathExpr != "" {
				p.forbidden(at.Child("volumeMounts").Index(j).Child("subPathExpr"), unfit)
			}
		}
	}
}

// container checks what all sorts of containers have in common.
func (p *podCheck) container(c *corev1.Container, at *field.Path) {
	if p.have(at.Child("name"), c.Name) {
		p.label(at.Child("name"), c.Name)
	}
	p.have(at.Child("image"), c.Image)
	mustBeOneOf(&p.problems, at.Child("terminationMessagePolicy"), c.TerminationMessagePolicy,
		corev1.TerminationMessageReadFile, corev1.TerminationMessageFallbackToLogsOnError)
	p.ports(c.Ports, at.Child("ports"))
	p.env(c.Env, at.Child("env"))
	p.envFrom(c.EnvFrom, at.Child("envFrom"))
	p.mounts(c, at.Child("volumeMounts"))
	p.devices(c, at.Child("volumeDevices"))
	p.pullPolicy(at.Child("imagePullPolicy"), c.ImagePullPolicy)
	p.resources(&c.Resources, at.Child("resources"), p.containerResourceName)
	p.resizePolicy(c.ResizePolicy, at.Child("resizePolicy"))
	p.containerSecurity(c.SecurityContext, at.Child("securityContext"))
}

// imagePadding is checked for pods only, since templates were never checked.
func (p *podCheck) imagePadding(c *corev1.Container, at *field.Path) {
	if strings.TrimSpace(c.Image) != c.Image {
		p.invalid(at.Child("image"), c.Image, "must not have leading or trailing whitespace")
	}
}

func (p *podCheck) ports(ports []corev1.ContainerPort, at *field.Path) {
	names := map[string]bool{}
	for i := range ports {
		port, at := &ports[i], at.Index(i)
		if port.Name != "" {
			if m := utilvalidation.IsValidPortName(port.Name); len(m) > 0 {
				p.each(at.Child("name"), port.Name, m)
			} else {
				unique(&p.problems, names, at.Child("name"), port.Name)
			}
		}
		if port.ContainerPort == 0 {
			p.required(at.Child("containerPort"), "")
		} else {
			p.each(at.Child("containerPort"), port.ContainerPort, utilvalidation.IsValidPortNum(int(port.ContainerPort)))
		}
		if port.HostPort != 0 {
			p.each(at.Child("hostPort"), port.HostPort, utilvalidation.IsValidPortNum(int(port.HostPort)))
		}
		mustBeOneOf(&p.problems, at.Child("protocol"), port.Protocol, corev1.ProtocolSCTP, corev1.ProtocolTCP, corev1.ProtocolUDP)
	}
}

// hostPorts finds ports of a node that several containers want.
func (p *podCheck) hostPorts(cs []corev1.Container, at *field.Path) {
	seen := map[string]bool{}
	for i := range cs {
		for j, port := range cs[i].Ports {
			if port.HostPort != 0 {
				unique(&p.problems, seen, at.Index(i).Child("ports").Index(j).Child("hostPort"),
					fmt.Sprintf("%s/%s/%d", port.Protocol, port.HostIP, port.HostPort))
			}
		}
	}
}

func (p *podCheck) resizePolicy(policies []corev1.ContainerResizePolicy, at *field.Path) {
	seen := map[corev1.ResourceName]bool{}
	for i, r := range policies {
		unique(&p.problems, seen, at.Index(i), r.ResourceName)
		mustBeOneOf(&p.problems, at, r.ResourceName, corev1.ResourceCPU, corev1.ResourceMemory)
		mustBeOneOf(&p.problems, at, r.RestartPolicy, corev1.NotRequired, corev1.RestartContainer)
		if p.spec.RestartPolicy == corev1.RestartPolicyNever && r.RestartPolicy != corev1.NotRequired {
			p.invalid(at, r.RestartPolicy, "must be 'NotRequired' when pod `restartPolicy` is 'Never'")
		}
	}
}

const (
	maxRestartRules = 20
	maxExitCodes    = 255
)

// restartRules checks when a container is started again.
func (p *podCheck) restartRules(c *corev1.Container, at *field.Path) {
	switch {
	case c.RestartPolicy != nil:
		oneOf(&p.problems, at.Child("restartPolicy"), *c.RestartPolicy,
			corev1.ContainerRestartPolicyAlways, corev1.ContainerRestartPolicyNever, corev1.ContainerRestartPolicyOnFailure)
	case len(c.RestartPolicyRules) == 0:
		return
	default:
		p.required(at.Child("restartPolicy"), "must specify restartPolicy when restart rules are used")
	}
	at = at.Child("restartPolicyRules")
	if n := len(c.RestartPolicyRules); n > maxRestartRules {
		p.add(field.TooMany(at, n, maxRestartRules))
	}
	for i, r := range c.RestartPolicyRules {
		at := at.Index(i)
		oneOf(&p.problems, at.Child("action"), r.Action, corev1.ContainerRestartRuleActionRestart, corev1.ContainerRestartRuleActionRestartAllContainers)
		codes := at.Child("exitCodes")
		if r.ExitCodes == nil {
			p.required(codes, "must be specified")
			continue
		}
		oneOf(&p.problems, codes.Child("operator"), r.ExitCodes.Operator, corev1.ContainerRestartRuleOnExitCodesOpIn, corev1.ContainerRestartRuleOnExitCodesOpNotIn)
		if n := len(r.ExitCodes.Values); n > maxExitCodes {
			p.add(field.TooMany(codes.Child("values"), n, maxExitCodes))
		}
	}
}

// fileEnv checks that variables are read from files in volumes that a container can write.
func (p *podCheck) fileEnv(at *field.Path) {
	volumes := map[string]*corev1.VolumeSource{}
	for i := range p.spec.Volumes {
		volumes[p.spec.Volumes[i].Name] = &p.spec.Volumes[i].VolumeSource
	}
	containersAt(p.spec, at, func(c *corev1.Container, at *field.Path) {
		for i, e := range c.Env {
			if e.ValueFrom == nil || e.ValueFrom.FileKeyRef == nil {
				continue
			}
			name := e.ValueFrom.FileKeyRef.VolumeName
			at := at.Child("env").Index(i).Child("valueFrom", "fileKeyRef", "volumeName")
			if source, ok := volumes[name]; !ok {
				p.notFound(at, name)
			} else if source.EmptyDir == nil {
				p.invalid(at, name, "referenced volume must be of type emptyDir")
			}
		}
	})
}
