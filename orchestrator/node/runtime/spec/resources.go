//go:build linux

package spec

import (
	"fmt"
	"strconv"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// ownOOMScore is the oom_score_adj of this process.
func ownOOMScore() int {
	n, _ := strconv.Atoi(contents("/proc/self/oom_score_adj"))
	return n
}

// resources sets limits and the score for the out-of-memory killer.
func resources(c *Container, r *Result) error {
	wanted := c.Config.GetLinux().GetResources()
	limits, err := Resources(wanted, c.Host)
	if err != nil {
		return err
	}
	limits.Devices = r.Spec.Linux.Resources.Devices
	r.Spec.Linux.Resources = limits
	score := int(wanted.GetOomScoreAdj())
	if score < c.Host.LowestOOM {
		r.Warnings = append(r.Warnings, fmt.Sprintf("oom_score_adj %d cannot be set without CAP_SYS_RESOURCE, it is %d", score, c.Host.LowestOOM))
		score = c.Host.LowestOOM
	}
	r.Spec.Process.OOMScoreAdj = &score
	return nil
}

// Resources are limits in OCI's terms. What is 0 is not limited.
func Resources(r *runtimeapi.LinuxContainerResources, host Host) (*specs.LinuxResources, error) {
	out := &specs.LinuxResources{}
	cpu := &specs.LinuxCPU{Cpus: r.GetCpusetCpus(), Mems: r.GetCpusetMems()}
	if v := r.GetCpuShares(); v > 0 {
		n := uint64(v)
		cpu.Shares = &n
	}
	if v := r.GetCpuQuota(); v != 0 {
		cpu.Quota = &v
	}
	if v := r.GetCpuPeriod(); v > 0 {
		n := uint64(v)
		cpu.Period = &n
	}
	if *cpu != (specs.LinuxCPU{}) {
		out.CPU = cpu
	}
	if v := r.GetMemoryLimitInBytes(); v > 0 {
		out.Memory = &specs.LinuxMemory{Limit: &v}
		if host.Swap {
			swap := v
			if s := r.GetMemorySwapLimitInBytes(); s != 0 {
				swap = s
			}
			out.Memory.Swap = &swap
		}
	}
	for _, h := range r.GetHugepageLimits() {
		if !host.HugeTLB {
			if h.Limit == 0 {
				continue
			}
			return nil, fmt.Errorf("spec: a limit of huge pages (%s) is asked for, and this machine cannot limit them", h.PageSize)
		}
		out.HugepageLimits = append(out.HugepageLimits, specs.LinuxHugepageLimit{Pagesize: h.PageSize, Limit: h.Limit})
	}
	if len(r.GetUnified()) > 0 {
		if !host.CgroupV2 {
			return nil, fmt.Errorf("spec: settings of cgroup v2 are asked for, and this machine has cgroup v1")
		}
		out.Unified = r.Unified
	}
	return out, nil
}
