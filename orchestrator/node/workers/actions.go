package workers

import (
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/keelson-io/keelson/orchestrator/node/probe"
)

// view is all that a decision about a living pod rests on.
type view struct {
	pod  *corev1.Pod // with the resources that are allocated to it
	last corev1.PodStatus
	now  time.Time
	seen *observed

	started map[string]bool       // by container ID: it has passed its postStart hook and its startup probe
	failing map[string]probe.Kind // by container ID: a probe says that it has to be restarted
	hold    map[string]time.Time  // by name: it could not be started, and is not tried again before
	resize  map[string]bool       // by name: it has to be restarted to get its resources
	backOff backOff
}

// kind of container.
type kind int

const (
	regular kind = iota
	initial
	ephemeral
)

// start says that a container is to be made and started.
type start struct {
	container *corev1.Container
	kind      kind
	attempt   int32
	round     int
	backOff   time.Duration // of the restart after this one
	target    string        // ID of the container whose processes an ephemeral container sees
}

// stop says that a container is to be stopped while its pod lives on.
type stop struct {
	container *container
	spec      *corev1.Container
	message   string
	failed    *probe.Kind // the probe that condemned it, if one did
	now       bool        // without its preStop hook
}

// actions are what closes the gap between a living pod's spec and the runtime. Of the fields up to start, the first that is set is
// done, and what follows from it is seen by the next sync.
type actions struct {
	end        bool // nothing will run any more: stop what is left, the pod has succeeded or failed
	newSandbox bool // stop all that there is, and make a sandbox
	attempt    uint32
	stops      []stop
	starts     []start

	waiting     map[string]time.Time // containers that wait for their restart, until when
	initialized bool                 // all init containers have done what the others wait for
	restarting  bool                 // all containers are being restarted together
	wake        time.Time            // when time alone changes the actions; zero: never
}

// plan computes actions. It is a function of the view alone.
func plan(v view) actions {
	p := planner{view: v, round: v.seen.round(), box: v.seen.sandbox()}
	p.waiting = map[string]time.Time{}
	if p.needsSandbox() {
		return p.actions
	}
	if p.restartAll() {
		return p.actions
	}
	p.initialized = p.initContainers()
	if p.initialized && !p.end {
		p.regularContainers()
	}
	if p.end {
		p.stops, p.starts = nil, nil
		return p.actions
	}
	p.ephemeralContainers()
	return p.actions
}

type planner struct {
	view
	actions
	round int
	box   *sandbox // nil if the sandbox has to be made
}

// needsSandbox decides whether there has to be a new sandbox, and whether it is worth while.
func (p *planner) needsSandbox() bool {
	fresh := len(p.seen.sandboxes) == 0
	if !fresh {
		p.attempt = p.seen.sandboxes[0].attempt + 1
	}
	if p.box != nil && p.box.host == p.pod.Spec.HostNetwork && (p.box.host || len(p.box.ips) > 0) && p.onlySandbox() {
		return false
	}
	ran := false // whether a container of the pod ever was
	for i := range p.pod.Spec.Containers {
		ran = ran || p.existed(p.pod.Spec.Containers[i].Name)
	}
	for i := range p.pod.Spec.InitContainers {
		ran = ran || p.existed(p.pod.Spec.InitContainers[i].Name)
	}
	if ran && !p.worthRestarting() {
		p.end = true
		return true
	}
	p.newSandbox = true
	return true
}

// onlySandbox is whether no other sandbox is ready.
func (p *planner) onlySandbox() bool {
	for _, s := range p.seen.sandboxes[1:] {
		if s.ready {
			return false
		}
	}
	return true
}

// existed is whether there ever was a container of a name, according to the runtime or the last status.
func (p *planner) existed(name string) bool {
	if p.seen.newest(name) != nil {
		return true
	}
	s := statusOf(&p.last, name)
	return s != nil && s.ContainerID != ""
}

