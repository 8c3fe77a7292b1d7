//go:build linux

package crisuite

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/keelson-io/keelson/orchestrator/node/runtime/crisuite/facts"
)

var processCases = map[string]func(*testing.T, *suite){
	"process-command":     processCommand,
	"process-environment": processEnvironment,
	"process-directory":   processDirectory,
	"process-users":       processUsers,
	"process-orphans":     processOrphans,
	"process-target":      processTarget,
}

func (s *suite) image(name string) edit {
	return func(c *runtimeapi.ContainerConfig) { c.Image.Image = s.ref(name) }
}

func processCommand(t *testing.T, s *suite) {
	p := s.pod(t)
	for name, c := range map[string]struct {
		command, args []string
		want          string
	}{
		"the image's":           {nil, nil, "from the image\n"},
		"arguments":             {nil, []string{"out", "x"}, "x\n"},
		"command":               {[]string{"/box", "out", "y"}, nil, "y\n"},
		"command and arguments": {[]string{"/box"}, []string{"out", "z"}, "z\n"},
	} {
		got, _ := s.run(t, p, []string{"out"}, func(config *runtimeapi.ContainerConfig) { config.Command, config.Args = c.command, c.args })
		equal(t, name, got, c.want)
	}
	_, st := s.run(t, p, []string{"exit", "42"})
	equal(t, "exit code", st.ExitCode, 42)
	equal(t, "reason", st.Reason, "Error")
	// A name without a path is looked for in PATH, which the config may set.
	got, _ := s.run(t, p, nil, func(c *runtimeapi.ContainerConfig) {
		c.Command, c.Envs = []string{"box", "out", "found"}, []*runtimeapi.KeyValue{{Key: "PATH", Value: []byte("/none:/")}}
	})
	equal(t, "by PATH", got, "found\n")
}

func processEnvironment(t *testing.T, s *suite) {
	p := s.pod(t)
	f := s.facts(t, p, func(c *runtimeapi.ContainerConfig) {
		c.Envs = []*runtimeapi.KeyValue{{Key: "FROM", Value: []byte("config")}, {Key: "EMPTY"}, {Key: "SPACES", Value: []byte("a = b\nc")}}
	})
	equal(t, "FROM", f.Getenv("FROM"), "config")
	equal(t, "KEPT", f.Getenv("KEPT"), "image")
	equal(t, "SPACES", f.Getenv("SPACES"), "a = b\nc")
	if !slices.Contains(f.Env, "EMPTY=") {
		t.Errorf("EMPTY is not in %q", f.Env)
	}
	if !strings.Contains(f.Getenv("PATH"), "/usr/bin") {
		t.Errorf("PATH is %q", f.Getenv("PATH"))
	}
	equal(t, "PATH of the image", s.facts(t, p, s.image("named"), pauseless).Getenv("PATH"), "/nowhere")
}

// pauseless keeps the arguments of a test over those of an image.
func pauseless(c *runtimeapi.ContainerConfig) { c.Command = []string{"/box"} }

func processDirectory(t *testing.T, s *suite) {
	p := s.pod(t)
	equal(t, "none", s.facts(t, p).Cwd, "/")
	equal(t, "the image's", s.facts(t, p, s.image("named")).Cwd, "/made/by/runtime")
	equal(t, "the config's", s.facts(t, p, s.image("named"), func(c *runtimeapi.ContainerConfig) { c.WorkingDir = "/also/made" }).Cwd, "/also/made")
}

