package workers

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/utils/ptr"
)

// configs are what the runtime was told of pod p with its container a.
func (h *harness) configs() (*runtimeapi.PodSandboxConfig, *runtimeapi.ContainerConfig) {
	h.t.Helper()
	h.expect("Running a=running+")
	c := h.rt.container("a")
	return h.rt.boxes[c.box].config, c.config
}

func TestConfigOfAPlainPod(t *testing.T) {
	in(t, func(h *harness) {
		p := makePod("a")
		p.Annotations = map[string]string{"x": "y"}
		c := &p.Spec.Containers[0]
		c.Command, c.Args, c.WorkingDir = []string{"run", "$(V)", "$$(V)", "$(W)"}, []string{"$(IPS)"}, "/w"
		c.Env = []corev1.EnvVar{{Name: "V", Value: "v"}}
		c.Ports = []corev1.ContainerPort{{ContainerPort: 80, HostPort: 8080, Protocol: corev1.ProtocolUDP, HostIP: "127.0.0.1"}}
		c.VolumeMounts = []corev1.VolumeMount{{Name: "v", MountPath: "/v", ReadOnly: true}}
		c.VolumeDevices = []corev1.VolumeDevice{{Name: "disk", DevicePath: "/dev/xvda"}}
		c.Lifecycle = &corev1.Lifecycle{StopSignal: ptr.To(corev1.SIGUSR1)}
		h.api.create(p)
		box, cc := h.configs()

		require.Equal(t, map[string]string{"app": "x", "io.kubernetes.pod.name": "p", "io.kubernetes.pod.namespace": "ns", "io.kubernetes.pod.uid": "uid-p"}, box.Labels)
		require.Equal(t, map[string]string{"x": "y"}, box.Annotations)
		require.Equal(t, filepath.Join(h.cfg.Logs, "ns_p_uid-p"), box.LogDirectory)
		require.Equal(t, []string{"10.96.0.10"}, box.DnsConfig.Servers)
		require.Equal(t, "p", box.Hostname)
		require.Equal(t, "/kubepods/poduid-p", box.Linux.CgroupParent)
		require.Equal(t, &runtimeapi.PortMapping{Protocol: runtimeapi.Protocol_UDP, ContainerPort: 80, HostPort: 8080, HostIp: "127.0.0.1"}, box.PortMappings[0])
		n := box.Linux.SecurityContext.NamespaceOptions
		require.Equal(t, []runtimeapi.NamespaceMode{runtimeapi.NamespaceMode_POD, runtimeapi.NamespaceMode_CONTAINER, runtimeapi.NamespaceMode_POD}, []runtimeapi.NamespaceMode{n.Network, n.Pid, n.Ipc})

		require.Equal(t, []string{"run", "v", "$(V)", "$(W)"}, cc.Command)
		require.Equal(t, []string{"10.0.0.1,fd00::1"}, cc.Args)
		require.Equal(t, "/w", cc.WorkingDir)
		require.Equal(t, "a/0.log", cc.LogPath)
		require.Equal(t, []*runtimeapi.Device{{HostPath: "/dev/of/disk", ContainerPath: "/dev/xvda", Permissions: "mrw"}}, cc.Devices)
		require.Equal(t, runtimeapi.Signal_SIGNAL_SIGUSR1, cc.StopSignal)
		require.Equal(t, corev1.SIGUSR1, *h.api.pod("p").Status.ContainerStatuses[0].StopSignal)
		require.Equal(t, "0", cc.Annotations["io.kubernetes.container.restartCount"])
		require.Equal(t, "/dev/termination-log", cc.Annotations["io.kubernetes.container.terminationMessagePath"])
		require.Equal(t, "30", cc.Annotations["io.kubernetes.pod.terminationGracePeriod"])
		require.JSONEq(t, `[{"containerPort":80,"hostPort":8080,"protocol":"UDP","hostIP":"127.0.0.1"}]`, cc.Annotations["io.kubernetes.container.ports"])
		require.Equal(t, "a", cc.Labels["io.kubernetes.container.name"])
		var paths []string
		for _, m := range cc.Mounts {
			paths = append(paths, m.ContainerPath)
		}
		require.Equal(t, []string{"/v", "/etc/hosts", "/dev/termination-log"}, paths)
		require.Equal(t, []corev1.VolumeMountStatus{{Name: "v", MountPath: "/v", ReadOnly: true, RecursiveReadOnly: ptr.To(corev1.RecursiveReadOnlyDisabled)}}, h.api.pod("p").Status.ContainerStatuses[0].VolumeMounts)
		require.Equal(t, runtimeapi.SecurityProfile_Unconfined, cc.Linux.SecurityContext.Seccomp.ProfileType)
	})
}

