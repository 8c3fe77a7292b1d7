//go:build linux

package crisuite

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/moby/sys/capability"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/keelson-io/keelson/orchestrator/node/runtime/crisuite/facts"
)

var securityCases = map[string]func(*testing.T, *suite){
	"security-capabilities": securityCapabilities,
	"security-privileged":   securityPrivileged,
	"security-readonly":     securityReadonly,
	"security-seccomp":      securitySeccomp,
	"security-paths":        securityPaths,
	"security-privileges":   securityNoNewPrivileges,
	"security-devices":      securityDevices,
	"security-cdi":          securityCDI,
	"security-oom":          securityOOM,
	"security-userns":       securityUserNS,
}

// caps lists the names in a set of /proc/self/status.
func caps(t testing.TB, f *facts.Facts, set string) (names []string) {
	t.Helper()
	bits, err := strconv.ParseUint(f.Status[set], 16, 64)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range capability.ListKnown() {
		if bits&(1<<uint(c)) != 0 {
			names = append(names, strings.ToUpper(c.String()))
		}
	}
	return names
}

func securityCapabilities(t *testing.T, s *suite) {
	p := s.pod(t)
	usual := strings.Fields("CHOWN DAC_OVERRIDE FOWNER FSETID KILL SETGID SETUID SETPCAP NET_BIND_SERVICE NET_RAW SYS_CHROOT MKNOD AUDIT_WRITE SETFCAP")
	with := func(c *runtimeapi.Capability, user int64) edit {
		return func(config *runtimeapi.ContainerConfig) {
			sc(config).Capabilities = c
			if user != 0 {
				sc(config).RunAsUser = &runtimeapi.Int64Value{Value: user}
			}
		}
	}
	for name, c := range map[string]struct {
		caps      *runtimeapi.Capability
		user      int64
		effective []string
		bounding  []string
		ambient   []string
	}{
		"usual":        {nil, 0, usual, usual, nil},
		"another user": {nil, 1001, nil, usual, nil},
		"added":        {&runtimeapi.Capability{AddCapabilities: []string{"NET_ADMIN"}}, 0, append(slices.Clone(usual), "NET_ADMIN"), append(slices.Clone(usual), "NET_ADMIN"), nil},
		"dropped":      {&runtimeapi.Capability{DropCapabilities: []string{"CHOWN"}}, 0, usual[1:], usual[1:], nil},
		"all dropped":  {&runtimeapi.Capability{DropCapabilities: []string{"ALL"}}, 0, nil, nil, nil},
		"all but one": {&runtimeapi.Capability{AddCapabilities: []string{"KILL"}, DropCapabilities: []string{"ALL"}}, 0,
			[]string{"KILL"}, []string{"KILL"}, nil},
		"ambient": {&runtimeapi.Capability{AddCapabilities: []string{"NET_BIND_SERVICE"}, AddAmbientCapabilities: []string{"NET_BIND_SERVICE"}, DropCapabilities: []string{"ALL"}}, 1001,
			[]string{"NET_BIND_SERVICE"}, []string{"NET_BIND_SERVICE"}, []string{"NET_BIND_SERVICE"}},
	} {
		if c.ambient != nil && !s.Complete {
			continue
		}
		f := s.facts(t, p, with(c.caps, c.user))
		for set, want := range map[string][]string{"CapEff": c.effective, "CapBnd": c.bounding, "CapAmb": c.ambient} {
			got := caps(t, f, set)
			slices.Sort(got)
			want = slices.Clone(want)
			slices.Sort(want)
			equal(t, name+": "+set, strings.Join(got, " "), strings.Join(want, " "))
		}
	}
	if _, err := s.create(t, p, s.config([]string{"pause"}, with(&runtimeapi.Capability{AddCapabilities: []string{"NONE_SUCH"}}, 0))); err == nil {
		t.Log("a capability that is none was taken") // containerd finds out when the container starts
	}
}

