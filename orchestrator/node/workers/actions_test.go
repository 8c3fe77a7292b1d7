package workers

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/utils/ptr"

	"github.com/keelson-io/keelson/orchestrator/node/probe"
)

// planNow is the time of all plans in these tests.
var planNow = time.Unix(1_000_000, 0)

// parseView reads what the runtime has of a pod: "box0" is a sandbox that is ready, "box0!" one that is not; "a" a container that
// runs, "a:created", "a:unknown", "a:3" one that ended with that code. After that, as far as needed: "*2" restarts, "@1" the
// attempt of its sandbox, "^1" the round, "~20s" its back-off, "-5s" how long ago it ended, "+15m" for how long it ran.
func parseView(t *testing.T, p *corev1.Pod, text string) view {
	t.Helper()
	v := view{
		pod: p, now: planNow, seen: &observed{containers: map[string][]*container{}}, started: map[string]bool{}, failing: map[string]probe.Kind{},
		hold: map[string]time.Time{}, resize: map[string]bool{}, backOff: backOff{10 * time.Second, 5 * time.Minute},
	}
	for _, word := range strings.Fields(text) {
		if rest, ok := strings.CutPrefix(word, "box"); ok {
			n, lost := strings.CutSuffix(rest, "!")
			attempt, err := strconv.Atoi(n)
			require.NoError(t, err)
			s := &sandbox{id: "box" + n, attempt: uint32(attempt), ready: !lost}
			if !lost {
				s.ips = []string{"10.0.0.1"}
			}
			v.seen.sandboxes = append(v.seen.sandboxes, s)
			continue
		}
		c := parseContainer(t, p, word)
		v.seen.containers[c.name] = append(v.seen.containers[c.name], c)
		v.started[c.id] = c.running() && !strings.Contains(word, "?")
	}
	v.seen.sort()
	return v
}

func parseContainer(t *testing.T, p *corev1.Pod, word string) *container {
	t.Helper()
	marks := "*@^~-+?"
	end := len(word)
	if i := strings.IndexAny(word, marks); i >= 0 {
		end = i
	}
	name, state, _ := strings.Cut(word[:end], ":")
	s := &runtimeapi.ContainerStatus{CreatedAt: planNow.Add(-time.Hour).UnixNano()}
	c := &container{id: word, name: name, sandbox: "box0", status: s, state: runtimeapi.ContainerState_CONTAINER_RUNNING}
	if spec := specOf(p, name); spec != nil {
		c.hash = containerHash(spec)
	}
	ended, ran := planNow.Add(-30*time.Minute), time.Minute
	switch state {
	case "":
	case "created":
		c.state = runtimeapi.ContainerState_CONTAINER_CREATED
	case "unknown":
		c.state = runtimeapi.ContainerState_CONTAINER_UNKNOWN
	default:
		c.state = runtimeapi.ContainerState_CONTAINER_EXITED
		s.ExitCode = int32(parseInt(state))
	}
	for rest := word[end:]; rest != ""; {
		n := 1
		for n < len(rest) && !strings.ContainsRune(marks, rune(rest[n])) {
			n++
		}
		value := rest[1:n]
		switch rest[0] {
		case '*':
			c.attempt = int32(parseInt(value))
		case '@':
			c.sandbox = "box" + value
		case '^':
			c.round = parseInt(value)
		case '~':
			c.backOff = parseDuration(value)
		case '-':
			ended = planNow.Add(-parseDuration(value))
		case '+':
			ran = parseDuration(value)
		}
		rest = rest[n:]
	}
	if c.exited() {
		s.FinishedAt, s.StartedAt = ended.UnixNano(), ended.Add(-ran).UnixNano()
	}
	return c
}

// words are the actions in short: "end", "sandbox 1", "stop a", "start a*2~10s^1", "wait b 5s".
func words(a actions) string {
	var out []string
	if a.end {
		out = append(out, "end")
	}
	if a.newSandbox {
		out = append(out, fmt.Sprintf("sandbox %d", a.attempt))
	}
	for _, s := range a.stops {
		out = append(out, "stop "+s.container.name)
	}
	for _, s := range a.starts {
		w := "start " + s.container.Name
		if s.attempt > 0 {
			w += fmt.Sprintf("*%d", s.attempt)
		}
		if s.backOff > 0 {
			w += "~" + s.backOff.String()
		}
		if s.round > 0 {
			w += fmt.Sprintf("^%d", s.round)
		}
		out = append(out, w)
	}
	var waits []string
	for name, until := range a.waiting {
		waits = append(waits, fmt.Sprintf("wait %s %s", name, until.Sub(planNow)))
	}
	slices.Sort(waits)
	return strings.Join(append(out, waits...), ", ")
}

// podOf builds a pod of "a,i:b,s:c", with a policy after a space.
func podOf(text string) *corev1.Pod {
	names, policy, ok := strings.Cut(text, " ")
	p := makePod(strings.Split(names, ",")...)
	if ok {
		p.Spec.RestartPolicy = corev1.RestartPolicy(policy)
	}
	return p
}