// worthRestarting is whether any container would run in a new sandbox.
func (p *planner) worthRestarting() bool {
	for i := range p.pod.Spec.InitContainers {
		c := &p.pod.Spec.InitContainers[i]
		if exit, ended := p.exitCode(c.Name); ended && !sidecar(c) && exit != 0 && !restarts(p.pod, c, true, exit) {
			return false
		}
	}
	for i := range p.pod.Spec.Containers {
		c := &p.pod.Spec.Containers[i]
		exit, ended := p.exitCode(c.Name)
		switch {
		case !p.existed(c.Name): // init containers did not get to the end
			if p.pod.Spec.RestartPolicy != corev1.RestartPolicyNever {
				return true
			}
		case !ended: // it runs in the sandbox that is lost, which will kill it
			if restarts(p.pod, c, false, killedExit) {
				return true
			}
		case restarts(p.pod, c, false, exit):
			return true
		}
	}
	return false
}

// killedExit is the exit code of a process that was killed, or whose end nobody saw.
const killedExit = 137

// exitCode is the exit code of the newest container of a name, and whether it ended.
func (p *planner) exitCode(name string) (int32, bool) {
	if c := p.seen.newest(name); c != nil {
		return c.status.ExitCode, c.exited()
	}
	if s := statusOf(&p.last, name); s != nil && s.State.Terminated != nil {
		return s.State.Terminated.ExitCode, true
	}
	return 0, false
}

// current is the newest container of a name if it belongs to the sandbox and to the round that are now.
func (p *planner) current(name string) *container {
	c := p.seen.newest(name)
	if c == nil || c.sandbox != p.box.id || c.round != p.round {
		return nil
	}
	return c
}

// restartAll handles containers whose end restarts all.
func (p *planner) restartAll() bool {
	for _, list := range [][]corev1.Container{p.pod.Spec.InitContainers, p.pod.Spec.Containers} {
		for i := range list {
			if c := p.current(list[i].Name); c != nil && c.exited() && restartsAll(&list[i], c.status.ExitCode) {
				p.restarting = true
			}
		}
	}
	if !p.restarting {
		return false
	}
	p.seen.each(func(c *container) {
		if !c.over() {
			p.stops = append(p.stops, stop{container: c, spec: specOf(p.pod, c.name), now: true, message: fmt.Sprintf("Container %s will be restarted with all containers of the pod", c.name)})
		}
	})
	if len(p.stops) > 0 {
		return true
	}
	p.round++ // from here on, none of the containers counts
	return false
}

// initContainers advances the init containers; it returns whether the others may run.
func (p *planner) initContainers() bool {
	inits := p.pod.Spec.InitContainers
	passed := -1 // the last init container that later ones show to have been passed
	for i := range inits {
		if i > 0 && p.current(inits[i].Name) != nil {
			passed = i - 1
		}
	}
	for i := range p.pod.Spec.Containers {
		if p.current(p.pod.Spec.Containers[i].Name) != nil {
			passed = len(inits) - 1
		}
	}
	for i := range inits {
		c := &inits[i]
		open := p.initContainer
		if sidecar(c) {
			open = p.sidecar
		}
		if !open(c, i <= passed) {
			return false
		}
	}
	return true
}

// initContainer advances an init container that has to end before the next; passed says that it has.
func (p *planner) initContainer(c *corev1.Container, passed bool) bool {
	cur := p.current(c.Name)
	if passed && (cur == nil || cur.over()) {
		return true
	}
	switch {
	case cur == nil:
		p.start(c, initial)
	case cur.succeeded() && !restarts(p.pod, c, true, 0):
		return true
	case cur.exited():
		if !restarts(p.pod, c, true, cur.status.ExitCode) {
			p.end = true
			return false
		}
		p.start(c, initial)
	case cur.running():
	default:
		p.startOver(c, cur, initial)
	}
	return passed
}

// sidecar advances a restartable init container: the next waits until it has started once.
func (p *planner) sidecar(c *corev1.Container, passed bool) bool {
	cur := p.current(c.Name)
	switch {
	case cur == nil, cur.exited():
		p.start(c, initial)
	case cur.running():
		if !p.kill(c, cur, true) && p.started[cur.id] {
			return true
		}
	default:
		p.startOver(c, cur, initial)
	}
	return passed
}

// startOver handles a container that is neither running nor over. One that was made and never started, because the agent went
// down in between, is replaced; one that the runtime knows nothing about is stopped first.
func (p *planner) startOver(c *corev1.Container, cur *container, k kind) {
	if cur.state == runtimeapi.ContainerState_CONTAINER_UNKNOWN {
		p.stops = append(p.stops, stop{container: cur, spec: c, message: fmt.Sprintf("Container %s is in an unknown state, try killing it before restart", c.Name)})
		return
	}
	p.start(c, k)
}

