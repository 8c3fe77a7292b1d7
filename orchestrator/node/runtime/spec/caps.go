//go:build linux

package spec

import (
	"fmt"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// defaultCapabilities are what root of a container has if nothing is said.
var defaultCapabilities = []string{
	"CAP_AUDIT_WRITE", "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_MKNOD",
	"CAP_NET_BIND_SERVICE", "CAP_NET_RAW", "CAP_SETFCAP", "CAP_SETGID", "CAP_SETPCAP", "CAP_SETUID", "CAP_SYS_CHROOT",
}

// all stands for every capability in the lists of a container.
const all = "CAP_ALL"

// capabilities are those of a container's first process.
func capabilities(sc *runtimeapi.LinuxContainerSecurityContext, host Host) (*specs.LinuxCapabilities, error) {
	set, ambient := slices.Clone(defaultCapabilities), []string{}
	have := func(name string) bool { return slices.Contains(host.Capabilities, name) }
	wanted := sc.GetCapabilities()
	add, drop, raise := canonical(wanted.GetAddCapabilities()), canonical(wanted.GetDropCapabilities()), canonical(wanted.GetAddAmbientCapabilities())
	if sc.GetPrivileged() {
		add, drop = []string{all}, nil
	}
	if slices.Contains(add, all) || slices.Contains(raise, all) {
		set = slices.Clone(host.Capabilities)
	}
	if slices.Contains(raise, all) {
		ambient = slices.Clone(host.Capabilities)
	}
	if slices.Contains(drop, all) {
		set, ambient = nil, nil
	}
	for _, name := range append(slices.Clone(add), raise...) {
		switch {
		case name == all || slices.Contains(set, name):
		case !slices.Contains(host.Known, name):
			return nil, fmt.Errorf("spec: capability %q is not known to this kernel", name)
		case !have(name):
			return nil, fmt.Errorf("spec: capability %q cannot be given: the runtime has not got it", name)
		default:
			set = append(set, name)
		}
		if name != all && slices.Contains(raise, name) && !slices.Contains(ambient, name) {
			ambient = append(ambient, name)
		}
	}
	dropped := func(name string) bool { return slices.Contains(drop, name) || !have(name) }
	set, ambient = slices.DeleteFunc(set, dropped), slices.DeleteFunc(ambient, dropped)
	slices.Sort(set)
	slices.Sort(ambient)
	return &specs.LinuxCapabilities{Bounding: set, Effective: set, Permitted: set, Inheritable: ambient, Ambient: ambient}, nil
}

// canonical writes names of capabilities as the kernel does: "sys_admin" is CAP_SYS_ADMIN.
func canonical(names []string) (out []string) {
	for _, name := range names {
		out = append(out, "CAP_"+strings.TrimPrefix(strings.ToUpper(name), "CAP_"))
	}
	return out
}
