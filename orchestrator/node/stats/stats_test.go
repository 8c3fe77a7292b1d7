package stats_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"

	"github.com/keelson-io/keelson/internal/clock"
	"github.com/keelson-io/keelson/orchestrator/node/stats"
)

const begin = 1_700_000_000

// hand is a clock that is set by hand.
type hand struct {
	clock.Clock
	now time.Time
}

func (h *hand) Now() time.Time { return h.now }

// runtime has two pods, one of which had another sandbox and another container before.
type runtime struct {
	whole bool  // it measures pods as wholes
	asked int   // how often it was asked where images are
	used  int64 // seconds of processor time of every container
	at    int64 // when it measured, in seconds
	err   error
}

func u(n uint64) *runtimeapi.UInt64Value { return &runtimeapi.UInt64Value{Value: n} }

func (r *runtime) ListPodSandbox(context.Context, *runtimeapi.ListPodSandboxRequest, ...grpc.CallOption) (*runtimeapi.ListPodSandboxResponse, error) {
	sandbox := func(id, pod string, created int64, state runtimeapi.PodSandboxState) *runtimeapi.PodSandbox {
		return &runtimeapi.PodSandbox{Id: id, State: state, CreatedAt: created * 1e9, Metadata: &runtimeapi.PodSandboxMetadata{Name: pod, Namespace: "ns", Uid: "uid-" + pod}}
	}
	const ready, gone = runtimeapi.PodSandboxState_SANDBOX_READY, runtimeapi.PodSandboxState_SANDBOX_NOTREADY
	return &runtimeapi.ListPodSandboxResponse{Items: []*runtimeapi.PodSandbox{
		sandbox("s2", "b", begin+2, ready), sandbox("s1", "a", begin+1, ready), sandbox("s0", "a", begin, ready), sandbox("s3", "c", begin+3, gone),
	}}, r.err
}

func (r *runtime) ListContainers(context.Context, *runtimeapi.ListContainersRequest, ...grpc.CallOption) (*runtimeapi.ListContainersResponse, error) {
	container := func(id, sandbox, name string, created int64, state runtimeapi.ContainerState) *runtimeapi.Container {
		return &runtimeapi.Container{
			Id: id, PodSandboxId: sandbox, State: state, CreatedAt: created * 1e9, Metadata: &runtimeapi.ContainerMetadata{Name: name}, Image: &runtimeapi.ImageSpec{Image: "i"},
		}
	}
	const running, exited = runtimeapi.ContainerState_CONTAINER_RUNNING, runtimeapi.ContainerState_CONTAINER_EXITED
	return &runtimeapi.ListContainersResponse{Containers: []*runtimeapi.Container{
		container("c1", "s1", "y", begin+10, exited), container("c2", "s1", "y", begin+20, running), container("c3", "s1", "x", begin+10, running),
		container("c4", "s2", "z", begin+10, running), container("c5", "s0", "y", begin+10, running), container("c6", "s2", "unmeasured", begin+10, running),
	}}, nil
}

func (r *runtime) container(id, name string) *runtimeapi.ContainerStats {
	return &runtimeapi.ContainerStats{
		Attributes:    &runtimeapi.ContainerAttributes{Id: id, Metadata: &runtimeapi.ContainerMetadata{Name: name}},
		Cpu:           &runtimeapi.CpuUsage{Timestamp: r.at * 1e9, UsageCoreNanoSeconds: u(uint64(r.used * 1e9))},
		Memory:        &runtimeapi.MemoryUsage{Timestamp: r.at * 1e9, WorkingSetBytes: u(100), UsageBytes: u(200)},
		Swap:          &runtimeapi.SwapUsage{Timestamp: r.at * 1e9, SwapUsageBytes: u(7)},
		WritableLayer: &runtimeapi.FilesystemUsage{UsedBytes: u(1000), InodesUsed: u(3)},
	}
}

func (r *runtime) ListContainerStats(context.Context, *runtimeapi.ListContainerStatsRequest, ...grpc.CallOption) (*runtimeapi.ListContainerStatsResponse, error) {
	out := &runtimeapi.ListContainerStatsResponse{}
	for id, name := range map[string]string{"c1": "y", "c2": "y", "c3": "x", "c4": "z", "c5": "y"} {
		out.Stats = append(out.Stats, r.container(id, name))
	}
	return out, nil
}