func securityPrivileged(t *testing.T, s *suite) {
	p := s.pod(t, func(c *runtimeapi.PodSandboxConfig) { c.Linux.SecurityContext.Privileged = true })
	f := s.facts(t, p, func(c *runtimeapi.ContainerConfig) {
		sc(c).Privileged, sc(c).MaskedPaths, sc(c).ReadonlyPaths = true, nil, nil
		sc(c).Seccomp = &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault}
	})
	own := facts.Gather()
	equal(t, "capabilities", strings.Join(caps(t, f, "CapEff"), " "), strings.Join(caps(t, &own, "CapEff"), " "))
	equal(t, "seccomp", f.Status["Seccomp"], "0")
	sys, _ := f.Mount("/sys")
	if !sys.Has("rw") {
		t.Errorf("/sys is %v", sys)
	}
	if _, masked := f.Mount("/proc/timer_list"); masked {
		t.Error("/proc/timer_list is masked")
	}
	if !slices.Contains(f.Devices, "loop-control") {
		t.Errorf("devices are %v", f.Devices)
	}
}

// tries tells which of the things that box tries work in a container.
func (s *suite) tries(t testing.TB, p *pod, what []string, edits ...edit) map[string]bool {
	t.Helper()
	id := s.start(t, p, append([]string{"try"}, what...), edits...)
	st := s.wait(t, id)
	works := map[string]bool{}
	eventually(t, "all was tried", func() bool {
		for l := range strings.Lines(output(t, st.LogPath, "stdout")) {
			name, rest, _ := strings.Cut(l, " ")
			works[name] = strings.HasPrefix(rest, "true")
		}
		return len(works) == len(what)
	})
	return works
}

func securityReadonly(t *testing.T, s *suite) {
	p := s.pod(t)
	dir := tempDir(t)
	got := s.tries(t, p, []string{"root"}, func(c *runtimeapi.ContainerConfig) { sc(c).ReadonlyRootfs = true })
	equal(t, "writing to a read-only root", got["root"], false)
	got = s.tries(t, p, []string{"root"})
	equal(t, "writing to the root", got["root"], true)
	_, st := s.run(t, p, []string{"write", "/x/file", "y"}, func(c *runtimeapi.ContainerConfig) {
		sc(c).ReadonlyRootfs = true
		c.Mounts = []*runtimeapi.Mount{{HostPath: dir, ContainerPath: "/x"}}
	})
	equal(t, "writing to a mount in a read-only root", st.ExitCode, 0)
}

func securitySeccomp(t *testing.T, s *suite) {
	p := s.pod(t)
	profile := filepath.Join(tempDir(t), "profile.json")
	if err := os.WriteFile(profile, []byte(`{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["sethostname","fchown","fchownat","chown"],"action":"SCMP_ACT_ERRNO"}]}`), 0o644); err != nil {
		t.Fatal(err)
	}
	admin := &runtimeapi.Capability{AddCapabilities: []string{"SYS_ADMIN"}}
	for name, c := range map[string]struct {
		profile *runtimeapi.SecurityProfile
		caps    *runtimeapi.Capability
		mode    string
		works   map[string]bool
	}{
		"none":            {nil, nil, "0", map[string]bool{"unshare": true, "keyctl": true, "chown": true, "raw": true}},
		"unconfined":      {&runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Unconfined}, nil, "0", map[string]bool{"unshare": true, "chown": true}},
		"default":         {&runtimeapi.SecurityProfile{}, nil, "2", map[string]bool{"unshare": false, "keyctl": false, "mount": false, "chown": true, "raw": true, "port": true}},
		"default, admin":  {&runtimeapi.SecurityProfile{}, admin, "2", map[string]bool{"mount": true, "hostname": true, "keyctl": false}},
		"of the node":     {&runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Localhost, LocalhostRef: profile}, admin, "2", map[string]bool{"hostname": false, "chown": false, "mount": true}},
		"admin, no guard": {nil, admin, "0", map[string]bool{"hostname": true, "chown": true, "mount": true}},
	} {
		edit := func(config *runtimeapi.ContainerConfig) {
			sc(config).Seccomp, sc(config).Capabilities = c.profile, c.caps
		}
		equal(t, name+": mode", s.facts(t, p, edit).Status["Seccomp"], c.mode)
		var what []string
		for w := range c.works {
			what = append(what, w)
		}
		for w, works := range s.tries(t, p, what, edit) {
			equal(t, name+": "+w, works, c.works[w])
		}
	}
	_, err := s.create(t, p, s.config([]string{"pause"}, func(c *runtimeapi.ContainerConfig) {
		sc(c).Seccomp = &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Localhost, LocalhostRef: "/none/such.json"}
	}))
	if err == nil || !strings.Contains(err.Error(), "such.json") {
		t.Errorf("a profile that is not there: %v", err)
	}
}

