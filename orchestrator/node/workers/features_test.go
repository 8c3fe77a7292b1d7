package workers

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"

	"github.com/keelson-io/keelson/orchestrator/node/probe"
)

func execHandler(cmd string) *corev1.LifecycleHandler {
	return &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: []string{cmd}}}
}

func TestPostStartHoldsTheNext(t *testing.T) {
	in(t, func(h *harness) {
		h.rt.exec = func(context.Context, string, []string) (int32, error) {
			time.Sleep(5 * time.Second)
			return 0, nil
		}
		p := makePod("a", "b")
		p.Spec.Containers[0].Lifecycle = &corev1.Lifecycle{PostStart: execHandler("hook")}
		h.api.create(p)
		h.pass(4 * time.Second)
		h.expect("Pending a=running b=ContainerCreating")
		h.pass(2 * time.Second)
		h.expect("Running a=running+ b=running+")
	})
}

func TestPostStartFails(t *testing.T) {
	in(t, func(h *harness) {
		h.rt.exec = func(context.Context, string, []string) (int32, error) { return 1, nil }
		p := makePod("a")
		p.Spec.Containers[0].Lifecycle = &corev1.Lifecycle{PostStart: execHandler("hook")}
		h.api.create(p)
		h.pass(time.Second)
		require.Subset(t, h.events.take(), []string{"{a} FailedPostStartHook: PostStartHook failed", "{a} Killing: FailedPostStartHook"})
		h.pass(5 * time.Second)
		c := h.api.pod("p").Status.ContainerStatuses[0]
		require.Equal(t, "CrashLoopBackOff", c.State.Waiting.Reason)
		require.Positive(t, c.RestartCount)
		require.False(t, c.Ready)
	})
}

func TestPreStop(t *testing.T) {
	for _, c := range []struct {
		name  string
		hook  time.Duration
		err   error
		calls []string
		at    time.Duration
	}{
		{"in time", 5 * time.Second, nil, []string{"exec [hook]", "stop a 5s", "stop sandbox"}, 10 * time.Second},
		{"too long", time.Minute, nil, []string{"exec [hook]", "stop a 2s", "stop sandbox"}, 12 * time.Second},
		{"fails", time.Second, errors.New("no"), []string{"exec [hook]", "stop a 9s", "stop sandbox"}, 10 * time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			in(t, func(h *harness) {
				h.rt.behave = func(string, int) behaviour { return behaviour{ignores: true} }
				h.rt.exec = func(ctx context.Context, _ string, _ []string) (int32, error) {
					select {
					case <-time.After(c.hook):
					case <-ctx.Done():
					}
					return 0, c.err
				}
				p := makePod("a")
				p.Spec.Containers[0].Lifecycle = &corev1.Lifecycle{PreStop: execHandler("hook")}
				h.api.create(p)
				h.expect("Running a=running+")
				h.rt.took()
				h.api.del("p", 10)
				h.pass(c.at - time.Millisecond)
				h.expect("Running a=running+")
				h.pass(time.Millisecond)
				h.expect("gone")
				require.Equal(t, c.calls, h.rt.took()[:3])
				if c.err != nil {
					require.Contains(t, h.events.take(), "{a} FailedPreStopHook: PreStopHook failed")
				}
			})
		})
	}
}

func TestPreStopSleep(t *testing.T) {
	in(t, func(h *harness) {
		p := makePod("a")
		p.Spec.Containers[0].Lifecycle = &corev1.Lifecycle{PreStop: &corev1.LifecycleHandler{Sleep: &corev1.SleepAction{Seconds: 7}}}
		h.api.create(p)
		h.expect("Running a=running+")
		h.api.del("p", 30)
		h.pass(6 * time.Second)
		h.expect("Running a=running+")
		h.pass(2 * time.Second)
		h.expect("gone")
	})
}

func TestOrphanRunsItsPreStop(t *testing.T) {
	in(t, func(h *harness) {
		p := makePod("a")
		p.Spec.Containers[0].Lifecycle = &corev1.Lifecycle{PreStop: execHandler("hook")}
		h.api.create(p)
		h.expect("Running a=running+")
		h.stop()
		h.ws = nil
		h.api.force("p")
		h.rt.took()
		h.start()
		h.pass(time.Second)
		require.Equal(t, []string{"exec [hook]", "stop a 30s", "stop sandbox"}, h.rt.took()[:3])
		h.nothingLeft()
	})
}

