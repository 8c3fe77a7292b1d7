//go:build unix

package wire

import (
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// maxFiles bounds how many files come with one message.
const maxFiles = 4

var oobSize = unix.CmsgSpace(4 * maxFiles)

func rightsOf(files []*os.File) []byte {
	if len(files) == 0 {
		return nil
	}
	fds := make([]int, len(files))
	for i, f := range files {
		fds[i] = int(f.Fd())
	}
	rights := unix.UnixRights(fds...)
	runtime.KeepAlive(files)
	return rights
}

// Pollable makes a file non-blocking, so that reads and writes of it wait in the poller and can have deadlines. It closes the
// one that it was given.
func Pollable(f *os.File) (*os.File, error) {
	defer func() { _ = f.Close() }()
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("wire: %w", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("wire: %w", err)
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}

// filesOf takes the files out of a control message, as blocking or not as they are.
func filesOf(oob []byte) ([]*os.File, error) {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, fmt.Errorf("wire: %w", err)
	}
	var files []*os.File
	for _, m := range messages {
		fds, err := unix.ParseUnixRights(&m)
		if err != nil {
			continue // credentials and the like
		}
		for _, fd := range fds {
			files = append(files, os.NewFile(uintptr(fd), "stream"))
		}
	}
	return files, nil
}