func processUsers(t *testing.T, s *suite) {
	p := s.pod(t)
	number := func(n int64) *runtimeapi.Int64Value { return &runtimeapi.Int64Value{Value: n} }
	strict := runtimeapi.SupplementalGroupsPolicy_Strict
	for name, c := range map[string]struct {
		image  string
		edit   func(*runtimeapi.LinuxContainerSecurityContext)
		want   string
		groups []int
	}{
		"nothing said":      {"box", func(*runtimeapi.LinuxContainerSecurityContext) {}, "0:0", []int{0}},
		"image by name":     {"named", func(*runtimeapi.LinuxContainerSecurityContext) {}, "1001:1002", []int{1002, 50000}},
		"image by number":   {"numbered", func(*runtimeapi.LinuxContainerSecurityContext) {}, "1234:2345", []int{2345}},
		"by number, listed": {"box", func(c *runtimeapi.LinuxContainerSecurityContext) { c.RunAsUser = number(1003) }, "1003:1003", []int{1003, 50000, 50001}},
		"by number, not":    {"box", func(c *runtimeapi.LinuxContainerSecurityContext) { c.RunAsUser = number(4000) }, "4000:0", []int{0}},
		"over the image":    {"named", func(c *runtimeapi.LinuxContainerSecurityContext) { c.RunAsUser = number(0) }, "0:0", []int{0}},
		"with a group": {"box", func(c *runtimeapi.LinuxContainerSecurityContext) {
			c.RunAsUser, c.RunAsGroup = number(1001), number(77)
		}, "1001:77", []int{77, 50000}},
		"by name":     {"box", func(c *runtimeapi.LinuxContainerSecurityContext) { c.RunAsUsername = "bob" }, "1003:1003", []int{1003, 50000, 50001}},
		"more groups": {"named", func(c *runtimeapi.LinuxContainerSecurityContext) { c.SupplementalGroups = []int64{5, 6} }, "1001:1002", []int{1002, 50000, 5, 6}},
		"strict": {"named", func(c *runtimeapi.LinuxContainerSecurityContext) {
			c.SupplementalGroups, c.SupplementalGroupsPolicy = []int64{5, 6}, strict
		}, "1001:1002", []int{1002, 5, 6}},
	} {
		id := s.start(t, p, []string{"pause"}, s.image(c.image), func(config *runtimeapi.ContainerConfig) { c.edit(sc(config)) })
		f := s.factsOf(t, id)
		slices.Sort(f.Groups)
		slices.Sort(c.groups)
		equal(t, name, fmt.Sprintf("%d:%d", f.UID, f.GID), c.want)
		equal(t, name+": groups", fmt.Sprint(f.Groups), fmt.Sprint(c.groups))
		u := s.status(t, id).User.GetLinux()
		equal(t, name+": status", fmt.Sprintf("%d:%d", u.GetUid(), u.GetGid()), c.want)
	}
}

// factsOf are those that a command run in a container finds out.
func (s *suite) factsOf(t testing.TB, id string) *facts.Facts {
	t.Helper()
	return parseFacts(t, s.exec(t, id, "facts").Stdout)
}

// processOrphans: what a container's processes leave behind ends with the container.
func processOrphans(t *testing.T, s *suite) {
	p := s.pod(t, func(c *runtimeapi.PodSandboxConfig) {
		c.Linux.SecurityContext.NamespaceOptions.Pid = runtimeapi.NamespaceMode_POD
	})
	pid := func(c *runtimeapi.ContainerConfig) { sc(c).NamespaceOptions.Pid = runtimeapi.NamespaceMode_POD }
	watch := s.start(t, p, []string{"pause"}, pid)
	id := s.start(t, p, []string{"orphan"}, pid)
	s.wait(t, id)
	eventually(t, "the orphan is gone", func() bool {
		return !strings.Contains(strings.Join(s.factsOf(t, watch).Processes, "\n"), "sleep 1h")
	})
}

// processTarget: a container that looks into another, as those for debugging do.
func processTarget(t *testing.T, s *suite) {
	p := s.pod(t)
	target := s.start(t, p, []string{"sleep", "2h"})
	f := s.facts(t, p, func(c *runtimeapi.ContainerConfig) {
		sc(c).NamespaceOptions = &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_TARGET, TargetId: target}
	})
	equal(t, "pid namespace", f.Namespaces["pid"], s.factsOf(t, target).Namespaces["pid"])
	if !slices.Contains(f.Processes, "/box sleep 2h") {
		t.Errorf("processes are %q", f.Processes)
	}
	if _, err := s.create(t, p, s.config([]string{"pause"}, func(c *runtimeapi.ContainerConfig) {
		sc(c).NamespaceOptions = &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_TARGET, TargetId: "none"}
	})); err == nil {
		t.Error("a target that is none was taken")
	}
}