func TestHTTPHook(t *testing.T) {
	var got string
	code := http.StatusOK
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got = r.Method + " " + r.URL.String() + " " + r.Header.Get("X-A") + " " + r.Host
		w.WriteHeader(code)
	}))
	defer s.Close()
	host, port, err := net.SplitHostPort(s.Listener.Addr().String())
	require.NoError(t, err)
	number, err := strconv.Atoi(port)
	require.NoError(t, err)
	ws := &Workers{hooks: newHookClient()}
	c := &corev1.Container{Ports: []corev1.ContainerPort{{Name: "web", ContainerPort: int32(number)}}}
	get := &corev1.HTTPGetAction{Path: "/x?y=1", Port: intstr.FromString("web"), HTTPHeaders: []corev1.HTTPHeader{{Name: "X-A", Value: "b"}, {Name: "Host", Value: "h"}}}
	require.NoError(t, ws.httpHook(t.Context(), c, []string{host}, get))
	require.Equal(t, "GET /x?y=1 b h", got)
	code = http.StatusTeapot
	require.ErrorContains(t, ws.httpHook(t.Context(), c, []string{host}, get), "failed with status 418")
	get.Port = intstr.FromString("none")
	require.EqualError(t, ws.httpHook(t.Context(), c, []string{host}, get), `couldn't find port: "none"`)
}

func TestProbesGateAndRestart(t *testing.T) {
	in(t, func(h *harness) {
		p := makePod("a")
		exec := corev1.ProbeHandler{Exec: &corev1.ExecAction{}}
		c := &p.Spec.Containers[0]
		c.StartupProbe = &corev1.Probe{ProbeHandler: exec, TerminationGracePeriodSeconds: ptr.To(int64(3))}
		c.ReadinessProbe = &corev1.Probe{ProbeHandler: exec}
		c.LivenessProbe = &corev1.Probe{ProbeHandler: exec, TerminationGracePeriodSeconds: ptr.To(int64(7))}
		h.rt.behave = func(string, int) behaviour { return behaviour{ignores: true} }
		h.api.create(p)
		h.expect("Running a=running")
		require.False(t, *h.api.pod("p").Status.ContainerStatuses[0].Started)
		h.prober.says("uid-p", "a", probe.Startup, true)
		h.expect("Running a=running")
		require.True(t, *h.api.pod("p").Status.ContainerStatuses[0].Started)
		require.Equal(t, []string{"ContainersReady=ContainersNotReady", "Ready=ContainersNotReady"}, unmet(h.api.pod("p")))
		h.prober.says("uid-p", "a", probe.Readiness, true)
		h.expect("Running a=running+")
		h.prober.says("uid-p", "a", probe.Readiness, false)
		h.expect("Running a=running")
		h.rt.took()
		h.events.take()
		h.prober.says("uid-p", "a", probe.Liveness, false)
		h.pass(8 * time.Second)
		h.expect("Running a=running*1")
		require.Equal(t, []string{"stop a 7s", "create a 1", "start a"}, withoutRemoves(h.rt.took()))
		require.Equal(t, "{a} Killing: Container a failed liveness probe, will be restarted", h.events.take()[0])
		h.prober.says("uid-p", "a", probe.Startup, false)
		h.pass(20 * time.Second)
		h.expect("Running a=running*2")
		require.Equal(t, []string{"stop a 3s", "create a 2", "start a"}, withoutRemoves(h.rt.took()))
	})
}

func TestProbeEndsAPodThatDoesNotRestart(t *testing.T) {
	in(t, func(h *harness) {
		p := makePod("a")
		p.Spec.RestartPolicy = corev1.RestartPolicyNever
		p.Spec.Containers[0].LivenessProbe = &corev1.Probe{ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{}}}
		h.api.create(p)
		h.expect("Running a=running+")
		h.events.take()
		h.prober.says("uid-p", "a", probe.Liveness, false)
		h.pass(time.Second)
		h.expect("Failed a=exit143")
		h.saw("{a} Killing: Container a failed liveness probe")
	})
}

func TestReadyWhileTerminating(t *testing.T) {
	in(t, func(h *harness) {
		h.rt.behave = func(string, int) behaviour { return behaviour{onTerm: 10 * time.Second} }
		p := makePod("a")
		p.Spec.Containers[0].ReadinessProbe = &corev1.Probe{ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{}}}
		h.api.create(p)
		h.expect("Running a=running")
		h.prober.says("uid-p", "a", probe.Readiness, true)
		h.api.del("p", 30)
		h.pass(5 * time.Second)
		h.expect("Running a=running+") // it may still serve
	})
}