func TestHostNamespaces(t *testing.T) {
	in(t, func(h *harness) {
		p := makePod("a")
		p.Spec.HostNetwork, p.Spec.HostPID, p.Spec.HostIPC = true, true, true
		h.api.create(p)
		box, cc := h.configs()
		for _, n := range []*runtimeapi.NamespaceOption{box.Linux.SecurityContext.NamespaceOptions, cc.Linux.SecurityContext.NamespaceOptions} {
			require.Equal(t, []runtimeapi.NamespaceMode{runtimeapi.NamespaceMode_NODE, runtimeapi.NamespaceMode_NODE, runtimeapi.NamespaceMode_NODE}, []runtimeapi.NamespaceMode{n.Network, n.Pid, n.Ipc})
		}
		require.Empty(t, box.Hostname)
		require.Equal(t, "192.168.0.1", h.api.pod("p").Status.PodIP)
		require.Empty(t, unmet(h.api.pod("p")))
	})
}

func TestHostname(t *testing.T) {
	long := strings.Repeat("x", 62) + "-y"
	for _, c := range []struct {
		name string
		spec corev1.PodSpec
		pod  string
		want string
	}{
		{"the pod's name", corev1.PodSpec{}, "p", "p"},
		{"its own", corev1.PodSpec{Hostname: "h", Subdomain: "s"}, "p", "h"},
		{"whole", corev1.PodSpec{Hostname: "h", Subdomain: "s", SetHostnameAsFQDN: ptr.To(true)}, "p", "h.s.ns.svc.c.local"},
		{"whole without a subdomain", corev1.PodSpec{SetHostnameAsFQDN: ptr.To(true)}, "p", "p"},
		{"too long is cut", corev1.PodSpec{}, long, strings.Repeat("x", 62)},
		{"override", corev1.PodSpec{HostnameOverride: ptr.To("o.example.com"), Hostname: "h"}, "p", "o.example.com"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := hostname(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: c.pod, Namespace: "ns"}, Spec: c.spec}, "c.local")
			require.NoError(t, err)
			require.Equal(t, c.want, got)
		})
	}
	_, err := hostname(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "ns"}, Spec: corev1.PodSpec{Hostname: strings.Repeat("h", 60), Subdomain: "s", SetHostnameAsFQDN: ptr.To(true)}}, "c.local")
	require.ErrorContains(t, err, "is too long (64 characters is the max, 77 characters requested)")
}

func TestRuntimeClass(t *testing.T) {
	in(t, func(h *harness) {
		_, err := h.api.client.NodeV1().RuntimeClasses().Create(t.Context(), &nodev1.RuntimeClass{ObjectMeta: metav1.ObjectMeta{Name: "fast"}, Handler: "turbo"}, metav1.CreateOptions{})
		require.NoError(t, err)
		p := makePod("a")
		p.Spec.RuntimeClassName = ptr.To("fast")
		h.api.create(p)
		h.expect("Running a=running+")
		require.Equal(t, "turbo", h.rt.boxes[h.rt.container("a").box].status.RuntimeHandler)
	})
}

