package probe

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/utils/ptr"
)

// commands is a runtime in which commands end as the test says.
type commands struct {
	runtimeapi.RuntimeServiceClient
	mu   sync.Mutex
	exit map[string]int32 // by the first word of the command
	fail error
	ran  []string
	when []time.Time
	slow time.Duration
}

func (c *commands) ExecSync(ctx context.Context, in *runtimeapi.ExecSyncRequest, _ ...grpc.CallOption) (*runtimeapi.ExecSyncResponse, error) {
	c.mu.Lock()
	c.ran = append(c.ran, in.ContainerId+" "+strings.Join(in.Cmd, " "))
	c.when = append(c.when, time.Now())
	exit, slow, fail := c.exit[in.Cmd[0]], c.slow, c.fail
	c.mu.Unlock()
	select {
	case <-time.After(slow):
	case <-ctx.Done():
		return nil, status.FromContextError(ctx.Err()).Err()
	}
	if fail != nil {
		return nil, fail
	}
	return &runtimeapi.ExecSyncResponse{ExitCode: exit, Stdout: []byte("out of " + in.Cmd[0])}, nil
}

func (c *commands) set(command string, exit int32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.exit[command] = exit
}

func (c *commands) runs(command string) (n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, r := range c.ran {
		if strings.Contains(r, command) {
			n++
		}
	}
	return n
}

// bench is a prober under simulated time, in a bubble.
type bench struct {
	*Prober
	rt     *commands
	events *record.FakeRecorder
	mu     sync.Mutex
	got    []string // changes
}

// simulate runs a test in a bubble.
func simulate(t *testing.T, f func(t *testing.T, b *bench)) {
	synctest.Test(t, func(t *testing.T) {
		b := &bench{rt: &commands{exit: map[string]int32{}}, events: record.NewFakeRecorder(10000)}
		b.Prober = New(Config{Runtime: b.rt, Events: b.events, Random: func() float64 { return 0.5 }})
		ctx, cancel := context.WithCancel(context.Background())
		var wg sync.WaitGroup
		wg.Go(func() { _ = b.Run(ctx) })
		wg.Go(func() {
			for {
				select {
				case c := <-b.Changes():
					b.mu.Lock()
					b.got = append(b.got, fmt.Sprintf("%s %s %s %t", c.Container, c.ContainerID, c.Kind, c.Ok))
					b.mu.Unlock()
				case <-ctx.Done():
					return
				}
			}
		})
		f(t, b)
		cancel()
		wg.Wait()
	})
}

func (b *bench) changes(t *testing.T, want ...string) {
	t.Helper()
	synctest.Wait()
	b.mu.Lock()
	defer b.mu.Unlock()
	if !slices.Equal(b.got, want) {
		t.Errorf("changes: got %q, want %q", b.got, want)
	}
	b.got = nil
}

func (b *bench) result(t *testing.T, id string, started, ready bool) {
	t.Helper()
	synctest.Wait()
	if s, r := b.Result(id); s != started || r != ready {
		t.Errorf("%s: started %t, ready %t; want %t, %t", id, s, r, started, ready)
	}
}

func (b *bench) recorded() (all []string) {
	for {
		select {
		case e := <-b.events.Events:
			all = append(all, e)
		default:
			return all
		}
	}
}

// after lets time go by.
func after(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func run(command string, set ...func(*corev1.Probe)) *corev1.Probe {
	p := &corev1.Probe{ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{command}}}, PeriodSeconds: 10, TimeoutSeconds: 1, SuccessThreshold: 1, FailureThreshold: 3}
	for _, f := range set {
		f(p)
	}
	return p
}

func podWith(c corev1.Container) (*corev1.Pod, *corev1.Container) {
	c.Name = "main"
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web", UID: "u-1"}, Spec: corev1.PodSpec{Containers: []corev1.Container{c}}}
	return p, &p.Spec.Containers[0]
}

func TestNoProbes(t *testing.T) {
	simulate(t, func(t *testing.T, b *bench) {
		p, c := podWith(corev1.Container{})
		b.result(t, "c1", false, false)
		b.Start(p, c, "c1", "", time.Now())
		b.result(t, "c1", true, true)
		b.Stop("u-1", "main")
		b.result(t, "c1", false, false)
	})
}

