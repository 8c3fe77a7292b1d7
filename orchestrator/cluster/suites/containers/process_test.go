//go:build linux

package containers

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"

	"github.com/keelson-io/keelson/orchestrator/cluster/nodetest"
)

// A container's command is its first process, under the pod's name, in the image's environment.
func TestProcess(t *testing.T) {
	t.Parallel()
	ns := cluster.Namespace(t)
	pod := with(nodetest.Pod("process", "pid"), func(c *corev1.Container) { c.WorkingDir = "/home/app" })
	pod.Spec.Containers = append(pod.Spec.Containers, nodetest.Container("second", "sh", "-c", "hostname; pwd; echo $FROM_IMAGE; cat /etc/hosts"))
	require.Equal(t, "1 0\n", cluster.Run(t, ns, pod))
	log := cluster.Log(t, ns, "process", "second")
	require.True(t, strings.HasPrefix(log, "process\n/\nyes\n"), log)
	require.Regexp(t, `10\.244\.\d+\.\d+\s+process\n`, log, "its own name is in its hosts file")
}

func TestUsers(t *testing.T) {
	t.Parallel()
	ns := cluster.Namespace(t)
	pod := volume(script("users", "id; stat /data; touch /data/file; stat /data/file; status Groups"), "data", "/data", empty())
	pod.Spec.SecurityContext = &corev1.PodSecurityContext{
		RunAsUser: ptr(int64(1000)), RunAsGroup: ptr(int64(2000)), FSGroup: ptr(int64(4000)), SupplementalGroups: []int64{5000}, RunAsNonRoot: ptr(true),
	}
	log := cluster.Run(t, ns, pod)
	lines := strings.Split(log, "\n")
	require.Contains(t, lines[0], "uid=1000 gid=2000", log)
	require.Regexp(t, `Groups .*\b4000\b`, log)
	require.Regexp(t, `Groups .*\b5000\b`, log)
	require.Regexp(t, `Groups .*\b3000\b`, log, "that of the image's user are merged in")
	require.Regexp(t, `\n\S+ 2777 0 4000 \d+ /data\n`, log)
	require.Regexp(t, `\n\S+ 0644 1000 4000 0 /data/file\n`, log)
}

// A container that must not be root, but is, is not started.
func TestNonRoot(t *testing.T) {
	t.Parallel()
	ns := cluster.Namespace(t)
	cluster.Create(t, ns, secured(nodetest.Pod("root", "id"), corev1.SecurityContext{RunAsNonRoot: ptr(true)}))
	cluster.Await(t, ns, "root", "is refused", func(p *corev1.Pod) bool {
		w := status(p, "main").State.Waiting
		return w != nil && w.Reason == "CreateContainerConfigError" && strings.Contains(w.Message, "runAsNonRoot")
	})
}

// Containers of a pod share its network, its name and its queues, and nothing else.
func TestNamespaces(t *testing.T) {
	t.Parallel()
	ns := cluster.Namespace(t)
	pod := nodetest.Pod("apart", "sleep", "infinity")
	pod.Spec.Containers = append(pod.Spec.Containers, nodetest.Container("second", "sleep", "infinity"))
	cluster.Started(t, ns, pod)
	first := facts(cluster.Exec(t, ns, "apart", "main", "ns"))
	second := facts(cluster.Exec(t, ns, "apart", "second", "ns"))
	for name, shared := range map[string]bool{"net": true, "ipc": true, "uts": true, "pid": false, "mnt": false} {
		require.Equal(t, shared, first[name] == second[name], name)
		machine, err := os.Readlink("/proc/self/ns/" + name)
		require.NoError(t, err)
		require.NotEqual(t, machine, first[name], name)
	}
}

// facts are lines of a name and a value.
func facts(log string) map[string]string {
	all := map[string]string{}
	for line := range strings.Lines(log) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		all[name] = value
	}
	return all
}

