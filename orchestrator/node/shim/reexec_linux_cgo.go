//go:build linux && cgo

package shim

import (
	"encoding/json"
	"fmt"
	"os"
	"runtime"

	"github.com/opencontainers/runc/libcontainer"
	_ "github.com/opencontainers/runc/libcontainer/nsenter" // joins namespaces before Go starts
	"github.com/opencontainers/runc/libcontainer/seccomp"

	"github.com/keelson-io/keelson/orchestrator/node/shim/keeper"
)

// Available tells why this build cannot run containers; nil if it can.
func Available() error { return nil }

// Seccomp tells whether this build can apply seccomp profiles.
func Seccomp() bool { return seccomp.Enabled }

// The main thread is kept for the main goroutine until Reexec knows what this process is.
func init() { runtime.LockOSThread() }

// Reexec is called first in main, and in TestMain: if this process was started to be a shim, or by libcontainer to become a
// container, it does that and does not return. Otherwise it returns false.
func Reexec() bool {
	if len(os.Args) == 2 && os.Args[1] == "init" && os.Getenv("_LIBCONTAINER_INITPIPE") != "" {
		libcontainer.Init() // does not return
	}
	config, ok := os.LookupEnv(roleEnv)
	if !ok {
		runtime.UnlockOSThread()
		return false
	}
	_ = os.Unsetenv(roleEnv)
	var r role
	ready := os.NewFile(readyFD, "ready")
	err := json.Unmarshal([]byte(config), &r)
	if err == nil {
		err = keeper.Run(keeper.Config(r), ready)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
	return true
}
