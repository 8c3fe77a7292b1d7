//go:build !linux

package images

import "golang.org/x/sys/unix"

// syncFS writes everything of a directory's file system to the disk.
func syncFS(string) error { return unix.Sync() }
