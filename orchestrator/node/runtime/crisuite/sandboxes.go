//go:build linux

package crisuite

import (
	"os"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/keelson-io/keelson/orchestrator/node/runtime/crisuite/facts"
)

var sandboxCases = map[string]func(*testing.T, *suite){
	"sandbox-life":       sandboxLife,
	"sandbox-duplicate":  sandboxDuplicate,
	"sandbox-unknown":    sandboxUnknown,
	"sandbox-lists":      sandboxLists,
	"sandbox-shared":     sandboxShared,
	"sandbox-host":       sandboxHost,
	"sandbox-files":      sandboxFiles,
	"sandbox-sysctls":    sandboxSysctls,
	"sandbox-containers": sandboxTakesContainers,
	"sandbox-parallel":   sandboxParallel,
	"runtime-info":       runtimeInfo,
}

// podStatus of a sandbox.
func (s *suite) podStatus(t testing.TB, id string) *runtimeapi.PodSandboxStatus {
	t.Helper()
	out, err := s.rt.PodSandboxStatus(ctx(t), &runtimeapi.PodSandboxStatusRequest{PodSandboxId: id})
	if err != nil {
		t.Fatal(err)
	}
	return out.Status
}

func sandboxLife(t *testing.T, s *suite) {
	before := time.Now()
	p := s.pod(t)
	st := s.podStatus(t, p.id)
	equal(t, "state", st.State, runtimeapi.PodSandboxState_SANDBOX_READY)
	equal(t, "name", st.Metadata.Name, p.config.Metadata.Name)
	equal(t, "uid", st.Metadata.Uid, p.config.Metadata.Uid)
	equal(t, "label", st.Labels["pod"], p.config.Metadata.Name)
	equal(t, "annotation", st.Annotations["a/b"], "c")
	if made := time.Unix(0, st.CreatedAt); made.Before(before) || made.After(time.Now()) {
		t.Errorf("created at %v, after %v", made, before)
	}
	if st.Network.GetIp() == "" {
		t.Error("it has no address")
	}
	for range 2 { // again is no error
		if _, err := s.rt.StopPodSandbox(ctx(t), &runtimeapi.StopPodSandboxRequest{PodSandboxId: p.id}); err != nil {
			t.Fatal(err)
		}
		equal(t, "state", s.podStatus(t, p.id).State, runtimeapi.PodSandboxState_SANDBOX_NOTREADY)
	}
	if _, err := s.create(t, p, s.config([]string{"pause"})); err == nil {
		t.Error("a container was created in a stopped sandbox")
	}
	for range 2 {
		if _, err := s.rt.RemovePodSandbox(ctx(t), &runtimeapi.RemovePodSandboxRequest{PodSandboxId: p.id}); err != nil {
			t.Fatal(err)
		}
	}
	_, err := s.rt.PodSandboxStatus(ctx(t), &runtimeapi.PodSandboxStatusRequest{PodSandboxId: p.id})
	equal(t, "code", status.Code(err), codes.NotFound)
}

func sandboxDuplicate(t *testing.T, s *suite) {
	p := s.pod(t)
	_, err := s.rt.RunPodSandbox(ctx(t), &runtimeapi.RunPodSandboxRequest{Config: p.config})
	if err == nil || !strings.Contains(err.Error(), p.id) {
		t.Errorf("the same pod and attempt again: %v, want an error that names %s", err, p.id)
	}
	next := s.pod(t, func(c *runtimeapi.PodSandboxConfig) {
		c.Metadata.Name, c.Metadata.Uid, c.Metadata.Attempt = p.config.Metadata.Name, p.config.Metadata.Uid, 1
	})
	if next.id == p.id {
		t.Error("another attempt has the same ID")
	}
}