func TestPlan(t *testing.T) {
	for _, c := range []struct {
		name, pod, seen, want string
	}{
		{"nothing yet", "a", "", "sandbox 0"},
		{"a sandbox", "a,b", "box0", "start a, start b"},
		{"all runs", "a,b", "box0 a b", ""},
		{"one is missing", "a,b", "box0 a", "start b"},

		{"ended, always", "a", "box0 a:0", "start a*1~10s"},
		{"ended, on failure", "a OnFailure", "box0 a:0", "end"},
		{"failed, on failure", "a OnFailure", "box0 a:1", "start a*1~10s"},
		{"failed, never", "a Never", "box0 a:1", "end"},
		{"one of two ended, never", "a,b Never", "box0 a:1 b", ""},
		{"both ended, on failure, one failed", "a,b OnFailure", "box0 a:1 b:0", "start a*1~10s"},

		{"first restart is at once", "a", "box0 a:1-0s", "start a*1~10s"},
		{"second waits", "a", "box0 a:1*1~10s-4s", "wait a 6s"},
		{"second is due", "a", "box0 a:1*1~10s-10s", "start a*2~20s"},
		{"the wait doubles", "a", "box0 a:1*4~80s-80s", "start a*5~2m40s"},
		{"and has an end", "a", "box0 a:1*9~5m-5m", "start a*10~5m0s"},
		{"after a long run all is well", "a", "box0 a:1*9~5m-0s+10m", "start a*10~10s"},
		{"not after one that was shorter", "a", "box0 a:1*9~5m-0s+9m", "wait a 5m0s"},
		{"older ones do not matter", "a", "box0 a:1*1~10s-4s a:1", "wait a 6s"},

		{"made and never started", "a", "box0 a:created", "start a*1~10s"},
		{"state unknown", "a", "box0 a:unknown", "stop a"},

		{"sandbox lost", "a", "box0! a:137", "sandbox 1"},
		{"sandbox lost, container said to run", "a", "box0! a", "sandbox 1"},
		{"sandbox lost, never", "a Never", "box0! a", "end"},
		{"sandbox lost, never, nothing ran", "a Never", "box0!", "sandbox 1"},
		{"sandbox lost, all done", "a OnFailure", "box0! a:0", "end"},
		{"sandbox lost, one done", "a,b OnFailure", "box0! a:0 b:137", "sandbox 1"},
		{"sandbox lost while init containers ran", "i:one,a OnFailure", "box0! one:137", "sandbox 1"},
		{"sandbox lost while init containers ran, never", "i:one,a Never", "box0! one:137", "end"},
		{"new sandbox, one done", "a,b OnFailure", "box1 box0! a:0 b:137", "start b*1~10s"},
		{"new sandbox, init containers run anew", "i:one,a", "box1 box0! one:0 a:137", "start one*1~10s"},
		{"new sandbox, init container ran anew", "i:one,a", "box1 box0! one:0 one:0*1@1 a:137", "start a*1~10s"},
		{"two sandboxes", "a", "box1 box0 a@1", "sandbox 2"},

		{"first init container", "i:one,i:two,a", "box0", "start one"},
		{"init container runs", "i:one,i:two,a", "box0 one", ""},
		{"second init container", "i:one,i:two,a", "box0 one:0", "start two"},
		{"init containers done", "i:one,i:two,a", "box0 one:0 two:0", "start a"},
		{"init container failed", "i:one,a", "box0 one:1", "start one*1~10s"},
		{"init container failed again", "i:one,a", "box0 one:1*1~10s-3s", "wait one 7s"},
		{"init container failed, never", "i:one,a Never", "box0 one:1", "end"},
		{"init container made and never started", "i:one,a", "box0 one:created", "start one*1~10s"},
		{"done and forgotten", "i:one,i:two,a", "box0 a", ""},
		{"done and forgotten, later one is there", "i:one,i:two,a", "box0 two:0", "start a"},

		{"sidecar first", "s:s1,i:one,a", "box0", "start s1"},
		{"sidecar has not started", "s:s1,i:one,a", "box0 s1?", ""},
		{"sidecar has started", "s:s1,i:one,a", "box0 s1", "start one"},
		{"all up", "s:s1,i:one,a", "box0 s1 one:0 a", ""},
		{"sidecar ended", "s:s1,a", "box0 s1:0 a", "start s1*1~10s"},
		{"sidecar ended again", "s:s1,a", "box0 s1:0*1~10s-1s a", "wait s1 9s"},
		{"sidecar ended during init", "s:s1,i:one,i:two,a", "box0 s1:1 one:0", "start s1*1~10s, start two"},
		{"sidecar ended before it was passed", "s:s1,i:one,a", "box0 s1:1", "start s1*1~10s"},
		{"restarted sidecar holds nobody up", "s:s1,a", "box0 s1*1? a:1", "start a*1~10s"},
		{"sidecar restarts under never", "s:s1,a Never", "box0 s1:1 a", "start s1*1~10s"},
		{"sidecars do not keep a pod alive", "s:s1,a Never", "box0 s1 a:0", "end"},
		{"nor come back for it", "s:s1,a Never", "box0 s1:1 a:0", "end"},
	} {
		t.Run(c.name, func(t *testing.T) {
			require.Equal(t, c.want, words(plan(parseView(t, podOf(c.pod), c.seen))))
		})
	}
}

