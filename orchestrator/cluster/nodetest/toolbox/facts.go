//go:build linux

package main

import (
	"bufio"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

func factTools() map[string]func([]string) error {
	return map[string]func([]string) error{
		"env":      func([]string) error { return lines(os.Environ()) },
		"id":       id,
		"pid":      func([]string) error { fmt.Println(os.Getpid(), os.Getppid()); return nil },
		"status":   processStatus,
		"ns":       namespaces,
		"hostname": hostname,
		"ps":       processes,
		"tty":      terminal,
		"pwd":      workDir,
		"syscall":  refused,
	}
}

func lines(all []string) error {
	for _, l := range all {
		fmt.Println(l)
	}
	return nil
}

// id prints user, group and all groups: "uid=0 gid=0 groups=[0 1000]", and the name of the user if there is one.
func id([]string) error {
	groups, err := os.Getgroups()
	if err != nil {
		return err
	}
	fmt.Printf("uid=%d gid=%d groups=%v\n", os.Getuid(), os.Getgid(), groups)
	if u, err := user.Current(); err == nil {
		fmt.Println("name=" + u.Username)
	}
	return nil
}

// processStatus prints lines of /proc/self/status, those with the given names or all, as "CapEff 00000000a80425fb".
func processStatus(args []string) error {
	f, err := os.Open("/proc/self/status")
	if err != nil {
		return err
	}
	defer f.Close()
	in := bufio.NewScanner(f)
	for in.Scan() {
		name, value, _ := strings.Cut(in.Text(), ":")
		for _, a := range args {
			if a == name {
				fmt.Println(name, strings.TrimSpace(value))
			}
		}
		if len(args) == 0 {
			fmt.Println(name, strings.TrimSpace(value))
		}
	}
	return in.Err()
}

// namespaces prints the process's namespaces, those with the given names or all: "pid pid:[4026531836]".
func namespaces(args []string) error {
	if len(args) == 0 {
		args = []string{"cgroup", "ipc", "mnt", "net", "pid", "user", "uts"}
	}
	for _, name := range args {
		target, err := os.Readlink("/proc/self/ns/" + name)
		if err != nil {
			return err
		}
		fmt.Println(name, target)
	}
	return nil
}

func hostname([]string) error {
	name, err := os.Hostname()
	fmt.Println(name)
	return err
}

// processes prints the processes that are seen: number and arguments.
func processes([]string) error {
	all, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return err
	}
	for _, path := range all {
		b, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended
		}
		fmt.Println(filepath.Base(filepath.Dir(path)), strings.TrimSpace(strings.ReplaceAll(string(b), "\x00", " ")))
	}
	return nil
}

// terminal prints the size of the terminal, or "not a tty".
func terminal([]string) error {
	if !term.IsTerminal(0) {
		fmt.Println("not a tty")
		return status(1)
	}
	width, height, err := term.GetSize(0)
	fmt.Println(width, height)
	return err
}

func workDir([]string) error {
	dir, err := os.Getwd()
	fmt.Println(dir)
	return err
}

// refused tries system calls that a seccomp profile may refuse, those with the given names or all: "unshare EPERM", "mount ok".
func refused(args []string) error {
	tries := map[string]func() error{
		"unshare": func() error { return unix.Unshare(unix.CLONE_NEWUSER) },
		"keyctl":  func() error { _, err := unix.KeyctlGetKeyringID(unix.KEY_SPEC_SESSION_KEYRING, false); return err },
		"mount":   func() error { return unix.Mount("none", "/tmp", "tmpfs", 0, "") },
		"chown":   func() error { return unix.Chown("/tmp", 1234, 1234) },
		"mknod":   func() error { return unix.Mknod("/tmp/toolbox-node", unix.S_IFCHR|0o600, 1<<8|3) },
		"settime": func() error { return unix.Settimeofday(&unix.Timeval{Sec: -1}) },
		"raw": func() error {
			fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP)
			if err == nil {
				err = unix.Close(fd)
			}
			return err
		},
	}
	for _, name := range args {
		try := tries[name]
		if try == nil {
			return fmt.Errorf("%q is not among the tries", name)
		}
		result := "ok"
		if err := try(); err != nil {
			result = err.Error()
			if no, ok := err.(unix.Errno); ok {
				result = unix.ErrnoName(no)
			}
		}
		fmt.Println(name, result)
	}
	return nil
}