func TestSharedProcesses(t *testing.T) {
	t.Parallel()
	ns := cluster.Namespace(t)
	pod := nodetest.Pod("shared", "sleep", "infinity")
	pod.Spec.ShareProcessNamespace = ptr(true)
	pod.Spec.Containers = append(pod.Spec.Containers, nodetest.Container("second", "trap", "0"))
	cluster.Started(t, ns, pod)
	seen := cluster.Exec(t, ns, "shared", "main", "ps")
	require.Regexp(t, `(?m)^\d+ sleep infinity$`, seen)
	require.Regexp(t, `(?m)^\d+ trap 0$`, seen)
	require.NotRegexp(t, `(?m)^1 (sleep|trap)`, seen, "the first process is the sandbox's")
}

// A pod may be in the machine's namespaces.
func TestHostNamespaces(t *testing.T) {
	t.Parallel()
	ns := cluster.Namespace(t)
	pod := script("host", "ns; links")
	pod.Spec.HostNetwork, pod.Spec.HostPID, pod.Spec.HostIPC = true, true, true
	log := cluster.Run(t, ns, pod)
	seen := facts(log)
	for _, name := range []string{"pid", "ipc"} {
		machine, err := os.Readlink("/proc/self/ns/" + name)
		require.NoError(t, err)
		require.Equal(t, machine, seen[name], name)
	}
	var network string
	require.NoError(t, cluster.One.Do(func() (err error) {
		network, err = os.Readlink("/proc/thread-self/ns/net")
		return err
	}))
	require.Equal(t, network, seen["net"])
	require.Contains(t, log, cluster.One.Address)
	got := cluster.Await(t, ns, "host", "has an address", func(p *corev1.Pod) bool { return p.Status.PodIP != "" })
	require.Equal(t, cluster.One.Address, got.Status.PodIP)
}

// A user namespace of a pod maps its root to nobody in particular.
func TestUserNamespace(t *testing.T) {
	t.Parallel()
	ns := cluster.Namespace(t)
	pod := volume(script("users", "cat /proc/self/uid_map; id; touch /data/file; stat /data/file"), "data", "/data", empty())
	pod.Spec.HostUsers = ptr(false)
	cluster.Create(t, ns, pod)
	done := cluster.Await(t, ns, "users", "has ended or cannot start", func(p *corev1.Pod) bool {
		w := status(p, "main").State.Waiting
		return nodetest.Ended(p) || w != nil && strings.HasSuffix(w.Reason, "Error")
	})
	require.Equal(t, corev1.PodSucceeded, done.Status.Phase, "%+v", done.Status.ContainerStatuses)
	log := cluster.Log(t, ns, "users", "main")
	mapped := strings.Fields(log)
	require.Equal(t, "0", mapped[0], log)
	require.NotEqual(t, "0", mapped[1], log)
	require.Contains(t, log, "uid=0 gid=0")
	require.Regexp(t, `\S+ 0644 0 0 0 /data/file\n`, log)
}

func TestReadOnlyRoot(t *testing.T) {
	t.Parallel()
	ns := cluster.Namespace(t)
	pod := volume(script("readonly", "touch /data/file && echo written; touch /file 2>/dev/null || echo refused; echo > /dev/null && echo device"), "data", "/data", empty())
	require.Equal(t, "written\nrefused\ndevice\n", cluster.Run(t, ns, secured(pod, corev1.SecurityContext{ReadOnlyRootFilesystem: ptr(true)})))
}

// defaultCaps are what a container may do unless it says otherwise.
const defaultCaps = "00000000a80425fb"

