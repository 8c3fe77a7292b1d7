package cgroup

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/cgroups"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/keelson-io/keelson/internal/testkit"
)

// list reads "cpu=1,memory=2Gi".
func list(s string) corev1.ResourceList {
	l := corev1.ResourceList{}
	for _, part := range strings.Split(s, ",") {
		if name, q, ok := strings.Cut(part, "="); ok {
			l[corev1.ResourceName(name)] = resource.MustParse(q)
		}
	}
	return l
}

// pod has a container for each "requests/limits".
func pod(uid string, containers ...string) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: uid, Namespace: "ns", UID: types.UID(uid)}}
	for i, c := range containers {
		requests, limits, _ := strings.Cut(c, "/")
		p.Spec.Containers = append(p.Spec.Containers, corev1.Container{
			Name: string(rune('a' + i)), Resources: corev1.ResourceRequirements{Requests: list(requests), Limits: list(limits)},
		})
	}
	return p
}

func TestQOS(t *testing.T) {
	for _, c := range []struct {
		containers []string
		want       corev1.PodQOSClass
	}{
		{[]string{""}, corev1.PodQOSBestEffort},
		{[]string{"cpu=1"}, corev1.PodQOSBurstable},
		{[]string{"cpu=0"}, corev1.PodQOSBestEffort},
		{[]string{"/cpu=1"}, corev1.PodQOSBurstable},
		{[]string{"/cpu=1,memory=1Gi"}, corev1.PodQOSGuaranteed},
		{[]string{"cpu=1,memory=1Gi/cpu=1,memory=1Gi"}, corev1.PodQOSGuaranteed},
		{[]string{"cpu=1,memory=1Gi/cpu=2,memory=1Gi"}, corev1.PodQOSBurstable},
		{[]string{"cpu=1,memory=1Gi/cpu=1,memory=1Gi", ""}, corev1.PodQOSBurstable},
		{[]string{"ephemeral-storage=1Gi"}, corev1.PodQOSBestEffort},
	} {
		require.Equal(t, c.want, QOS(pod("p", c.containers...)), "%v", c.containers)
	}
	whole := pod("p", "")
	whole.Spec.Resources = &corev1.ResourceRequirements{Limits: list("cpu=1,memory=1Gi")}
	require.Equal(t, corev1.PodQOSGuaranteed, QOS(whole))
}

func TestPodResources(t *testing.T) {
	for _, c := range []struct {
		name                  string
		containers            []string
		shares, quota, memory int64
	}{
		{"nothing", []string{""}, 2, 0, 0},
		{"requests only", []string{"cpu=500m,memory=1Gi"}, 512, 0, 0},
		{"all limited", []string{"cpu=500m/cpu=1,memory=1Gi", "cpu=250m/cpu=500m,memory=512Mi"}, 768, 150000, 1536 << 20},
		{"one without a limit of memory", []string{"/cpu=1,memory=1Gi", "/cpu=1"}, 2048, 200000, 0},
		{"least quota", []string{"/cpu=1m"}, 2, 1000, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := PodResources(pod("p", c.containers...))
			require.Equal(t, []int64{c.shares, c.quota, c.memory}, []int64{r.CpuShares, r.CpuQuota, r.MemoryLimitInBytes})
		})
	}
}

func TestScore(t *testing.T) {
	const capacity = 10 << 30
	critical := pod("p", "")
	critical.Spec.Priority = ptr.To(int32(2000001000))
	side := pod("p", "memory=5Gi")
	side.Spec.InitContainers = []corev1.Container{{Name: "s", RestartPolicy: ptr.To(corev1.ContainerRestartPolicyAlways)}}
	for _, c := range []struct {
		name string
		p    *corev1.Pod
		c    *corev1.Container
		want int64
	}{
		{"guaranteed", pod("p", "/cpu=1,memory=1Gi"), nil, -997},
		{"best effort", pod("p", ""), nil, 1000},
		{"burstable", pod("p", "memory=1Gi"), nil, 900},
		{"burstable without memory", pod("p", "cpu=1"), nil, 999},
		{"burstable with all memory", pod("p", "memory=20Gi"), nil, 3},
		{"critical", critical, nil, -997},
		{"sidecar", side, &side.Spec.InitContainers[0], 500},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.c == nil {
				c.c = &c.p.Spec.Containers[0]
			}
			require.Equal(t, c.want, Score(c.p, c.c, capacity))
		})
	}
}

func TestPageSize(t *testing.T) {
	require.Equal(t, map[string]uint64{"2MB": 4 << 20, "1GB": 1 << 30}, hugepages(list("hugepages-2Mi=4Mi,hugepages-1Gi=1Gi,cpu=1")))
}

func TestSlices(t *testing.T) {
	tree := &Tree{cfg: Config{Driver: Systemd, Name: "kubepods"}}
	node := tree.podNode("1-2-3", corev1.PodQOSBurstable)
	require.Equal(t, "kubepods-burstable-pod1_2_3.slice", tree.parent(node))
	uid, ok := tree.podOf("kubepods-burstable-pod1_2_3.slice", corev1.PodQOSBurstable)
	require.True(t, ok)
	require.EqualValues(t, "1-2-3", uid)
	_, ok = tree.podOf("kubepods-burstable-pod1_2_3.slice", corev1.PodQOSGuaranteed)
	require.False(t, ok)
}

// newTree makes a tree under a name of its own.
func newTree(t *testing.T, cfg Config) *Tree {
	testkit.Root(t)
	testkit.NoLeaks(t, "keelson-cgrouptest")
	cfg.Root = fmt.Sprintf("/keelson-cgrouptest-%d", os.Getpid())
	tree, err := New(cfg)
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, tree.Destroy())
		dirs, err := filepath.Glob("/sys/fs/cgroup/*" + cfg.Root)
		require.NoError(t, err)
		for _, dir := range append(dirs, "/sys/fs/cgroup"+cfg.Root) {
			require.NoError(t, cgroups.RemovePath(dir))
		}
	})
	return tree
}

