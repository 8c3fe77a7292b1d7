package overlay

import "errors"

// ErrUnsupported tells that this system has no overlay mounts: it is not Linux.
var ErrUnsupported = errors.New("overlay: mounts exist on Linux only")

// ErrNoIDMap tells that the kernel, or the file system of the layers, cannot map the owners of files.
var ErrNoIDMap = errors.New("overlay: user namespaces need id-mapped mounts: Linux 5.19 and a file system that has them")

// IDMapping maps a range of user or group ids of a user namespace to ids of the host.
type IDMapping struct {
	ContainerID uint32 `json:"container"`
	HostID      uint32 `json:"host"`
	Size        uint32 `json:"size"`
}

// Spec says what to mount. Without Upper the mount is read-only.
type Spec struct {
	Lower  []string // top first; all in one directory's subdirectories if the kernel is old; at least one
	Upper  string
	Work   string // on the file system of Upper
	Target string
	Source string // what the table of mounts shows as the source, by which a mount is known again; less than 256 bytes; "": overlay
	Empty  string // a directory without entries, to lie under a single read-only layer
	UIDs   []IDMapping
	GIDs   []IDMapping
}

// ToHost returns what an id of a namespace is outside of it, and whether it has a meaning there. No mappings map all ids to
// themselves.
func ToHost(id int, maps []IDMapping) (int, bool) {
	if len(maps) == 0 {
		return id, true
	}
	for _, m := range maps {
		if id >= int(m.ContainerID) && id-int(m.ContainerID) < int(m.Size) {
			return int(m.HostID) + id - int(m.ContainerID), true
		}
	}
	return -1, false
}
