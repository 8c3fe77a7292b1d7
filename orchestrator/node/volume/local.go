package volume

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// emptyDir makes a directory for the pod: on the node's disk, in memory or in huge pages.
func (v *Volumes) emptyDir(pod *corev1.Pod, vol *corev1.Volume) (*made, error) {
	src := vol.EmptyDir
	dir := v.volumeDir(pod.UID, "empty-dir", vol.Name)
	if v.isDone(pod.UID, vol.Name) {
		m, err := mounted(dir)
		if err != nil {
			return nil, err
		}
		if _, err := os.Stat(dir); err == nil && (m != nil || src.Medium == corev1.StorageMediumDefault) {
			return &made{path: dir}, nil
		}
	}
	mode := os.FileMode(0o777)
	if src.Mode != nil {
		mode = fileMode(*src.Mode)
	}
	if err := makeDir(dir, mode); err != nil {
		return nil, err
	}
	switch medium := string(src.Medium); {
	case medium == string(corev1.StorageMediumDefault):
	case medium == string(corev1.StorageMediumMemory):
		if err := mountMemory(dir, v.memorySize(pod, src.SizeLimit)); err != nil {
			return nil, err
		}
	case strings.HasPrefix(medium, string(corev1.StorageMediumHugePages)):
		if err := mountHugePages(dir, pod, medium); err != nil {
			return nil, err
		}
	default:
		return nil, fmt.Errorf("unknown storage medium %q", medium)
	}
	if src.Mode != nil && src.Medium != corev1.StorageMediumDefault {
		if err := os.Chmod(dir, mode); err != nil {
			return nil, err
		}
	}
	if err := giveTo(dir, groupOf(pod), false, nil); err != nil {
		return nil, err
	}
	return &made{path: dir}, v.done(pod.UID, vol.Name)
}

// fileMode makes a mode of the API's bits, with the sticky one.
func fileMode(bits int32) os.FileMode {
	mode := os.FileMode(bits) & os.ModePerm
	if bits&0o1000 != 0 {
		mode |= os.ModeSticky
	}
	return mode
}

// makeDir makes a directory with a mode, whatever the umask. One that is there keeps its mode.
func makeDir(dir string, mode os.FileMode) error {
	if info, err := os.Lstat(dir); err == nil && info.IsDir() {
		return nil
	}
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return err
	}
	return os.Chmod(dir, mode)
}

// memorySize is how much a volume in memory may hold, in bytes: its own limit, not more than the pod's and not more than
// what the node has for pods. 0 is no bound but the kernel's.
func (v *Volumes) memorySize(pod *corev1.Pod, limit *resource.Quantity) (size int64) {
	if node := v.cfg.Node(); node != nil {
		size = node.Status.Allocatable.Memory().Value()
	}
	for _, bound := range []int64{podMemory(pod), valueOf(limit)} {
		if bound > 0 && (size == 0 || bound < size) {
			size = bound
		}
	}
	return size
}

func valueOf(q *resource.Quantity) int64 {
	if q == nil {
		return 0
	}
	return q.Value()
}

// podMemory is the memory that a pod may use, in bytes; 0 if it has no limit.
func podMemory(pod *corev1.Pod) int64 {
	if r := pod.Spec.Resources; r != nil && r.Limits.Memory().Value() > 0 {
		return r.Limits.Memory().Value()
	}
	var sum, largest int64
	for i := range pod.Spec.Containers {
		one := pod.Spec.Containers[i].Resources.Limits.Memory().Value()
		if one == 0 {
			return 0
		}
		sum += one
	}
	for i := range pod.Spec.InitContainers {
		c := &pod.Spec.InitContainers[i]
		one := c.Resources.Limits.Memory().Value()
		if one == 0 {
			return 0
		}
		if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			sum += one
		} else {
			largest = max(largest, one)
		}
	}
	return max(sum, largest)
}

// mountMemory mounts a tmpfs on dir, unless it is there. Its pages are not swapped out where the kernel can do that.
func mountMemory(dir string, size int64) error {
	if m, err := mounted(dir); err != nil || (m != nil && m.FSType == "tmpfs") {
		return err
	}
	var options []string
	if size > 0 {
		options = append(options, fmt.Sprintf("size=%d", size))
	}
	err := unix.Mount("tmpfs", dir, "tmpfs", 0, strings.Join(append(options, "noswap"), ","))
	if errors.Is(err, unix.EINVAL) {
		err = unix.Mount("tmpfs", dir, "tmpfs", 0, strings.Join(options, ","))
	}
	if err != nil {
		return fmt.Errorf("mount of tmpfs on %s: %w", dir, err)
	}
	return nil
}

