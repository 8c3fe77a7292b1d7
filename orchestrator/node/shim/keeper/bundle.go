//go:build linux && cgo

package keeper

import (
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/opencontainers/cgroups"
	_ "github.com/opencontainers/cgroups/devices" // without it a manager cannot set device rules
	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runc/libcontainer/seccomp"
	"github.com/opencontainers/runc/libcontainer/specconv"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/keelson-io/keelson/orchestrator/node/shim/wire"
)

// bundle is a config.json, made fit for this process.
type bundle struct {
	dir  string
	spec specs.Spec
}

// load reads the bundle of a container.
func load(req *wire.Container) (*bundle, error) {
	dir, err := filepath.Abs(req.Bundle)
	if err != nil {
		return nil, err
	}
	data, err := os.ReadFile(filepath.Join(dir, "config.json"))
	if err != nil {
		return nil, err
	}
	b := &bundle{dir: dir}
	if err := json.Unmarshal(data, &b.spec); err != nil {
		return nil, fmt.Errorf("%s/config.json: %w", dir, err)
	}
	spec := &b.spec
	switch {
	case spec.Root == nil || spec.Root.Path == "":
		return nil, errors.New("the config names no root")
	case spec.Process == nil || len(spec.Process.Args) == 0:
		return nil, errors.New("the config names no process")
	case spec.Linux == nil:
		return nil, errors.New("the config has no Linux part")
	case spec.Linux.Seccomp != nil && !seccomp.Enabled:
		return nil, errors.New("the container asks for a seccomp profile, and this build has no libseccomp (build tag seccomp)")
	}
	// libcontainer takes relative paths from the working folder, which is not the bundle's.
	b.absolute(&spec.Root.Path)
	for i := range spec.Mounts {
		if m := &spec.Mounts[i]; m.Source != "" && isBind(m) {
			b.absolute(&m.Source)
		}
	}
	if spec.Process.Cwd == "" {
		spec.Process.Cwd = "/"
	}
	spec.Process.Terminal = req.Terminal
	return b, permit(spec.Process)
}

func (b *bundle) absolute(path *string) {
	if !filepath.IsAbs(*path) {
		*path = filepath.Join(b.dir, *path)
	}
}

func isBind(m *specs.Mount) bool {
	for _, o := range m.Options {
		if o == "bind" || o == "rbind" {
			return true
		}
	}
	return false
}

// config makes libcontainer's configuration.
func (b *bundle) config(req *wire.Container) (*configs.Config, error) {
	config, err := specconv.CreateLibcontainerConfig(&specconv.CreateOpts{
		CgroupName: req.ID, UseSystemdCgroup: req.SystemdCgroup, Spec: &b.spec,
	})
	if err != nil {
		return nil, err
	}
	for i, label := range config.Labels {
		if strings.HasPrefix(label, "bundle=") && i == len(config.Labels)-1 {
			config.Labels[i] = "bundle=" + b.dir
		}
	}
	return config, nil
}

// Numbers of capabilities.
const capSysResource = 24

// permit takes back what this process is not allowed to give: an OOM score below its own, and limits above its own. A
// container runs with less rather than not at all.
func permit(p *specs.Process) error {
	if capable(capSysResource) {
		return nil
	}
	if p.OOMScoreAdj != nil {
		data, err := os.ReadFile("/proc/self/oom_score_adj")
		if err != nil {
			return err
		}
		own, err := strconv.Atoi(strings.TrimSpace(string(data)))
		if err != nil {
			return err
		}
		if *p.OOMScoreAdj < own {
			log.Printf("an OOM score of %d needs CAP_SYS_RESOURCE: it is %d", *p.OOMScoreAdj, own)
			p.OOMScoreAdj = &own
		}
	}
	for i := range p.Rlimits {
		l := &p.Rlimits[i]
		kind, ok := rlimits[l.Type]
		if !ok {
			continue // is refused later
		}
		var own unix.Rlimit
		if err := unix.Getrlimit(kind, &own); err != nil {
			return err
		}
		if l.Hard > own.Max {
			log.Printf("a limit %s of %d needs CAP_SYS_RESOURCE: it is %d", l.Type, l.Hard, own.Max)
			l.Hard = own.Max
			l.Soft = min(l.Soft, l.Hard)
		}
	}
	return nil
}

