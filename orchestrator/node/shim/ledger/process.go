//go:build linux

package ledger

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// Find names the process that has a pid now.
func Find(pid int) (Process, error) {
	start, _, err := stat(pid)
	return Process{pid, start}, err
}

// Alive tells whether the process runs, and is not merely waiting to be reaped.
func (p Process) Alive() bool {
	if p.Pid <= 0 {
		return false
	}
	start, state, err := stat(p.Pid)
	return err == nil && start == p.Start && state != 'Z' && state != 'X'
}

// Kill ends the process if it is still the one that was named, and waits until it has ended.
func (p Process) Kill(ctx context.Context) error {
	file, err := p.kill()
	if file == nil {
		return err
	}
	defer func() { _ = file.Close() }()
	return waitFile(ctx, file)
}

// kill returns a descriptor of the process if it was there to be killed.
func (p Process) kill() (*os.File, error) {
	if !p.Alive() {
		return nil, nil
	}
	fd, err := unix.PidfdOpen(p.Pid, unix.PIDFD_NONBLOCK)
	if errors.Is(err, unix.ESRCH) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("ledger: process %d: %w", p.Pid, err)
	}
	file := os.NewFile(uintptr(fd), "pidfd")
	if !p.Alive() { // or the descriptor may be that of another
		_ = file.Close()
		return nil, nil
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		_ = file.Close()
		return nil, fmt.Errorf("ledger: kill %d: %w", p.Pid, err)
	}
	return file, nil
}

// Wait waits until a process has ended; somebody else reaps it. It takes no thread while it waits.
func Wait(ctx context.Context, pid int) error {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("ledger: process %d: %w", pid, err)
	}
	file := os.NewFile(uintptr(fd), "pidfd")
	defer func() { _ = file.Close() }()
	return waitFile(ctx, file)
}

func waitFile(ctx context.Context, file *os.File) error {
	raw, err := file.SyscallConn()
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = file.Close() })
	defer stop()
	err = raw.Read(func(fd uintptr) bool {
		ready := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(ready, 0)
		return err == nil && n == 1
	})
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// stat reads the start time and the state of a process.
func stat(pid int) (start uint64, state byte, err error) {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, 0, err
	}
	// The name, in parentheses, may hold anything: count after its end.
	fields := bytes.Fields(data[bytes.LastIndexByte(data, ')')+1:])
	if len(fields) < 20 {
		return 0, 0, fmt.Errorf("ledger: /proc/%d/stat is too short", pid)
	}
	start, err = strconv.ParseUint(string(fields[19]), 10, 64)
	return start, fields[0][0], err
}
