//go:build linux

package main

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

func lifeTools() map[string]func([]string) error {
	return map[string]func([]string) error{
		"true":  func([]string) error { return nil },
		"false": func([]string) error { return status(1) },
		"exit":  exit,
		"echo":  func(args []string) error { fmt.Println(strings.Join(args, " ")); return nil },
		"sleep": sleep,
		"trap":  trap,
		"count": counter,
		"kill":  kill,
		"mem":   memory,
		"burn":  burn,
		"fill":  fill,
		"date":  func([]string) error { fmt.Println(time.Now().UnixNano()); return nil },
		"await": await,
	}
}

func exit(args []string) error {
	if len(args) == 0 {
		return nil
	}
	code, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	return status(code)
}

// span reads a duration: seconds without a unit, or as Go writes them.
func span(text string) (time.Duration, error) {
	if seconds, err := strconv.ParseFloat(text, 64); err == nil {
		return time.Duration(seconds * float64(time.Second)), nil
	}
	return time.ParseDuration(text)
}

// sleep sleeps for a while, or for ever, and ends at once with 0 when it is asked to.
func sleep(args []string) error {
	term := make(chan os.Signal, 1)
	signal.Notify(term, unix.SIGTERM)
	if len(args) == 0 || args[0] == "infinity" {
		<-term
		return nil
	}
	d, err := span(args[0])
	if err != nil {
		return err
	}
	select {
	case <-time.After(d):
	case <-term:
	}
	return nil
}

// trap prints "ready", then each signal that comes, such as "got SIGTERM". With an argument it ends with 0 that long after the
// first one; without, it does not end.
func trap(args []string) error {
	all := make(chan os.Signal, 8)
	signal.Notify(all, unix.SIGTERM, unix.SIGINT, unix.SIGHUP, unix.SIGUSR1, unix.SIGUSR2, unix.SIGQUIT)
	fmt.Println("ready")
	var end <-chan time.Time
	for {
		select {
		case s := <-all:
			fmt.Println("got", unix.SignalName(s.(unix.Signal)))
			if len(args) > 0 && end == nil {
				d, err := span(args[0])
				if err != nil {
					return err
				}
				end = time.After(d)
			}
		case <-end:
			fmt.Println("done")
			return nil
		}
	}
}

// counter prints 1, 2, 3 ..., one each interval, for ever.
func counter(args []string) error {
	if len(args) == 0 {
		return errors.New("want an interval")
	}
	d, err := span(args[0])
	if err != nil {
		return err
	}
	for n := 1; ; n++ {
		if _, err := fmt.Println(n); err != nil {
			return err
		}
		time.Sleep(d)
	}
}

// kill sends a signal, by number, to processes.
func kill(args []string) error {
	if len(args) < 2 {
		return errors.New("want -signal and processes")
	}
	sig, err := strconv.Atoi(strings.TrimPrefix(args[0], "-"))
	if err != nil {
		return err
	}
	for _, a := range args[1:] {
		pid, err := strconv.Atoi(a)
		if err != nil {
			return err
		}
		if err := unix.Kill(pid, unix.Signal(sig)); err != nil {
			return err
		}
	}
	return nil
}

// memory takes so many MiB, touches each page, says so, and holds them until it is asked to end.
func memory(args []string) error {
	if len(args) == 0 {
		return errors.New("want a number of MiB")
	}
	mib, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	held := make([][]byte, 0, mib)
	for range mib {
		b := make([]byte, 1<<20)
		for i := 0; i < len(b); i += 4096 {
			b[i] = 1
		}
		held = append(held, b)
	}
	fmt.Println("holding", len(held))
	return sleep(nil)
}

// burn uses one processor for a while.
func burn(args []string) error {
	if len(args) == 0 {
		return errors.New("want a duration")
	}
	d, err := span(args[0])
	if err != nil {
		return err
	}
	for end := time.Now().Add(d); time.Now().Before(end); {
		for range 1 << 16 {
		}
	}
	return nil
}

// fill writes so many MiB into a file.
func fill(args []string) error {
	if len(args) < 2 {
		return errors.New("want a file and a number of MiB")
	}
	mib, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	f, err := os.Create(args[0])
	if err != nil {
		return err
	}
	for b := make([]byte, 1<<20); mib > 0 && err == nil; mib-- {
		_, err = f.Write(b)
	}
	return errors.Join(err, f.Close())
}

// await ends when a file is there.
func await(args []string) error {
	for _, path := range args {
		for {
			if _, err := os.Lstat(path); err == nil {
				break
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
	return nil
}
