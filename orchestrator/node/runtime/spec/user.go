//go:build linux

package spec

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strconv"
	"strings"

	"github.com/cyphar/filepath-securejoin/pathrs-lite"
	"github.com/moby/sys/user"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// maxUserFile is how much of a container's /etc/passwd or /etc/group is read, in bytes.
const maxUserFile = 16 << 20

// who is the user of a container in the form that /etc/passwd resolves: user[:group], "" for root.
func who(sc *runtimeapi.LinuxContainerSecurityContext, image string) (string, error) {
	name := sc.GetRunAsUsername()
	if sc.GetRunAsUser() != nil {
		name = strconv.FormatInt(sc.RunAsUser.Value, 10)
	}
	if sc.GetRunAsGroup() != nil {
		if name == "" {
			return "", errors.New("spec: a group is set without a user")
		}
		return name + ":" + strconv.FormatInt(sc.RunAsGroup.Value, 10), nil
	}
	if name == "" {
		name = image
	}
	return name, nil
}

// resolveUser looks up the user of a container in its root file system.
func resolveUser(rootfs string, sc *runtimeapi.LinuxContainerSecurityContext, image string) (specs.User, error) {
	spec, err := who(sc, image)
	if err != nil {
		return specs.User{}, err
	}
	passwd, err := readIn(rootfs, "/etc/passwd")
	if err != nil {
		return specs.User{}, err
	}
	group, err := readIn(rootfs, "/etc/group")
	if err != nil {
		return specs.User{}, err
	}
	found, err := user.GetExecUser(spec, nil, strings.NewReader(passwd), strings.NewReader(group))
	if err != nil {
		return specs.User{}, fmt.Errorf("spec: user %q: %w", spec, err)
	}
	u := specs.User{UID: uint32(found.Uid), GID: uint32(found.Gid), AdditionalGids: []uint32{uint32(found.Gid)}}
	add := func(gid int64) {
		if !slices.Contains(u.AdditionalGids, uint32(gid)) {
			u.AdditionalGids = append(u.AdditionalGids, uint32(gid))
		}
	}
	if sc.GetSupplementalGroupsPolicy() == runtimeapi.SupplementalGroupsPolicy_Merge {
		for _, gid := range memberships(passwd, group, found.Uid) {
			add(int64(gid))
		}
	}
	for _, gid := range sc.GetSupplementalGroups() {
		add(gid)
	}
	return u, nil
}

// memberships are the groups that /etc/group puts the user with a number in.
func memberships(passwd, group string, uid int) (gids []int) {
	users, err := user.ParsePasswdFilter(strings.NewReader(passwd), func(u user.User) bool { return u.Uid == uid })
	if err != nil || len(users) == 0 {
		return nil
	}
	groups, err := user.ParseGroupFilter(strings.NewReader(group), func(g user.Group) bool { return slices.Contains(g.List, users[0].Name) })
	if err != nil {
		return nil
	}
	for _, g := range groups {
		gids = append(gids, g.Gid)
	}
	return gids
}

// readIn reads a file of a container. Its links do not lead out of the root file system; a file that is not there is empty.
func readIn(rootfs, name string) (string, error) {
	f, err := pathrs.OpenInRoot(rootfs, name)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("spec: %s of the container: %w", name, err)
	}
	defer func() { _ = f.Close() }()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return "", fmt.Errorf("spec: %s of the container is no file", name)
	}
	opened, err := pathrs.Reopen(f, 0)
	if err != nil {
		return "", fmt.Errorf("spec: %s of the container: %w", name, err)
	}
	defer func() { _ = opened.Close() }()
	data, err := io.ReadAll(io.LimitReader(opened, maxUserFile))
	if err != nil {
		return "", fmt.Errorf("spec: %s of the container: %w", name, err)
	}
	return string(data), nil
}