// value reads a file of a cgroup: v1 in the hierarchy of a controller, v2 in the only one.
func value(t *testing.T, parent, controller, v1, v2 string) string {
	t.Helper()
	file := filepath.Join("/sys/fs/cgroup", controller, parent, v1)
	if cgroups.IsCgroup2UnifiedMode() {
		file = filepath.Join("/sys/fs/cgroup", parent, v2)
	}
	raw, err := os.ReadFile(file)
	require.NoError(t, err)
	return strings.TrimSpace(string(raw))
}

func TestTree(t *testing.T) {
	tree := newTree(t, Config{Limits: list("cpu=2,memory=2Gi"), PodPids: 100})
	top := tree.parent(tree.node(""))
	require.Contains(t, []string{"2147483648"}, value(t, top, "memory", "memory.limit_in_bytes", "memory.max"))

	guaranteed, err := tree.Ensure(pod("g", "/cpu=500m,memory=64Mi"))
	require.NoError(t, err)
	require.Equal(t, top+"/podg", guaranteed)
	require.Equal(t, "67108864", value(t, guaranteed, "memory", "memory.limit_in_bytes", "memory.max"))
	require.Contains(t, []string{"50000", "50000 100000"}, value(t, guaranteed, "cpu", "cpu.cfs_quota_us", "cpu.max"))
	require.Equal(t, "100", value(t, guaranteed, "pids", "pids.max", "pids.max"))

	burstable, err := tree.Ensure(pod("b", "cpu=250m"))
	require.NoError(t, err)
	require.Equal(t, top+"/burstable/podb", burstable)
	_, err = tree.Ensure(pod("b2", "cpu=250m"))
	require.NoError(t, err)
	if !cgroups.IsCgroup2UnifiedMode() {
		require.Equal(t, "256", value(t, burstable, "cpu", "cpu.shares", ""))
		require.Equal(t, "512", value(t, top+"/burstable", "cpu", "cpu.shares", ""), "the class has the sum of its pods")
		require.Equal(t, "2", value(t, top+"/besteffort", "cpu", "cpu.shares", ""))
	}
	require.NoError(t, tree.Update(pod("b", "cpu=750m/memory=128Mi")))
	require.Equal(t, "134217728", value(t, burstable, "memory", "memory.limit_in_bytes", "memory.max"))
	require.NoError(t, tree.Update(pod("b", "cpu=750m")))
	require.NotEqual(t, "134217728", value(t, burstable, "memory", "memory.limit_in_bytes", "memory.max"), "a limit can go")
	if !cgroups.IsCgroup2UnifiedMode() {
		require.Equal(t, "1024", value(t, top+"/burstable", "cpu", "cpu.shares", ""))
	}

	again, err := New(tree.cfg) // an agent that comes back
	require.NoError(t, err)
	orphans, err := again.Orphans(func(uid types.UID) bool { return uid == "g" })
	require.NoError(t, err)
	require.Equal(t, []types.UID{"b", "b2"}, orphans)
	for _, uid := range []types.UID{"g", "b", "b2", "never-there"} {
		require.NoError(t, tree.Remove(uid))
	}
	orphans, err = again.Orphans(func(types.UID) bool { return false })
	require.NoError(t, err)
	require.Empty(t, orphans)
}

func TestRemoveKillsWhatIsLeft(t *testing.T) {
	tree := newTree(t, Config{})
	parent, err := tree.Ensure(pod("p", ""))
	require.NoError(t, err)
	sub, err := tree.ensure(append(tree.podNode("p", corev1.PodQOSBestEffort), "container"))
	require.NoError(t, err)
	cmd := exec.Command("sleep", "1000")
	require.NoError(t, cmd.Start())
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	require.NoError(t, sub.Apply(cmd.Process.Pid))
	require.NoError(t, tree.Remove("p"))
	require.ErrorContains(t, <-ended, "killed")
	require.NoDirExists(t, filepath.Join("/sys/fs/cgroup/memory", parent))
}

// TestMemory holds some in a pod's cgroup: it counts for all pods.
func TestMemory(t *testing.T) {
	_, _, ok := newTree(t, Config{Name: "unlimited"}).Memory()
	require.False(t, ok)
	tree := newTree(t, Config{Limits: list("memory=64Mi")})
	_, err := tree.Ensure(pod("p", ""))
	require.NoError(t, err)
	sub, err := tree.ensure(append(tree.podNode("p", corev1.PodQOSBestEffort), "container"))
	require.NoError(t, err)
	cmd := exec.Command("sh", "-c", `read go; held=$(head -c 8388608 /dev/zero | tr '\0' x); echo $held | wc -c; read end`)
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	require.NoError(t, sub.Apply(cmd.Process.Pid))
	_, err = fmt.Fprintln(in)
	require.NoError(t, err)
	var n int
	_, err = fmt.Fscan(out, &n)
	require.NoError(t, err)
	used, limit, ok := tree.Memory()
	require.True(t, ok)
	require.EqualValues(t, 64<<20, limit)
	require.Greater(t, used, int64(n))
	require.Less(t, used, limit)
	require.NoError(t, in.Close())
	_ = cmd.Wait() // read tells of the end
	require.NoError(t, tree.Remove("p"))
}

func TestUnknownDriver(t *testing.T) {
	_, err := New(Config{Driver: "x"})
	require.EqualError(t, err, `cgroup: unknown driver "x": it has to be cgroupfs or systemd`)
}
