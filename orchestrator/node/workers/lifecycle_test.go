package workers

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/keelson-io/keelson/orchestrator/node/cgroup"
	"github.com/keelson-io/keelson/orchestrator/node/probe"
)

func resources(c *corev1.Container) *runtimeapi.LinuxContainerResources {
	return cgroup.Resources(c.Resources.Requests, c.Resources.Limits)
}

func TestPodRunsAndIsDeleted(t *testing.T) {
	in(t, func(h *harness) {
		h.api.create(makePod("a", "b"))
		h.expect("Running a=running+ b=running+")
		require.Equal(t, []string{"sandbox 0", "create a 0", "start a", "create b 0", "start b"}, h.rt.took())
		p := h.api.pod("p")
		require.Empty(t, unmet(p))
		require.Equal(t, "10.0.0.1", p.Status.PodIP)
		require.Equal(t, []corev1.PodIP{{IP: "10.0.0.1"}, {IP: "fd00::1"}}, p.Status.PodIPs)
		require.Equal(t, "192.168.0.1", p.Status.HostIP)
		require.Equal(t, corev1.PodQOSBestEffort, p.Status.QOSClass)
		require.EqualValues(t, 1, p.Status.ObservedGeneration)
		require.Regexp(t, "^fake://a-", p.Status.ContainerStatuses[0].ContainerID)
		h.saw(
			`{a} Pulled: Container image "img:1" already present on machine and can be accessed by the pod`, "{a} Created: Container created", "{a} Started: Container started",
			`{b} Pulled: Container image "img:1" already present on machine and can be accessed by the pod`, "{b} Created: Container created", "{b} Started: Container started",
		)
		writes := h.api.writes
		h.pass(10 * time.Minute)
		require.Equal(t, writes, h.api.writes, "a status that does not change is not written")

		h.rt.behave = nil
		h.api.del("p", 30)
		h.pass(time.Second)
		h.expect("gone")
		require.Equal(t, []string{"p"}, h.api.deletes)
		h.nothingLeft()
		require.ElementsMatch(t, []string{"{a} Killing: Stopping container a", "{b} Killing: Stopping container b"}, h.events.take())
	})
}

func TestInitContainersRunInOrder(t *testing.T) {
	in(t, func(h *harness) {
		h.rt.behave = func(name string, attempt int) behaviour {
			switch name {
			case "one":
				return behaviour{run: 5 * time.Second}
			case "two": // fails once
				return behaviour{run: 5 * time.Second, exit: int32(1 - min(attempt, 1))}
			}
			return behaviour{}
		}
		h.api.create(makePod("i:one", "i:two", "a"))
		h.expect("Pending one=running two=PodInitializing a=PodInitializing")
		require.Equal(t, []string{"ContainersReady=ContainersNotReady", "Initialized=ContainersNotInitialized", "Ready=ContainersNotReady"}, unmet(h.api.pod("p")))
		h.pass(5 * time.Second)
		h.expect("Pending one=exit0+ two=running a=PodInitializing")
		h.pass(5 * time.Second) // the first restart is at once
		h.expect("Pending one=exit0+ two=running*1 a=PodInitializing")
		h.pass(5 * time.Second)
		h.expect("Running one=exit0+ two=exit0*1+ a=running+")
		require.Empty(t, unmet(h.api.pod("p")))
	})
}

func TestInitContainerFailsForGood(t *testing.T) {
	in(t, func(h *harness) {
		h.rt.behave = func(name string, _ int) behaviour { return behaviour{run: time.Second, exit: 3} }
		p := makePod("i:one", "i:two", "a")
		p.Spec.RestartPolicy = corev1.RestartPolicyNever
		h.api.create(p)
		h.pass(2 * time.Second)
		h.expect("Failed one=exit3 two=PodInitializing a=PodInitializing")
		require.Equal(t, []string{"ContainersReady=PodFailed", "Initialized=PodFailed", "PodReadyToStartContainers=", "Ready=PodFailed"}, unmet(h.api.pod("p")))
		h.pass(10 * time.Minute)
		h.expect("Failed one=exit3 two=PodInitializing a=PodInitializing")
	})
}

