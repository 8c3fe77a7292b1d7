package eviction

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"
	stats "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
	"k8s.io/utils/ptr"
)

// machine is a node with so much memory and disk, in MiB, of which pods use some. Only synctest's bubble touches it.
type machine struct {
	total   int64
	pods    []*corev1.Pod
	used    map[string]uint64 // memory
	disk    int64             // that is free, of 1000
	rubbish int64             // that reclaim frees
	stuck   bool              // pods do not end
	failing error

	ended     []string
	at        []time.Duration // when they were told to
	reclaimed int
	starving  []corev1.ResourceName
	start     time.Time
}

func (m *machine) node() Node {
	return Node{
		Signals: func(context.Context) (map[Signal]Observation, error) {
			free := m.total
			for _, n := range m.used {
				free -= int64(n)
			}
			return map[Signal]Observation{MemoryAvailable: {free << 20, m.total << 20}, NodeFsAvailable: {m.disk << 20, 1000 << 20}}, m.failing
		},
		Pods:     func() []*corev1.Pod { return m.pods },
		Usage:    func(context.Context) (map[types.UID]*stats.PodStats, error) { return memory(m.used), nil },
		Starving: func(r corev1.ResourceName) { m.starving = append(m.starving, r) },
		Reclaim: func(context.Context, Signal) error {
			m.reclaimed++
			m.disk, m.rubbish = m.disk+m.rubbish, 0
			return nil
		},
		End: func(e *Eviction) bool {
			m.ended, m.at = append(m.ended, e.Pod.Name), append(m.at, time.Since(m.start))
			if !m.stuck {
				time.AfterFunc(e.Grace, func() {
					delete(m.used, e.Pod.Name)
					m.pods = without(m.pods, e.Pod)
				})
			}
			return true
		},
		Ended: func(uid types.UID) bool { _, there := m.used[string(uid)]; return !there },
	}
}

func without(all []*corev1.Pod, p *corev1.Pod) (out []*corev1.Pod) {
	for _, o := range all {
		if o != p {
			out = append(out, o)
		}
	}
	return out
}

// on runs a test with a manager of a machine.
func on(t *testing.T, s Settings, m *machine, f func(*Manager)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		all, err := Thresholds(s)
		require.NoError(t, err)
		m.start = time.Now()
		mgr, err := New(Config{Node: m.node(), Thresholds: all, MaxGrace: 5 * time.Second})
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error)
		go func() { done <- mgr.Run(ctx) }()
		time.Sleep(time.Millisecond)
		synctest.Wait()
		f(mgr)
		cancel()
		require.NoError(t, <-done)
		time.Sleep(time.Minute) // for those that still end
	})
}

func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

var hard = Settings{Hard: map[string]string{"memory.available": "100Mi", "nodefs.available": "10%"}}

// TestOnePodAtATime: the second pod goes only when the end of the first was not enough.
func TestOnePodAtATime(t *testing.T) {
	m := &machine{total: 1000, disk: 500, used: map[string]uint64{"a": 300, "b": 250, "c": 250}, pods: []*corev1.Pod{pod("a", 0, ""), pod("b", 0, ""), pod("c", 0, "300Mi")}}
	on(t, hard, m, func(mgr *Manager) {
		pass(time.Minute)
		require.Empty(t, m.ended)
		require.Empty(t, mgr.Pressure())
		m.used["c"] = 360
		pass(2 * time.Second)
		require.Equal(t, []string{"a"}, m.ended)
		require.True(t, mgr.Under(corev1.NodeMemoryPressure))
		require.EqualValues(t, 1, testutil.ToFloat64(mgr.evictions.WithLabelValues("memory.available")))
		require.Equal(t, []corev1.ResourceName{"memory"}, m.starving)
		require.Zero(t, m.reclaimed, "there is nothing on the disk that frees memory")
		pass(time.Minute)
		require.Equal(t, []string{"a"}, m.ended, "that was enough")
		pass(5 * time.Minute)
		require.Empty(t, mgr.Pressure())
		m.used["c"] = 700
		pass(10 * time.Second)
		require.Equal(t, []string{"a", "c"}, m.ended, "c is further above its request than b")
	})
}

func TestPodThatDoesNotEnd(t *testing.T) {
	m := &machine{total: 1000, disk: 500, stuck: true, used: map[string]uint64{"a": 950}, pods: []*corev1.Pod{pod("a", 0, "")}}
	on(t, hard, m, func(*Manager) {
		pass(30 * time.Second)
		require.Len(t, m.ended, 1, "its end is waited for")
		pass(5 * time.Second)
		require.Len(t, m.ended, 2, "but not for ever")
	})
}

