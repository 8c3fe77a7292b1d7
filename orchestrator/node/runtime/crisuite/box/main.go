//go:build linux

// Command box is the program in the images of the suite: it does what its first argument says.
//
// # Concurrency
//
// It is a process of its own.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/keelson-io/keelson/orchestrator/node/runtime/crisuite/facts"
)

// commands by their names.
var commands = map[string]func(args []string) error{
	"facts":  tellFacts,
	"pause":  func([]string) error { select {} },
	"sleep":  sleep,
	"out":    func(args []string) error { _, err := fmt.Println(strings.Join(args, " ")); return err },
	"err":    func(args []string) error { _, err := fmt.Fprintln(os.Stderr, strings.Join(args, " ")); return err },
	"part":   func(args []string) error { _, err := fmt.Print(strings.Join(args, " ")); return err },
	"exit":   func(args []string) error { os.Exit(number(args[0])); return nil },
	"cat":    func([]string) error { _, err := io.Copy(os.Stdout, os.Stdin); return err },
	"take":   func(args []string) error { _, err := io.CopyN(os.Stdout, os.Stdin, int64(number(args[0]))); return err },
	"lines":  lines,
	"spam":   spam,
	"trap":   trap,
	"serve":  serve,
	"get":    get,
	"eat":    eat,
	"spin":   spin,
	"read":   readFile,
	"write":  func(args []string) error { return os.WriteFile(args[0], []byte(args[1]), 0o644) },
	"ls":     list,
	"stat":   stat,
	"try":    try,
	"tty":    tty,
	"orphan": orphan,
	"tick":   tick,
}

func main() {
	if os.Getenv("CNI_COMMAND") != "" {
		if err := cni(); err != nil {
			_ = json.NewEncoder(os.Stdout).Encode(map[string]any{"code": 999, "msg": err.Error()})
			os.Exit(1)
		}
		return
	}
	args := os.Args[1:]
	if len(args) == 0 {
		args = []string{"pause"}
	}
	stopping := make(chan os.Signal, 1)
	if args[0] != "trap" && args[0] != "tty" {
		signal.Notify(stopping, syscall.SIGTERM, syscall.SIGINT) // as pid 1 there is no default
		go func() { <-stopping; os.Exit(0) }()
	}
	run, ok := commands[args[0]]
	if args[0] == "all" {
		run, ok = inOrder, true
	}
	if !ok {
		fmt.Fprintf(os.Stderr, "box: no command %q\n", args[0])
		os.Exit(127)
	}
	if err := run(args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "box:", err)
		os.Exit(1)
	}
}

func number(s string) int { n, _ := strconv.Atoi(s); return n }

func tellFacts([]string) error { return json.NewEncoder(os.Stdout).Encode(facts.Gather()) }

func sleep(args []string) error {
	d, err := time.ParseDuration(args[0])
	time.Sleep(d)
	return err
}

// inOrder runs commands that are separated by "then".
func inOrder(args []string) error {
	for len(args) > 0 {
		end := len(args)
		for i, a := range args {
			if a == "then" {
				end = i
				break
			}
		}
		if err := commands[args[0]](args[1:end]); err != nil {
			return err
		}
		args = args[min(end+1, len(args)):]
	}
	return nil
}

// lines echoes each line of its input with a word before it.
func lines(args []string) error {
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		fmt.Println(args[0], in.Text())
	}
	fmt.Println("end")
	return in.Err()
}

// spam writes a number of bytes.
func spam(args []string) error {
	left, chunk := number(args[0]), []byte(strings.Repeat("x", 1<<16))
	for left > 0 {
		n, err := os.Stdout.Write(chunk[:min(left, len(chunk))])
		if err != nil {
			return err
		}
		left -= n
	}
	return nil
}

// tick writes numbers, one every so often.
func tick(args []string) error {
	d, err := time.ParseDuration(args[0])
	if err != nil {
		return err
	}
	for i := 0; ; i++ {
		fmt.Println("tick", i)
		time.Sleep(d)
	}
}

// trap tells which signal it got, and exits with the code given, or goes on if that is "ignore".
func trap(args []string) error {
	got := make(chan os.Signal, 1)
	signal.Notify(got)
	fmt.Println("ready")
	for s := range got {
		if s == syscall.SIGURG { // the scheduler's own
			continue
		}
		fmt.Println("got", int(s.(syscall.Signal)))
		if args[0] != "ignore" {
			os.Exit(number(args[0]))
		}
	}
	return nil
}