func TestCrashLoop(t *testing.T) {
	in(t, func(h *harness) {
		h.rt.behave = func(string, int) behaviour { return behaviour{run: time.Second, exit: 2} }
		h.api.create(makePod("a"))
		var starts []time.Duration
		begun, last := time.Now(), int32(0)
		for time.Since(begun) < 30*time.Minute {
			h.pass(time.Second)
			if c := h.rt.container("a"); c != nil && int32(c.status.Metadata.Attempt) > last {
				last = int32(c.status.Metadata.Attempt)
				starts = append(starts, time.Since(begun).Round(time.Second))
			}
		}
		var gaps []int
		at := time.Duration(0)
		for _, s := range starts[:9] {
			gaps = append(gaps, int((s - at).Seconds()))
			at = s
		}
		require.Equal(t, []int{1, 11, 21, 41, 81, 161, 301, 301, 301}, gaps)
	})
}

func TestCrashLoopIsTold(t *testing.T) {
	in(t, func(h *harness) {
		h.rt.behave = func(_ string, attempt int) behaviour {
			if attempt == 3 {
				return behaviour{run: 11 * time.Minute, exit: 2}
			}
			return behaviour{run: time.Second, exit: 2}
		}
		h.api.create(makePod("a"))
		h.pass(2 * time.Second)
		h.expect("Running a=CrashLoopBackOff*1")
		c := h.api.pod("p").Status.ContainerStatuses[0]
		require.Equal(t, "back-off 10s restarting failed container=a pod=p_ns(uid-p)", c.State.Waiting.Message)
		require.EqualValues(t, 2, c.LastTerminationState.Terminated.ExitCode)
		require.Contains(t, h.events.take(), "{a} BackOff: Back-off restarting failed container a in pod p_ns(uid-p)")
		h.pass(11 * time.Second)
		h.expect("Running a=CrashLoopBackOff*2")
		h.pass(20 * time.Second)
		h.expect("Running a=running*3+")
		h.pass(11 * time.Minute) // ran for so long that it starts anew
		h.expect("Running a=running*4+")
		h.pass(2 * time.Second)
		require.Equal(t, "back-off 10s restarting failed container=a pod=p_ns(uid-p)", h.api.pod("p").Status.ContainerStatuses[0].State.Waiting.Message)
		require.Len(t, h.rt.left(), 2, "one sandbox and one dead container are kept")
	})
}

func TestRestartPolicies(t *testing.T) {
	never, onFailure, always := corev1.RestartPolicyNever, corev1.RestartPolicyOnFailure, corev1.RestartPolicyAlways
	on := func(op corev1.ContainerRestartRuleOnExitCodesOperator, codes ...int32) []corev1.ContainerRestartRule {
		return []corev1.ContainerRestartRule{{Action: corev1.ContainerRestartRuleActionRestart, ExitCodes: &corev1.ContainerRestartRuleOnExitCodes{Operator: op, Values: codes}}}
	}
	p := func(p corev1.ContainerRestartPolicy) *corev1.ContainerRestartPolicy { return &p }
	for _, c := range []struct {
		name   string
		pod    corev1.RestartPolicy
		own    *corev1.ContainerRestartPolicy
		rules  []corev1.ContainerRestartRule
		exit   int32
		expect string
	}{
		{"never, success", never, nil, nil, 0, "Succeeded a=exit0"},
		{"never, failure", never, nil, nil, 1, "Failed a=exit1"},
		{"on failure, success", onFailure, nil, nil, 0, "Succeeded a=exit0"},
		{"on failure, failure", onFailure, nil, nil, 1, "Running a=running*1+"},
		{"always, success", always, nil, nil, 0, "Running a=running*1+"},
		{"own never", always, p("Never"), nil, 1, "Failed a=exit1"},
		{"own always", never, p("Always"), nil, 0, "Running a=running*1+"},
		{"own on failure, success", never, p("OnFailure"), nil, 0, "Succeeded a=exit0"},
		{"own on failure, failure", never, p("OnFailure"), nil, 1, "Running a=running*1+"},
		{"rule in", never, p("Never"), on("In", 42), 42, "Running a=running*1+"},
		{"rule in, other code", never, p("Never"), on("In", 42), 41, "Failed a=exit41"},
		{"rule not in", never, p("Never"), on("NotIn", 0, 1), 41, "Running a=running*1+"},
		{"rule not in, that code", never, p("Never"), on("NotIn", 0, 1), 1, "Failed a=exit1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			in(t, func(h *harness) {
				h.rt.behave = func(_ string, attempt int) behaviour {
					if attempt > 0 {
						return behaviour{}
					}
					return behaviour{run: time.Second, exit: c.exit}
				}
				pod := makePod("a")
				pod.Spec.RestartPolicy, pod.Spec.Containers[0].RestartPolicy, pod.Spec.Containers[0].RestartPolicyRules = c.pod, c.own, c.rules
				h.api.create(pod)
				h.pass(2 * time.Second)
				h.expect(c.expect)
				h.restart()
				h.pass(time.Minute)
				h.expect(c.expect)
			})
		})
	}
}