func sandboxUnknown(t *testing.T, s *suite) {
	const id = "0123456789abcdef0123456789abcdef"
	_, err := s.rt.PodSandboxStatus(ctx(t), &runtimeapi.PodSandboxStatusRequest{PodSandboxId: id})
	equal(t, "status", status.Code(err), codes.NotFound)
	_, err = s.rt.ContainerStatus(ctx(t), &runtimeapi.ContainerStatusRequest{ContainerId: id})
	equal(t, "status", status.Code(err), codes.NotFound)
	_, err = s.rt.StopPodSandbox(ctx(t), &runtimeapi.StopPodSandboxRequest{PodSandboxId: id})
	equal(t, "stop", status.Code(err), codes.OK)
	_, err = s.rt.RemovePodSandbox(ctx(t), &runtimeapi.RemovePodSandboxRequest{PodSandboxId: id})
	equal(t, "remove", status.Code(err), codes.OK)
	_, err = s.rt.StopContainer(ctx(t), &runtimeapi.StopContainerRequest{ContainerId: id})
	equal(t, "stop", status.Code(err), codes.OK)
	_, err = s.rt.RemoveContainer(ctx(t), &runtimeapi.RemoveContainerRequest{ContainerId: id})
	equal(t, "remove", status.Code(err), codes.OK)
	config := s.podConfig(t)
	_, err = s.rt.RunPodSandbox(ctx(t), &runtimeapi.RunPodSandboxRequest{Config: config, RuntimeHandler: "none-such"})
	if err == nil || !strings.Contains(err.Error(), `no runtime for "none-such" is configured`) {
		t.Errorf("an unknown handler: %v", err)
	}
	if s.Handler != "" {
		out, err := s.rt.RunPodSandbox(ctx(t), &runtimeapi.RunPodSandboxRequest{Config: config, RuntimeHandler: s.Handler})
		if err != nil {
			t.Fatal(err)
		}
		s.removed(t, out.PodSandboxId)
		equal(t, "handler", s.podStatus(t, out.PodSandboxId).RuntimeHandler, s.Handler)
	}
}

func sandboxLists(t *testing.T, s *suite) {
	a, b := s.pod(t), s.pod(t)
	if _, err := s.rt.StopPodSandbox(ctx(t), &runtimeapi.StopPodSandboxRequest{PodSandboxId: b.id}); err != nil {
		t.Fatal(err)
	}
	ready := &runtimeapi.PodSandboxStateValue{State: runtimeapi.PodSandboxState_SANDBOX_READY}
	for name, c := range map[string]struct {
		filter *runtimeapi.PodSandboxFilter
		want   []string
	}{
		"by ID":                 {&runtimeapi.PodSandboxFilter{Id: a.id}, []string{a.id}},
		"by the beginning":      {&runtimeapi.PodSandboxFilter{Id: a.id[:13]}, []string{a.id}},
		"by label":              {&runtimeapi.PodSandboxFilter{LabelSelector: map[string]string{"pod": b.config.Metadata.Name}}, []string{b.id}},
		"by label and state":    {&runtimeapi.PodSandboxFilter{LabelSelector: map[string]string{"pod": b.config.Metadata.Name}, State: ready}, nil},
		"by labels, one wrong":  {&runtimeapi.PodSandboxFilter{LabelSelector: map[string]string{"suite": "yes", "pod": "none"}}, nil},
		"by ID and state":       {&runtimeapi.PodSandboxFilter{Id: a.id, State: ready}, []string{a.id}},
		"by an ID that is none": {&runtimeapi.PodSandboxFilter{Id: "zzz"}, nil},
	} {
		out, err := s.rt.ListPodSandbox(ctx(t), &runtimeapi.ListPodSandboxRequest{Filter: c.filter})
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, item := range out.Items {
			got = append(got, item.Id)
		}
		equal(t, name, strings.Join(got, " "), strings.Join(c.want, " "))
	}
}