func TestReadiness(t *testing.T) {
	simulate(t, func(t *testing.T, b *bench) {
		p, c := podWith(corev1.Container{ReadinessProbe: run("ready", func(p *corev1.Probe) { p.InitialDelaySeconds, p.SuccessThreshold = 5, 2 })})
		b.rt.set("ready", 0)
		b.Start(p, c, "c1", "", time.Now())
		after(4 * time.Second)
		if n := b.rt.runs("ready"); n != 0 {
			t.Errorf("%d runs within the initial delay", n)
		}
		after(2 * time.Second) // 6s: one run
		b.result(t, "c1", true, false)
		after(10 * time.Second) // 16s: two
		b.result(t, "c1", true, true)
		b.changes(t, "main c1 Readiness true")
		b.rt.set("ready", 1)
		after(20 * time.Second) // two failures
		b.result(t, "c1", true, true)
		after(10 * time.Second)
		b.result(t, "c1", true, false)
		b.changes(t, "main c1 Readiness false")
		want := "Warning Unhealthy Readiness probe failed: out of ready"
		if got := b.recorded(); len(got) != 3 || got[0] != want {
			t.Errorf("events %q", got)
		}
	})
}

func TestStartupGates(t *testing.T) {
	simulate(t, func(t *testing.T, b *bench) {
		p, c := podWith(corev1.Container{StartupProbe: run("up", func(p *corev1.Probe) { p.FailureThreshold = 10 }), ReadinessProbe: run("ready"), LivenessProbe: run("live")})
		b.rt.set("up", 1)
		b.rt.set("live", 1)
		b.Start(p, c, "c1", "", time.Now())
		after(25 * time.Second)
		if b.rt.runs("up") != 3 || b.rt.runs("ready")+b.rt.runs("live") != 0 {
			t.Errorf("ran %q", b.rt.ran)
		}
		b.result(t, "c1", false, false)
		b.rt.set("up", 0)
		b.rt.set("live", 0)
		after(6 * time.Second) // at 30s; the others follow at once
		b.result(t, "c1", true, true)
		b.changes(t, "main c1 Startup true", "main c1 Readiness true")
		after(time.Minute)
		if n := b.rt.runs("up"); n != 4 {
			t.Errorf("startup ran %d times", n)
		}
		b.changes(t)
	})
}

func TestFailuresWaitForTheNextContainer(t *testing.T) {
	for _, kind := range []Kind{Liveness, Startup} {
		simulate(t, func(t *testing.T, b *bench) {
			spec := corev1.Container{LivenessProbe: run("live")}
			if kind == Startup {
				spec = corev1.Container{StartupProbe: run("live")}
			}
			p, c := podWith(spec)
			b.rt.set("live", 1)
			b.Start(p, c, "c1", "", time.Now())
			after(time.Hour)
			b.changes(t, fmt.Sprintf("main c1 %s false", kind))
			if n := b.rt.runs("live"); n != 3 {
				t.Errorf("%d runs", n)
			}
			b.rt.set("live", 0)
			b.Start(p, c, "c2", "", time.Now())
			b.result(t, "c1", false, false)
			after(35 * time.Second)
			b.result(t, "c2", true, true)
			if n := b.rt.runs("c2 live"); (kind == Liveness && n != 4) || (kind == Startup && n != 1) {
				t.Errorf("%d runs in the new container", n)
			}
		})
	}
}

func TestTerminating(t *testing.T) {
	simulate(t, func(t *testing.T, b *bench) {
		p, c := podWith(corev1.Container{ReadinessProbe: run("ready"), LivenessProbe: run("live")})
		b.Start(p, c, "c1", "", time.Now())
		after(time.Second)
		b.changes(t, "main c1 Readiness true")
		b.rt.set("ready", 1)
		b.rt.set("live", 1)
		p.DeletionTimestamp = ptr.To(metav1.Now())
		b.Start(p, c, "c1", "", time.Now())
		after(time.Minute)
		b.changes(t, "main c1 Readiness false")
		if n := b.rt.runs("live"); n != 1 {
			t.Errorf("liveness ran %d times", n)
		}
	})
	simulate(t, func(t *testing.T, b *bench) {
		p, c := podWith(corev1.Container{LivenessProbe: run("live")})
		b.rt.slow = time.Minute
		b.Start(p, c, "c1", "", time.Now())
		after(time.Second)
		b.Terminating("u-1") // ends the run too
		after(time.Hour)
		b.changes(t)
		if n := b.rt.runs("live"); n != 1 {
			t.Errorf("liveness ran %d times", n)
		}
	})
}

