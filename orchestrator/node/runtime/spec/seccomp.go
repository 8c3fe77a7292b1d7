//go:build linux

package spec

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// seccomp is the filter of a container, nil for none.
func seccomp(c *Container, capabilities []string) (*specs.LinuxSeccomp, error) {
	sc := c.Config.GetLinux().GetSecurityContext()
	profile := sc.GetSeccomp()
	if profile == nil {
		profile = legacyProfile(sc.GetSeccompProfilePath()) //nolint:staticcheck // older agents say it so
	}
	if profile == nil || profile.ProfileType == runtimeapi.SecurityProfile_Unconfined {
		return nil, nil
	}
	if !c.Host.Seccomp {
		return nil, errors.New("spec: a seccomp profile is asked for, and this program was built without seccomp (it needs cgo and the build tag seccomp)")
	}
	if profile.ProfileType == runtimeapi.SecurityProfile_RuntimeDefault {
		return DefaultSeccomp(capabilities), nil
	}
	return loadProfile(c.Host.SeccompDir, profile.LocalhostRef)
}

// legacyProfile reads the field that Seccomp replaced.
func legacyProfile(path string) *runtimeapi.SecurityProfile {
	switch {
	case path == "runtime/default" || path == "docker/default":
		return &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault}
	case strings.HasPrefix(path, "localhost/"):
		return &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Localhost, LocalhostRef: strings.TrimPrefix(path, "localhost/")}
	}
	return nil
}

// loadProfile reads a profile of the node.
func loadProfile(dir, ref string) (*specs.LinuxSeccomp, error) {
	if ref == "" {
		return nil, errors.New("spec: a seccomp profile of the node is asked for without its name")
	}
	path := ref
	if !filepath.IsAbs(path) {
		path = filepath.Join(dir, filepath.Join("/", ref))
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("spec: seccomp profile %s: %w", ref, err)
	}
	return ParseSeccomp(data)
}

// ParseSeccomp reads a profile: OCI's filter as JSON.
func ParseSeccomp(data []byte) (*specs.LinuxSeccomp, error) {
	var filter specs.LinuxSeccomp
	if err := json.Unmarshal(data, &filter); err != nil {
		return nil, fmt.Errorf("spec: seccomp profile: %w", err)
	}
	if filter.DefaultAction == "" {
		return nil, errors.New("spec: seccomp profile: it has no default action")
	}
	return &filter, nil
}

// DefaultSeccomp is the filter that RuntimeDefault stands for, for a process with the given capabilities: what is not listed
// fails with EPERM, and what is newer than the list is told not to exist, so that C libraries fall back.
func DefaultSeccomp(capabilities []string) *specs.LinuxSeccomp {
	eperm, enosys := uint(unix.EPERM), uint(unix.ENOSYS)
	filter := &specs.LinuxSeccomp{DefaultAction: specs.ActErrno, DefaultErrnoRet: &eperm, Architectures: architectures()}
	allow := func(names []string, args ...specs.LinuxSeccompArg) {
		filter.Syscalls = append(filter.Syscalls, specs.LinuxSyscall{Names: names, Action: specs.ActAllow, Args: args})
	}
	for _, family := range always {
		allow(strings.Fields(family.calls))
	}
	if native, ok := perArch[runtime.GOARCH]; ok {
		allow(strings.Fields(native))
	}
	for _, p := range []uint64{0x0, 0x0008, 0x20000, 0x20008, 0xffffffff} { // Linux, with UNAME26 or as 32 bit; the question
		allow([]string{"personality"}, specs.LinuxSeccompArg{Index: 0, Value: p, Op: specs.OpEqualTo})
	}
	// Sockets of every family but AF_VSOCK, which leads to the hypervisor, and AF_ALG, which leads to the kernel's cryptography.
	for _, r := range []specs.LinuxSeccompArg{
		{Index: 0, Value: unix.AF_ALG, Op: specs.OpLessThan},
		{Index: 0, Value: unix.AF_NFC, Op: specs.OpEqualTo},
		{Index: 0, Value: unix.AF_VSOCK, Op: specs.OpGreaterThan},
	} {
		allow([]string{"socket"}, r)
	}
	admin := slices.Contains(capabilities, "CAP_SYS_ADMIN")
	if !admin {
		allow([]string{"clone"}, specs.LinuxSeccompArg{Index: cloneFlags(), Value: newNamespaces, Op: specs.OpMaskedEqual})
		filter.Syscalls = append(filter.Syscalls, specs.LinuxSyscall{Names: []string{"clone3"}, Action: specs.ActErrno, ErrnoRet: &enosys})
	}
	for _, g := range withCapability {
		if slices.Contains(capabilities, g.capability) {
			allow(strings.Fields(g.calls))
		}
	}
	return filter
}

// newNamespaces are the flags of clone that make namespaces.
const newNamespaces = unix.CLONE_NEWNS | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWUSER | unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWCGROUP

// cloneFlags is the place of the flags among clone's arguments.
func cloneFlags() uint {
	if runtime.GOARCH == "s390x" {
		return 1
	}
	return 0
}

// architectures are those whose calls a machine understands.
func architectures() []specs.Arch {
	switch runtime.GOARCH {
	case "amd64":
		return []specs.Arch{specs.ArchX86_64, specs.ArchX86, specs.ArchX32}
	case "arm64":
		return []specs.Arch{specs.ArchAARCH64, specs.ArchARM}
	}
	return nil
}
