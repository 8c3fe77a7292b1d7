//go:build linux

package spec

import (
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Real-time signals as the C library numbers them, which keeps two for itself.
const (
	sigRTMin = 34
	sigRTMax = 64
)

// SignalNumber is the kernel's number of a signal; SIGTERM where the runtime chooses.
func SignalNumber(s runtimeapi.Signal) int {
	name := strings.TrimPrefix(s.String(), "SIGNAL_")
	offset := func(prefix string) (int, bool) {
		rest, ok := strings.CutPrefix(name, prefix)
		if !ok {
			return 0, false
		}
		n, err := strconv.Atoi(rest)
		return n, err == nil
	}
	if n, ok := offset("SIGRTMINPLUS"); ok {
		return sigRTMin + n
	}
	if n, ok := offset("SIGRTMAXMINUS"); ok {
		return sigRTMax - n
	}
	switch name {
	case "SIGRTMIN":
		return sigRTMin
	case "SIGRTMAX":
		return sigRTMax
	}
	if n := unix.SignalNum(name); n != 0 {
		return int(n)
	}
	return int(unix.SIGTERM)
}