func TestAgentRestartKeepsStarted(t *testing.T) {
	in(t, func(h *harness) {
		p := makePod("s:s1", "a")
		p.Spec.InitContainers[0].StartupProbe = &corev1.Probe{ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{}}}
		h.api.create(p)
		h.expect("Pending s1=running a=PodInitializing")
		h.prober.says("uid-p", "s1", probe.Startup, true)
		h.expect("Running s1=running+ a=running+")
		clear(h.prober.started)
		h.restart()
		h.pass(time.Minute)
		h.expect("Running s1=running+ a=running+")
	})
}

func TestEphemeralContainer(t *testing.T) {
	in(t, func(h *harness) {
		h.rt.behave = func(name string, _ int) behaviour {
			if name == "debug" {
				return behaviour{run: 5 * time.Second, exit: 3}
			}
			return behaviour{}
		}
		h.api.create(makePod("a"))
		h.expect("Running a=running+")
		h.api.change("p", func(p *corev1.Pod) {
			p.Generation++
			p.Spec.EphemeralContainers = []corev1.EphemeralContainer{{
				EphemeralContainerCommon: corev1.EphemeralContainerCommon{Name: "debug", Image: "img:2", ImagePullPolicy: corev1.PullIfNotPresent, Stdin: true, TTY: true},
				TargetContainerName:      "a",
			}}
		})
		h.expect("Running a=running+ debug=running")
		require.EqualValues(t, 2, h.api.pod("p").Status.ObservedGeneration)
		c := h.rt.container("debug").config
		require.True(t, c.Tty && c.Stdin)
		require.Equal(t, h.rt.container("a").status.Id, c.Linux.SecurityContext.NamespaceOptions.TargetId)
		h.pass(6 * time.Second)
		h.expect("Running a=running+ debug=exit3")
		h.restart()
		h.pass(time.Hour)
		h.expect("Running a=running+ debug=exit3")
		require.Empty(t, unmet(h.api.pod("p")))
	})
}

func TestAllContainersRestart(t *testing.T) {
	in(t, func(h *harness) {
		h.rt.behave = func(name string, attempt int) behaviour {
			switch {
			case name == "one":
				return behaviour{run: time.Second}
			case name == "b" && attempt == 0:
				return behaviour{run: 10 * time.Second, exit: 42}
			}
			return behaviour{onTerm: 2 * time.Second}
		}
		p := makePod("i:one", "a", "b")
		p.Spec.RestartPolicy = corev1.RestartPolicyNever
		p.Spec.Containers[0].Lifecycle = &corev1.Lifecycle{PreStop: execHandler("hook")}
		p.Spec.Containers[1].RestartPolicy = ptr.To(corev1.ContainerRestartPolicyNever)
		p.Spec.Containers[1].RestartPolicyRules = []corev1.ContainerRestartRule{{
			Action: corev1.ContainerRestartRuleActionRestartAllContainers, ExitCodes: &corev1.ContainerRestartRuleOnExitCodes{Operator: "In", Values: []int32{42}},
		}}
		h.api.create(p)
		h.pass(2 * time.Second)
		h.expect("Running one=exit0+ a=running+ b=running+")
		require.Equal(t, []string{"AllContainersRestarting="}, unmet(h.api.pod("p")))
		h.rt.took()
		h.pass(10 * time.Second)
		require.Equal(t, []string{"Ready=ContainersNotReady"}, unmet(h.api.pod("p"))[1:])
		h.pass(5 * time.Second)
		h.expect("Running one=exit0*1+ a=running*1+ b=running*1+")
		require.Equal(t, []string{"stop a 30s", "create one 1", "start one"}, withoutRemoves(h.rt.took())[:3], "no preStop hook")
		require.Equal(t, []string{"AllContainersRestarting="}, unmet(h.api.pod("p")))
		h.restart()
		h.pass(time.Minute)
		h.expect("Running one=exit0*1+ a=running*1+ b=running*1+")
	})
}

func withoutRemoves(calls []string) (kept []string) {
	for _, c := range calls {
		if len(c) < 6 || c[:6] != "remove" {
			kept = append(kept, c)
		}
	}
	return kept
}

func TestImageChanges(t *testing.T) {
	in(t, func(h *harness) {
		h.api.create(makePod("a", "b"))
		h.expect("Running a=running+ b=running+")
		h.events.take()
		h.api.change("p", func(p *corev1.Pod) { p.Spec.Containers[0].Image = "img:2" })
		h.pass(time.Second)
		h.expect("Running a=running*1+ b=running+")
		require.Equal(t, "img:2", h.api.pod("p").Status.ContainerStatuses[0].Image)
		require.Equal(t, "{a} Killing: Container a definition changed, will be restarted", h.events.take()[0])
	})
}