func (r *runtime) ListPodSandboxStats(context.Context, *runtimeapi.ListPodSandboxStatsRequest, ...grpc.CallOption) (*runtimeapi.ListPodSandboxStatsResponse, error) {
	if !r.whole {
		return nil, status.Error(codes.Unimplemented, "no")
	}
	of := func(id string, all ...*runtimeapi.ContainerStats) *runtimeapi.PodSandboxStats {
		return &runtimeapi.PodSandboxStats{Attributes: &runtimeapi.PodSandboxAttributes{Id: id}, Linux: &runtimeapi.LinuxPodSandboxStats{
			Cpu:     &runtimeapi.CpuUsage{Timestamp: r.at * 1e9, UsageCoreNanoSeconds: u(uint64(3 * r.used * 1e9)), UsageNanoCores: u(42)},
			Memory:  &runtimeapi.MemoryUsage{Timestamp: r.at * 1e9, WorkingSetBytes: u(500)},
			Network: &runtimeapi.NetworkUsage{DefaultInterface: &runtimeapi.NetworkInterfaceUsage{Name: "eth0", RxBytes: u(1), TxBytes: u(2)}},
			Process: &runtimeapi.ProcessUsage{ProcessCount: u(4)}, Containers: all,
		}}
	}
	return &runtimeapi.ListPodSandboxStatsResponse{Stats: []*runtimeapi.PodSandboxStats{
		of("s1", r.container("c2", "y"), r.container("c3", "x")), of("s2", r.container("c4", "z")), of("s0", r.container("c5", "y")),
	}}, nil
}

func (r *runtime) ImageFsInfo(context.Context, *runtimeapi.ImageFsInfoRequest, ...grpc.CallOption) (*runtimeapi.ImageFsInfoResponse, error) {
	r.asked++
	return &runtimeapi.ImageFsInfoResponse{ImageFilesystems: []*runtimeapi.FilesystemUsage{{FsId: &runtimeapi.FilesystemIdentifier{Mountpoint: "/"}, UsedBytes: u(12345)}}}, nil
}

func files(ticks string) fstest.MapFS {
	return fstest.MapFS{
		"proc/stat":               {Data: []byte("cpu  " + ticks + " 0 0 1000 9 0 0 1 77 0\ncpu0 1 2 3\nbtime 1600000000\n")},
		"proc/meminfo":            {Data: []byte("MemTotal: 1000 kB\nMemFree: 400 kB\nInactive(file): 100 kB\nAnonPages: 50 kB\nSwapTotal: 10 kB\nSwapFree: 4 kB\n")},
		"proc/vmstat":             {Data: []byte("pgfault 5\npgmajfault 6\n")},
		"proc/net/route":          {Data: []byte("Iface\tDestination\neth1\t0000000A\neth0\t00000000\n")},
		"proc/net/dev":            {Data: []byte("Inter-|\n face |\n lo: 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1\neth0:11 0 12 0 0 0 0 0 13 0 14 0 0 0 0 0\nveth1: 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1\nbr0: 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0\n")},
		"proc/sys/kernel/pid_max": {Data: []byte("4194304\n")},
		"proc/loadavg":            {Data: []byte("0.1 0.2 0.3 2/345 999\n")},
	}
}

