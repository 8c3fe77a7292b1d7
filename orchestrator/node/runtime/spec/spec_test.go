//go:build linux

package spec

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// base is a container that asks for nothing, on a machine that can do all.
func base(t testing.TB) *Container {
	t.Helper()
	root := t.TempDir()
	if err := os.MkdirAll(filepath.Join(root, "etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"passwd": "root:x:0:0::/root:/bin/sh\nweb:x:33:34::/:/bin/sh\n", "group": "root:x:0:\nwww:x:34:\nextra:x:99:web\n",
	} {
		if err := os.WriteFile(filepath.Join(root, "etc", name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return &Container{
		ID: "id", Rootfs: root, Cgroup: "/parent/id", Files: Files{Hosts: "/s/hosts", Hostname: "/s/hostname", ResolvConf: "/s/resolv.conf", Shm: "/s/shm", Name: "pod"},
		Spaces: Spaces{Network: "/ns/net", IPC: "/ns/ipc", UTS: "/ns/uts"},
		Host: Host{
			Swap: true, HugeTLB: true, AppArmor: true, SELinux: true, Seccomp: true, LowestOOM: -1000,
			Known: append(slices.Clone(defaultCapabilities), "CAP_NET_ADMIN", "CAP_SYS_ADMIN", "CAP_SYS_RESOURCE"), Capabilities: append(slices.Clone(defaultCapabilities), "CAP_NET_ADMIN", "CAP_SYS_ADMIN"),
		},
		Config: &runtimeapi.ContainerConfig{
			Args:  []string{"run"},
			Linux: &runtimeapi.LinuxContainerConfig{Resources: &runtimeapi.LinuxContainerResources{}, SecurityContext: &runtimeapi.LinuxContainerSecurityContext{}},
		},
		Image: ocispec.ImageConfig{Entrypoint: []string{"/app"}},
	}
}

func (c *Container) sc() *runtimeapi.LinuxContainerSecurityContext {
	return c.Config.Linux.SecurityContext
}

func build(t testing.TB, c *Container) *Result {
	t.Helper()
	r, err := Build(c)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func mountAt(s *specs.Spec, path string) *specs.Mount {
	for i := range s.Mounts {
		if s.Mounts[i].Destination == path {
			return &s.Mounts[i]
		}
	}
	return nil
}

func TestErrors(t *testing.T) {
	for name, c := range map[string]struct {
		edit func(*Container)
		says string
	}{
		"no AppArmor": {func(c *Container) {
			c.Host.AppArmor = false
			c.sc().Apparmor = &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Localhost, LocalhostRef: "mine"}
		}, "no AppArmor"},
		"no SELinux": {func(c *Container) {
			c.Host.SELinux = false
			c.sc().SelinuxOptions = &runtimeapi.SELinuxOption{Level: "s0:c1"}
		}, "no SELinux"},
		"no seccomp": {func(c *Container) {
			c.Host.Seccomp = false
			c.sc().Seccomp = &runtimeapi.SecurityProfile{}
		}, "built without seccomp"},
		"seccomp without a name": {func(c *Container) {
			c.sc().Seccomp = &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Localhost}
		}, "without its name"},
		"unified on v1": {func(c *Container) { c.Config.Linux.Resources.Unified = map[string]string{"memory.max": "1"} }, "cgroup v1"},
		"no huge pages": {func(c *Container) {
			c.Host.HugeTLB = false
			c.Config.Linux.Resources.HugepageLimits = []*runtimeapi.HugepageLimit{{PageSize: "2MB", Limit: 1}}
		}, "huge pages"},
		"a capability that is none": {func(c *Container) { c.sc().Capabilities = &runtimeapi.Capability{AddCapabilities: []string{"NONE"}} }, "not known"},
		"a capability that is not ours": {func(c *Container) {
			c.sc().Capabilities = &runtimeapi.Capability{AddCapabilities: []string{"SYS_RESOURCE"}}
		}, "has not got it"},
		"a mount without a path": {func(c *Container) { c.Config.Mounts = []*runtimeapi.Mount{{HostPath: "/tmp"}} }, "no path"},
		"a mount of two things": {func(c *Container) {
			c.Config.Mounts = []*runtimeapi.Mount{{ContainerPath: "/x", HostPath: "/tmp", Image: &runtimeapi.ImageSpec{Image: "i"}}}
		}, "both"},
		"a device that is none": {func(c *Container) {
			c.Config.Devices = []*runtimeapi.Device{{HostPath: "/etc/hostname", ContainerPath: "/dev/x"}}
		}, "no device"},
		"a stop signal that is none": {func(c *Container) { c.Image.StopSignal = "SIGNONE" }, "SIGNONE"},
		"a group without a user":     {func(c *Container) { c.sc().RunAsGroup = &runtimeapi.Int64Value{Value: 1} }, "without a user"},
		"a user that is too large":   {func(c *Container) { c.sc().RunAsUser = &runtimeapi.Int64Value{Value: 1 << 40} }, "user"},
		"recursive read-only, not at all": {func(c *Container) {
			c.Config.Mounts = []*runtimeapi.Mount{{ContainerPath: "/x", HostPath: "/tmp", RecursiveReadOnly: true}}
		}, "read-only"},
	} {
		container := base(t)
		c.edit(container)
		if _, err := Build(container); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, want an error about %q", name, err, c.says)
		}
	}
}

func TestDefaults(t *testing.T) {
	c := base(t)
	s := build(t, c).Spec
	if got := strings.Join(s.Process.Args, " "); got != "/app run" {
		t.Errorf("args are %q", got)
	}
	for _, path := range []string{"/proc", "/dev", "/dev/pts", "/dev/shm", "/dev/mqueue", "/sys", "/sys/fs/cgroup", "/etc/hosts", "/etc/hostname", "/etc/resolv.conf"} {
		if mountAt(s, path) == nil {
			t.Errorf("nothing is mounted at %s", path)
		}
	}
	if len(s.Linux.MaskedPaths) != 0 {
		t.Errorf("a security context without masked paths masks %v", s.Linux.MaskedPaths)
	}
	if s.Linux.Seccomp != nil || s.Process.ApparmorProfile != "" || s.Process.SelinuxLabel != "" {
		t.Errorf("what was not asked for: %v, %q, %q", s.Linux.Seccomp, s.Process.ApparmorProfile, s.Process.SelinuxLabel)
	}
	c.Config.Linux = nil
	s = build(t, c).Spec
	if !slices.Contains(s.Linux.MaskedPaths, "/proc/kcore") || !slices.Contains(s.Linux.ReadonlyPaths, "/proc/sys") {
		t.Errorf("without a security context %v are masked and %v read-only", s.Linux.MaskedPaths, s.Linux.ReadonlyPaths)
	}
}

func TestNamespaces(t *testing.T) {
	list := func(c *Container) string {
		var out []string
		for _, ns := range build(t, c).Spec.Linux.Namespaces {
			out = append(out, strings.TrimSuffix(string(ns.Type)+"="+ns.Path, "="))
		}
		slices.Sort(out)
		return strings.Join(out, " ")
	}
	for want, edit := range map[string]func(*Container){
		"ipc=/ns/ipc mount network=/ns/net pid uts=/ns/uts":        func(*Container) {},
		"cgroup ipc=/ns/ipc mount network=/ns/net pid uts=/ns/uts": func(c *Container) { c.Host.CgroupV2 = true },
		"mount":     func(c *Container) { c.Spaces = Spaces{HostPID: true} },
		"mount pid": func(c *Container) { c.Spaces = Spaces{} },
		"ipc=/ns/ipc mount network=/ns/net pid=/proc/7/ns/pid uts=/ns/uts": func(c *Container) { c.Spaces.PID = "/proc/7/ns/pid" },
		"ipc=/ns/ipc mount network=/ns/net pid user=/ns/user uts=/ns/uts":  func(c *Container) { c.Spaces.User = "/ns/user" },
		"ipc=/ns/ipc mount network=/ns/net pid=/ns/pid uts=/ns/uts":        func(c *Container) { c.Spaces.PID, c.Host.CgroupV2 = "/ns/pid", true; c.sc().Privileged = true },
	} {
		c := base(t)
		edit(c)
		if got := list(c); got != want {
			t.Errorf("namespaces are %q, want %q", got, want)
		}
	}
	c := base(t)
	c.Spaces = Spaces{User: "/ns/user"}
	s := build(t, c).Spec
	if m := mountAt(s, "/sys"); m.Type != "bind" {
		t.Errorf("in a user namespace with the host's network /sys is %v", m)
	}
	if m := mountAt(s, "/dev/mqueue"); m.Type != "bind" {
		t.Errorf("in a user namespace with the host's queues /dev/mqueue is %v", m)
	}
}

func TestConfinement(t *testing.T) {
	c := base(t)
	c.sc().Apparmor = &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Localhost, LocalhostRef: "localhost/mine"}
	c.sc().SelinuxOptions = &runtimeapi.SELinuxOption{Type: "svirt_t", Level: "s0:c1,c2"}
	c.sc().Seccomp = &runtimeapi.SecurityProfile{}
	s := build(t, c).Spec
	if s.Process.ApparmorProfile != "mine" || s.Process.SelinuxLabel != "system_u:system_r:svirt_t:s0:c1,c2" || s.Linux.MountLabel != "system_u:object_r:container_file_t:s0:c1,c2" {
		t.Errorf("profile %q, labels %q and %q", s.Process.ApparmorProfile, s.Process.SelinuxLabel, s.Linux.MountLabel)
	}
	if s.Linux.Seccomp == nil {
		t.Error("there is no filter")
	}
	c.sc().Privileged = true
	s = build(t, c).Spec
	if s.Process.ApparmorProfile+s.Process.SelinuxLabel != "" || s.Linux.Seccomp != nil {
		t.Errorf("privileged, and confined: %q, %q, %v", s.Process.ApparmorProfile, s.Process.SelinuxLabel, s.Linux.Seccomp)
	}
	// A profile of the node may be named relative to the folder of profiles, and does not lead out of it.
	c = base(t)
	c.Host.SeccompDir = t.TempDir()
	if err := os.WriteFile(filepath.Join(c.Host.SeccompDir, "p.json"), []byte(`{"defaultAction":"SCMP_ACT_LOG"}`), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, ref := range []string{"p.json", "../../p.json"} {
		c.sc().Seccomp = &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Localhost, LocalhostRef: ref}
		if f := build(t, c).Spec.Linux.Seccomp; f.DefaultAction != specs.ActLog {
			t.Errorf("%s: the filter is %v", ref, f)
		}
	}
}

func TestDefaultSeccomp(t *testing.T) {
	allowed := func(f *specs.LinuxSeccomp, call string) (out []specs.LinuxSyscall) {
		for _, s := range f.Syscalls {
			if s.Action == specs.ActAllow && slices.Contains(s.Names, call) {
				out = append(out, s)
			}
		}
		return out
	}
	plain, admin := DefaultSeccomp(nil), DefaultSeccomp([]string{"CAP_SYS_ADMIN"})
	for _, call := range []string{"read", "openat2", "clone", "execve", "socket", "futex", "rt_sigreturn", "exit_group", "statx", "epoll_pwait2", "getrandom", "mknod"} {
		if len(allowed(plain, call)) == 0 {
			t.Errorf("%s is not allowed", call)
		}
	}
	for _, call := range []string{"mount", "unshare", "setns", "bpf", "keyctl", "add_key", "kexec_load", "reboot", "init_module", "open_by_handle_at", "userfaultfd", "io_uring_setup", "ptrace_none", "settimeofday", "swapon"} {
		if len(allowed(plain, call)) > 0 {
			t.Errorf("%s is allowed", call)
		}
	}
	for _, call := range []string{"mount", "setns", "unshare", "bpf", "clone3"} {
		if len(allowed(admin, call)) == 0 {
			t.Errorf("%s is not allowed with CAP_SYS_ADMIN", call)
		}
	}
	if rules := allowed(plain, "clone"); len(rules) != 1 || rules[0].Args[0].Value&unix.CLONE_NEWUSER == 0 {
		t.Errorf("clone: %v", rules)
	}
	if rules := allowed(plain, "socket"); len(rules) == 0 || slices.ContainsFunc(rules, func(s specs.LinuxSyscall) bool { return len(s.Args) == 0 }) {
		t.Errorf("socket: %v", rules)
	}
	seen := map[string]string{}
	for _, f := range always {
		for _, call := range strings.Fields(f.calls) {
			if other, ok := seen[call]; ok {
				t.Errorf("%s is listed under %q and under %q", call, other, f.what)
			}
			seen[call] = f.what
		}
	}
	for _, g := range withCapability {
		for _, call := range strings.Fields(g.calls) {
			if what, ok := seen[call]; ok {
				t.Errorf("%s needs %s, and is always allowed under %q", call, g.capability, what)
			}
		}
	}
}

func TestResources(t *testing.T) {
	host := Host{Swap: true, HugeTLB: true, CgroupV2: true}
	r, err := Resources(&runtimeapi.LinuxContainerResources{
		CpuPeriod: 100000, CpuQuota: -1, CpuShares: 512, MemoryLimitInBytes: 1000, CpusetCpus: "0-1",
		HugepageLimits: []*runtimeapi.HugepageLimit{{PageSize: "2MB", Limit: 4}}, Unified: map[string]string{"memory.high": "5"},
	}, host)
	if err != nil {
		t.Fatal(err)
	}
	if *r.CPU.Period != 100000 || *r.CPU.Quota != -1 || *r.CPU.Shares != 512 || r.CPU.Cpus != "0-1" {
		t.Errorf("cpu is %v", r.CPU)
	}
	if *r.Memory.Limit != 1000 || *r.Memory.Swap != 1000 {
		t.Errorf("memory %d, with swap %d", *r.Memory.Limit, *r.Memory.Swap)
	}
	if r.HugepageLimits[0].Limit != 4 || r.Unified["memory.high"] != "5" {
		t.Errorf("huge pages %v, unified %v", r.HugepageLimits, r.Unified)
	}
	if r, _ = Resources(&runtimeapi.LinuxContainerResources{MemoryLimitInBytes: 1000, MemorySwapLimitInBytes: 3000}, host); *r.Memory.Swap != 3000 {
		t.Errorf("with swap %d", *r.Memory.Swap)
	}
	if r, _ = Resources(&runtimeapi.LinuxContainerResources{MemoryLimitInBytes: 1000}, Host{}); r.Memory.Swap != nil {
		t.Error("swap is limited where it cannot be")
	}
	if r, _ = Resources(nil, host); r.CPU != nil || r.Memory != nil {
		t.Errorf("nothing asked for, and limited: %v", r)
	}
	c := base(t)
	c.Config.Linux.Resources.OomScoreAdj, c.Host.LowestOOM = -900, 100
	result := build(t, c)
	if *result.Spec.Process.OOMScoreAdj != 100 || len(result.Warnings) != 1 {
		t.Errorf("score %d, warnings %q", *result.Spec.Process.OOMScoreAdj, result.Warnings)
	}
}

func TestMountOrder(t *testing.T) {
	c := base(t)
	dir := t.TempDir()
	for _, path := range []string{"/a/b/c", "/a", "/dev/shm", "/a/b"} {
		c.Config.Mounts = append(c.Config.Mounts, &runtimeapi.Mount{HostPath: dir, ContainerPath: path})
	}
	var own []string
	for _, m := range build(t, c).Spec.Mounts {
		if m.Source == dir {
			own = append(own, m.Destination)
		}
	}
	if got := strings.Join(own, " "); got != "/a /dev/shm /a/b /a/b/c" {
		t.Errorf("the order is %s", got)
	}
}

func TestSignals(t *testing.T) {
	for v, name := range runtimeapi.Signal_name {
		s := runtimeapi.Signal(v)
		n := SignalNumber(s)
		if n < 1 || n > 64 {
			t.Errorf("%s is %d", name, n)
		}
		if s == runtimeapi.Signal_SIGNAL_RUNTIME_DEFAULT {
			continue
		}
		image := strings.NewReplacer("RTMINPLUS", "RTMIN+", "RTMAXMINUS", "RTMAX-").Replace(strings.TrimPrefix(name, "SIGNAL_"))
		if got, err := StopSignal(0, image); err != nil || SignalNumber(got) != n {
			t.Errorf("%s of an image is %v: %v", image, got, err)
		}
	}
	for image, want := range map[string]runtimeapi.Signal{
		"": runtimeapi.Signal_SIGNAL_SIGTERM, "QUIT": runtimeapi.Signal_SIGNAL_SIGQUIT, "sigint": runtimeapi.Signal_SIGNAL_SIGINT,
		"9": runtimeapi.Signal_SIGNAL_SIGKILL, "RTMIN+3": runtimeapi.Signal_SIGNAL_SIGRTMINPLUS3, "SIGRTMAX-1": runtimeapi.Signal_SIGNAL_SIGRTMAXMINUS1,
	} {
		if got, err := StopSignal(0, image); err != nil || got != want {
			t.Errorf("%q is %v: %v", image, got, err)
		}
	}
	if got, _ := StopSignal(runtimeapi.Signal_SIGNAL_SIGHUP, "SIGINT"); got != runtimeapi.Signal_SIGNAL_SIGHUP {
		t.Errorf("the config's signal is %v", got)
	}
	for _, bad := range []string{"0", "65", "9x", "SIG", "-1", "DEFAULT"} {
		if got, err := StopSignal(0, bad); err == nil {
			t.Errorf("%q is %v", bad, got)
		}
	}
}

// TestLinksInImages: files of an image that are links do not lead to the host's.
func TestLinksInImages(t *testing.T) {
	c := base(t)
	secret := filepath.Join(t.TempDir(), "passwd")
	if err := os.WriteFile(secret, []byte("eve:x:666:666::/:/\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	passwd := filepath.Join(c.Rootfs, "etc/passwd")
	for _, link := range []string{secret, "../../../../../../../.." + secret} {
		_ = os.Remove(passwd)
		if err := os.Symlink(link, passwd); err != nil {
			t.Fatal(err)
		}
		c.sc().RunAsUsername = "eve"
		if _, err := Build(c); err == nil {
			t.Errorf("%s was read", link)
		}
	}
	_ = os.Remove(passwd)
	if err := os.Mkdir(passwd, 0o755); err != nil {
		t.Fatal(err)
	}
	c.sc().RunAsUsername = ""
	if _, err := Build(c); err == nil || !strings.Contains(err.Error(), "no file") {
		t.Errorf("a folder: %v", err)
	}
	_ = os.Remove(passwd)
	if err := unix.Mkfifo(passwd, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Build(c); err == nil {
		t.Error("a pipe was read")
	}
}

func FuzzParseSeccomp(f *testing.F) {
	f.Add([]byte(`{"defaultAction":"SCMP_ACT_ERRNO","architectures":["SCMP_ARCH_X86_64"],"syscalls":[{"names":["read"],"action":"SCMP_ACT_ALLOW","args":[{"index":0,"value":1,"op":"SCMP_CMP_EQ"}]}]}`))
	f.Add([]byte(`{}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		filter, err := ParseSeccomp(data)
		if (err == nil) != (filter != nil) {
			t.Errorf("%v with %v", filter, err)
		}
	})
}

func FuzzUsers(f *testing.F) {
	f.Add("web", "root:x:0:0::/:/\nweb:x:33:34::/:/\n", "extra:x:99:web\n")
	f.Add("33:www", "web:x:33:34::/:/", "www:x:34:\n")
	f.Add("", ":::::", "::\n")
	root := f.TempDir()
	if err := os.Mkdir(filepath.Join(root, "etc"), 0o755); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, image, passwd, group string) {
		for name, text := range map[string]string{"passwd": passwd, "group": group} {
			if err := os.WriteFile(filepath.Join(root, "etc", name), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		u, err := resolveUser(root, nil, image)
		if err == nil && !slices.Contains(u.AdditionalGids, u.GID) {
			t.Errorf("%q is %v", image, u)
		}
	})
}