func TestMessages(t *testing.T) {
	for _, c := range []struct {
		name   string
		policy corev1.TerminationMessagePolicy
		b      behaviour
		want   string
	}{
		{"from the file", corev1.TerminationMessageReadFile, behaviour{run: 1, says: "goodbye", exit: 1}, "goodbye"},
		{"none", corev1.TerminationMessageReadFile, behaviour{run: 1, exit: 1, logs: "2026-01-01T00:00:00Z stdout F x\n"}, ""},
		{"from the log", corev1.TerminationMessageFallbackToLogsOnError, behaviour{run: 1, exit: 1, logs: "2026-01-01T00:00:00Z stdout P par\n2026-01-01T00:00:00Z stdout F tial\n2026-01-01T00:00:00Z stderr F last\n"}, "partial\nlast\n"},
		{"no error, no log", corev1.TerminationMessageFallbackToLogsOnError, behaviour{run: 1, logs: "2026-01-01T00:00:00Z stdout F x\n"}, ""},
		{"file before log", corev1.TerminationMessageFallbackToLogsOnError, behaviour{run: 1, exit: 1, says: "file", logs: "2026-01-01T00:00:00Z stdout F x\n"}, "file"},
	} {
		t.Run(c.name, func(t *testing.T) {
			in(t, func(h *harness) {
				h.rt.behave = func(string, int) behaviour { return c.b }
				p := makePod("a")
				p.Spec.RestartPolicy = corev1.RestartPolicyNever
				p.Spec.Containers[0].TerminationMessagePolicy = c.policy
				h.api.create(p)
				h.pass(time.Second)
				require.Equal(t, c.want, h.api.pod("p").Status.ContainerStatuses[0].State.Terminated.Message)
			})
		})
	}
}

func TestOutOfMemoryIsTold(t *testing.T) {
	in(t, func(h *harness) {
		h.rt.behave = func(string, int) behaviour { return behaviour{run: time.Second, exit: 137, oom: true} }
		p := makePod("a")
		p.Spec.RestartPolicy = corev1.RestartPolicyNever
		h.api.create(p)
		h.pass(2 * time.Second)
		h.expect("Failed a=OOMKilled")
	})
}

func TestAdmission(t *testing.T) {
	for _, c := range []struct {
		name string
		pod  func(*corev1.Pod)
		want string
		says string
	}{
		{"too much", func(p *corev1.Pod) {
			p.Spec.Containers[0].Resources.Requests = corev1.ResourceList{"cpu": resource.MustParse("3")}
		}, "Failed[OutOfcpu]", "Pod was rejected: Node didn't have enough resource: cpu, requested: 3000, used: 2000, capacity: 4000"},
		{"selector", func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{"zone": "b"} }, "Failed[NodeAffinity]", "Pod was rejected: Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector"},
		{"sysctl", func(p *corev1.Pod) {
			p.Spec.SecurityContext = &corev1.PodSecurityContext{Sysctls: []corev1.Sysctl{{Name: "kernel.msgmax", Value: "1"}}}
		}, "Failed[SysctlForbidden]", `Pod was rejected: forbidden sysctl: "kernel.msgmax" not allowlisted`},
		{"port", func(p *corev1.Pod) {
			p.Spec.Containers[0].Ports = []corev1.ContainerPort{{HostPort: 80, ContainerPort: 8080, Protocol: "TCP"}}
		}, "Failed[NodePorts]", "Pod was rejected: Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports"},
		{"other port", func(p *corev1.Pod) {
			p.Spec.Containers[0].Ports = []corev1.ContainerPort{{HostPort: 80, ContainerPort: 8080, Protocol: "UDP"}}
		}, "Running a=running+", ""},
		{"operating system", func(p *corev1.Pod) { p.Spec.OS = &corev1.PodOS{Name: corev1.Windows} }, "Failed[PodOSNotSupported]", "Pod was rejected: Failed to admit pod as the OS field doesn't match node OS (windows)"},
	} {
		t.Run(c.name, func(t *testing.T) {
			in(t, func(h *harness) {
				other := makePod("x")
				other.Name, other.UID = "other", "uid-other"
				other.Spec.Containers[0].Resources.Requests = corev1.ResourceList{"cpu": resource.MustParse("2")}
				other.Spec.Containers[0].Ports = []corev1.ContainerPort{{HostPort: 80, ContainerPort: 8080, Protocol: "TCP"}}
				h.api.create(other)
				h.pass(time.Second)
				p := makePod("a")
				c.pod(p)
				h.api.create(p)
				h.expect(c.want)
				require.Equal(t, c.says, h.api.pod("p").Status.Message)
				h.restart()
				h.pass(time.Minute)
				h.expect(c.want)
			})
		})
	}
}

