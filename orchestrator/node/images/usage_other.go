//go:build !linux

package images

// diskUsage adds up what a directory takes on the disk: there are no writable layers here.
func diskUsage(string) (bytes, inodes int64, err error) { return 0, 0, nil }
