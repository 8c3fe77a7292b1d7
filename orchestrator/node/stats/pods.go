package stats

import (
	"cmp"
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	stats "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

// measured is what the runtime told.
type measured struct{ pods []*podMeasured }

type podMeasured struct {
	id         string // of its sandbox
	meta       *runtimeapi.PodSandboxMetadata
	created    int64
	linux      *runtimeapi.LinuxPodSandboxStats
	containers []containerMeasured
}

type containerMeasured struct {
	*runtimeapi.ContainerStats
	created int64
	image   string
}

// measure asks the runtime. Of containers that were restarted, and of pods whose sandbox was made anew, the newest counts.
func (s *Stats) measure(ctx context.Context) (*measured, error) {
	sandboxes, err := s.cfg.Runtime.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{})
	if err != nil {
		return nil, err
	}
	containers, err := s.cfg.Runtime.ListContainers(ctx, &runtimeapi.ListContainersRequest{})
	if err != nil {
		return nil, err
	}
	byPod := map[string]*podMeasured{} // by UID
	bySandbox := map[string]*podMeasured{}
	for _, sb := range sandboxes.Items {
		if sb.State != runtimeapi.PodSandboxState_SANDBOX_READY {
			continue
		}
		if have := byPod[sb.GetMetadata().GetUid()]; have != nil && have.created >= sb.CreatedAt {
			continue
		}
		p := &podMeasured{id: sb.Id, meta: sb.GetMetadata(), created: sb.CreatedAt}
		byPod[sb.GetMetadata().GetUid()] = p
	}
	for _, p := range byPod {
		bySandbox[p.id] = p
	}
	all, err := s.containers(ctx, bySandbox)
	if err != nil {
		return nil, err
	}
	used := map[string]*runtimeapi.ContainerStats{}
	for _, c := range all {
		used[c.GetAttributes().GetId()] = c
	}
	newest := map[[2]string]*runtimeapi.Container{}
	for _, c := range containers.Containers {
		key := [2]string{c.PodSandboxId, c.GetMetadata().GetName()}
		if c.State != runtimeapi.ContainerState_CONTAINER_RUNNING || bySandbox[c.PodSandboxId] == nil || newest[key] != nil && newest[key].CreatedAt >= c.CreatedAt {
			continue
		}
		newest[key] = c
	}
	for key, c := range newest {
		if u := used[c.Id]; u != nil {
			p := bySandbox[key[0]]
			p.containers = append(p.containers, containerMeasured{u, c.CreatedAt, c.GetImage().GetImage()})
		}
	}
	return sorted(byPod), nil
}

func sorted(byPod map[string]*podMeasured) *measured {
	m := &measured{}
	for _, p := range byPod {
		slices.SortFunc(p.containers, func(a, b containerMeasured) int { return cmp.Compare(nameOf(a), nameOf(b)) })
		m.pods = append(m.pods, p)
	}
	slices.SortFunc(m.pods, func(a, b *podMeasured) int {
		return cmp.Or(cmp.Compare(a.meta.GetNamespace(), b.meta.GetNamespace()), cmp.Compare(a.meta.GetName(), b.meta.GetName()), cmp.Compare(a.id, b.id))
	})
	return m
}

func nameOf(c containerMeasured) string { return c.GetAttributes().GetMetadata().GetName() }

// containers measures containers, and pods as wholes if the runtime can.
func (s *Stats) containers(ctx context.Context, pods map[string]*podMeasured) ([]*runtimeapi.ContainerStats, error) {
	resp, err := s.cfg.Runtime.ListPodSandboxStats(ctx, &runtimeapi.ListPodSandboxStatsRequest{})
	if status.Code(err) == codes.Unimplemented {
		resp, err := s.cfg.Runtime.ListContainerStats(ctx, &runtimeapi.ListContainerStatsRequest{})
		return resp.GetStats(), err
	}
	if err != nil {
		return nil, err
	}
	var all []*runtimeapi.ContainerStats
	for _, sb := range resp.Stats {
		if p := pods[sb.GetAttributes().GetId()]; p != nil {
			p.linux = sb.Linux
		}
		all = append(all, sb.GetLinux().GetContainers()...)
	}
	return all, nil
}

func value(v *runtimeapi.UInt64Value) *uint64 {
	if v == nil {
		return nil
	}
	n := v.Value
	return &n
}