func TestUnknownIsNotCounted(t *testing.T) {
	simulate(t, func(t *testing.T, b *bench) {
		p, c := podWith(corev1.Container{LivenessProbe: run("live", func(p *corev1.Probe) { p.FailureThreshold = 1 })})
		b.rt.fail = status.Error(codes.Unavailable, "the runtime is away")
		b.Start(p, c, "c1", "", time.Now())
		after(time.Second)
		b.changes(t)
		if n := b.rt.runs("live"); n != tries {
			t.Errorf("%d tries", n)
		}
		if got := b.recorded(); len(got) != 1 || !strings.Contains(got[0], "Liveness probe errored and resulted in unknown state: ") {
			t.Errorf("events %q", got)
		}
		b.rt.mu.Lock()
		b.rt.fail = status.Error(codes.DeadlineExceeded, "took too long")
		b.rt.mu.Unlock()
		after(10 * time.Second)
		b.changes(t, "main c1 Liveness false")
		if got := b.recorded(); len(got) != 1 || got[0] != `Warning Unhealthy Liveness probe failed: command timed out: "live" timed out after 1s` {
			t.Errorf("events %q", got)
		}
	})
}

func TestAgentRestart(t *testing.T) {
	simulate(t, func(t *testing.T, b *bench) {
		p, c := podWith(corev1.Container{StartupProbe: run("up"), ReadinessProbe: run("ready"), LivenessProbe: run("live")})
		p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "main", ContainerID: "containerd://c1", Started: ptr.To(true), Ready: true}}
		b.rt.set("ready", 1)
		begin := time.Now()
		b.Start(p, c, "c1", "", begin.Add(-time.Hour))
		b.result(t, "c1", true, true)
		after(9 * time.Second)
		if b.rt.runs("up") != 0 || b.rt.runs("ready") != 1 || b.rt.when[0].Sub(begin) != 5*time.Second {
			t.Errorf("ran %q at %v", b.rt.ran, b.rt.when[0].Sub(begin))
		}
		b.result(t, "c1", true, true) // one failure is not enough
		after(time.Minute)
		b.result(t, "c1", true, false)
	})
}

func TestSlowRunsDoNotOverlap(t *testing.T) {
	simulate(t, func(t *testing.T, b *bench) {
		p, c := podWith(corev1.Container{LivenessProbe: run("live", func(p *corev1.Probe) { p.PeriodSeconds = 1 })})
		b.rt.slow = 3 * time.Second
		begin := time.Now()
		b.Start(p, c, "c1", "", begin)
		after(10 * time.Second)
		for i, w := range b.rt.when {
			if got := w.Sub(begin); got != time.Duration(3*i)*time.Second {
				t.Errorf("run %d began after %v", i, got)
			}
		}
	})
}

func TestStopEndsEverything(t *testing.T) {
	simulate(t, func(t *testing.T, b *bench) {
		reg := prometheus.NewRegistry()
		reg.MustRegister(b.Metrics()...)
		p, c := podWith(corev1.Container{ReadinessProbe: run("ready"), LivenessProbe: run("live")})
		b.Start(p, c, "c1", "", time.Now())
		after(15 * time.Second)
		families, err := reg.Gather()
		if err != nil {
			t.Fatal(err)
		}
		found := 0
		for _, f := range families {
			for _, m := range f.Metric {
				if f.GetName() == "prober_probe_total" && m.Counter.GetValue() == 2 {
					found++
				}
			}
		}
		if found != 2 {
			t.Errorf("got %v", families)
		}
		b.Stop("u-1", "")
		n := len(b.rt.ran)
		after(time.Hour)
		if len(b.rt.ran) != n {
			t.Error("it goes on")
		}
		if families, _ = reg.Gather(); len(families) != 0 {
			t.Errorf("left behind: %v", families)
		}
	})
}

func TestManyContainers(t *testing.T) {
	simulate(t, func(t *testing.T, b *bench) {
		const many = 500
		for i := range many {
			p, c := podWith(corev1.Container{ReadinessProbe: run("ready", func(p *corev1.Probe) { p.PeriodSeconds = int32(1 + i%10) })})
			p.UID = types.UID(fmt.Sprint("u", i))
			b.Start(p, c, fmt.Sprint("c", i), "", time.Now())
		}
		after(59500 * time.Millisecond)
		for i := range many {
			b.result(t, fmt.Sprint("c", i), true, true)
		}
		want := 0
		for period := 1; period <= 10; period++ {
			want += many / 10 * (1 + (59500 / (1000 * period)))
		}
		if n := b.rt.runs("ready"); n != want {
			t.Errorf("%d runs, want %d", n, want)
		}
	})
}
