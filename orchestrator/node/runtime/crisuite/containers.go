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
)

var containerCases = map[string]func(*testing.T, *suite){
	"container-life":      containerLife,
	"container-duplicate": containerDuplicate,
	"container-lists":     containerLists,
	"container-fails":     containerFails,
	"container-stop":      containerStop,
	"container-logs":      containerLogs,
	"container-reopen":    containerReopen,
	"container-removed":   containerRemoved,
	"container-oom":       containerOOM,
	"container-update":    containerUpdate,
	"container-events":    containerEvents,
}

func containerLife(t *testing.T, s *suite) {
	p := s.pod(t)
	config := s.config([]string{"trap", "0"})
	before := time.Now().UnixNano()
	id, err := s.create(t, p, config)
	if err != nil {
		t.Fatal(err)
	}
	st := s.status(t, id)
	equal(t, "state", st.State, runtimeapi.ContainerState_CONTAINER_CREATED)
	equal(t, "started at", st.StartedAt, 0)
	equal(t, "finished at", st.FinishedAt, 0)
	equal(t, "name", st.Metadata.Name, config.Metadata.Name)
	equal(t, "annotation", st.Annotations["d/e"], "f")
	equal(t, "image", st.Image.Image, s.ref("box"))
	equal(t, "image ID", st.ImageId, s.pull(t, "box"))
	equal(t, "log path", st.LogPath, p.config.LogDirectory+"/"+config.LogPath)
	if _, err := s.rt.StartContainer(ctx(t), &runtimeapi.StartContainerRequest{ContainerId: id}); err != nil {
		t.Fatal(err)
	}
	st = s.status(t, id)
	equal(t, "state", st.State, runtimeapi.ContainerState_CONTAINER_RUNNING)
	if st.CreatedAt < before || st.StartedAt < st.CreatedAt || st.FinishedAt != 0 {
		t.Errorf("created at %d, started at %d, finished at %d, after %d", st.CreatedAt, st.StartedAt, st.FinishedAt, before)
	}
	if _, err := s.rt.StartContainer(ctx(t), &runtimeapi.StartContainerRequest{ContainerId: id}); err == nil {
		t.Error("a running container was started")
	}
	s.says(t, id, "ready")
	if _, err := s.rt.StopContainer(ctx(t), &runtimeapi.StopContainerRequest{ContainerId: id, Timeout: 30}); err != nil {
		t.Fatal(err)
	}
	st = s.status(t, id)
	equal(t, "state", st.State, runtimeapi.ContainerState_CONTAINER_EXITED)
	equal(t, "exit code", st.ExitCode, 0)
	equal(t, "reason", st.Reason, "Completed")
	if st.FinishedAt < st.StartedAt {
		t.Errorf("finished at %d, started at %d", st.FinishedAt, st.StartedAt)
	}
	if _, err := s.rt.StartContainer(ctx(t), &runtimeapi.StartContainerRequest{ContainerId: id}); err == nil {
		t.Error("a container that ended was started")
	}
	for range 2 {
		if _, err := s.rt.RemoveContainer(ctx(t), &runtimeapi.RemoveContainerRequest{ContainerId: id}); err != nil {
			t.Fatal(err)
		}
	}
	_, err = s.rt.ContainerStatus(ctx(t), &runtimeapi.ContainerStatusRequest{ContainerId: id})
	equal(t, "code", status.Code(err), codes.NotFound)
}

