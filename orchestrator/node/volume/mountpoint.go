package volume

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// mounted finds what is mounted on a path; nil if nothing is. Of several the last counts.
func mounted(path string) (*mountinfo.Info, error) {
	all, err := mountinfo.GetMounts(mountinfo.SingleEntryFilter(path))
	if err != nil {
		return nil, fmt.Errorf("volume: the table of mounts: %w", err)
	}
	if len(all) == 0 {
		return nil, nil
	}
	return all[len(all)-1], nil
}

// mountsBelow lists what is mounted on dir or below it, the deepest and latest first.
func mountsBelow(dir string) ([]string, error) {
	all, err := mountinfo.GetMounts(mountinfo.PrefixFilter(dir))
	if err != nil {
		return nil, fmt.Errorf("volume: the table of mounts: %w", err)
	}
	paths := make([]string, 0, len(all))
	for _, m := range all {
		paths = append(paths, m.Mountpoint)
	}
	slices.Reverse(paths)
	slices.SortStableFunc(paths, func(a, b string) int { return strings.Count(b, "/") - strings.Count(a, "/") })
	return paths, nil
}

// unmount takes away what is mounted on a path. What is still in use goes when its last user does.
func unmount(path string) error {
	err := unix.Unmount(path, unix.UMOUNT_NOFOLLOW)
	if errors.Is(err, unix.EBUSY) {
		err = unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	}
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) { // not mounted
		return nil
	}
	if err != nil {
		return fmt.Errorf("volume: unmount %s: %w", path, err)
	}
	return nil
}

// unmountBelow takes away all that is mounted on dir or below it.
func unmountBelow(dir string) error {
	for range 16 { // mounts may be stacked
		paths, err := mountsBelow(dir)
		if err != nil || len(paths) == 0 {
			return err
		}
		for _, p := range paths {
			if err := unmount(p); err != nil {
				return err
			}
		}
	}
	return fmt.Errorf("volume: %s is mounted again and again", dir)
}

// unmountStrictly is unmountBelow for what holds data that stays: what is still in use is an error.
func unmountStrictly(dir string) error {
	paths, err := mountsBelow(dir)
	if err != nil {
		return err
	}
	for _, p := range paths {
		if err := unix.Unmount(p, unix.UMOUNT_NOFOLLOW); err != nil && !errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("volume: unmount %s: %w", p, err)
		}
	}
	return nil
}

// removeTree removes a directory that nothing is mounted below. It does not leave the device that the directory is on.
func removeTree(dir string) error {
	below, err := mountsBelow(dir)
	if err != nil {
		return err
	}
	if len(below) > 0 {
		return fmt.Errorf("volume: %s is not removed: %s is mounted", dir, below[0])
	}
	var st unix.Stat_t
	if err := unix.Lstat(dir, &st); errors.Is(err, unix.ENOENT) {
		return nil
	} else if err != nil {
		return fmt.Errorf("volume: %s: %w", dir, err)
	}
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return err
		}
		var here unix.Stat_t
		if err := unix.Lstat(path, &here); err != nil {
			return err
		}
		if here.Dev != st.Dev {
			return fmt.Errorf("volume: %s is not removed: %s is on another device", dir, path)
		}
		return nil
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return os.RemoveAll(dir)
}