func TestAdmittedPodsStayAdmitted(t *testing.T) {
	in(t, func(h *harness) {
		p := makePod("a")
		p.Spec.Containers[0].Resources.Requests = corev1.ResourceList{"cpu": resource.MustParse("3")}
		h.api.create(p)
		h.expect("Running a=running+")
		h.node.Status.Allocatable["cpu"] = resource.MustParse("1") // the node shrank
		h.restart()
		h.pass(time.Minute)
		h.expect("Running a=running+")
	})
}

func cpu(request, limit string) corev1.ResourceRequirements {
	return corev1.ResourceRequirements{
		Requests: corev1.ResourceList{"cpu": resource.MustParse(request), "memory": resource.MustParse("1Gi")},
		Limits:   corev1.ResourceList{"cpu": resource.MustParse(limit), "memory": resource.MustParse("1Gi")},
	}
}

func TestResize(t *testing.T) {
	in(t, func(h *harness) {
		p := makePod("a")
		p.Spec.Containers[0].Resources = cpu("1", "1")
		h.api.create(p)
		h.expect("Running a=running+")
		h.rt.took()
		h.api.change("p", func(p *corev1.Pod) { p.Spec.Containers[0].Resources, p.Generation = cpu("2", "3"), 2 })
		h.expect("Running a=running+")
		require.Equal(t, []string{"update a shares=2048 quota=300000 memory=1073741824"}, h.rt.took())
		s := h.api.pod("p").Status.ContainerStatuses[0]
		require.Equal(t, "2", s.AllocatedResources.Cpu().String())
		require.Equal(t, "3", s.Resources.Limits.Cpu().String())
		require.Empty(t, unmet(h.api.pod("p")))
		for _, c := range h.api.pod("p").Status.Conditions {
			require.NotContains(t, string(c.Type), "Resize")
		}

		h.api.change("p", func(p *corev1.Pod) { p.Spec.Containers[0].Resources, p.Generation = cpu("5", "5"), 3 })
		h.expect("Running a=running+")
		require.Equal(t, "PodResizePending Infeasible Node didn't have enough capacity: cpu, requested: 5000, capacity: 4000", resizing(h.api.pod("p")))
		require.Equal(t, "2", h.api.pod("p").Status.ContainerStatuses[0].AllocatedResources.Cpu().String())

		other := makePod("x")
		other.Name, other.UID = "other", "uid-other"
		other.Spec.Containers[0].Resources = cpu("1", "1")
		h.api.create(other)
		h.pass(time.Second)
		h.api.change("p", func(p *corev1.Pod) { p.Spec.Containers[0].Resources, p.Generation = cpu("4", "4"), 4 })
		h.expect("Running a=running+")
		require.Equal(t, "PodResizePending Deferred Node didn't have enough resource: cpu, requested: 4000, used: 1000, capacity: 4000", resizing(h.api.pod("p")))
		h.rt.took()
		h.restart()
		h.pass(time.Minute)
		require.Empty(t, h.rt.took(), "what was granted outlives the agent")
		h.api.del("other", 1)
		h.pass(2 * time.Second)
		require.Contains(t, h.rt.took(), "update a shares=4096 quota=400000 memory=1073741824")
		require.Equal(t, "", resizing(h.api.pod("p")))
	})
}

// resizing is the condition of a resize.
func resizing(p *corev1.Pod) (s string) {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodResizePending || c.Type == corev1.PodResizeInProgress {
			s += string(c.Type) + " " + c.Reason + " " + c.Message
		}
	}
	return s
}

func TestResizeThatRestarts(t *testing.T) {
	in(t, func(h *harness) {
		p := makePod("a", "b")
		p.Spec.Containers[0].Resources = cpu("1", "1")
		p.Spec.Containers[0].ResizePolicy = []corev1.ContainerResizePolicy{{ResourceName: "cpu", RestartPolicy: corev1.RestartContainer}}
		h.api.create(p)
		h.expect("Running a=running+ b=running+")
		h.events.take()
		h.api.change("p", func(p *corev1.Pod) { p.Spec.Containers[0].Resources = cpu("2", "2") })
		h.pass(time.Second)
		h.expect("Running a=running*1+ b=running+")
		require.EqualValues(t, 2048, h.rt.container("a").config.Linux.Resources.CpuShares)
		require.Contains(t, h.events.take(), "{a} Killing: Container a resize requires restart, will be restarted")
		require.Equal(t, "", resizing(h.api.pod("p")))
	})
}