func containerDuplicate(t *testing.T, s *suite) {
	p := s.pod(t)
	config := s.config([]string{"pause"})
	id, err := s.create(t, p, config)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.create(t, p, config); err == nil || !strings.Contains(err.Error(), id) {
		t.Errorf("the same container and attempt again: %v, want an error that names %s", err, id)
	}
	config.Metadata.Attempt++
	if _, err := s.create(t, p, config); err != nil {
		t.Error(err)
	}
	config.Metadata.Attempt--
	if _, err := s.rt.RemoveContainer(ctx(t), &runtimeapi.RemoveContainerRequest{ContainerId: id}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.create(t, p, config); err != nil {
		t.Errorf("after the first is gone: %v", err)
	}
}

func containerLists(t *testing.T, s *suite) {
	p, other := s.pod(t), s.pod(t)
	a := s.start(t, p, []string{"pause"})
	b := s.start(t, p, []string{"exit", "0"})
	c := s.start(t, other, []string{"pause"})
	s.wait(t, b)
	running := &runtimeapi.ContainerStateValue{State: runtimeapi.ContainerState_CONTAINER_RUNNING}
	for name, c := range map[string]struct {
		filter *runtimeapi.ContainerFilter
		want   []string
	}{
		"by ID":            {&runtimeapi.ContainerFilter{Id: a}, []string{a}},
		"by the beginning": {&runtimeapi.ContainerFilter{Id: c[:13]}, []string{c}},
		"by pod":           {&runtimeapi.ContainerFilter{PodSandboxId: p.id}, []string{a, b}},
		"by pod and state": {&runtimeapi.ContainerFilter{PodSandboxId: p.id, State: running}, []string{a}},
		"by ID and pod":    {&runtimeapi.ContainerFilter{Id: a, PodSandboxId: other.id}, nil},
		"by label":         {&runtimeapi.ContainerFilter{LabelSelector: s.status(t, b).Labels}, []string{b}},
	} {
		out, err := s.rt.ListContainers(ctx(t), &runtimeapi.ListContainersRequest{Filter: c.filter})
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]bool{}
		for _, item := range out.Containers {
			got[item.Id] = true
		}
		if len(got) != len(c.want) {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
		for _, id := range c.want {
			if !got[id] {
				t.Errorf("%s: %s is missing", name, id)
			}
		}
	}
}

// containerFails: what cannot be run says why.
func containerFails(t *testing.T, s *suite) {
	p := s.pod(t)
	for name, c := range map[string]struct {
		edit edit
		says string
	}{
		"no image":          {func(c *runtimeapi.ContainerConfig) { c.Image.Image = s.Registry + "/suite/none:1" }, "none"},
		"no command":        {func(c *runtimeapi.ContainerConfig) { c.Image.Image, c.Args = s.ref("bare"), nil }, "no command"},
		"command not there": {func(c *runtimeapi.ContainerConfig) { c.Command = []string{"/none-such"} }, "no such file"},
		"command not found": {func(c *runtimeapi.ContainerConfig) { c.Command = []string{"none-such"} }, "none-such"},
		"no program":        {func(c *runtimeapi.ContainerConfig) { c.Command = []string{"/plain"} }, "permission denied"},
		"user not there":    {func(c *runtimeapi.ContainerConfig) { sc(c).RunAsUsername = "nobody-such" }, "user"},
		"group alone":       {func(c *runtimeapi.ContainerConfig) { sc(c).RunAsGroup = &runtimeapi.Int64Value{Value: 1} }, "group"},
		"mount not there": {func(c *runtimeapi.ContainerConfig) {
			c.Mounts = []*runtimeapi.Mount{{HostPath: "/dev/null/none", ContainerPath: "/x"}}
		}, "/dev/null/none"},
		"device not there": {func(c *runtimeapi.ContainerConfig) {
			c.Devices = []*runtimeapi.Device{{HostPath: "/dev/none-such", ContainerPath: "/dev/x", Permissions: "r"}}
		}, "none-such"},
	} {
		id, err := s.create(t, p, s.config([]string{"pause"}, c.edit))
		if err == nil {
			_, err = s.rt.StartContainer(ctx(t), &runtimeapi.StartContainerRequest{ContainerId: id})
			if st := s.status(t, id); err != nil && (st.State != runtimeapi.ContainerState_CONTAINER_EXITED || st.ExitCode != 128 || st.Reason != "StartError") {
				t.Errorf("%s: it is %v with code %d, %s", name, st.State, st.ExitCode, st.Reason)
			}
		}
		if err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, want an error about %q", name, err, c.says)
		}
	}
}