// mountHugePages mounts a hugetlbfs on dir. The size of its pages is the medium's, or the one that the pod's containers ask
// for.
func mountHugePages(dir string, pod *corev1.Pod, medium string) error {
	if m, err := mounted(dir); err != nil || (m != nil && m.FSType == "hugetlbfs") {
		return err
	}
	var sizes []string
	for _, list := range [][]corev1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
		for i := range list {
			for name := range list[i].Resources.Requests {
				if size, ok := strings.CutPrefix(string(name), corev1.ResourceHugePagesPrefix); ok && !slices.Contains(sizes, size) {
					sizes = append(sizes, size)
				}
			}
		}
	}
	if pod.Spec.Resources != nil {
		for name := range pod.Spec.Resources.Requests {
			if size, ok := strings.CutPrefix(string(name), corev1.ResourceHugePagesPrefix); ok && !slices.Contains(sizes, size) {
				sizes = append(sizes, size)
			}
		}
	}
	size := strings.TrimPrefix(strings.TrimPrefix(medium, string(corev1.StorageMediumHugePages)), "-")
	switch {
	case size == "" && len(sizes) > 1:
		return fmt.Errorf("medium: %s can't be used if container requests multiple huge page sizes", medium)
	case size == "" && len(sizes) == 1:
		size = sizes[0]
	case size == "" || !slices.Contains(sizes, size):
		return fmt.Errorf("medium %s: hugePages storage requested, but there is no resource request for huge pages", medium)
	}
	q, err := resource.ParseQuantity(size)
	if err != nil {
		return fmt.Errorf("medium %s: %w", medium, err)
	}
	if err := unix.Mount("nodev", dir, "hugetlbfs", 0, fmt.Sprintf("pagesize=%d", q.Value())); err != nil {
		return fmt.Errorf("mount of hugetlbfs on %s: %w", dir, err)
	}
	return nil
}

// hostPath checks a path of the node, and makes it if it should be.
func hostPath(src *corev1.HostPathVolumeSource) (*made, error) {
	path := src.Path
	if slices.Contains(strings.Split(path, "/"), "..") {
		return nil, fmt.Errorf("invalid HostPath `%s`: must not contain '..'", path)
	}
	kind := corev1.HostPathUnset
	if src.Type != nil {
		kind = *src.Type
	}
	m := &made{path: path, host: true}
	_, err := os.Stat(path)
	missing := errors.Is(err, fs.ErrNotExist)
	switch kind {
	case corev1.HostPathUnset: // nothing is checked; what is missing becomes a directory, as runtimes make it
		if missing {
			return m, os.MkdirAll(path, 0o755)
		}
		return m, nil
	case corev1.HostPathDirectoryOrCreate:
		if missing {
			if err := os.MkdirAll(path, 0o755); err != nil {
				return nil, err
			}
		}
	case corev1.HostPathFileOrCreate:
		if missing {
			f, err := os.OpenFile(path, os.O_CREATE, 0o644)
			if err != nil {
				return nil, err
			}
			_ = f.Close()
		}
	}
	want, known := map[corev1.HostPathType]string{
		corev1.HostPathDirectoryOrCreate: "directory", corev1.HostPathDirectory: "directory", corev1.HostPathFileOrCreate: "file", corev1.HostPathFile: "file",
		corev1.HostPathSocket: "socket file", corev1.HostPathCharDev: "character device", corev1.HostPathBlockDev: "block device",
	}[kind]
	if !known {
		return nil, fmt.Errorf("%s is an invalid volume type", kind)
	}
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("hostPath type check failed: %s is not a %s: hostPath %s doesn't exist", path, want, path)
	}
	if err != nil {
		return nil, fmt.Errorf("hostPath type check failed: %s is not a %s: %w", path, want, err)
	}
	if kindOf(info.Mode()) != want {
		return nil, fmt.Errorf("hostPath type check failed: %s is not a %s", path, want)
	}
	return m, nil
}

func kindOf(mode os.FileMode) string {
	switch {
	case mode.IsDir():
		return "directory"
	case mode.IsRegular():
		return "file"
	case mode&os.ModeSocket != 0:
		return "socket file"
	case mode&os.ModeCharDevice != 0:
		return "character device"
	case mode&os.ModeDevice != 0:
		return "block device"
	}
	return "other"
}