func TestSummary(t *testing.T) {
	logs := t.TempDir()
	require.NoError(t, os.MkdirAll(filepath.Join(logs, "ns_a_uid-a", "x"), 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(logs, "ns_a_uid-a", "x", "0.log"), make([]byte, 77), 0o600))
	r, c := &runtime{used: 10, at: begin + 100}, &hand{clock.Real, time.Unix(begin+100, 0)}
	root := files("200")
	volume := uint64(10_000)
	s := stats.New(stats.Config{Node: "n", Runtime: r, Images: r, LogDir: logs, Root: root, Clock: c, Volumes: func(pod types.UID) []statsapi.VolumeStats {
		if pod != "uid-a" {
			return nil
		}
		return []statsapi.VolumeStats{{Name: "v", FsStats: statsapi.FsStats{UsedBytes: &volume}}, {Name: "claim", PVCRef: &statsapi.PVCReference{Name: "c"}, FsStats: statsapi.FsStats{UsedBytes: &volume}}}
	}})
	first, err := s.Summary(t.Context(), false)
	require.NoError(t, err)
	require.Nil(t, first.Node.CPU.UsageNanoCores, "there is no rate yet")
	c.now = c.now.Add(10 * time.Second)
	r.used, r.at = 15, begin+110
	for name, f := range files("700") {
		root[name] = f
	}
	out, err := s.Summary(t.Context(), false)
	require.NoError(t, err)
	n := out.Node
	require.Equal(t, "n", n.NodeName)
	require.EqualValues(t, 1600000000, n.StartTime.Unix())
	require.EqualValues(t, 7_010_000_000, *n.CPU.UsageCoreNanoSeconds, "idle and waiting are no work, that of guests is counted already")
	require.EqualValues(t, 500_000_000, *n.CPU.UsageNanoCores)
	require.EqualValues(t, 600<<10, *n.Memory.UsageBytes)
	require.EqualValues(t, 500<<10, *n.Memory.WorkingSetBytes)
	require.EqualValues(t, 500<<10, *n.Memory.AvailableBytes)
	require.EqualValues(t, 6, *n.Memory.MajorPageFaults)
	require.EqualValues(t, 6<<10, *n.Swap.SwapUsageBytes)
	require.Equal(t, "eth0", n.Network.Name)
	require.EqualValues(t, 14, *n.Network.TxErrors)
	require.Len(t, n.Network.Interfaces, 2)
	require.EqualValues(t, 345, *n.Rlimit.NumOfRunningProcesses)
	require.Positive(t, *n.Fs.CapacityBytes)
	require.EqualValues(t, 12345, *n.Runtime.ImageFs.UsedBytes)

	require.Len(t, out.Pods, 2)
	a := out.Pods[0]
	require.Equal(t, statsapi.PodReference{Name: "a", Namespace: "ns", UID: "uid-a"}, a.PodRef)
	require.EqualValues(t, begin+1, a.StartTime.Unix())
	require.Len(t, a.Containers, 2)
	require.Equal(t, "x", a.Containers[0].Name)
	require.EqualValues(t, begin+20, a.Containers[1].StartTime.Unix(), "the newest of its name")
	require.EqualValues(t, 500_000_000, *a.Containers[0].CPU.UsageNanoCores)
	require.EqualValues(t, 77, *a.Containers[0].Logs.UsedBytes)
	require.EqualValues(t, 1000, *a.Containers[0].Rootfs.UsedBytes)
	require.EqualValues(t, 30_000_000_000, *a.CPU.UsageCoreNanoSeconds)
	require.EqualValues(t, 1_000_000_000, *a.CPU.UsageNanoCores)
	require.EqualValues(t, 200, *a.Memory.WorkingSetBytes)
	require.EqualValues(t, 14, *a.Swap.SwapUsageBytes)
	require.EqualValues(t, 2*1000+77+10_000, *a.EphemeralStorage.UsedBytes, "claims are not the node's")
	require.Len(t, a.VolumeStats, 2)
	require.Len(t, out.Pods[1].Containers, 1)

	r.whole = true
	out, err = s.Summary(t.Context(), true)
	require.NoError(t, err)
	a = out.Pods[0]
	require.EqualValues(t, 42, *a.CPU.UsageNanoCores)
	require.EqualValues(t, 500, *a.Memory.WorkingSetBytes)
	require.Nil(t, a.Network)
	require.Nil(t, a.EphemeralStorage)
	require.Nil(t, out.Node.Fs)
	out, err = s.Summary(t.Context(), false)
	require.NoError(t, err)
	require.EqualValues(t, 2, *out.Pods[0].Network.TxBytes)
	require.EqualValues(t, 4, *out.Pods[0].ProcessStats.ProcessCount)

	r.err = status.Error(codes.Unavailable, "down")
	_, err = s.Summary(t.Context(), true)
	require.ErrorContains(t, err, "down")
}

func TestResource(t *testing.T) {
	r, c := &runtime{used: 10, at: begin}, &hand{clock.Real, time.Unix(begin, 0)}
	s := stats.New(stats.Config{Node: "n", Runtime: r, Images: r, Root: files("200"), Clock: c})
	require.NoError(t, testutil.GatherAndCompare(s.Resource(), strings.NewReader(`
# HELP container_cpu_usage_seconds_total Processor time that a container has used, in core-seconds.
# TYPE container_cpu_usage_seconds_total counter
container_cpu_usage_seconds_total{container="x",namespace="ns",pod="a"} 10 1700000000000
container_cpu_usage_seconds_total{container="y",namespace="ns",pod="a"} 10 1700000000000
container_cpu_usage_seconds_total{container="z",namespace="ns",pod="b"} 10 1700000000000
# HELP container_start_time_seconds When a container was started, in seconds since 1970.
# TYPE container_start_time_seconds gauge
container_start_time_seconds{container="x",namespace="ns",pod="a"} 1.70000001e+09
container_start_time_seconds{container="y",namespace="ns",pod="a"} 1.70000002e+09
container_start_time_seconds{container="z",namespace="ns",pod="b"} 1.70000001e+09
# HELP node_cpu_usage_seconds_total Processor time that the node has used, in core-seconds.
# TYPE node_cpu_usage_seconds_total counter
node_cpu_usage_seconds_total 2.01 1700000000000
# HELP pod_memory_working_set_bytes Working set of a pod, in bytes.
# TYPE pod_memory_working_set_bytes gauge
pod_memory_working_set_bytes{namespace="ns",pod="a"} 200 1700000000000
pod_memory_working_set_bytes{namespace="ns",pod="b"} 100 1700000000000
# HELP resource_scrape_error 1 if there was an error, 0 otherwise.
# TYPE resource_scrape_error gauge
resource_scrape_error 0
`), "container_cpu_usage_seconds_total", "container_start_time_seconds", "node_cpu_usage_seconds_total", "pod_memory_working_set_bytes", "resource_scrape_error"))

	r.err = status.Error(codes.Unavailable, "down")
	require.NoError(t, testutil.GatherAndCompare(s.Resource(), strings.NewReader(`
# HELP resource_scrape_error 1 if there was an error, 0 otherwise.
# TYPE resource_scrape_error gauge
resource_scrape_error 1
`)))
}