// kill stops a running container that has to go; restart says that it comes back whatever the policy.
func (p *planner) kill(c *corev1.Container, cur *container, restart bool) bool {
	s := stop{container: cur, spec: c}
	failed, condemned := p.failing[cur.id]
	switch {
	case cur.hash != "" && cur.hash != containerHash(c):
		s.message, restart = fmt.Sprintf("Container %s definition changed", c.Name), true
	case condemned:
		s.message, s.failed = fmt.Sprintf("Container %s failed %s probe", c.Name, strings.ToLower(failed.String())), &failed
	case p.resize[c.Name]:
		s.message, restart = fmt.Sprintf("Container %s resize requires restart", c.Name), true
	default:
		return false
	}
	if restart || restarts(p.pod, c, false, killedExit) {
		s.message += ", will be restarted"
	}
	p.stops = append(p.stops, s)
	return true
}

// regularContainers advances the containers proper, and ends the pod when all of them are done.
func (p *planner) regularContainers() {
	alive := false
	for i := range p.pod.Spec.Containers {
		c := &p.pod.Spec.Containers[i]
		cur := p.seen.newest(c.Name)
		if cur != nil && cur.round != p.round {
			cur = nil
		}
		if cur == nil {
			// What the last status says to have ended stays ended, even if the runtime has lost it.
			exit, ended := p.exitCode(c.Name)
			if ended && p.round == 0 && p.seen.newest(c.Name) == nil && !restarts(p.pod, c, false, exit) {
				continue
			}
			alive = true
			p.start(c, regular)
			continue
		}
		switch {
		case cur.running():
			alive = true
			p.kill(c, cur, false)
		case cur.exited():
			if restarts(p.pod, c, false, cur.status.ExitCode) || cur.hash != "" && cur.hash != containerHash(c) {
				alive = true
				p.start(c, regular)
			}
		default:
			alive = true
			p.startOver(c, cur, regular)
		}
	}
	p.end = !alive
}

func (p *planner) ephemeralContainers() {
	for i := range p.pod.Spec.EphemeralContainers {
		e := &p.pod.Spec.EphemeralContainers[i]
		c := (*corev1.Container)(&e.EphemeralContainerCommon)
		if p.existed(c.Name) {
			continue
		}
		s, ok := p.due(c)
		if !ok {
			continue
		}
		s.kind = ephemeral
		if e.TargetContainerName != "" {
			if t := p.seen.newest(e.TargetContainerName); t != nil {
				s.target = t.id
			}
		}
		p.starts = append(p.starts, s)
	}
}

// start starts a container, or notes until when it waits.
func (p *planner) start(c *corev1.Container, k kind) {
	if s, ok := p.due(c); ok {
		s.kind = k
		p.starts = append(p.starts, s)
	}
}

func (p *planner) due(c *corev1.Container) (start, bool) {
	s := start{container: c, round: p.round}
	at := p.hold[c.Name]
	if last := p.seen.newest(c.Name); last != nil {
		s.attempt = last.attempt + 1
		if last.hash == "" || last.hash == containerHash(c) {
			again, next := p.backOff.again(last)
			s.backOff = next
			if again.After(at) {
				at = again
			}
		}
	}
	if old := statusOf(&p.last, c.Name); old != nil && old.ContainerID != "" {
		s.attempt = max(s.attempt, old.RestartCount+1)
	}
	if !at.After(p.now) {
		return s, true
	}
	p.waiting[c.Name] = at
	p.wakeAt(at)
	return s, false
}

func (p *planner) wakeAt(t time.Time) {
	if p.wake.IsZero() || t.Before(p.wake) {
		p.wake = t
	}
}

// statusOf is the status of a container in a pod's status, of any kind; nil if there is none.
func statusOf(s *corev1.PodStatus, name string) *corev1.ContainerStatus {
	for _, list := range [][]corev1.ContainerStatus{s.ContainerStatuses, s.InitContainerStatuses, s.EphemeralContainerStatuses} {
		for i := range list {
			if list[i].Name == name {
				return &list[i]
			}
		}
	}
	return nil
}
