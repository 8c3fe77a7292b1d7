package unpack

import "errors"

// ErrNeedsParents tells that a layer leaves something to the layers below it, which were not given.
var ErrNeedsParents = errors.New("the layer needs those below it")

// ErrUnsupported tells that this system cannot unpack layers: it is not Linux, or the process is not root.
var ErrUnsupported = errors.New("layers are unpacked by root on Linux only")

// Options say what a layer lies on.
type Options struct {
	// Parents are the directories of the layers below, the nearest first.
	Parents []string
	// OnParents says that Parents are complete, even if there are none.
	OnParents bool
}

// Result is what a layer came to.
type Result struct {
	Bytes  int64 // of files, in whole blocks of 4 KiB
	Inodes int64
	// Opaque: the root directory hides all layers below, which are not to be mounted.
	Opaque bool
	Root   *Attr // of the root directory; nil if the layer does not say
}

// Attr are owner and mode of a directory.
type Attr struct {
	UID  int    `json:"uid"`
	GID  int    `json:"gid"`
	Mode uint32 `json:"mode"` // permissions with setuid, setgid and sticky bits
}