func TestContainers(t *testing.T) {
	r, c := &runtime{used: 10, at: begin, whole: true}, &hand{clock.Real, time.Unix(begin, 0)}
	s := stats.New(stats.Config{Node: "n", Runtime: r, Images: r, Root: files("200"), Clock: c})
	require.NoError(t, testutil.GatherAndCompare(s.Containers(), strings.NewReader(`
# HELP container_cpu_usage_seconds_total Processor time that was used, in core-seconds.
# TYPE container_cpu_usage_seconds_total counter
container_cpu_usage_seconds_total{container="",cpu="total",id="s1",image="",name="",namespace="ns",pod="a"} 30 1700000000000
container_cpu_usage_seconds_total{container="",cpu="total",id="s2",image="",name="",namespace="ns",pod="b"} 30 1700000000000
container_cpu_usage_seconds_total{container="x",cpu="total",id="c3",image="i",name="c3",namespace="ns",pod="a"} 10 1700000000000
container_cpu_usage_seconds_total{container="y",cpu="total",id="c2",image="i",name="c2",namespace="ns",pod="a"} 10 1700000000000
container_cpu_usage_seconds_total{container="z",cpu="total",id="c4",image="i",name="c4",namespace="ns",pod="b"} 10 1700000000000
# HELP container_network_receive_bytes_total Bytes that were received.
# TYPE container_network_receive_bytes_total counter
container_network_receive_bytes_total{id="s1",interface="eth0",namespace="ns",pod="a"} 1 1700000000000
container_network_receive_bytes_total{id="s2",interface="eth0",namespace="ns",pod="b"} 1 1700000000000
`), "container_cpu_usage_seconds_total", "container_network_receive_bytes_total"))
}

// On a real machine all that is read from it is there.
func TestMachine(t *testing.T) {
	s := stats.New(stats.Config{Node: "n", Runtime: &runtime{}, Images: &runtime{}})
	out, err := s.Summary(t.Context(), false)
	require.NoError(t, err)
	require.Positive(t, *out.Node.CPU.UsageCoreNanoSeconds)
	require.Positive(t, *out.Node.Memory.WorkingSetBytes)
	require.Less(t, *out.Node.Memory.WorkingSetBytes, *out.Node.Memory.WorkingSetBytes+*out.Node.Memory.AvailableBytes)
	require.Positive(t, *out.Node.Rlimit.NumOfRunningProcesses)
	require.True(t, out.Node.StartTime.Time.Before(time.Now()))
}

// TestLeft: what is left is measured without counting files, and the runtime is asked only once where its images are.
func TestLeft(t *testing.T) {
	r := &runtime{}
	root := files("200")
	s := stats.New(stats.Config{Node: "n", Runtime: r, Images: r, Root: root})
	l := s.Left(t.Context())
	require.Equal(t, &stats.Share{Available: 500 << 10, Capacity: 1000 << 10}, l.Memory, "free, and what files could be dropped from")
	require.Equal(t, &stats.Share{Available: 4194304 - 345, Capacity: 4194304}, l.PIDs)
	require.Positive(t, l.NodeFs.Available)
	require.Less(t, l.NodeFs.Available, l.NodeFs.Capacity)
	require.Equal(t, l.NodeFs.Capacity, l.ImageFs.Capacity)
	delete(root, "proc/meminfo")
	delete(root, "proc/loadavg")
	l = s.Left(t.Context())
	require.Nil(t, l.Memory, "what cannot be measured is not 0")
	require.Nil(t, l.PIDs)
	require.Equal(t, 1, r.asked)
}
