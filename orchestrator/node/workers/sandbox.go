package workers

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/utils/ptr"

	"github.com/keelson-io/keelson/orchestrator/node/cgroup"
)

// LogDir is the directory of a pod's logs.
func (ws *Workers) LogDir(p *corev1.Pod) string {
	return filepath.Join(ws.cfg.Logs, p.Namespace+"_"+p.Name+"_"+string(p.UID))
}

// podDir is the directory of what the node keeps of a pod.
func (ws *Workers) podDir(p *corev1.Pod) string { return filepath.Join(ws.cfg.Dir, string(p.UID)) }

// sandboxConfig is what the runtime has to know of a pod to make its sandbox, and again for each of its containers.
func (ws *Workers) sandboxConfig(p *corev1.Pod, attempt uint32) (*runtimeapi.PodSandboxConfig, error) {
	dns, err := ws.cfg.Environ.DNS(p)
	if err != nil {
		return nil, err
	}
	parent, err := ws.cfg.Cgroups.Ensure(p)
	if err != nil {
		return nil, err
	}
	c := &runtimeapi.PodSandboxConfig{
		Metadata:     &runtimeapi.PodSandboxMetadata{Name: p.Name, Namespace: p.Namespace, Uid: string(p.UID), Attempt: attempt},
		LogDirectory: ws.LogDir(p), DnsConfig: dns, PortMappings: portMappings(p), Labels: podLabels(p), Annotations: p.Annotations,
		Linux: &runtimeapi.LinuxPodSandboxConfig{CgroupParent: parent, SecurityContext: ws.sandboxSecurity(p), Sysctls: map[string]string{}},
	}
	if !p.Spec.HostNetwork {
		if c.Hostname, err = hostname(p, ws.cfg.Options.ClusterDomain); err != nil {
			return nil, err
		}
	}
	if s := p.Spec.SecurityContext; s != nil {
		for _, sysctl := range s.Sysctls {
			c.Linux.Sysctls[strings.ReplaceAll(sysctl.Name, "/", ".")] = sysctl.Value
		}
	}
	c.Linux.Overhead, c.Linux.Resources = cgroup.Resources(p.Spec.Overhead, p.Spec.Overhead), cgroup.PodResources(p)
	return c, nil
}

// sandboxSecurity says as whom the sandbox itself runs.
func (ws *Workers) sandboxSecurity(p *corev1.Pod) *runtimeapi.LinuxSandboxSecurityContext {
	sc := &runtimeapi.LinuxSandboxSecurityContext{
		Privileged: anyPrivileged(p), NamespaceOptions: ws.namespaces(p), Seccomp: &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault},
	}
	s := p.Spec.SecurityContext
	if s == nil {
		return sc
	}
	if s.RunAsUser != nil {
		sc.RunAsUser = &runtimeapi.Int64Value{Value: *s.RunAsUser}
	}
	if s.RunAsGroup != nil && s.RunAsUser != nil {
		sc.RunAsGroup = &runtimeapi.Int64Value{Value: *s.RunAsGroup}
	}
	sc.SelinuxOptions = selinux(s.SELinuxOptions)
	sc.SupplementalGroups, sc.SupplementalGroupsPolicy = groups(p)
	return sc
}

func anyPrivileged(p *corev1.Pod) bool {
	for _, list := range [][]corev1.Container{p.Spec.InitContainers, p.Spec.Containers} {
		for i := range list {
			if s := list[i].SecurityContext; s != nil && ptr.Deref(s.Privileged, false) {
				return true
			}
		}
	}
	return false
}

func portMappings(p *corev1.Pod) (m []*runtimeapi.PortMapping) {
	add := func(list []corev1.Container) {
		for i := range list {
			for _, port := range list[i].Ports {
				protocol := runtimeapi.Protocol_TCP
				switch port.Protocol {
				case corev1.ProtocolUDP:
					protocol = runtimeapi.Protocol_UDP
				case corev1.ProtocolSCTP:
					protocol = runtimeapi.Protocol_SCTP
				}
				m = append(m, &runtimeapi.PortMapping{Protocol: protocol, ContainerPort: port.ContainerPort, HostPort: port.HostPort, HostIp: port.HostIP})
			}
		}
	}
	for i := range p.Spec.InitContainers {
		if sidecar(&p.Spec.InitContainers[i]) {
			add(p.Spec.InitContainers[i : i+1])
		}
	}
	add(p.Spec.Containers)
	return m
}

// Linux's limits on host names, and that of DNS on a label.
const (
	maxHostname = 64
	maxLabel    = 63
)

// hostname is the host name inside a pod.
func hostname(p *corev1.Pod, clusterDomain string) (string, error) {
	if o := ptr.Deref(p.Spec.HostnameOverride, ""); o != "" {
		return o, nil
	}
	name := p.Spec.Hostname
	if name == "" {
		name = p.Name
	}
	if len(name) > maxLabel {
		name = strings.TrimRight(name[:maxLabel], "-.")
	}
	if !ptr.Deref(p.Spec.SetHostnameAsFQDN, false) || p.Spec.Subdomain == "" {
		return name, nil
	}
	fqdn := fmt.Sprintf("%s.%s.%s.svc.%s", name, p.Spec.Subdomain, p.Namespace, clusterDomain)
	if len(fqdn) > maxHostname {
		return "", fmt.Errorf("failed to construct FQDN from Pod hostname and cluster domain, FQDN %s is too long (%d characters is the max, %d characters requested)", fqdn, maxHostname, len(fqdn))
	}
	return fqdn, nil
}

// handler is the name of the runtime's handler for a pod, "" for the default.
func (ws *Workers) handler(ctx context.Context, p *corev1.Pod) (string, error) {
	name := ptr.Deref(p.Spec.RuntimeClassName, "")
	if name == "" {
		return "", nil
	}
	var class *nodev1.RuntimeClass
	class, err := ws.cfg.Client.NodeV1().RuntimeClasses().Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return "", fmt.Errorf("runtimeclass.node.k8s.io %q not found", name)
	}
	if err != nil {
		return "", fmt.Errorf("runtime class %s: %w", name, err)
	}
	return class.Handler, nil
}

// runSandbox makes the sandbox of a pod.
func (ws *Workers) runSandbox(ctx context.Context, p *corev1.Pod, attempt uint32) error {
	handler, err := ws.handler(ctx, p)
	if err != nil {
		return err
	}
	config, err := ws.sandboxConfig(p, attempt)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(config.LogDirectory, 0o755); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, sandboxTimeout)
	defer cancel()
	_, err = ws.cfg.Runtime.RunPodSandbox(ctx, &runtimeapi.RunPodSandboxRequest{Config: config, RuntimeHandler: handler})
	return err
}
