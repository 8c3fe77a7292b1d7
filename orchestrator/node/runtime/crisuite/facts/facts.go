// Package facts is what a process finds out about the container that it is in.
//
// # Concurrency
//
// Gather reads files of the kernel and may be called from any goroutine.
package facts

import (
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Facts are seen from inside.
type Facts struct {
	Pid        int
	UID, GID   int
	Groups     []int
	Cwd        string
	Args       []string
	Env        []string
	Hostname   string
	Status     map[string]string // /proc/self/status
	Namespaces map[string]string // net -> net:[4026531840]
	Mounts     []Mount
	OOMScore   int
	Devices    []string // names in /dev
	Links      []string // network interfaces
	Processes  []string // command lines that can be seen
	Cgroups    string   // /proc/self/cgroup
}

// Mount is a line of /proc/self/mountinfo.
type Mount struct {
	Path, Type, Source, Options, Super string
	Optional                           string // propagation
}

// Gather looks around.
func Gather() Facts {
	f := Facts{
		Pid: os.Getpid(), UID: os.Getuid(), GID: os.Getgid(), Args: os.Args, Env: os.Environ(), Status: map[string]string{},
		Namespaces: map[string]string{}, Mounts: mounts(read("/proc/self/mountinfo")), Cgroups: read("/proc/self/cgroup"),
	}
	f.Groups, _ = os.Getgroups()
	f.Cwd, _ = os.Getwd()
	f.Hostname, _ = os.Hostname()
	for line := range strings.Lines(read("/proc/self/status")) {
		key, value, _ := strings.Cut(line, ":")
		f.Status[key] = strings.TrimSpace(value)
	}
	for _, ns := range []string{"net", "ipc", "uts", "pid", "user", "mnt", "cgroup"} {
		f.Namespaces[ns], _ = os.Readlink("/proc/self/ns/" + ns)
	}
	f.OOMScore, _ = strconv.Atoi(strings.TrimSpace(read("/proc/self/oom_score_adj")))
	entries, _ := os.ReadDir("/dev")
	for _, e := range entries {
		f.Devices = append(f.Devices, e.Name())
	}
	links, _ := net.Interfaces()
	for _, l := range links {
		f.Links = append(f.Links, l.Name)
	}
	commands, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, c := range commands {
		if line := read(c); line != "" {
			f.Processes = append(f.Processes, strings.TrimSpace(strings.ReplaceAll(line, "\x00", " ")))
		}
	}
	return f
}

func read(path string) string {
	data, _ := os.ReadFile(path)
	return string(data)
}

// mounts reads a mountinfo: "id parent dev root path options optional... - type source super".
func mounts(text string) (all []Mount) {
	for line := range strings.Lines(text) {
		left, right, _ := strings.Cut(strings.TrimSpace(line), " - ")
		l, r := strings.Fields(left), strings.Fields(right)
		if len(l) < 6 || len(r) < 3 {
			continue
		}
		all = append(all, Mount{Path: l[4], Options: l[5], Optional: strings.Join(l[6:], " "), Type: r[0], Source: r[1], Super: r[2]})
	}
	return all
}

// Mount finds the last mount at a path.
func (f *Facts) Mount(path string) (m Mount, ok bool) {
	for _, each := range f.Mounts {
		if each.Path == path {
			m, ok = each, true
		}
	}
	return m, ok
}

// Has tells whether a mount has an option.
func (m Mount) Has(option string) bool {
	for o := range strings.SplitSeq(m.Options, ",") {
		if o == option {
			return true
		}
	}
	return false
}

// Getenv is a variable of the environment, "" if it is not there.
func (f *Facts) Getenv(name string) string {
	for _, kv := range f.Env {
		if v, ok := strings.CutPrefix(kv, name+"="); ok {
			return v
		}
	}
	return ""
}