var rlimits = map[string]int{
	"RLIMIT_AS": unix.RLIMIT_AS, "RLIMIT_CORE": unix.RLIMIT_CORE, "RLIMIT_CPU": unix.RLIMIT_CPU, "RLIMIT_DATA": unix.RLIMIT_DATA,
	"RLIMIT_FSIZE": unix.RLIMIT_FSIZE, "RLIMIT_LOCKS": unix.RLIMIT_LOCKS, "RLIMIT_MEMLOCK": unix.RLIMIT_MEMLOCK,
	"RLIMIT_MSGQUEUE": unix.RLIMIT_MSGQUEUE, "RLIMIT_NICE": unix.RLIMIT_NICE, "RLIMIT_NOFILE": unix.RLIMIT_NOFILE,
	"RLIMIT_NPROC": unix.RLIMIT_NPROC, "RLIMIT_RSS": unix.RLIMIT_RSS, "RLIMIT_RTPRIO": unix.RLIMIT_RTPRIO,
	"RLIMIT_RTTIME": unix.RLIMIT_RTTIME, "RLIMIT_SIGPENDING": unix.RLIMIT_SIGPENDING, "RLIMIT_STACK": unix.RLIMIT_STACK,
}

// newProcess makes libcontainer's process.
func newProcess(p *specs.Process) (*libcontainer.Process, error) {
	process := &libcontainer.Process{
		Args: p.Args, Env: p.Env, Cwd: p.Cwd,
		UID: int(p.User.UID), GID: int(p.User.GID),
		Label: p.SelinuxLabel, AppArmorProfile: p.ApparmorProfile, NoNewPrivileges: &p.NoNewPrivileges,
		Scheduler: p.Scheduler, IOPriority: p.IOPriority,
		LogLevel: logLevel,
	}
	for _, gid := range p.User.AdditionalGids {
		process.AdditionalGroups = append(process.AdditionalGroups, int(gid))
	}
	if c := p.Capabilities; c != nil {
		process.Capabilities = &configs.Capabilities{
			Bounding: c.Bounding, Effective: c.Effective, Inheritable: c.Inheritable, Permitted: c.Permitted, Ambient: c.Ambient,
		}
	}
	for _, l := range p.Rlimits {
		kind, ok := rlimits[l.Type]
		if !ok {
			return nil, fmt.Errorf("there is no limit %q", l.Type)
		}
		process.Rlimits = append(process.Rlimits, configs.Rlimit{Type: kind, Hard: l.Hard, Soft: l.Soft})
	}
	if p.ConsoleSize != nil {
		process.ConsoleWidth, process.ConsoleHeight = uint16(p.ConsoleSize.Width), uint16(p.ConsoleSize.Height)
	}
	affinity, err := configs.ConvertCPUAffinity(p.ExecCPUAffinity)
	process.CPUAffinity = affinity
	return process, err
}

const logLevel = "3" // warnings

// updated is a cgroup's configuration with other resources. What r leaves out stays.
func updated(old *cgroups.Cgroup, r *specs.LinuxResources) (*cgroups.Cgroup, error) {
	group := *old
	res := *old.Resources
	group.Resources = &res
	res.SkipDevices = true // their rules have not changed
	if m := r.Memory; m != nil {
		set(&res.Memory, m.Limit)
		set(&res.MemoryReservation, m.Reservation)
		set(&res.MemorySwap, m.Swap)
		set(&res.MemoryCheckBeforeUpdate, m.CheckBeforeUpdate)
	}
	if c := r.CPU; c != nil {
		if c.Shares != nil {
			res.CpuShares, res.CpuWeight = *c.Shares, cgroups.ConvertCPUSharesToCgroupV2Value(*c.Shares)
		}
		set(&res.CpuQuota, c.Quota)
		set(&res.CpuPeriod, c.Period)
		set(&res.CpuRtRuntime, c.RealtimeRuntime)
		set(&res.CpuRtPeriod, c.RealtimePeriod)
		if c.Burst != nil {
			res.CpuBurst = c.Burst
		}
		if c.Idle != nil {
			res.CPUIdle = c.Idle
		}
		if c.Cpus != "" {
			res.CpusetCpus = c.Cpus
		}
		if c.Mems != "" {
			res.CpusetMems = c.Mems
		}
	}
	if r.Pids != nil && r.Pids.Limit != nil {
		res.PidsLimit = r.Pids.Limit
	}
	if b := r.BlockIO; b != nil && b.Weight != nil {
		res.BlkioWeight = *b.Weight
	}
	for _, h := range r.HugepageLimits {
		res.HugetlbLimit = append(res.HugetlbLimit[:len(res.HugetlbLimit):len(res.HugetlbLimit)], &cgroups.HugepageLimit{Pagesize: h.Pagesize, Limit: h.Limit})
	}
	if len(r.Unified) > 0 {
		merged := map[string]string{}
		for _, from := range []map[string]string{old.Resources.Unified, r.Unified} {
			for name, value := range from {
				merged[name] = value
			}
		}
		res.Unified = merged
	}
	return &group, nil
}

func set[T any](to, from *T) {
	if from != nil {
		*to = *from
	}
}