// cpu is nil if the runtime does not know it.
func (s *Stats) cpu(key string, u *runtimeapi.CpuUsage, seen map[string]bool) *stats.CPUStats {
	if u == nil || u.UsageCoreNanoSeconds == nil {
		return nil
	}
	out := &stats.CPUStats{Time: s.at(u.Timestamp), UsageCoreNanoSeconds: value(u.UsageCoreNanoSeconds), UsageNanoCores: value(u.UsageNanoCores)}
	if u.UsageNanoCores == nil {
		seen[key] = true
		out.UsageNanoCores = s.rate(key, out.Time.Time, u.UsageCoreNanoSeconds.Value)
	}
	out.PSI = pressure(u.Psi)
	return out
}

func pressure(p *runtimeapi.PsiStats) *stats.PSIStats {
	if p == nil {
		return nil
	}
	data := func(d *runtimeapi.PsiData) stats.PSIData {
		return stats.PSIData{Total: d.GetTotal(), Avg10: d.GetAvg10(), Avg60: d.GetAvg60(), Avg300: d.GetAvg300()}
	}
	return &stats.PSIStats{Full: data(p.Full), Some: data(p.Some)}
}

func (s *Stats) memory(u *runtimeapi.MemoryUsage) *stats.MemoryStats {
	if u == nil || u.WorkingSetBytes == nil {
		return nil
	}
	return &stats.MemoryStats{
		Time: s.at(u.Timestamp), AvailableBytes: value(u.AvailableBytes), UsageBytes: value(u.UsageBytes), WorkingSetBytes: value(u.WorkingSetBytes),
		RSSBytes: value(u.RssBytes), PageFaults: value(u.PageFaults), MajorPageFaults: value(u.MajorPageFaults), PSI: pressure(u.Psi),
	}
}

func (s *Stats) io(u *runtimeapi.IoUsage) *stats.IOStats {
	if u == nil || u.Psi == nil {
		return nil
	}
	return &stats.IOStats{Time: s.at(u.Timestamp), PSI: pressure(u.Psi)}
}

func (s *Stats) swap(u *runtimeapi.SwapUsage) *stats.SwapStats {
	if u == nil {
		return nil
	}
	return &stats.SwapStats{Time: s.at(u.Timestamp), SwapAvailableBytes: value(u.SwapAvailableBytes), SwapUsageBytes: value(u.SwapUsageBytes)}
}

// pod is what one pod uses. What the runtime does not tell of it as a whole is the sum of its containers.
func (s *Stats) pod(p *podMeasured, seen map[string]bool) stats.PodStats {
	out := stats.PodStats{
		PodRef:     stats.PodReference{Name: p.meta.GetName(), Namespace: p.meta.GetNamespace(), UID: p.meta.GetUid()},
		StartTime:  metav1.Time{Time: time.Unix(0, p.created)},
		Containers: []stats.ContainerStats{},
		CPU:        s.cpu("pod/"+p.id, p.linux.GetCpu(), seen), Memory: s.memory(p.linux.GetMemory()), IO: s.io(p.linux.GetIo()), Network: s.network(p.linux.GetNetwork()),
	}
	if n := p.linux.GetProcess().GetProcessCount(); n != nil {
		out.ProcessStats = &stats.ProcessStats{ProcessCount: value(n)}
	}
	for _, c := range p.containers {
		one := stats.ContainerStats{
			Name: nameOf(c), StartTime: metav1.Time{Time: time.Unix(0, c.created)}, CPU: s.cpu("container/"+c.GetAttributes().GetId(), c.Cpu, seen),
			Memory: s.memory(c.Memory), IO: s.io(c.Io), Swap: s.swap(c.Swap),
		}
		if w := c.WritableLayer; w != nil {
			one.Rootfs = &stats.FsStats{Time: s.at(w.Timestamp), UsedBytes: value(w.UsedBytes), InodesUsed: value(w.InodesUsed)}
		}
		out.Containers = append(out.Containers, one)
	}
	if out.CPU == nil {
		out.CPU = sumCPU(out.Containers)
	}
	if out.Memory == nil {
		out.Memory = sumMemory(out.Containers)
	}
	out.Swap = sumSwap(out.Containers)
	return out
}

func add(to **uint64, n *uint64) {
	if n == nil {
		return
	}
	sum := *n
	if *to != nil {
		sum += **to
	}
	*to = &sum
}

func sumCPU(of []stats.ContainerStats) (out *stats.CPUStats) {
	for _, c := range of {
		if c.CPU == nil {
			continue
		}
		if out == nil {
			out = &stats.CPUStats{Time: c.CPU.Time}
		}
		add(&out.UsageCoreNanoSeconds, c.CPU.UsageCoreNanoSeconds)
		add(&out.UsageNanoCores, c.CPU.UsageNanoCores)
	}
	return out
}