func TestSecurityContext(t *testing.T) {
	type pod = corev1.PodSecurityContext
	type own = corev1.SecurityContext
	for _, c := range []struct {
		name  string
		pod   *pod
		own   *own
		image imageUser
		check func(*testing.T, *runtimeapi.LinuxContainerSecurityContext)
	}{
		{"image's user", nil, nil, imageUser{uid: ptr.To(int64(7))}, func(t *testing.T, s *runtimeapi.LinuxContainerSecurityContext) {
			require.EqualValues(t, 7, s.RunAsUser.Value)
		}},
		{"image's user by name", nil, nil, imageUser{name: "web"}, func(t *testing.T, s *runtimeapi.LinuxContainerSecurityContext) {
			require.Nil(t, s.RunAsUser)
			require.Equal(t, "web", s.RunAsUsername)
		}},
		{"pod's user and group", &pod{RunAsUser: ptr.To(int64(1)), RunAsGroup: ptr.To(int64(2))}, nil, imageUser{}, func(t *testing.T, s *runtimeapi.LinuxContainerSecurityContext) {
			require.EqualValues(t, []int64{1, 2}, []int64{s.RunAsUser.Value, s.RunAsGroup.Value})
		}},
		{"own user wins", &pod{RunAsUser: ptr.To(int64(1))}, &own{RunAsUser: ptr.To(int64(3))}, imageUser{}, func(t *testing.T, s *runtimeapi.LinuxContainerSecurityContext) {
			require.EqualValues(t, 3, s.RunAsUser.Value)
		}},
		{"group alone", &pod{RunAsGroup: ptr.To(int64(2))}, nil, imageUser{}, func(t *testing.T, s *runtimeapi.LinuxContainerSecurityContext) { require.NotNil(t, s.RunAsUser) }},
		{"groups", &pod{FSGroup: ptr.To(int64(5)), SupplementalGroups: []int64{6, 5}, SupplementalGroupsPolicy: ptr.To(corev1.SupplementalGroupsPolicyStrict)}, nil, imageUser{}, func(t *testing.T, s *runtimeapi.LinuxContainerSecurityContext) {
			require.Equal(t, []int64{5, 6}, s.SupplementalGroups)
			require.Equal(t, runtimeapi.SupplementalGroupsPolicy_Strict, s.SupplementalGroupsPolicy)
		}},
		{"capabilities", nil, &own{Capabilities: &corev1.Capabilities{Add: []corev1.Capability{"NET_ADMIN"}, Drop: []corev1.Capability{"ALL"}}}, imageUser{}, func(t *testing.T, s *runtimeapi.LinuxContainerSecurityContext) {
			require.Equal(t, []string{"NET_ADMIN"}, s.Capabilities.AddCapabilities)
			require.Equal(t, []string{"ALL"}, s.Capabilities.DropCapabilities)
		}},
		{"privileged", &pod{SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault}}, &own{Privileged: ptr.To(true)}, imageUser{}, func(t *testing.T, s *runtimeapi.LinuxContainerSecurityContext) {
			require.True(t, s.Privileged)
			require.Equal(t, runtimeapi.SecurityProfile_Unconfined, s.Seccomp.ProfileType)
		}},
		{"read-only root, no new privileges", nil, &own{ReadOnlyRootFilesystem: ptr.To(true), AllowPrivilegeEscalation: ptr.To(false)}, imageUser{}, func(t *testing.T, s *runtimeapi.LinuxContainerSecurityContext) {
			require.True(t, s.ReadonlyRootfs && s.NoNewPrivs)
		}},
		{"masked paths", nil, nil, imageUser{}, func(t *testing.T, s *runtimeapi.LinuxContainerSecurityContext) {
			require.Contains(t, s.MaskedPaths, "/proc/kcore")
			require.Contains(t, s.ReadonlyPaths, "/proc/sys")
		}},
		{"unmasked", nil, &own{ProcMount: ptr.To(corev1.UnmaskedProcMount)}, imageUser{}, func(t *testing.T, s *runtimeapi.LinuxContainerSecurityContext) {
			require.Empty(t, s.MaskedPaths)
			require.Empty(t, s.ReadonlyPaths)
		}},
		{"seccomp of the node", &pod{SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeLocalhost, LocalhostProfile: ptr.To("../../etc/p.json")}}, nil, imageUser{}, func(t *testing.T, s *runtimeapi.LinuxContainerSecurityContext) {
			require.Equal(t, runtimeapi.SecurityProfile_Localhost, s.Seccomp.ProfileType)
			require.Equal(t, "/seccomp/etc/p.json", s.Seccomp.LocalhostRef, "never outside of its directory")
		}},
		{"own seccomp wins", &pod{SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeUnconfined}}, &own{SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault}}, imageUser{}, func(t *testing.T, s *runtimeapi.LinuxContainerSecurityContext) {
			require.Equal(t, runtimeapi.SecurityProfile_RuntimeDefault, s.Seccomp.ProfileType)
		}},
		{"apparmor", &pod{AppArmorProfile: &corev1.AppArmorProfile{Type: corev1.AppArmorProfileTypeLocalhost, LocalhostProfile: ptr.To("x")}}, nil, imageUser{}, func(t *testing.T, s *runtimeapi.LinuxContainerSecurityContext) {
			require.Equal(t, &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Localhost, LocalhostRef: "x"}, s.Apparmor)
		}},
		{"selinux", &pod{SELinuxOptions: &corev1.SELinuxOptions{Level: "s0"}}, &own{SELinuxOptions: &corev1.SELinuxOptions{Level: "s1"}}, imageUser{}, func(t *testing.T, s *runtimeapi.LinuxContainerSecurityContext) {
			require.Equal(t, "s1", s.SelinuxOptions.Level)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := makePod("a")
			p.Spec.SecurityContext, p.Spec.Containers[0].SecurityContext = c.pod, c.own
			ws := &Workers{users: newUsers(t.TempDir(), userRange, 1)}
			ws.cfg.Options.SeccompDir = "/seccomp"
			c.check(t, ws.securityContext(p, start{container: &p.Spec.Containers[0]}, c.image))
		})
	}
}

