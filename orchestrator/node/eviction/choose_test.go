package eviction

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	stats "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
	"k8s.io/utils/ptr"
)

// pod has one container c that requests so much memory.
func pod(name string, priority int32, request string) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "ns", UID: types.UID(name)},
		Spec:       corev1.PodSpec{Priority: &priority, Containers: []corev1.Container{{Name: "c"}}, TerminationGracePeriodSeconds: ptr.To(int64(30))},
	}
	if request != "" {
		p.Spec.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceMemory: resource.MustParse(request)}
	}
	return p
}

func fs(bytes, inodes uint64) *stats.FsStats {
	return &stats.FsStats{UsedBytes: &bytes, InodesUsed: &inodes}
}

// memory is the usage of pods' only container, in MiB.
func memory(of map[string]uint64) map[types.UID]*stats.PodStats {
	out := map[types.UID]*stats.PodStats{}
	for name, mib := range of {
		m := &stats.MemoryStats{WorkingSetBytes: ptr.To(mib << 20)}
		out[types.UID(name)] = &stats.PodStats{Memory: m, Containers: []stats.ContainerStats{{Name: "c", Memory: m}}}
	}
	return out
}

func names(of []claim) (out []string) {
	for _, c := range of {
		out = append(out, c.pod.Name)
	}
	return out
}

func TestRank(t *testing.T) {
	low := Met{Threshold: Threshold{Signal: MemoryAvailable}}
	static := pod("static", 0, "")
	static.Annotations = map[string]string{annotationSource: "file"}
	pods := []*corev1.Pod{
		pod("below", 0, "100Mi"), pod("above", 0, "100Mi"), pod("far above", 0, "100Mi"), pod("above, more important", 1000, ""),
		pod("below, but less", 0, "100Mi"), pod("below, unimportant", -5, "1Gi"), pod("critical", criticalPriority, ""), static,
	}
	got := rank(low, pods, memory(map[string]uint64{
		"below": 90, "above": 110, "far above": 500, "above, more important": 900, "below, but less": 10, "below, unimportant": 700, "critical": 1000, "static": 1000,
	}))
	require.Equal(t, []string{"far above", "above", "above, more important", "below, unimportant", "below", "below, but less"}, names(got))

	usage := map[types.UID]*stats.PodStats{
		"a": {ProcessStats: &stats.ProcessStats{ProcessCount: ptr.To(uint64(10))}}, "b": {ProcessStats: &stats.ProcessStats{ProcessCount: ptr.To(uint64(500))}},
		"c": {ProcessStats: &stats.ProcessStats{ProcessCount: ptr.To(uint64(5))}},
	}
	low.Signal = PIDAvailable
	require.Equal(t, []string{"c", "b", "a"}, names(rank(low, []*corev1.Pod{pod("a", 0, ""), pod("b", 0, ""), pod("c", -1, "")}, usage)))

	low.Signal = NodeFsInodesFree
	usage = map[types.UID]*stats.PodStats{
		"a": {Containers: []stats.ContainerStats{{Name: "c", Rootfs: fs(1000, 1), Logs: fs(1, 1)}}},
		"b": {VolumeStats: []stats.VolumeStats{{Name: "v", FsStats: *fs(1, 50)}}},
		"c": {VolumeStats: []stats.VolumeStats{{Name: "v", FsStats: *fs(1, 5000), PVCRef: &stats.PVCReference{Name: "claim"}}}},
	}
	three := []*corev1.Pod{pod("a", 0, ""), pod("b", 0, ""), pod("c", 0, "")}
	three[1].Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}
	three[2].Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{}}}}
	require.Equal(t, []string{"b", "a", "c"}, names(rank(low, three, usage)), "a claim is not on the node's disk")
	low.Signal = ImageFsAvailable
	require.Equal(t, []string{"a", "b", "c"}, names(rank(low, three, usage)))
}