func containerStop(t *testing.T, s *suite) {
	p := s.pod(t)
	stop := func(id string, seconds int64) time.Duration {
		before := time.Now()
		if _, err := s.rt.StopContainer(ctx(t), &runtimeapi.StopContainerRequest{ContainerId: id, Timeout: seconds}); err != nil {
			t.Fatal(err)
		}
		return time.Since(before)
	}
	for name, c := range map[string]struct {
		args    []string
		edits   []edit
		seconds int64
		code    int32
		says    string
	}{
		"by SIGTERM":         {[]string{"trap", "7"}, nil, 30, 7, "got 15"},
		"by image's signal":  {[]string{"trap", "7"}, []edit{func(c *runtimeapi.ContainerConfig) { c.Image.Image = s.ref("named") }}, 30, 7, "got 12"},
		"by config's signal": {[]string{"trap", "7"}, []edit{func(c *runtimeapi.ContainerConfig) { c.StopSignal = runtimeapi.Signal_SIGNAL_SIGINT }}, 30, 7, "got 2"},
		"ignored":            {[]string{"trap", "ignore"}, nil, 1, 137, "got 15"},
		"at once":            {[]string{"trap", "ignore"}, nil, 0, 137, ""},
	} {
		id := s.start(t, p, c.args, c.edits...)
		s.says(t, id, "ready")
		if took := stop(id, c.seconds); c.code == 137 && took < time.Duration(c.seconds)*time.Second {
			t.Errorf("%s: it was killed after %v, its time is %d s", name, took, c.seconds)
		}
		st := s.status(t, id)
		equal(t, name+": exit code", st.ExitCode, c.code)
		if c.says != "" {
			s.says(t, id, c.says)
		}
		stop(id, 1) // again is no error
	}
	id := s.start(t, p, []string{"pause"}, func(c *runtimeapi.ContainerConfig) { c.Image.Image = s.ref("named") })
	equal(t, "stop signal", s.status(t, id).StopSignal, runtimeapi.Signal_SIGNAL_SIGUSR2)
}

func containerLogs(t *testing.T, s *suite) {
	p := s.pod(t)
	before := time.Now()
	long := strings.Repeat("y", 40000)
	id := s.start(t, p, []string{"all", "out", "one", "then", "err", "two", "then", "out", long, "then", "part", "rest"})
	st := s.wait(t, id)
	var lines []line
	eventually(t, "the log is complete", func() bool {
		lines = readLog(t, st.LogPath)
		text := ""
		for _, l := range lines {
			text += l.Text + "\n"
		}
		return strings.Contains(text, "rest\n") && strings.Contains(text, "two\n") // the streams are not in step
	})
	equal(t, "stderr", output(t, st.LogPath, "stderr"), "two\n")
	if out := output(t, st.LogPath, "stdout"); out != "one\n"+long+"\nrest" && out != "one\n"+long+"\nrest\n" {
		t.Errorf("stdout has %d bytes: %.20q...", len(out), out)
	}
	parts := 0
	for _, l := range lines {
		if l.Tags == "P" {
			parts++
		}
		if l.At.Before(before.Add(-time.Second)) || l.At.After(time.Now()) {
			t.Errorf("a line of %v", l.At)
		}
	}
	if parts < 2 {
		t.Errorf("a long line has %d parts", parts)
	}
}

