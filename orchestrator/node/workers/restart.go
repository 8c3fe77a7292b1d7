package workers

import (
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// rule is the first rule of a container that an exit code matches, nil if none does.
func rule(c *corev1.Container, exit int32) *corev1.ContainerRestartRule {
	for i := range c.RestartPolicyRules {
		r := &c.RestartPolicyRules[i]
		if r.ExitCodes == nil {
			continue
		}
		in := slices.Contains(r.ExitCodes.Values, exit)
		if (r.ExitCodes.Operator == corev1.ContainerRestartRuleOnExitCodesOpIn && in) || (r.ExitCodes.Operator == corev1.ContainerRestartRuleOnExitCodesOpNotIn && !in) {
			return r
		}
	}
	return nil
}

// restarts is whether a container that ended with an exit code runs again: its rules come first, then its own policy, then
// the pod's. An init container that succeeded is done under any policy of the pod.
func restarts(p *corev1.Pod, c *corev1.Container, init bool, exit int32) bool {
	if rule(c, exit) != nil {
		return true
	}
	policy := p.Spec.RestartPolicy
	if c.RestartPolicy != nil {
		policy = corev1.RestartPolicy(*c.RestartPolicy)
	} else if init && exit == 0 {
		return false
	}
	switch policy {
	case corev1.RestartPolicyNever:
		return false
	case corev1.RestartPolicyOnFailure:
		return exit != 0
	}
	return true
}

// restartsAll is whether an exit code restarts all containers of the pod.
func restartsAll(c *corev1.Container, exit int32) bool {
	r := rule(c, exit)
	return r != nil && r.Action == corev1.ContainerRestartRuleActionRestartAllContainers
}

// couldRestartAll is whether the spec has a rule that restarts all containers.
func couldRestartAll(p *corev1.Pod) bool {
	has := func(l []corev1.Container) bool {
		return slices.ContainsFunc(l, func(c corev1.Container) bool {
			return slices.ContainsFunc(c.RestartPolicyRules, func(r corev1.ContainerRestartRule) bool {
				return r.Action == corev1.ContainerRestartRuleActionRestartAllContainers
			})
		})
	}
	return has(p.Spec.InitContainers) || has(p.Spec.Containers)
}

// settled is how long a container has to run for its restart to count as the first.
const settled = 10 * time.Minute

// backOff spaces the restarts of a container: the first is at once, then they wait initial, twice that, and so on up to most.
type backOff struct{ initial, most time.Duration }

// again is when a container that ended may run again, and how long the restart after that will wait.
func (b backOff) again(last *container) (at time.Time, next time.Duration) {
	if !last.exited() {
		return last.created().Add(last.backOff), b.after(last.backOff)
	}
	if last.status.StartedAt != 0 && last.finished().Sub(last.started()) >= settled {
		return last.finished(), b.initial
	}
	return last.finished().Add(last.backOff), b.after(last.backOff)
}

func (b backOff) after(d time.Duration) time.Duration {
	if d == 0 {
		return b.initial
	}
	return min(2*d, b.most)
}