func sandboxShared(t *testing.T, s *suite) {
	p, other := s.pod(t), s.pod(t)
	a, c := s.facts(t, p), s.facts(t, other)
	var both []*facts.Facts
	for _, id := range []string{s.start(t, p, []string{"pause"}), s.start(t, p, []string{"pause"})} {
		both = append(both, s.factsOf(t, id))
	}
	b := both[0]
	for _, ns := range []string{"net", "ipc", "uts"} {
		host, _ := os.Readlink("/proc/self/ns/" + ns)
		equal(t, ns+" of two containers", a.Namespaces[ns], b.Namespaces[ns])
		if a.Namespaces[ns] == c.Namespaces[ns] || a.Namespaces[ns] == host {
			t.Errorf("%s is shared with another pod or the host", ns)
		}
	}
	if both[1].Namespaces["pid"] == b.Namespaces["pid"] || both[1].Namespaces["mnt"] == b.Namespaces["mnt"] {
		t.Error("two containers share processes or mounts")
	}
	equal(t, "pid", a.Pid, 1)
	equal(t, "hostname", a.Hostname, p.config.Hostname)
	equal(t, "HOSTNAME", a.Getenv("HOSTNAME"), p.config.Hostname)
	if len(a.Links) == 0 || a.Links[0] != "lo" {
		t.Errorf("links are %v", a.Links)
	}
	// One pod, one pid namespace, in which the containers' processes see each other.
	one := s.pod(t, func(c *runtimeapi.PodSandboxConfig) {
		c.Linux.SecurityContext.NamespaceOptions.Pid = runtimeapi.NamespaceMode_POD
	})
	pid := func(c *runtimeapi.ContainerConfig) { sc(c).NamespaceOptions.Pid = runtimeapi.NamespaceMode_POD }
	s.start(t, one, []string{"sleep", "1h"}, pid)
	f := s.facts(t, one, pid)
	if f.Pid == 1 || !strings.Contains(strings.Join(f.Processes, "\n"), "/box sleep 1h") {
		t.Errorf("in a shared pid namespace: pid %d, processes %q", f.Pid, f.Processes)
	}
}

func sandboxHost(t *testing.T, s *suite) {
	p := s.pod(t, func(c *runtimeapi.PodSandboxConfig) {
		c.Hostname = ""
		c.Linux.SecurityContext.NamespaceOptions = &runtimeapi.NamespaceOption{
			Network: runtimeapi.NamespaceMode_NODE, Pid: runtimeapi.NamespaceMode_NODE, Ipc: runtimeapi.NamespaceMode_NODE,
		}
	})
	f := s.facts(t, p, func(c *runtimeapi.ContainerConfig) {
		sc(c).NamespaceOptions = p.config.Linux.SecurityContext.NamespaceOptions
	})
	for _, ns := range []string{"net", "ipc", "pid"} {
		host, _ := os.Readlink("/proc/self/ns/" + ns)
		equal(t, ns, f.Namespaces[ns], host)
	}
	name, _ := os.Hostname()
	equal(t, "hostname", f.Hostname, name)
	equal(t, "address", s.podStatus(t, p.id).Network.GetIp(), "")
}

func sandboxFiles(t *testing.T, s *suite) {
	p := s.pod(t)
	id := s.start(t, p, []string{"pause"})
	equal(t, "resolv.conf", string(s.exec(t, id, "read", "/etc/resolv.conf").Stdout), "search a.example b.example\nnameserver 10.96.0.10\noptions ndots:5\n")
	equal(t, "hostname", string(s.exec(t, id, "read", "/etc/hostname").Stdout), p.config.Hostname+"\n")
	if hosts := string(s.exec(t, id, "read", "/etc/hosts").Stdout); !strings.Contains(hosts, "localhost") {
		t.Errorf("hosts is %q", hosts)
	}
	// /dev/shm is the pod's, not the container's.
	equal(t, "write", s.exec(t, id, "write", "/dev/shm/x", "shared").ExitCode, 0)
	other := s.start(t, p, []string{"pause"})
	equal(t, "read", string(s.exec(t, other, "read", "/dev/shm/x").Stdout), "shared")
}

func sandboxSysctls(t *testing.T, s *suite) {
	p := s.pod(t, func(c *runtimeapi.PodSandboxConfig) {
		c.Linux.Sysctls = map[string]string{"kernel.shm_rmid_forced": "1", "net.ipv4.ip_local_port_range": "2000 3000"}
	})
	id := s.start(t, p, []string{"pause"})
	equal(t, "shm_rmid_forced", string(s.exec(t, id, "read", "/proc/sys/kernel/shm_rmid_forced").Stdout), "1\n")
	equal(t, "ip_local_port_range", string(s.exec(t, id, "read", "/proc/sys/net/ipv4/ip_local_port_range").Stdout), "2000\t3000\n")
	config := s.podConfig(t)
	config.Linux.Sysctls = map[string]string{"kernel.none_such": "1"}
	if out, err := s.rt.RunPodSandbox(ctx(t), &runtimeapi.RunPodSandboxRequest{Config: config}); err == nil {
		s.removed(t, out.PodSandboxId)
		t.Error("a sandbox with a sysctl that is none runs")
	}
}

