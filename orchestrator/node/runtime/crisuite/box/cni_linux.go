package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// cni is what box does when it is called as a network plugin, for runtimes that want one: it takes the loopback of a namespace
// up and says that there is an address, which is the process's number.
func cni() error {
	var conf struct {
		CNIVersion string `json:"cniVersion"`
	}
	data, err := io.ReadAll(os.Stdin)
	if err == nil {
		err = json.Unmarshal(data, &conf)
	}
	if err != nil {
		return err
	}
	switch os.Getenv("CNI_COMMAND") {
	case "VERSION":
		return json.NewEncoder(os.Stdout).Encode(map[string]any{"cniVersion": "1.1.0", "supportedVersions": []string{"0.3.1", "0.4.0", "1.0.0", "1.1.0"}})
	case "ADD":
	default:
		return nil
	}
	netns, name := os.Getenv("CNI_NETNS"), os.Getenv("CNI_IFNAME")
	if err := loopbackUp(netns); err != nil {
		return err
	}
	address := fmt.Sprintf("10.98.%d.%d/16", os.Getpid()>>8&255, os.Getpid()&255)
	return json.NewEncoder(os.Stdout).Encode(map[string]any{
		"cniVersion": conf.CNIVersion, "interfaces": []any{map[string]any{"name": name, "sandbox": netns}},
		"ips": []any{map[string]any{"address": address, "interface": 0}},
	})
}

// loopbackUp takes up the first link of a network namespace.
func loopbackUp(netns string) error {
	runtime.LockOSThread() // the process ends soon
	f, err := os.Open(netns)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	if err := unix.Setns(int(f.Fd()), unix.CLONE_NEWNET); err != nil {
		return err
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	lo.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	return errors.Join(unix.IoctlIfreq(fd, syscall.SIOCSIFFLAGS, lo), unix.Close(fd))
}