func TestCapabilities(t *testing.T) {
	t.Parallel()
	ns := cluster.Namespace(t)
	for name, x := range map[string]struct {
		context corev1.SecurityContext
		want    string
	}{
		"default": {corev1.SecurityContext{}, "CapEff " + defaultCaps + "\nCapBnd " + defaultCaps + "\nchown ok\nmount EPERM\nmknod ok\n"},
		"none": {
			corev1.SecurityContext{Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}}},
			"CapEff 0000000000000000\nCapBnd 0000000000000000\nchown EPERM\nmount EPERM\nmknod EPERM\n",
		},
		"added": {
			corev1.SecurityContext{Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}, Add: []corev1.Capability{"CHOWN"}}},
			"CapEff 0000000000000001\nCapBnd 0000000000000001\nchown ok\nmount EPERM\nmknod EPERM\n",
		},
		"user": {
			corev1.SecurityContext{RunAsUser: ptr(int64(1000))},
			"CapEff 0000000000000000\nCapBnd " + defaultCaps + "\nchown EPERM\nmount EPERM\nmknod EPERM\n",
		},
		"privileged": {corev1.SecurityContext{Privileged: ptr(true)}, "mount ok\n"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			log := cluster.Run(t, ns, secured(script(name, "status CapEff CapBnd; syscall chown mount mknod"), x.context))
			require.Contains(t, log, x.want)
		})
	}
}

// What a program may gain by setuid is said by allowPrivilegeEscalation.
func TestEscalation(t *testing.T) {
	t.Parallel()
	ns := cluster.Namespace(t)
	require.Equal(t, "NoNewPrivs 0\n", cluster.Run(t, ns, nodetest.Pod("may", "status", "NoNewPrivs")))
	require.Equal(t, "NoNewPrivs 1\n", cluster.Run(t, ns, secured(nodetest.Pod("not", "status", "NoNewPrivs"), corev1.SecurityContext{AllowPrivilegeEscalation: ptr(false)})))
}

func TestSeccomp(t *testing.T) {
	t.Parallel()
	ns := cluster.Namespace(t)
	dir := filepath.Join(cluster.One.Data(), "node", "seccomp")
	require.NoError(t, os.MkdirAll(dir, 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "no-chown.json"), []byte(`{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[
		{"names":["chown","fchownat"],"action":"SCMP_ACT_ERRNO","errnoRet":99}]}`), 0o600))
	for name, x := range map[string]struct {
		profile corev1.SeccompProfile
		want    string
	}{
		"unconfined": {corev1.SeccompProfile{Type: corev1.SeccompProfileTypeUnconfined}, "Seccomp 0\nchown ok\n"},
		"default":    {corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault}, "Seccomp 2\nchown ok\nunshare EPERM\n"},
		"file":       {corev1.SeccompProfile{Type: corev1.SeccompProfileTypeLocalhost, LocalhostProfile: ptr("no-chown.json")}, "Seccomp 2\nchown EADDRNOTAVAIL\n"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pod := script(name, "status Seccomp; syscall chown unshare")
			pod.Spec.SecurityContext = &corev1.PodSecurityContext{SeccompProfile: &x.profile}
			require.Contains(t, cluster.Run(t, ns, pod), x.want)
		})
	}
}

// Settings of the kernel are the pod's own if they are safe; others are refused.
func TestSysctls(t *testing.T) {
	t.Parallel()
	ns := cluster.Namespace(t)
	pod := script("safe", "cat /proc/sys/kernel/shm_rmid_forced /proc/sys/net/ipv4/ip_unprivileged_port_start")
	pod.Spec.SecurityContext = &corev1.PodSecurityContext{Sysctls: []corev1.Sysctl{
		{Name: "kernel.shm_rmid_forced", Value: "1"}, {Name: "net.ipv4.ip_unprivileged_port_start", Value: "7"},
	}}
	require.Equal(t, "1\n7\n", cluster.Run(t, ns, pod))
	unsafe := nodetest.Pod("unsafe", "true")
	unsafe.Spec.SecurityContext = &corev1.PodSecurityContext{Sysctls: []corev1.Sysctl{{Name: "kernel.msgmax", Value: "65536"}}}
	got := cluster.Finished(t, ns, unsafe)
	require.Equal(t, corev1.PodFailed, got.Status.Phase)
	require.Equal(t, "SysctlForbidden", got.Status.Reason)
}