// sandboxTakesContainers: what stops or removes a sandbox does so to its containers.
func sandboxTakesContainers(t *testing.T, s *suite) {
	p := s.pod(t)
	id := s.start(t, p, []string{"trap", "ignore"})
	s.says(t, id, "ready")
	if _, err := s.rt.StopPodSandbox(ctx(t), &runtimeapi.StopPodSandboxRequest{PodSandboxId: p.id}); err != nil {
		t.Fatal(err)
	}
	st := s.status(t, id)
	equal(t, "state", st.State, runtimeapi.ContainerState_CONTAINER_EXITED)
	equal(t, "exit code", st.ExitCode, 137)
	if _, err := s.rt.RemovePodSandbox(ctx(t), &runtimeapi.RemovePodSandboxRequest{PodSandboxId: p.id}); err != nil {
		t.Fatal(err)
	}
	_, err := s.rt.ContainerStatus(ctx(t), &runtimeapi.ContainerStatusRequest{ContainerId: id})
	equal(t, "code", status.Code(err), codes.NotFound)
	other := s.pod(t)
	s.start(t, other, []string{"pause"})
	if _, err := s.rt.RemovePodSandbox(ctx(t), &runtimeapi.RemovePodSandboxRequest{PodSandboxId: other.id}); err != nil && !strings.Contains(err.Error(), "not fully stopped") {
		t.Error(err) // that it is not stopped before is containerd's to refuse
	}
}

func sandboxParallel(t *testing.T, s *suite) {
	done := make(chan string, 8)
	for range cap(done) {
		config := s.podConfig(t)
		c := ctx(t)
		go func() {
			out, err := s.rt.RunPodSandbox(c, &runtimeapi.RunPodSandboxRequest{Config: config})
			if err != nil {
				t.Error(err)
			}
			done <- out.GetPodSandboxId()
		}()
	}
	seen := map[string]bool{}
	for range cap(done) {
		id := <-done
		if seen[id] {
			t.Errorf("two sandboxes %q", id)
		}
		seen[id] = true
		s.removed(t, id)
	}
}

func runtimeInfo(t *testing.T, s *suite) {
	v, err := s.rt.Version(ctx(t), &runtimeapi.VersionRequest{Version: "v1"})
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "API version", v.RuntimeApiVersion, "v1")
	st, err := s.rt.Status(ctx(t), &runtimeapi.StatusRequest{Verbose: true})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{runtimeapi.RuntimeReady, runtimeapi.NetworkReady} {
		ok := false
		for _, c := range st.Status.Conditions {
			ok = ok || c.Type == want && c.Status
		}
		if !ok {
			t.Errorf("%s does not hold: %v", want, st.Status.Conditions)
		}
	}
	if len(st.Info) == 0 || len(st.RuntimeHandlers) == 0 {
		t.Errorf("info %v, handlers %v", st.Info, st.RuntimeHandlers)
	}
	if !st.RuntimeHandlers[0].Features.RecursiveReadOnlyMounts || !st.Features.SupplementalGroupsPolicy {
		t.Errorf("features are %v and %v", st.RuntimeHandlers[0].Features, st.Features)
	}
	if _, err := s.rt.RuntimeConfig(ctx(t), &runtimeapi.RuntimeConfigRequest{}); err != nil {
		t.Error(err)
	}
	if _, err := s.rt.UpdateRuntimeConfig(ctx(t), &runtimeapi.UpdateRuntimeConfigRequest{
		RuntimeConfig: &runtimeapi.RuntimeConfig{NetworkConfig: &runtimeapi.NetworkConfig{PodCidr: "10.1.0.0/24"}},
	}); err != nil {
		t.Error(err)
	}
}