func containerReopen(t *testing.T, s *suite) {
	p := s.pod(t)
	id := s.start(t, p, []string{"tick", "5ms"})
	s.says(t, id, "tick 3")
	path := s.status(t, id).LogPath
	if err := os.Rename(path, path+".old"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.rt.ReopenContainerLog(ctx(t), &runtimeapi.ReopenContainerLogRequest{ContainerId: id}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it writes to the new file", func() bool { return len(readLog(t, path)) > 3 })
	old, fresh := readLog(t, path+".old"), readLog(t, path)
	var last, first int
	scan(t, old[len(old)-1].Text, &last)
	scan(t, fresh[0].Text, &first)
	equal(t, "the first line of the new file", first, last+1)
	if _, err := s.rt.StopContainer(ctx(t), &runtimeapi.StopContainerRequest{ContainerId: id}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.rt.ReopenContainerLog(ctx(t), &runtimeapi.ReopenContainerLogRequest{ContainerId: id}); err == nil {
		t.Error("the log of a container that ended was opened")
	}
}

func containerRemoved(t *testing.T, s *suite) {
	p := s.pod(t)
	id := s.start(t, p, []string{"trap", "ignore"})
	s.says(t, id, "ready")
	if _, err := s.rt.RemoveContainer(ctx(t), &runtimeapi.RemoveContainerRequest{ContainerId: id}); err != nil {
		t.Fatal(err)
	}
	out, err := s.rt.ListContainers(ctx(t), &runtimeapi.ListContainersRequest{Filter: &runtimeapi.ContainerFilter{PodSandboxId: p.id}})
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "containers", len(out.Containers), 0)
}

func containerOOM(t *testing.T, s *suite) {
	p := s.pod(t)
	id := s.start(t, p, []string{"eat", "256"}, func(c *runtimeapi.ContainerConfig) {
		c.Linux.Resources = &runtimeapi.LinuxContainerResources{MemoryLimitInBytes: 64 << 20, OomScoreAdj: 900}
	})
	st := s.wait(t, id)
	equal(t, "reason", st.Reason, "OOMKilled")
	equal(t, "exit code", st.ExitCode, 137)
}

func containerUpdate(t *testing.T, s *suite) {
	p := s.pod(t)
	id := s.start(t, p, []string{"pause"}, func(c *runtimeapi.ContainerConfig) {
		c.Linux.Resources = &runtimeapi.LinuxContainerResources{MemoryLimitInBytes: 128 << 20, CpuShares: 256, CpuPeriod: 100000, CpuQuota: 50000}
	})
	if _, err := s.rt.UpdateContainerResources(ctx(t), &runtimeapi.UpdateContainerResourcesRequest{
		ContainerId: id, Linux: &runtimeapi.LinuxContainerResources{MemoryLimitInBytes: 96 << 20, CpuQuota: 20000, CpuPeriod: 100000},
	}); err != nil {
		t.Fatal(err)
	}
	got := s.status(t, id).Resources.GetLinux()
	equal(t, "memory", got.GetMemoryLimitInBytes(), 96<<20)
	equal(t, "quota", got.GetCpuQuota(), 20000)
	limit, quota := "/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/cpu/cpu.cfs_quota_us"
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
		limit, quota = "/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/cpu.max"
	}
	equal(t, "memory, from inside", string(s.exec(t, id, "read", limit).Stdout), "100663296\n")
	if q := string(s.exec(t, id, "read", quota).Stdout); q != "20000\n" && q != "20000 100000\n" {
		t.Errorf("quota, from inside, is %q", q)
	}
	_, err := s.rt.UpdateContainerResources(ctx(t), &runtimeapi.UpdateContainerResourcesRequest{ContainerId: "none", Linux: got})
	equal(t, "code", status.Code(err), codes.NotFound)
}

func containerEvents(t *testing.T, s *suite) {
	stream, err := s.rt.GetContainerEvents(ctx(t), &runtimeapi.GetEventsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	// A stream begins when the runtime has it: events of this pod are made until one comes.
	got := make(chan *runtimeapi.ContainerEventResponse, 1024)
	go func() {
		defer close(got)
		for {
			e, err := stream.Recv()
			if err != nil {
				return
			}
			got <- e
		}
	}()
	eventually(t, "an event comes", func() bool {
		s.pod(t)
		return len(got) > 0
	})
	p := s.pod(t)
	id := s.start(t, p, []string{"exit", "3"})
	s.wait(t, id)
	if _, err := s.rt.RemoveContainer(ctx(t), &runtimeapi.RemoveContainerRequest{ContainerId: id}); err != nil {
		t.Fatal(err)
	}
	want := []runtimeapi.ContainerEventType{
		runtimeapi.ContainerEventType_CONTAINER_CREATED_EVENT, runtimeapi.ContainerEventType_CONTAINER_STARTED_EVENT,
		runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT, runtimeapi.ContainerEventType_CONTAINER_DELETED_EVENT,
	}
	for e := range got {
		if e.ContainerId != id {
			continue
		}
		if e.ContainerEventType != want[0] {
			t.Errorf("the event is %v, want %v", e.ContainerEventType, want[0])
		}
		if e.PodSandboxStatus.GetId() != p.id {
			t.Errorf("the event's sandbox is %v", e.PodSandboxStatus)
		}
		if want = want[1:]; len(want) == 0 {
			return
		}
	}
	t.Errorf("the stream ended before %v", want)
}
