package volume

import (
	"cmp"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// VolumeStats is how much a volume holds.
type VolumeStats struct {
	Name  string
	Claim *types.NamespacedName // of a persistent volume
	Time  time.Time
	// Bytes and inodes: what the volume uses, and what its file system has in all and free.
	Used, Capacity, Available      int64
	InodesUsed, Inodes, InodesFree int64
	// Ephemeral says that it uses up the node's disk and is gone with the pod.
	Ephemeral bool
	// Limit is that of an emptyDir, in bytes; 0 is none. A pod that uses more is evicted.
	Limit int64
}

// Stats measures the volumes of a pod, by name. Files of the node and images are not counted. Volumes on the node's disk are
// walked through, which takes a while for many files. It does not wait for volumes that are being made, and is an error then.
func (v *Volumes) Stats(uid types.UID) ([]VolumeStats, error) {
	return v.stats(uid, func(*made) bool { return true })
}

// ClaimStats measures only those that are volumes of claims.
func (v *Volumes) ClaimStats(uid types.UID) ([]VolumeStats, error) {
	return v.stats(uid, func(m *made) bool { return m.claim != nil })
}

func (v *Volumes) stats(uid types.UID, want func(*made) bool) ([]VolumeStats, error) {
	p := v.known(uid)
	if p == nil {
		return nil, fmt.Errorf("volumes of pod %s are not mounted", uid)
	}
	if !p.mu.TryLock() { // what is made for it may take as long as a pull
		return nil, fmt.Errorf("volumes of pod %s are being made", uid)
	}
	var all []VolumeStats
	paths := map[string]string{}
	for _, m := range p.volumes {
		if m.path == "" || m.host || !want(m) {
			continue
		}
		s := VolumeStats{Name: m.name, Claim: m.claim}
		i := slices.IndexFunc(p.pod.Spec.Volumes, func(vol corev1.Volume) bool { return vol.Name == m.name })
		if i >= 0 {
			vol := &p.pod.Spec.Volumes[i]
			s.Ephemeral = vol.ConfigMap != nil || (vol.EmptyDir != nil && vol.EmptyDir.Medium == corev1.StorageMediumDefault)
			if vol.EmptyDir != nil {
				s.Limit = valueOf(vol.EmptyDir.SizeLimit)
			}
		}
		all = append(all, s)
		paths[m.name] = m.path
	}
	p.mu.Unlock()
	for i := range all {
		if err := all[i].measure(paths[all[i].Name]); err != nil {
			return nil, fmt.Errorf("volume: usage of volume %q: %w", all[i].Name, err)
		}
		all[i].Time = v.cfg.Clock.Now()
	}
	slices.SortFunc(all, func(a, b VolumeStats) int { return cmp.Compare(a.Name, b.Name) })
	return all, nil
}

func (s *VolumeStats) measure(path string) error {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return err
	}
	s.Capacity, s.Available = int64(st.Blocks)*st.Bsize, int64(st.Bavail)*st.Bsize
	s.Inodes, s.InodesFree = int64(st.Files), int64(st.Ffree)
	m, err := mounted(path)
	if err != nil {
		return err
	}
	if m != nil { // a file system of its own
		s.Used, s.InodesUsed = int64(st.Blocks-st.Bfree)*st.Bsize, int64(st.Files-st.Ffree)
		return nil
	}
	s.Used, s.InodesUsed, err = usage(path)
	return err
}

// usage counts the disk space and the inodes below a directory. What has several names counts once, other file systems do
// not count, and what goes away meanwhile does not either.
func usage(dir string) (bytes, inodes int64, err error) {
	var top unix.Stat_t
	if err := unix.Lstat(dir, &top); err != nil {
		return 0, 0, err
	}
	seen := map[uint64]bool{}
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil //nolint:nilerr // it went away, or so did its directory
		}
		var st unix.Stat_t
		if unix.Lstat(path, &st) != nil {
			return nil
		}
		if st.Dev != top.Dev {
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		if st.Nlink > 1 && !d.IsDir() {
			if seen[st.Ino] {
				return nil
			}
			seen[st.Ino] = true
		}
		bytes += st.Blocks * 512
		inodes++
		return nil
	})
	return bytes, inodes, err
}
