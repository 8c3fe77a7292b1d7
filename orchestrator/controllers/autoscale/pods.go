package autoscale

import (
	"errors"
	"fmt"
	"slices"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
)

var (
	errNoPods   = errors.New("no pods returned by selector while calculating replica count")
	errNoSample = errors.New("did not receive metrics for targeted pods (pods might be unready)")
)

// grouped are the pods of the target, without those that do not count.
type grouped struct {
	values  map[string]int64 // of pods that were measured and count
	unready []string
	missing []string // ready as far as is known, but not measured
}

func (c *calc) group(samples map[string]Sample, cpu bool) grouped {
	g := grouped{values: map[string]int64{}}
	for _, p := range c.target.Pods {
		if p.DeletionTimestamp != nil || p.Status.Phase == corev1.PodFailed {
			continue
		}
		switch s, measured := samples[p.Name]; {
		case p.Status.Phase == corev1.PodPending:
			g.unready = append(g.unready, p.Name)
		case !measured:
			g.missing = append(g.missing, p.Name)
		case cpu && c.starting(p, s):
			g.unready = append(g.unready, p.Name)
		default:
			g.values[p.Name] = s.Value
		}
	}
	return g
}

func readiness(p *corev1.Pod) *corev1.PodCondition {
	if i := slices.IndexFunc(p.Status.Conditions, func(c corev1.PodCondition) bool { return c.Type == corev1.PodReady }); i >= 0 {
		return &p.Status.Conditions[i]
	}
	return nil
}

// starting says that what a pod uses of processors is for its start, not for its work.
func (c *calc) starting(p *corev1.Pod, s Sample) bool {
	ready, start := readiness(p), p.Status.StartTime
	switch {
	case ready == nil || start == nil:
		return true
	case start.Add(c.CPUInitialization).After(c.now): // it may be starting: only what was measured wholly after it became ready counts
		return ready.Status == corev1.ConditionFalse || s.At.Before(ready.LastTransitionTime.Add(s.Window))
	}
	neverReady := start.Add(c.InitialReadiness).After(ready.LastTransitionTime.Time)
	return ready.Status == corev1.ConditionFalse && neverReady
}

// meter measures pods by their values: how much there is of what is wanted, and what to show of it.
type meter func(values map[string]int64) (ratio float64, current autoscalingv2.MetricValueStatus, err error)

// byPods proposes by what was measured of pods. busy is the value of a pod that does all it should.
func (c *calc) byPods(samples map[string]Sample, cpu bool, current *autoscalingv2.MetricValueStatus, measure meter, busy func(pod string) int64) (int32, error) {
	if len(c.target.Pods) == 0 {
		return 0, errNoPods
	}
	g := c.group(samples, cpu)
	if len(g.values) == 0 {
		return 0, errNoSample
	}
	ratio, is, err := measure(g.values)
	if err != nil {
		return 0, err
	}
	*current = is
	now := c.target.Replicas
	if len(g.missing) == 0 && (len(g.unready) == 0 || ratio <= 1) {
		if c.within(ratio) {
			return now, nil
		}
		return ceil(ratio * float64(len(g.values))), nil
	}
	g.assume(ratio, busy)
	dampened, _, err := measure(g.values)
	if err != nil {
		return 0, err
	}
	if c.within(dampened) || ratio < 1 && dampened > 1 || ratio > 1 && dampened < 1 {
		return now, nil
	}
	n := ceil(dampened * float64(len(g.values)))
	if dampened < 1 && n > now || dampened > 1 && n < now {
		return now, nil
	}
	return n, nil
}

// assume gives pods that were not measured values that are against the direction of the ratio.
func (g *grouped) assume(ratio float64, busy func(pod string) int64) {
	for _, pod := range g.missing {
		switch {
		case ratio < 1:
			g.values[pod] = busy(pod)
		case ratio > 1:
			g.values[pod] = 0
		}
	}
	if ratio > 1 {
		for _, pod := range g.unready {
			g.values[pod] = 0
		}
	}
}

// requests are what pods, or one container of each, request of a resource, in thousandths.
func (c *calc) requests(name corev1.ResourceName, container string) (map[string]int64, error) {
	out := map[string]int64{}
	for _, p := range c.target.Pods {
		sum, err := requested(p, name, container)
		if err != nil {
			return nil, err
		}
		out[p.Name] = sum
	}
	return out, nil
}

func requested(p *corev1.Pod, name corev1.ResourceName, container string) (sum int64, err error) {
	if container == "" && p.Spec.Resources != nil {
		if q, ok := p.Spec.Resources.Requests[name]; ok {
			return q.MilliValue(), nil
		}
	}
	found := false
	add := func(c *corev1.Container) error {
		if container != "" && c.Name != container {
			return nil
		}
		q, ok := c.Resources.Requests[name]
		if !ok {
			return fmt.Errorf("missing request for %s in container %s of Pod %s", name, c.Name, p.Name)
		}
		found = true
		sum += q.MilliValue()
		return nil
	}
	for i := range p.Spec.Containers {
		err = errors.Join(err, add(&p.Spec.Containers[i]))
	}
	for i := range p.Spec.InitContainers {
		if c := &p.Spec.InitContainers[i]; c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			err = errors.Join(err, add(c))
		}
	}
	if err == nil && !found {
		err = fmt.Errorf("container %s not found in Pod %s", container, p.Name)
	}
	return sum, err
}