func TestSoft(t *testing.T) {
	s := Settings{Soft: map[string]string{"memory.available": "200Mi"}, SoftGrace: map[string]string{"memory.available": "1m"}}
	m := &machine{total: 1000, disk: 500, used: map[string]uint64{"a": 850}, pods: []*corev1.Pod{pod("a", 0, "")}}
	on(t, s, m, func(mgr *Manager) {
		pass(50 * time.Second)
		require.True(t, mgr.Under(corev1.NodeMemoryPressure))
		require.Empty(t, m.ended)
		pass(30 * time.Second)
		require.Equal(t, []string{"a"}, m.ended)
		require.GreaterOrEqual(t, m.at[0], time.Minute)
		require.Empty(t, m.used)
	})
}

// TestReclaimFirst: what nobody needs is removed before a pod has to go.
func TestReclaimFirst(t *testing.T) {
	m := &machine{total: 1000, disk: 90, rubbish: 50, used: map[string]uint64{"a": 1}, pods: []*corev1.Pod{pod("a", 0, "")}}
	on(t, hard, m, func(mgr *Manager) {
		pass(time.Minute)
		require.Empty(t, m.ended)
		require.Equal(t, 1, m.reclaimed)
		require.True(t, mgr.Under(corev1.NodeDiskPressure))
		m.disk = 80
		pass(2 * time.Second)
		require.Equal(t, 2, m.reclaimed)
		require.Equal(t, []string{"a"}, m.ended)
	})
}

func TestNothingMeasured(t *testing.T) {
	m := &machine{total: 1000, disk: 50, failing: errors.New("no /proc"), used: map[string]uint64{"a": 1}, pods: []*corev1.Pod{pod("a", 0, "")}}
	on(t, hard, m, func(mgr *Manager) {
		pass(time.Minute)
		require.Empty(t, m.ended)
		require.Empty(t, mgr.Pressure())
	})
}

func TestNobodyMayGo(t *testing.T) {
	m := &machine{total: 100, disk: 500, used: map[string]uint64{"a": 50}, pods: []*corev1.Pod{pod("a", criticalPriority, "")}}
	on(t, hard, m, func(*Manager) {
		pass(time.Minute)
		require.Empty(t, m.ended)
		require.Less(t, len(m.starving), 10, "nobody is told every second")
	})
}

func TestAdmit(t *testing.T) {
	plain, critical, tolerant := pod("p", 0, ""), pod("c", criticalPriority, ""), pod("t", 0, "")
	tolerant.Spec.Tolerations = []corev1.Toleration{{Key: corev1.TaintNodeMemoryPressure, Operator: corev1.TolerationOpExists}}
	static := pod("s", 0, "")
	static.Annotations = map[string]string{annotationSource: "file"}
	m := &machine{total: 1000, disk: 500, used: map[string]uint64{}}
	on(t, hard, m, func(mgr *Manager) {
		require.Empty(t, mgr.Admit(plain, true))
		m.used["outside"] = 950
		pass(12 * time.Second)
		require.Equal(t, "The node had condition: [MemoryPressure]. ", mgr.Admit(plain, true))
		require.Empty(t, mgr.Admit(plain, false), "a pod that requests something is taken")
		for _, p := range []*corev1.Pod{critical, tolerant, static} {
			require.Empty(t, mgr.Admit(p, true), p.Name)
		}
		m.disk = 10
		pass(12 * time.Second)
		require.Equal(t, "The node had condition: [DiskPressure MemoryPressure]. ", mgr.Admit(plain, false))
		require.NotEmpty(t, mgr.Admit(tolerant, true))
		require.Empty(t, mgr.Admit(critical, true))
		require.Empty(t, mgr.Admit(static, true))
	})
}

// TestLimits: a pod that does not keep its own limits goes, however much the node has left.
func TestLimits(t *testing.T) {
	p := pod("a", 0, "")
	p.Spec.Volumes = []corev1.Volume{{Name: "dir", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{SizeLimit: ptr.To(resource.MustParse("1Mi"))}}}}
	m := &machine{total: 1000, disk: 500, used: map[string]uint64{"a": 1, "b": 1}, pods: []*corev1.Pod{p, pod("b", 0, "")}}
	size, looks := uint64(1<<20), 0
	node := m.node()
	node.Usage = func(context.Context) (map[types.UID]*stats.PodStats, error) {
		looks++
		dir := stats.VolumeStats{Name: "dir", FsStats: *fs(size, 1)}
		return map[types.UID]*stats.PodStats{"a": {VolumeStats: []stats.VolumeStats{dir}}}, nil
	}
	synctest.Test(t, func(t *testing.T) {
		mgr, err := New(Config{Node: node})
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error)
		go func() { done <- mgr.Run(ctx) }()
		pass(25 * time.Second)
		require.Equal(t, 3, looks)
		require.Empty(t, m.ended)
		size++
		pass(10 * time.Second)
		require.Equal(t, []string{"a"}, m.ended)
		require.EqualValues(t, 1, testutil.ToFloat64(mgr.evictions.WithLabelValues("emptydirfs.limit")))
		looks = 0
		pass(time.Minute)
		require.Zero(t, looks, "no other pod has limits: nothing is counted")
		cancel()
		require.NoError(t, <-done)
	})
}