func TestNonRoot(t *testing.T) {
	for _, c := range []struct {
		name  string
		own   *corev1.SecurityContext
		image imageUser
		err   string
	}{
		{"number", &corev1.SecurityContext{RunAsNonRoot: ptr.To(true)}, imageUser{uid: ptr.To(int64(1))}, ""},
		{"root", &corev1.SecurityContext{RunAsNonRoot: ptr.To(true)}, imageUser{uid: ptr.To(int64(0))}, `container has runAsNonRoot and image will run as root (pod: "p_ns(uid-p)", container: a)`},
		{"name", &corev1.SecurityContext{RunAsNonRoot: ptr.To(true)}, imageUser{name: "web"}, `container has runAsNonRoot and image has non-numeric user (web), cannot verify user is non-root (pod: "p_ns(uid-p)", container: a)`},
		{"name, but another user", &corev1.SecurityContext{RunAsNonRoot: ptr.To(true), RunAsUser: ptr.To(int64(9))}, imageUser{name: "web"}, ""},
		{"may be root", nil, imageUser{uid: ptr.To(int64(0))}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := makePod("a")
			p.Spec.Containers[0].SecurityContext = c.own
			err := checkNonRoot(p, &p.Spec.Containers[0], c.image)
			if c.err == "" {
				require.NoError(t, err)
				return
			}
			require.EqualError(t, err, c.err)
		})
	}
}

func TestUserNamespaces(t *testing.T) {
	in(t, func(h *harness) {
		h.stop()
		h.cfg.Options.MaxPods = 2
		h.start()
		pod := func(name string) *corev1.Pod {
			p := makePod("a")
			p.Name, p.UID, p.Spec.HostUsers = name, types.UID("uid-"+name), ptr.To(false)
			return p
		}
		host := func(name string) uint32 {
			for _, b := range h.rt.boxes {
				if b.config.Metadata.Name == name {
					u := b.config.Linux.SecurityContext.NamespaceOptions.UsernsOptions
					require.Equal(t, runtimeapi.NamespaceMode_POD, u.Mode)
					require.EqualValues(t, 65536, u.Uids[0].Length)
					return u.Uids[0].HostId
				}
			}
			return 0
		}
		h.api.create(pod("p"))
		h.expect("Running a=running+")
		require.EqualValues(t, 65536, host("p"))
		require.Equal(t, host("p"), h.rt.container("a").config.Mounts[0].UidMappings[0].HostId)
		uids, gids := h.ws.IDMappings(h.api.pod("p"))
		require.EqualValues(t, 65536, uids[0].HostId)
		require.Equal(t, uids, gids)
		uids, _ = h.ws.IDMappings(makePod("a"))
		require.Nil(t, uids, "a pod with the users of the node has no mappings")
		h.restart()
		h.api.create(pod("q"))
		h.pass(time.Second)
		require.EqualValues(t, 2*65536, host("q"), "ranges are never shared, whatever happens to the agent")
		h.api.create(pod("r"))
		h.pass(time.Second)
		require.Equal(t, "Pending a=ContainerCreating", summary(h.api.pod("r")))
		require.Contains(t, strings.Join(h.events.take(), "\n"), "all 2 ranges of users are taken")
		h.api.del("p", 1)
		h.pass(2 * time.Minute)
		require.Equal(t, "Running a=running+", summary(h.api.pod("r")))
		require.EqualValues(t, 65536, host("r"))
	})
}

func TestLogins(t *testing.T) {
	for _, c := range []struct {
		registry, image string
		want            bool
	}{
		{"https://index.docker.io/v1/", "nginx", true},
		{"docker.io", "library/nginx:1", true},
		{"r.example.com", "r.example.com/x/y:1@sha256:0", true},
		{"r.example.com/x", "r.example.com/x/y", true},
		{"r.example.com/z", "r.example.com/x/y", false},
		{"*.example.com", "r.example.com/x", true},
		{"*.example.com", "example.com/x", false},
		{"r.example.com:5000", "r.example.com:5000/x", true},
		{"r.example.com", "r.example.com:5000/x", false},
		{"localhost:5000", "localhost:5000/x:1", true},
	} {
		require.Equal(t, c.want, login{registry: normalRegistry(c.registry)}.matches(fullImage(c.image)), "%s for %s", c.registry, c.image)
	}
}

func TestImageNames(t *testing.T) {
	for name, want := range map[string]string{
		"nginx": "nginx:latest", "nginx:1": "nginx:1", "r:5000/x": "r:5000/x:latest", "r:5000/x:1": "r:5000/x:1", "x@sha256:" + strings.Repeat("0", 64): "x@sha256:" + strings.Repeat("0", 64),
	} {
		require.True(t, imageName.MatchString(name), name)
		require.Equal(t, want, withTag(name))
	}
	for _, bad := range []string{"", "Nginx", "a b", "x:", "-x", "x//y", "x@sha256:1"} {
		require.False(t, imageName.MatchString(bad), bad)
	}
}