func sumMemory(of []stats.ContainerStats) (out *stats.MemoryStats) {
	for _, c := range of {
		if c.Memory == nil {
			continue
		}
		if out == nil {
			out = &stats.MemoryStats{Time: c.Memory.Time}
		}
		add(&out.UsageBytes, c.Memory.UsageBytes)
		add(&out.WorkingSetBytes, c.Memory.WorkingSetBytes)
		add(&out.RSSBytes, c.Memory.RSSBytes)
		add(&out.PageFaults, c.Memory.PageFaults)
		add(&out.MajorPageFaults, c.Memory.MajorPageFaults)
	}
	return out
}

func sumSwap(of []stats.ContainerStats) (out *stats.SwapStats) {
	for _, c := range of {
		if c.Swap == nil {
			continue
		}
		if out == nil {
			out = &stats.SwapStats{Time: c.Swap.Time}
		}
		add(&out.SwapUsageBytes, c.Swap.SwapUsageBytes)
		add(&out.SwapAvailableBytes, c.Swap.SwapAvailableBytes)
	}
	return out
}

func (s *Stats) network(u *runtimeapi.NetworkUsage) *stats.NetworkStats {
	if u == nil {
		return nil
	}
	of := func(i *runtimeapi.NetworkInterfaceUsage) stats.InterfaceStats {
		return stats.InterfaceStats{Name: i.Name, RxBytes: value(i.RxBytes), RxErrors: value(i.RxErrors), TxBytes: value(i.TxBytes), TxErrors: value(i.TxErrors)}
	}
	out := &stats.NetworkStats{Time: s.at(u.Timestamp)}
	if u.DefaultInterface != nil {
		out.InterfaceStats = of(u.DefaultInterface)
		out.Interfaces = append(out.Interfaces, out.InterfaceStats)
	}
	for _, i := range u.Interfaces {
		if u.DefaultInterface == nil || i.Name != u.DefaultInterface.Name {
			out.Interfaces = append(out.Interfaces, of(i))
		}
	}
	return out
}

// storage measures what a pod has on the node's file system.
func (s *Stats) storage(p *stats.PodStats, node *stats.FsStats) {
	now := metav1.Time{Time: s.cfg.Clock.Now()}
	total := &stats.FsStats{Time: now}
	if node != nil {
		total.AvailableBytes, total.CapacityBytes, total.Inodes, total.InodesFree = node.AvailableBytes, node.CapacityBytes, node.Inodes, node.InodesFree
	}
	for i := range p.Containers {
		c := &p.Containers[i]
		if s.cfg.LogDir != "" {
			bytes, files := sizeOf(filepath.Join(s.cfg.LogDir, p.PodRef.Namespace+"_"+p.PodRef.Name+"_"+p.PodRef.UID, c.Name))
			c.Logs = &stats.FsStats{Time: now, UsedBytes: &bytes, InodesUsed: &files}
		}
		for _, f := range []*stats.FsStats{c.Rootfs, c.Logs} {
			if f == nil {
				continue
			}
			if node != nil {
				f.AvailableBytes, f.CapacityBytes, f.Inodes, f.InodesFree = node.AvailableBytes, node.CapacityBytes, node.Inodes, node.InodesFree
			}
			add(&total.UsedBytes, f.UsedBytes)
			add(&total.InodesUsed, f.InodesUsed)
		}
	}
	if s.cfg.Volumes != nil {
		p.VolumeStats = s.cfg.Volumes(types.UID(p.PodRef.UID))
		for i := range p.VolumeStats {
			if v := &p.VolumeStats[i]; v.PVCRef == nil {
				add(&total.UsedBytes, v.UsedBytes)
				add(&total.InodesUsed, v.InodesUsed)
			}
		}
	}
	p.EphemeralStorage = total
}

// sizeOf adds up the files of a folder. What goes meanwhile is not counted.
func sizeOf(dir string) (bytes, files uint64) {
	_ = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error { // without the folder there are none
		if err != nil {
			return nil //nolint:nilerr // as documented
		}
		var info os.FileInfo
		if info, err = d.Info(); err != nil {
			return nil //nolint:nilerr // as documented
		}
		files++
		if info.Mode().IsRegular() {
			bytes += uint64(info.Size())
		}
		return nil
	})
	return bytes, files
}
