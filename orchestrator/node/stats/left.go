package stats

import (
	"context"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	stats "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

// Left is what a node has left. It is nil of what cannot be measured.
type Left struct {
	Memory, PIDs         *Share
	NodeFs, NodeInodes   *Share
	ImageFs, ImageInodes *Share
}

// Share is how much there is of something, and how much of that is left: bytes, inodes or processes.
type Share struct{ Available, Capacity int64 }

// Left measures what the node has left. It is cheap: no files are counted.
func (s *Stats) Left(ctx context.Context) (out Left) {
	now := metav1.Time{Time: s.cfg.Clock.Now()}
	if m := s.pairs("proc/meminfo"); m["MemTotal"] > 0 {
		out.Memory = &Share{int64(available(m)), int64(m["MemTotal"])}
	}
	if r := s.processes(now); r != nil && *r.MaxPID > 0 {
		out.PIDs = &Share{max(*r.MaxPID-*r.NumOfRunningProcesses, 0), *r.MaxPID}
	}
	out.NodeFs, out.NodeInodes = shares(fileSystem(s.cfg.Dir, now))
	out.ImageFs, out.ImageInodes = shares(fileSystem(s.imageDir(ctx), now))
	return out
}

// available is the memory that is free, or can be at once, of what /proc/meminfo says.
func available(m map[string]uint64) uint64 {
	usage := m["MemTotal"] - min(m["MemTotal"], m["MemFree"])
	working := usage - min(usage, m["Inactive(file)"])
	return m["MemTotal"] - min(m["MemTotal"], working)
}

func shares(f *stats.FsStats) (bytes, inodes *Share) {
	if f == nil {
		return nil, nil
	}
	bytes = &Share{int64(*f.AvailableBytes), int64(*f.CapacityBytes)}
	if *f.Inodes > 0 { // some file systems do not count them
		inodes = &Share{int64(*f.InodesFree), int64(*f.Inodes)}
	}
	return bytes, inodes
}

// imageDir is where the runtime keeps images, "" if it does not say. It is asked until it does: its answer takes it a while.
func (s *Stats) imageDir(ctx context.Context) string {
	s.mu.Lock()
	dir := s.images
	s.mu.Unlock()
	if dir != "" {
		return dir
	}
	info, err := s.cfg.Images.ImageFsInfo(ctx, &runtimeapi.ImageFsInfoRequest{})
	if err != nil || len(info.ImageFilesystems) == 0 {
		return ""
	}
	dir = info.ImageFilesystems[0].GetFsId().GetMountpoint()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.images = dir
	return dir
}