func TestAgentRestarts(t *testing.T) {
	in(t, func(h *harness) {
		h.rt.behave = func(name string, attempt int) behaviour {
			if name == "one" {
				return behaviour{run: time.Second}
			}
			if attempt < 2 {
				return behaviour{run: time.Second, exit: 1}
			}
			return behaviour{}
		}
		h.api.create(makePod("i:one", "s:side", "a"))
		h.pass(time.Minute)
		h.expect("Running one=exit0+ side=running*2+ a=running*2+")
		before, ids := h.api.writes, h.rt.left()
		h.rt.took()
		h.restart()
		h.pass(10 * time.Minute)
		h.expect("Running one=exit0+ side=running*2+ a=running*2+")
		require.Equal(t, ids, h.rt.left())
		require.Equal(t, before, h.api.writes)
		require.Empty(t, h.rt.took())
	})
}

func TestAgentRestartsDuringBackOff(t *testing.T) {
	in(t, func(h *harness) {
		h.rt.behave = func(string, int) behaviour { return behaviour{run: time.Second, exit: 1} }
		h.api.create(makePod("a"))
		h.pass(15 * time.Second) // runs at 0, 1, 12, and next at 33
		h.expect("Running a=CrashLoopBackOff*2")
		h.restart()
		h.pass(17 * time.Second)
		h.expect("Running a=CrashLoopBackOff*2")
		h.pass(time.Second)
		h.expect("Running a=running*3+")
	})
}

func TestTermination(t *testing.T) {
	for _, c := range []struct {
		name   string
		grace  int64
		b      behaviour
		before string
		at     time.Duration
	}{
		{"ends when asked", 30, behaviour{onTerm: 5 * time.Second}, "Running a=running+", 5 * time.Second},
		{"ignores it", 30, behaviour{ignores: true}, "Running a=running+", 30 * time.Second},
		{"takes too long", 10, behaviour{onTerm: time.Minute}, "Running a=running+", 10 * time.Second},
		{"forced", 0, behaviour{ignores: true}, "Running a=running+", time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			in(t, func(h *harness) {
				h.rt.behave = func(string, int) behaviour { return c.b }
				h.api.create(makePod("a"))
				h.expect("Running a=running+")
				h.api.del("p", c.grace)
				h.pass(c.at - time.Millisecond)
				h.expect(c.before)
				h.pass(time.Millisecond)
				h.expect("gone")
				h.nothingLeft()
			})
		})
	}
}

func TestGraceIsShortened(t *testing.T) {
	in(t, func(h *harness) {
		h.rt.behave = func(string, int) behaviour { return behaviour{ignores: true} }
		h.api.create(makePod("a"))
		h.expect("Running a=running+")
		h.api.del("p", 600)
		h.pass(5 * time.Second)
		h.api.del("p", 2)
		h.pass(2 * time.Second)
		h.expect("gone")
	})
}

