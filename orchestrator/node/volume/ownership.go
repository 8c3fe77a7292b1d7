package volume

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
)

// Bits that a volume's group gets.
const (
	groupRW   = 0o660
	groupRO   = 0o440
	groupExec = 0o110 // on directories, with setgid: what is made in them belongs to the group too
)

// giveTo makes a group the owner of all of a directory, as fsGroup wants it. With policy OnRootMismatch nothing is done if
// the top is the group's already.
func giveTo(dir string, group *int64, readOnly bool, policy *corev1.PodFSGroupChangePolicy) error {
	if group == nil {
		return nil
	}
	mask := uint32(groupRW)
	if readOnly {
		mask = groupRO
	}
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("the owner of %s: %w", dir, err)
	}
	defer func() { _ = unix.Close(fd) }()
	if policy != nil && *policy == corev1.FSGroupChangeOnRootMismatch {
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil {
			return err
		}
		want := mask | groupExec | unix.S_ISGID
		if st.Gid == uint32(*group) && st.Mode&want == want {
			return nil
		}
	}
	if err := give(fd, int(*group), mask); err != nil {
		return fmt.Errorf("the owner of %s: %w", dir, err)
	}
	return nil
}

// give changes what fd, an O_PATH descriptor, stands for, and all below: what is below first, so that the top tells that all
// is done. Containers may change the tree meanwhile: every step is by descriptor, and no link is followed.
func give(fd, group int, mask uint32) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	mode := st.Mode&0o7777 | mask
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		if err := giveEntries(fd, group, mask); err != nil {
			return err
		}
		mode |= groupExec | unix.S_ISGID
	}
	if err := unix.Fchownat(fd, "", -1, group, unix.AT_EMPTY_PATH); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFLNK {
		return nil
	}
	return unix.Chmod(fmt.Sprintf("/proc/self/fd/%d", fd), mode)
}

func giveEntries(fd, group int, mask uint32) error {
	dir, err := unix.Openat(fd, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(dir), ".")
	defer func() { _ = f.Close() }()
	names, err := f.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, name := range names {
		entry, err := unix.Openat(fd, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if errors.Is(err, unix.ENOENT) {
			continue // it went away meanwhile
		}
		if err != nil {
			return err
		}
		err = give(entry, group, mask)
		_ = unix.Close(entry)
		if err != nil {
			return err
		}
	}
	return nil
}

// userOf is the user that all containers of a pod run as, if the pod says so and it is one.
func userOf(pod *corev1.Pod) *int64 {
	var one *int64
	first := true
	same := true
	visit := func(own *corev1.SecurityContext) {
		var user *int64
		if pod.Spec.SecurityContext != nil {
			user = pod.Spec.SecurityContext.RunAsUser
		}
		if own != nil && own.RunAsUser != nil {
			user = own.RunAsUser
		}
		switch {
		case first:
			one, first = user, false
		case user == nil || one == nil || *user != *one:
			same = false
		}
	}
	for i := range pod.Spec.InitContainers {
		visit(pod.Spec.InitContainers[i].SecurityContext)
	}
	for i := range pod.Spec.Containers {
		visit(pod.Spec.Containers[i].SecurityContext)
	}
	for i := range pod.Spec.EphemeralContainers {
		visit(pod.Spec.EphemeralContainers[i].SecurityContext)
	}
	if !same {
		return nil
	}
	return one
}

// groupOf is the pod's fsGroup.
func groupOf(pod *corev1.Pod) *int64 {
	if pod.Spec.SecurityContext == nil {
		return nil
	}
	return pod.Spec.SecurityContext.FSGroup
}

func changePolicyOf(pod *corev1.Pod) *corev1.PodFSGroupChangePolicy {
	if pod.Spec.SecurityContext == nil {
		return nil
	}
	return pod.Spec.SecurityContext.FSGroupChangePolicy
}