func securityPaths(t *testing.T, s *suite) {
	p := s.pod(t)
	f := s.facts(t, p, func(c *runtimeapi.ContainerConfig) {
		sc(c).MaskedPaths, sc(c).ReadonlyPaths = []string{"/proc/timer_list", "/data/sub"}, []string{"/proc/sys"}
	})
	if _, ok := f.Mount("/proc/timer_list"); !ok {
		t.Error("/proc/timer_list is not masked")
	}
	if m, _ := f.Mount("/proc/sys"); !m.Has("ro") {
		t.Errorf("/proc/sys is %v", m)
	}
	if m, _ := f.Mount("/sys"); !m.Has("ro") {
		t.Errorf("/sys is %v", m)
	}
	if m, _ := f.Mount("/data/sub"); m.Type != "tmpfs" {
		t.Errorf("/data/sub is %v", m)
	}
	f = s.facts(t, p, func(c *runtimeapi.ContainerConfig) { sc(c).MaskedPaths, sc(c).ReadonlyPaths = nil, nil })
	if _, ok := f.Mount("/proc/sys"); ok {
		t.Error("with no paths said, /proc/sys is read-only")
	}
}

func securityNoNewPrivileges(t *testing.T, s *suite) {
	p := s.pod(t)
	equal(t, "not said", s.facts(t, p).Status["NoNewPrivs"], "0")
	equal(t, "said", s.facts(t, p, func(c *runtimeapi.ContainerConfig) { sc(c).NoNewPrivs = true }).Status["NoNewPrivs"], "1")
	got := s.tries(t, p, []string{"mem", "mknod", "sysctl", "port"}, func(c *runtimeapi.ContainerConfig) {
		sc(c).RunAsUser = &runtimeapi.Int64Value{Value: 1001}
	})
	equal(t, "/dev/mem", got["mem"], false)
	equal(t, "mknod as a user", got["mknod"], false)
	equal(t, "sysctl as a user", got["sysctl"], false)
	equal(t, "port 80 as a user", got["port"], true)
}

func securityDevices(t *testing.T, s *suite) {
	p := s.pod(t)
	with := func(permissions string) edit {
		return func(c *runtimeapi.ContainerConfig) {
			c.Devices = []*runtimeapi.Device{{HostPath: "/dev/loop-control", ContainerPath: "/dev/mine", Permissions: permissions}}
		}
	}
	f := s.facts(t, p)
	for _, d := range []string{"null", "zero", "full", "random", "urandom", "tty", "ptmx", "shm", "mqueue", "pts", "fd", "stdin"} {
		if !slices.Contains(f.Devices, d) {
			t.Errorf("/dev/%s is missing", d)
		}
	}
	if slices.Contains(f.Devices, "loop-control") || slices.Contains(f.Devices, "mine") {
		t.Errorf("devices are %v", f.Devices)
	}
	if f = s.facts(t, p, with("rwm")); !slices.Contains(f.Devices, "mine") {
		t.Errorf("devices are %v", f.Devices)
	}
}

// cdiFile describes a device as its vendor would.
const cdiFile = `{
  "cdiVersion": "0.6.0", "kind": "vendor.example/thing", "containerEdits": {"env": ["OF_ALL=yes"]},
  "devices": [{"name": "one", "containerEdits": {
    "env": ["OF_ONE=yes"], "deviceNodes": [{"path": "/dev/thing", "hostPath": "/dev/loop-control", "permissions": "rw"}],
    "mounts": [{"hostPath": "%[1]s", "containerPath": "/vendor", "options": ["ro", "bind"]}],
    "hooks": [{"hookName": "createRuntime", "path": "%[1]s/hook", "args": ["hook", "%[1]s/state"]}]
  }}]
}`