// TestDeadAreRemoved: when the disk is short nothing is kept but what runs, and what is known of the rest stays known.
func TestDeadAreRemoved(t *testing.T) {
	in(t, func(h *harness) {
		h.rt.behave = func(name string, attempt int) behaviour {
			if name == "once" || attempt == 0 {
				return behaviour{run: time.Second, exit: 3}
			}
			return behaviour{}
		}
		h.api.create(makePod("a"))
		ended := makePod("once")
		ended.Name, ended.UID, ended.Spec.RestartPolicy = "q", "uid-q", corev1.RestartPolicyNever
		h.api.create(ended)
		h.pass(time.Minute)
		h.expect("Running a=running*1+")
		before, of := h.api.pod("p").Status.ContainerStatuses[0], h.api.pod("q").Status
		require.EqualValues(t, 3, before.LastTerminationState.Terminated.ExitCode)
		require.Len(t, h.rt.containers, 3)
		require.NoError(t, h.ws.RemoveDead(context.Background()))
		require.Len(t, h.rt.containers, 1)
		require.Len(t, h.rt.boxes, 1)
		h.pass(5 * time.Minute)
		require.Equal(t, before, h.api.pod("p").Status.ContainerStatuses[0])
		require.Equal(t, of, h.api.pod("q").Status)
		h.stop()
		short, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		require.NoError(t, h.ws.RemoveDead(short), "workers that have ended are not waited for")
		h.start()
	})
}

func TestSidecars(t *testing.T) {
	in(t, func(h *harness) {
		h.rt.behave = func(name string, _ int) behaviour {
			switch name {
			case "a":
				return behaviour{run: time.Minute}
			case "i1":
				return behaviour{run: time.Second}
			}
			return behaviour{onTerm: time.Second}
		}
		p := makePod("s:s1", "i:i1", "s:s2", "a")
		p.Spec.RestartPolicy = corev1.RestartPolicyOnFailure
		p.Spec.InitContainers[0].StartupProbe = &corev1.Probe{ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{}}}
		h.api.create(p)
		h.expect("Pending s1=running i1=PodInitializing s2=PodInitializing a=PodInitializing")
		h.pass(time.Minute)
		h.prober.says("uid-p", "s1", probe.Startup, true)
		h.expect("Pending s1=running+ i1=running s2=PodInitializing a=PodInitializing")
		h.pass(time.Second)
		h.expect("Running s1=running+ i1=exit0+ s2=running+ a=running+")
		h.rt.took()
		h.pass(time.Minute) // when the last container is done, the sidecars go in reverse order
		h.pass(3 * time.Second)
		h.expect("Succeeded s1=exit143 i1=exit0+ s2=exit143 a=exit0")
		require.Equal(t, []string{"stop s2 30s", "stop s1 29s", "stop sandbox"}, h.rt.took())
	})
}

func TestSidecarRestarts(t *testing.T) {
	in(t, func(h *harness) {
		h.rt.behave = func(name string, attempt int) behaviour {
			if name == "s1" && attempt < 2 {
				return behaviour{run: 5 * time.Second}
			}
			return behaviour{}
		}
		p := makePod("s:s1", "a")
		p.Spec.RestartPolicy = corev1.RestartPolicyNever
		h.api.create(p)
		h.expect("Running s1=running+ a=running+")
		h.pass(6 * time.Second)
		h.expect("Running s1=running*1+ a=running+")
		h.pass(5 * time.Second)
		h.expect("Running s1=CrashLoopBackOff*1 a=running+")
		require.Equal(t, []string{"ContainersReady=ContainersNotReady", "Ready=ContainersNotReady"}, unmet(h.api.pod("p")))
		h.pass(10 * time.Second)
		h.expect("Running s1=running*2+ a=running+")
	})
}
