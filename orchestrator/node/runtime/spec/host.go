//go:build linux

package spec

import (
	"os"
	"slices"
	"strings"

	"github.com/moby/sys/capability"
	"github.com/opencontainers/cgroups"
)

// Host is what a machine can do for containers.
type Host struct {
	CgroupV2     bool
	Swap         bool // swap of containers can be limited
	HugeTLB      bool // huge pages of containers can be limited
	AppArmor     bool
	SELinux      bool
	Seccomp      bool     // the program was built with it
	Known        []string // capabilities of the kernel
	Capabilities []string // that may be handed out
	LowestOOM    int      // the lowest oom_score_adj that can be set
	SeccompDir   string   // for profiles with a relative path
}

// Probe looks what the machine can do. Seccomp and SeccompDir are left to the caller, who knows how containers are started.
func Probe() Host {
	h := Host{CgroupV2: cgroups.IsCgroup2UnifiedMode(), LowestOOM: -1000}
	h.AppArmor = strings.HasPrefix(contents("/sys/module/apparmor/parameters/enabled"), "Y")
	h.SELinux = exists("/sys/fs/selinux/enforce")
	h.Swap = h.CgroupV2 || exists("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes")
	h.HugeTLB = exists("/sys/fs/cgroup/hugetlb")
	if h.CgroupV2 {
		h.HugeTLB = slices.Contains(strings.Fields(contents("/sys/fs/cgroup/cgroup.controllers")), "hugetlb")
	}
	own, err := capability.NewPid2(0)
	if err == nil {
		err = own.Load()
	}
	known, _ := capability.ListSupported()
	for _, c := range known {
		name := "CAP_" + strings.ToUpper(c.String())
		h.Known = append(h.Known, name)
		if err == nil && own.Get(capability.PERMITTED, c) {
			h.Capabilities = append(h.Capabilities, name)
		}
	}
	if !slices.Contains(h.Capabilities, "CAP_SYS_RESOURCE") {
		h.LowestOOM = ownOOMScore()
	}
	return h
}

func exists(path string) bool { _, err := os.Stat(path); return err == nil }

// contents is a small file of the kernel without its last newline, "" if it cannot be read.
func contents(path string) string {
	data, _ := os.ReadFile(path)
	return strings.TrimSpace(string(data))
}