func securityCDI(t *testing.T, s *suite) {
	p := s.pod(t)
	dir := t.TempDir()
	write := func(path, text string, mode os.FileMode) {
		if err := os.WriteFile(path+".part", []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+".part", path); err != nil {
			t.Fatal(err)
		}
	}
	write(filepath.Join(dir, "hook"), "#!/bin/sh\nexec cat >\"$1\"\n", 0o755)
	if err := os.MkdirAll(s.CDIDir, 0o755); err != nil {
		t.Fatal(err)
	}
	with := func(c *runtimeapi.ContainerConfig) {
		c.CDIDevices = []*runtimeapi.CDIDevice{{Name: "vendor.example/thing=one"}}
	}
	if _, err := s.create(t, p, s.config([]string{"facts"}, with)); err == nil || !strings.Contains(err.Error(), "vendor.example/thing=one") {
		t.Errorf("a device that nobody describes: %v", err)
	}
	write(filepath.Join(s.CDIDir, "thing.json"), fmt.Sprintf(cdiFile, dir), 0o644)
	eventually(t, "the device is known", func() bool {
		id, err := s.create(t, p, s.config([]string{"facts"}, with))
		if err == nil {
			_, err = s.rt.RemoveContainer(ctx(t), &runtimeapi.RemoveContainerRequest{ContainerId: id})
		}
		return err == nil
	})
	f := s.facts(t, p, with)
	for _, v := range []string{"OF_ALL=yes", "OF_ONE=yes"} {
		if !slices.Contains(f.Env, v) {
			t.Errorf("variables are %v", f.Env)
		}
	}
	if !slices.Contains(f.Devices, "thing") {
		t.Errorf("devices are %v", f.Devices)
	}
	if m, ok := f.Mount("/vendor"); !ok || !m.Has("ro") {
		t.Errorf("the mount is %v", m)
	}
	var state struct{ Bundle string }
	data, err := os.ReadFile(filepath.Join(dir, "state"))
	if err == nil {
		err = json.Unmarshal(data, &state)
	}
	if err != nil || state.Bundle == "" {
		t.Errorf("the hook was told %q: %v", data, err)
	}
}

func securityOOM(t *testing.T, s *suite) {
	p := s.pod(t)
	f := s.facts(t, p, func(c *runtimeapi.ContainerConfig) { c.Linux.Resources.OomScoreAdj = 950 })
	equal(t, "oom_score_adj", f.OOMScore, 950)
}

// securityUserNS: root of the pod is nobody on the host.
func securityUserNS(t *testing.T, s *suite) {
	if !s.UserNS {
		return
	}
	ids := []*runtimeapi.IDMapping{{HostId: 200000, ContainerId: 0, Length: 65536}}
	options := func() *runtimeapi.NamespaceOption {
		return &runtimeapi.NamespaceOption{
			Pid: runtimeapi.NamespaceMode_CONTAINER, UsernsOptions: &runtimeapi.UserNamespace{Mode: runtimeapi.NamespaceMode_POD, Uids: ids, Gids: ids},
		}
	}
	p := s.pod(t, func(c *runtimeapi.PodSandboxConfig) { c.Linux.SecurityContext.NamespaceOptions = options() })
	dir := tempDir(t)
	id := s.start(t, p, []string{"pause"}, func(c *runtimeapi.ContainerConfig) {
		sc(c).NamespaceOptions = options()
		c.Mounts = []*runtimeapi.Mount{{HostPath: dir, ContainerPath: "/x", UidMappings: ids, GidMappings: ids}}
	})
	f := s.factsOf(t, id)
	host, _ := os.Readlink("/proc/self/ns/user")
	if f.Namespaces["user"] == host || f.UID != 0 {
		t.Errorf("user namespace %s, user %d", f.Namespaces["user"], f.UID)
	}
	equal(t, "owners in the image", string(s.exec(t, id, "stat", "/box", "/etc/hosts").Stdout), "/box 0 0 100755\n/etc/hosts 0 0 100644\n")
	equal(t, "write", s.exec(t, id, "write", "/x/file", "mine").ExitCode, 0)
	equal(t, "write to the root", s.exec(t, id, "write", "/file", "mine").ExitCode, 0)
	info, err := os.Stat(filepath.Join(dir, "file"))
	if err != nil {
		t.Fatal(err)
	}
	if owner := fmt.Sprint(info.Sys()); owner == "" {
		t.Error("no owner")
	}
	equal(t, "the file's owner on the host", ownerOf(info), 0)
}
