//go:build !linux

package overlay

// Mount mounts an overlay.
func Mount(Spec) error { return ErrUnsupported }

// Unmount removes all mounts of a target.
func Unmount(string) error { return ErrUnsupported }

// Source tells whose overlay a target is the root of.
func Source(string) (string, error) { return "", nil }

// Mounted tells whether a target is the root of an overlay.
func Mounted(string) (bool, error) { return false, nil }
