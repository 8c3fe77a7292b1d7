package images

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// syncFS writes everything of a directory's file system to the disk.
func syncFS(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("images: %w", err)
	}
	defer func() { _ = d.Close() }()
	if err := unix.Syncfs(int(d.Fd())); err != nil {
		return fmt.Errorf("images: sync the file system of %s: %w", dir, err)
	}
	return nil
}