func TestPlanByStatus(t *testing.T) {
	ended := func(name string, code, restarts int32) corev1.ContainerStatus {
		return corev1.ContainerStatus{Name: name, ContainerID: "x://1", RestartCount: restarts, State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: code}}}
	}
	running := func(name string, restarts int32) corev1.ContainerStatus {
		return corev1.ContainerStatus{Name: name, ContainerID: "x://1", RestartCount: restarts, State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}
	}
	for _, c := range []struct {
		name, pod, seen string
		status          []corev1.ContainerStatus
		want            string
	}{
		{"the runtime forgot all", "a", "", []corev1.ContainerStatus{running("a", 3)}, "sandbox 0"},
		{"and has a new sandbox", "a", "box0", []corev1.ContainerStatus{running("a", 3)}, "start a*4"},
		{"what ended stays ended", "a,b OnFailure", "box0", []corev1.ContainerStatus{ended("a", 0, 0), running("b", 0)}, "start b*1"},
		{"forgot all, never", "a Never", "", []corev1.ContainerStatus{running("a", 0)}, "end"},
		{"forgot all, all done", "a OnFailure", "", []corev1.ContainerStatus{ended("a", 0, 0)}, "end"},
		{"the status counts further", "a", "box0 a:1*1~0s", []corev1.ContainerStatus{running("a", 5)}, "start a*6~10s"},
	} {
		t.Run(c.name, func(t *testing.T) {
			v := parseView(t, podOf(c.pod), c.seen)
			v.last.ContainerStatuses = c.status
			require.Equal(t, c.want, words(plan(v)))
		})
	}
}

func TestPlanKills(t *testing.T) {
	for _, c := range []struct {
		name, pod string
		change    func(*view)
		want      string
	}{
		{"liveness", "a", func(v *view) { v.failing["a"] = probe.Liveness }, "Container a failed liveness probe, will be restarted"},
		{"startup", "a", func(v *view) { v.failing["a"] = probe.Startup }, "Container a failed startup probe, will be restarted"},
		{"liveness, never", "a Never", func(v *view) { v.failing["a"] = probe.Liveness }, "Container a failed liveness probe"},
		{"image", "a Never", func(v *view) { v.pod.Spec.Containers[0].Image = "img:2" }, "Container a definition changed, will be restarted"},
		{"resize", "a", func(v *view) { v.resize["a"] = true }, "Container a resize requires restart, will be restarted"},
		{"sidecar, never", "s:a,b Never", func(v *view) { v.failing["a"] = probe.Liveness }, "Container a failed liveness probe, will be restarted"},
		{"of another container", "a", func(v *view) { v.failing["b"] = probe.Liveness }, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			v := parseView(t, podOf(c.pod), "box0 a b")
			c.change(&v)
			a := plan(v)
			if c.want == "" {
				require.Empty(t, a.stops)
				return
			}
			require.Len(t, a.stops, 1)
			require.Equal(t, c.want, a.stops[0].message)
			require.Empty(t, a.starts, "it is started when it has ended")
		})
	}
}

func TestPlanHolds(t *testing.T) {
	v := parseView(t, podOf("a,b"), "box0 a:1*2~20s-5s")
	v.hold["a"], v.hold["b"] = planNow.Add(3*time.Second), planNow.Add(40*time.Second)
	a := plan(v)
	require.Equal(t, "wait a 15s, wait b 40s", words(a))
	require.Equal(t, planNow.Add(15*time.Second), a.wake)
}

func TestPlanRestartsAll(t *testing.T) {
	pod := func() *corev1.Pod {
		p := podOf("i:one,a,b Never")
		p.Spec.Containers[1].RestartPolicy = ptr.To(corev1.ContainerRestartPolicyNever)
		p.Spec.Containers[1].RestartPolicyRules = []corev1.ContainerRestartRule{{
			Action: corev1.ContainerRestartRuleActionRestartAllContainers, ExitCodes: &corev1.ContainerRestartRuleOnExitCodes{Operator: "In", Values: []int32{42}},
		}}
		return p
	}
	for _, c := range []struct{ name, seen, want string }{
		{"others run", "box0 one:0 a b:42", "stop a"},
		{"all have ended", "box0 one:0 a:137 b:42", "start one*1~10s^1"},
		{"the next round began", "box0 one:0 one*1^1 a:137 b:42", ""},
		{"and goes on", "box0 one:0*1^1 a:137 b:42", "start a*1~10s^1, start b*1~10s^1"},
		{"another code", "box0 one:0 a b:41", ""},
		{"twice", "box0 one:0*1^1 a:137*1^1 b:42*1^1", "start one*2~10s^2"},
	} {
		t.Run(c.name, func(t *testing.T) {
			require.Equal(t, c.want, words(plan(parseView(t, pod(), c.seen))))
		})
	}
}