func TestChoose(t *testing.T) {
	low := Met{Threshold{Signal: MemoryAvailable, Value: Value{Quantity: resource.MustParse("100Mi")}}, Observation{88 << 20, 1 << 30}}
	pods := []*corev1.Pod{pod("p", 0, "64Mi")}
	usage := memory(map[string]uint64{"p": 200})
	e := Choose(low, pods, usage, 0)
	require.Equal(t, "The node was low on resource: memory. Threshold quantity: 100Mi, available: 88Mi. Container c was using 200Mi, request is 64Mi, has larger consumption of memory. ", e.Message)
	require.Equal(t, time.Second, e.Grace)
	require.Equal(t, map[string]string{"starved_resource": "memory", "offending_containers": "c", "offending_containers_usage": "200Mi"}, e.Annotations)
	require.Equal(t, corev1.DisruptionTarget, e.Condition().Type)
	require.Equal(t, "TerminationByKubelet", e.Condition().Reason)
	require.Equal(t, e.Message, e.Condition().Message)

	low.Threshold.Grace = time.Minute
	require.Equal(t, 10*time.Second, Choose(low, pods, usage, 10*time.Second).Grace)
	require.Equal(t, 30*time.Second, Choose(low, pods, usage, time.Hour).Grace, "no more than the pod's own")
	require.Equal(t, time.Second, Choose(low, pods, usage, 0).Grace)

	low.Signal, low.Value, low.Observation = PIDAvailable, Value{Percent: 10}, Observation{5, 1000}
	require.Equal(t, "The node was low on resource: pids. Threshold quantity: 100, available: 5. ", Choose(low, pods, usage, 0).Message)
	require.Nil(t, Choose(low, []*corev1.Pod{pod("critical", criticalPriority, "")}, usage, 0))
}

func TestExceeded(t *testing.T) {
	limited := func(limits ...string) *corev1.Pod {
		p := pod("p", criticalPriority, "")
		p.Spec.Containers = nil
		for i, l := range limits {
			c := corev1.Container{Name: string(rune('a' + i))}
			if l != "" {
				c.Resources.Limits = corev1.ResourceList{corev1.ResourceEphemeralStorage: resource.MustParse(l)}
			}
			p.Spec.Containers = append(p.Spec.Containers, c)
		}
		return p
	}
	withDir := func(p *corev1.Pod, medium corev1.StorageMedium, limit string) *corev1.Pod {
		d := &corev1.EmptyDirVolumeSource{Medium: medium}
		if limit != "" {
			d.SizeLimit = ptr.To(resource.MustParse(limit))
		}
		p.Spec.Volumes = []corev1.Volume{{Name: "dir", VolumeSource: corev1.VolumeSource{EmptyDir: d}}}
		return p
	}
	used := func(dir uint64, containers ...uint64) *stats.PodStats {
		s := &stats.PodStats{VolumeStats: []stats.VolumeStats{{Name: "dir", FsStats: *fs(dir, 1)}}}
		for i, n := range containers {
			s.Containers = append(s.Containers, stats.ContainerStats{Name: string(rune('a' + i)), Rootfs: fs(n-1, 1), Logs: fs(1, 1)})
		}
		return s
	}
	static := withDir(limited("", ""), "", "100")
	static.Annotations = map[string]string{annotationSource: "file"}
	for _, c := range []struct {
		name    string
		pod     *corev1.Pod
		usage   *stats.PodStats
		want    string
		limited bool
	}{
		{"no limits", withDir(limited("", ""), "", ""), used(1<<40, 1<<40, 1), "", false},
		{"a directory at its limit", withDir(limited(""), "", "100"), used(100, 1), "", true},
		{"a directory above it", withDir(limited(""), "", "100"), used(101, 1), `Usage of EmptyDir volume "dir" exceeds the limit "100". `, true},
		{"one in memory", withDir(limited(""), corev1.StorageMediumMemory, "100"), used(101, 1), `Usage of EmptyDir volume "dir" exceeds the limit "100". `, true},
		{"a container above", limited("100", "500"), used(0, 101, 1), `Container a exceeded its local ephemeral storage limit "100". `, true},
		{"its logs count", limited("100", "500"), used(0, 100, 1), "", true},
		{"all together", withDir(limited("100", "500"), "", ""), used(300, 100, 300), "Pod ephemeral local storage usage exceeds the total limit of containers 600. ", true},
		{"but for what is in memory", withDir(limited("100", "500"), corev1.StorageMediumMemory, ""), used(300, 100, 300), "", true},
		{"a static pod", static, used(101, 1), "", true},
		{"not measured", withDir(limited(""), "", "100"), nil, "", true},
	} {
		require.Equal(t, c.limited, Limited(c.pod), c.name)
		e := Exceeded(c.pod, c.usage)
		if c.want == "" {
			require.Nil(t, e, c.name)
			continue
		}
		require.NotNil(t, e, c.name)
		require.Equal(t, c.want, e.Message, c.name)
	}
}
