// Command shimbox is what the containers of the tests run.
package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"
)

func main() {
	args := os.Args[2:]
	switch os.Args[1] {
	case "echo":
		fmt.Println(strings.Join(args, " "))
	case "exit":
		code, _ := strconv.Atoi(args[0])
		os.Exit(code)
	case "kill": // itself
		number, _ := strconv.Atoi(args[0])
		_ = syscall.Kill(os.Getpid(), syscall.Signal(number))
		select {}
	case "sleep":
		for {
			time.Sleep(time.Hour)
		}
	case "both": // streams in turn
		n, _ := strconv.Atoi(args[0])
		for i := range n {
			fmt.Printf("out %d\n", i)
			fmt.Fprintf(os.Stderr, "err %d\n", i)
		}
	case "tick": // one line at a time, until told to stop
		stop := make(chan os.Signal, 1)
		signal.Notify(stop, syscall.SIGTERM)
		for i := 0; ; i++ {
			fmt.Println("tick", i)
			select {
			case <-stop:
				return
			case <-time.After(200 * time.Microsecond):
			}
		}
	case "long":
		n, _ := strconv.Atoi(args[0])
		fmt.Print(strings.Repeat("x", n), args[1])
	case "cat":
		_, _ = io.Copy(os.Stdout, os.Stdin)
		fmt.Println("end")
	case "upper": // a line at a time
		for in := bufio.NewScanner(os.Stdin); in.Scan(); {
			fmt.Println(strings.ToUpper(in.Text()))
		}
	case "hang": // deaf to SIGTERM, with children that are too
		signal.Ignore(syscall.SIGTERM, syscall.SIGHUP)
		if n, _ := strconv.Atoi(args[0]); n > 0 {
			child := exec.Command("/shimbox", "hang", strconv.Itoa(n-1))
			child.Stdout, child.SysProcAttr = os.Stdout, &syscall.SysProcAttr{Setsid: true}
			if err := child.Start(); err != nil {
				fmt.Println(err)
			}
		}
		fmt.Println("hanging", args[0])
		for {
			time.Sleep(time.Hour)
		}
	case "orphans": // leaves children behind, which end later
		n, _ := strconv.Atoi(args[0])
		for range n {
			middle := exec.Command("/shimbox", "orphan")
			if err := middle.Run(); err != nil {
				fmt.Println(err)
			}
		}
		fmt.Println("left", n)
		time.Sleep(time.Hour)
	case "orphan":
		_ = exec.Command("/shimbox", "nap").Start()
	case "daemon": // leaves one behind that holds the output
		child := exec.Command("/shimbox", "sleep")
		child.Stdout, child.Stderr, child.SysProcAttr = os.Stdout, os.Stderr, &syscall.SysProcAttr{Setsid: true}
		if err := child.Start(); err != nil {
			fmt.Println(err)
		}
		fmt.Println("started")
	case "nap":
		time.Sleep(50 * time.Millisecond)
	case "zombies": // how many there are
		entries, _ := os.ReadDir("/proc")
		n := 0
		for _, e := range entries {
			if data, err := os.ReadFile("/proc/" + e.Name() + "/stat"); err == nil && bytes.Contains(data, []byte(") Z ")) {
				n++
			}
		}
		fmt.Println(n)
	case "alloc":
		mb, _ := strconv.Atoi(args[0])
		var held [][]byte
		for range mb {
			b := make([]byte, 1<<20)
			for i := 0; i < len(b); i += 4096 {
				b[i] = 1
			}
			held = append(held, b)
		}
		fmt.Println("held", len(held))
	case "facts":
		facts()
	case "tty":
		tty()
	default:
		fmt.Println("what is", os.Args[1], "?")
		os.Exit(99)
	}
}

func facts() {
	host, _ := os.Hostname()
	uid, _ := os.ReadFile("/proc/self/uid_map")
	fmt.Printf("pid=%d uid=%d host=%s cwd=%s env=%s uidmap=%s pid1=%s\n", os.Getpid(), os.Getuid(), host, cwd(), os.Getenv("FACT"),
		strings.Join(strings.Fields(string(uid)), ","), comm(1))
	for _, ns := range []string{"net", "ipc", "uts", "pid", "user", "mnt"} {
		link, _ := os.Readlink("/proc/self/ns/" + ns)
		fmt.Println(link)
	}
	for _, name := range []string{"net/ipv4/ip_unprivileged_port_start", "kernel/shm_rmid_forced"} {
		value, _ := os.ReadFile("/proc/sys/" + name)
		fmt.Printf("%s=%s\n", name, strings.TrimSpace(string(value)))
	}
}

func cwd() string {
	dir, _ := os.Getwd()
	return dir
}

func comm(pid int) string {
	data, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	return strings.TrimSpace(string(data))
}
