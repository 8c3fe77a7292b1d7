package stats

import (
	"bufio"
	"bytes"
	"context"
	"io/fs"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	stats "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

const (
	nodeKey = "node"
	// tick is the unit of times in /proc/stat.
	tick = 10 * time.Millisecond
)

// lines are the fields of the lines of a file, none if it cannot be read.
func (s *Stats) lines(name string) (out [][]string) {
	b, err := fs.ReadFile(s.cfg.Root, name)
	if err != nil {
		return nil
	}
	for in := bufio.NewScanner(bytes.NewReader(b)); in.Scan(); {
		if f := strings.Fields(in.Text()); len(f) > 0 {
			out = append(out, f)
		}
	}
	return out
}

func number(text string) uint64 {
	n, _ := strconv.ParseUint(text, 10, 64) // what is no number is 0
	return n
}

// pairs are the values of a file of names and numbers.
func (s *Stats) pairs(name string) map[string]uint64 {
	out := map[string]uint64{}
	for _, f := range s.lines(name) {
		if len(f) < 2 {
			continue
		}
		n := number(f[1])
		if len(f) > 2 && f[2] == "kB" {
			n <<= 10
		}
		out[strings.TrimSuffix(f[0], ":")] = n
	}
	return out
}

// processor is how long the node's processors have worked, in nanoseconds, and when it was started.
func (s *Stats) processor() (used uint64, boot time.Time) {
	for _, f := range s.lines("proc/stat") {
		switch {
		case f[0] == "cpu":
			for i, text := range f[1:] {
				// user nice system idle iowait irq softirq steal; those of guests are in that of users
				if i != 3 && i != 4 && i < 8 {
					used += number(text) * uint64(tick)
				}
			}
		case f[0] == "btime" && len(f) > 1:
			boot = time.Unix(int64(number(f[1])), 0)
		}
	}
	return used, boot
}

// node is what the node uses of processors and memory.
func (s *Stats) node() stats.NodeStats {
	now := metav1.Time{Time: s.cfg.Clock.Now()}
	used, boot := s.processor()
	if boot.IsZero() {
		boot = s.started
	}
	m, faults := s.pairs("proc/meminfo"), s.pairs("proc/vmstat")
	usage := m["MemTotal"] - min(m["MemTotal"], m["MemFree"])
	working := usage - min(usage, m["Inactive(file)"])
	available := available(m)
	rss, minor, major := m["AnonPages"], faults["pgfault"], faults["pgmajfault"]
	out := stats.NodeStats{
		NodeName: s.cfg.Node, StartTime: metav1.Time{Time: boot},
		CPU: &stats.CPUStats{Time: now, UsageCoreNanoSeconds: &used, UsageNanoCores: s.rate(nodeKey, now.Time, used)},
		Memory: &stats.MemoryStats{
			Time: now, AvailableBytes: &available, UsageBytes: &usage, WorkingSetBytes: &working, RSSBytes: &rss, PageFaults: &minor, MajorPageFaults: &major,
		},
	}
	swapFree := m["SwapFree"]
	swapUsed := m["SwapTotal"] - min(m["SwapTotal"], swapFree)
	out.Swap = &stats.SwapStats{Time: now, SwapAvailableBytes: &swapFree, SwapUsageBytes: &swapUsed}
	return out
}

// nodeMore is what else there is of the node.
func (s *Stats) nodeMore(ctx context.Context, n *stats.NodeStats) {
	now := n.CPU.Time
	n.Fs = fileSystem(s.cfg.Dir, now)
	n.Network = s.interfaces(now)
	n.Rlimit = s.processes(now)
	info, err := s.cfg.Images.ImageFsInfo(ctx, &runtimeapi.ImageFsInfoRequest{})
	if err != nil {
		return
	}
	of := func(all []*runtimeapi.FilesystemUsage) *stats.FsStats {
		if len(all) == 0 {
			return nil
		}
		out := fileSystem(all[0].GetFsId().GetMountpoint(), now)
		if out == nil {
			out = &stats.FsStats{Time: now}
		}
		out.UsedBytes, out.InodesUsed = value(all[0].UsedBytes), value(all[0].InodesUsed)
		return out
	}
	n.Runtime = &stats.RuntimeStats{ImageFs: of(info.ImageFilesystems), ContainerFs: of(info.ContainerFilesystems)}
	if n.Runtime.ContainerFs == nil {
		n.Runtime.ContainerFs = n.Runtime.ImageFs
	}
}

// fileSystem measures the one that a folder is on, nil if there is none.
func fileSystem(dir string, now metav1.Time) *stats.FsStats {
	var st unix.Statfs_t
	if dir == "" || unix.Statfs(dir, &st) != nil {
		return nil
	}
	size := uint64(st.Bsize)
	available, capacity, used := st.Bavail*size, st.Blocks*size, (st.Blocks-st.Bfree)*size
	inodes, free := st.Files, st.Ffree
	inodesUsed := inodes - min(inodes, free)
	return &stats.FsStats{Time: now, AvailableBytes: &available, CapacityBytes: &capacity, UsedBytes: &used, Inodes: &inodes, InodesFree: &free, InodesUsed: &inodesUsed}
}

// Columns of /proc/net/dev, without the name.
const (
	rxBytes, rxErrors  = 0, 2
	txBytes, txErrors  = 8, 10
	interfaceColumns   = 16
	defaultDestination = "00000000"
)

// interfaces are the node's own, without those that lead to its pods.
func (s *Stats) interfaces(now metav1.Time) *stats.NetworkStats {
	main := ""
	for _, f := range s.lines("proc/net/route") {
		if len(f) > 1 && f[1] == defaultDestination {
			main = f[0]
			break
		}
	}
	out := &stats.NetworkStats{Time: now}
	b, err := fs.ReadFile(s.cfg.Root, "proc/net/dev")
	if err != nil {
		return nil
	}
	for line := range strings.Lines(string(b)) {
		name, rest, ok := strings.Cut(strings.TrimSpace(line), ":")
		f := strings.Fields(rest)
		if !ok || len(f) < interfaceColumns || name == "lo" || strings.HasPrefix(name, "veth") {
			continue
		}
		at := func(i int) *uint64 {
			n := number(f[i])
			return &n
		}
		i := stats.InterfaceStats{Name: name, RxBytes: at(rxBytes), RxErrors: at(rxErrors), TxBytes: at(txBytes), TxErrors: at(txErrors)}
		if name == main {
			out.InterfaceStats = i
		}
		out.Interfaces = append(out.Interfaces, i)
	}
	return out
}

// processes are how many there are and may be.
func (s *Stats) processes(now metav1.Time) *stats.RlimitStats {
	limit, load := s.lines("proc/sys/kernel/pid_max"), s.lines("proc/loadavg")
	if len(limit) == 0 || len(load) == 0 || len(load[0]) < 4 {
		return nil
	}
	_, total, _ := strings.Cut(load[0][3], "/")
	most, running := int64(number(limit[0][0])), int64(number(total))
	return &stats.RlimitStats{Time: now, MaxPID: &most, NumOfRunningProcesses: &running}
}