// serve answers every line that comes in on a port of the loopback.
func serve(args []string) error {
	l, err := net.Listen("tcp", "127.0.0.1:"+args[0])
	if err != nil {
		return err
	}
	fmt.Println("ready")
	for {
		conn, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer func() { _ = conn.Close() }()
			in := bufio.NewScanner(conn)
			for in.Scan() {
				_, _ = fmt.Fprintln(conn, "echo", in.Text())
			}
		}()
	}
}

// get connects to a port of the loopback, sends a line, and tells the answer.
func get(args []string) error {
	conn, err := net.Dial("tcp", "127.0.0.1:"+args[0])
	if err != nil {
		return err
	}
	_, _ = fmt.Fprintln(conn, "hello")
	answer, err := bufio.NewReader(conn).ReadString('\n')
	fmt.Print(answer)
	return err
}

// eat uses memory, in MiB, and waits.
func eat(args []string) error {
	var all [][]byte
	for range number(args[0]) {
		b := make([]byte, 1<<20)
		for i := 0; i < len(b); i += 4096 {
			b[i] = 1
		}
		all = append(all, b)
	}
	fmt.Println("ate", len(all))
	select {}
}

// spin uses the processor for so long.
func spin(args []string) error {
	d, err := time.ParseDuration(args[0])
	for used := time.Duration(0); err == nil && used < d; {
		var u syscall.Rusage
		err = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
		used = time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	return err
}

func readFile(args []string) error {
	data, err := os.ReadFile(args[0])
	if err == nil {
		_, err = os.Stdout.Write(data)
	}
	return err
}

func list(args []string) error {
	names, err := filepath.Glob(args[0] + "/*")
	for _, n := range names {
		fmt.Println(n)
	}
	return err
}

// stat tells owner, group and mode of files.
func stat(args []string) error {
	for _, path := range args {
		var st syscall.Stat_t
		if err := syscall.Stat(path, &st); err != nil {
			return err
		}
		fmt.Println(path, st.Uid, st.Gid, strconv.FormatUint(uint64(st.Mode), 8))
	}
	return nil
}

// try does things that not every container may, and tells of each the error.
func try(args []string) error {
	for _, what := range args {
		var err error
		switch what {
		case "mount":
			err = syscall.Mount("none", "/tmp", "tmpfs", 0, "")
		case "unshare":
			err = syscall.Unshare(0) // nothing, but it may be forbidden
		case "hostname":
			err = syscall.Sethostname([]byte("changed"))
		case "chown":
			err = os.Chown("/tmp", 1, 1)
		case "mknod":
			err = syscall.Mknod("/tmp/null", syscall.S_IFCHR|0o666, 1<<8|3)
		case "keyctl":
			_, _, errno := syscall.Syscall(unix.SYS_KEYCTL, 0, 0, 0) // asks for a keyring that is none
			if errno == syscall.EPERM {
				err = errno
			}
		case "raw":
			var fd int
			if fd, err = syscall.Socket(syscall.AF_INET, syscall.SOCK_RAW, syscall.IPPROTO_ICMP); err == nil {
				_ = syscall.Close(fd)
			}
		case "port":
			var l net.Listener
			if l, err = net.Listen("tcp", "127.0.0.1:80"); err == nil {
				_ = l.Close()
			}
		case "root":
			err = os.WriteFile("/written", nil, 0o644)
		case "sysctl":
			err = os.WriteFile("/proc/sys/kernel/shm_rmid_forced", []byte("1"), 0o644)
		case "mem":
			var f *os.File
			if f, err = os.Open("/dev/mem"); err == nil {
				_ = f.Close()
			}
		}
		fmt.Println(what, err == nil, err)
	}
	return nil
}

// tty tells the size of its terminal, again whenever that changes, and ends with its input.
func tty([]string) error {
	changed := make(chan os.Signal, 1)
	signal.Notify(changed, syscall.SIGWINCH)
	size := func() {
		var ws [4]uint16
		_, _, errno := syscall.Syscall(syscall.SYS_IOCTL, 0, syscall.TIOCGWINSZ, uintptr(unsafe.Pointer(&ws)))
		fmt.Println("size", ws[1], ws[0], errno == 0)
	}
	size()
	go func() {
		for range changed {
			size()
		}
	}()
	_, err := io.Copy(io.Discard, os.Stdin)
	return err
}

// orphan leaves a child behind that nobody waits for.
func orphan([]string) error {
	cmd := exec.Command("/proc/self/exe", "sleep", "1h")
	if err := cmd.Start(); err != nil {
		return err
	}
	fmt.Println("left", cmd.Process.Pid)
	return nil
}
