package queue

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/keelson-io/keelson/orchestrator/scheduler/framework"
)

var start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// gates rejects pods with scheduling gates.
type gates struct{}

func (gates) Name() string { return "Gates" }
func (gates) PreEnqueue(_ context.Context, pod *v1.Pod) *framework.Status {
	if len(pod.Spec.SchedulingGates) > 0 {
		return framework.NewStatus(framework.UnschedulableAndUnresolvable, "gated")
	}
	return nil
}

var (
	nodeAdd    = framework.Event{Resource: framework.Node, Action: framework.Add}
	nodeLabel  = framework.Event{Resource: framework.Node, Action: framework.UpdateNodeLabel}
	podDelete  = framework.Event{Resource: framework.AssignedPod, Action: framework.Delete}
	ungated    = framework.Event{Resource: framework.TargetPod, Action: framework.UpdatePodGatesEliminated}
	relabelled = framework.Event{Resource: framework.TargetPod, Action: framework.UpdatePodLabel}
)

// onlyNode helps if the change is of the node that the pod's label wants.
func onlyNode(pod *framework.PodInfo, c framework.Change) bool {
	_, now := c.Nodes()
	return now != nil && now.Name == pod.Pod.Labels["wants"]
}

func newTestQueue(moved func(Place, string)) *Queue {
	return New(Options{
		Less: func(a, b *framework.QueuedPod) bool { return a.Priority > b.Priority },
		Profiles: map[string]Profile{"default": {
			PreEnqueue: []framework.PreEnqueue{gates{}},
			Hints: map[string][]framework.Hint{
				"Gates":    {{Event: ungated}},
				"Fit":      {{Event: nodeAdd}, {Event: podDelete}},
				"Affinity": {{Event: nodeAdd, Helps: onlyNode}, {Event: nodeLabel, Helps: onlyNode}, {Event: relabelled}},
				"Never":    {},
			},
		}},
		InitialBackoff: time.Second, MaxBackoff: 10 * time.Second, MaxUnschedulable: 5 * time.Minute, Moved: moved,
	})
}

func podOf(name string, priority int32) *v1.Pod {
	return &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: types.UID(name)},
		Spec:       v1.PodSpec{SchedulerName: "default", Priority: ptr.To(priority)},
	}
}

func set(names ...string) map[string]struct{} {
	out := map[string]struct{}{}
	for _, n := range names {
		out[n] = struct{}{}
	}
	return out
}

// reject pops a pod and puts it back.
func reject(t *testing.T, q *Queue, now time.Time, name string, plugins ...string) *framework.QueuedPod {
	p := q.Pop(now)
	require.NotNil(t, p)
	require.Equal(t, types.UID(name), p.UID())
	p.RejectedBy, p.PendingBy = set(plugins...), nil
	require.True(t, q.Return(t.Context(), p, now))
	return p
}

func TestOrder(t *testing.T) {
	q := newTestQueue(nil)
	for name, priority := range map[string]int32{"low": 1, "high": 9} {
		q.Add(t.Context(), podOf(name, priority), start)
	}
	q.Add(t.Context(), podOf("low2", 1), start)
	q.Add(t.Context(), podOf("low3", 1), start)
	require.Equal(t, Counts{Active: 4}, q.Counts())
	require.Equal(t, types.UID("high"), q.Pop(start).UID())
	q.Delete("low")
	require.Equal(t, types.UID("low2"), q.Pop(start).UID())
	require.Equal(t, types.UID("low3"), q.Pop(start).UID())
	require.Nil(t, q.Pop(start))
	require.Equal(t, Counts{Flight: 3}, q.Counts())
	q.Done("high")
	require.Equal(t, Nowhere, q.Place("high"))
	require.Equal(t, Flight, q.Place("low2"))
}

func TestGates(t *testing.T) {
	q := newTestQueue(nil)
	p := podOf("p", 0)
	p.Spec.SchedulingGates = []v1.PodSchedulingGate{{Name: "a"}}
	q.Add(t.Context(), p, start)
	require.Equal(t, Counts{Gated: 1}, q.Counts())
	q.Move(t.Context(), nodeAdd, framework.Change{}, nil, start)
	require.Equal(t, Gated, q.Place("p"))
	relabel := p.DeepCopy()
	relabel.Labels = map[string]string{"a": "b"}
	q.Update(t.Context(), p, relabel, start)
	require.Equal(t, Gated, q.Place("p"))
	open := relabel.DeepCopy()
	open.Spec.SchedulingGates = nil
	q.Update(t.Context(), relabel, open, start)
	require.Equal(t, Counts{Active: 1}, q.Counts())
	require.Equal(t, open, q.Pop(start).Pod)
}

func TestEventsReachThoseTheyHelp(t *testing.T) {
	wants := func(node string) framework.Change {
		return framework.Change{New: &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: node}}}
	}
	for name, c := range map[string]struct {
		plugins []string
		event   framework.Event
		change  framework.Change
		only    func(*v1.Pod) bool
		want    Place
	}{
		"of the plugin":              {plugins: []string{"Fit"}, event: podDelete, want: Active},
		"of another plugin":          {plugins: []string{"Fit"}, event: nodeLabel, want: Unschedulable},
		"hint says yes":              {plugins: []string{"Affinity"}, event: nodeLabel, change: wants("n1"), want: Active},
		"hint says no":               {plugins: []string{"Affinity"}, event: nodeLabel, change: wants("n2"), want: Unschedulable},
		"one of two":                 {plugins: []string{"Affinity", "Fit"}, event: podDelete, want: Active},
		"without hints":              {plugins: []string{"Never"}, event: nodeAdd, want: Unschedulable},
		"plugin that is not known":   {plugins: []string{"Other"}, event: nodeLabel, want: Active},
		"not this pod":               {plugins: []string{"Fit"}, event: podDelete, only: func(*v1.Pod) bool { return false }, want: Unschedulable},
		"everything":                 {plugins: []string{"Never"}, event: framework.Event{Action: framework.All}, want: Active},
		"update of who knows what":   {plugins: []string{"Affinity"}, event: framework.Event{Resource: framework.Node, Action: framework.Update}, change: wants("n1"), want: Unschedulable},
		"update of the pod's labels": {plugins: []string{"Affinity"}, event: relabelled, want: Active},
	} {
		t.Run(name, func(t *testing.T) {
			q := newTestQueue(nil)
			p := podOf("p", 0)
			p.Labels = map[string]string{"wants": "n1"}
			q.Add(t.Context(), p, start)
			reject(t, q, start, "p", c.plugins...)
			require.Equal(t, Unschedulable, q.Place("p"))
			q.Move(t.Context(), c.event, c.change, c.only, start.Add(time.Minute))
			require.Equal(t, c.want, q.Place("p"))
		})
	}
}

func TestBackoff(t *testing.T) {
	q := newTestQueue(nil)
	q.Add(t.Context(), podOf("p", 0), start)
	now := start
	for _, seconds := range []int{1, 2, 4, 8, 10, 10} {
		p := reject(t, q, now, "p", "Fit")
		require.Equal(t, now.Add(time.Duration(seconds)*time.Second), p.Backoff)
		q.Move(t.Context(), podDelete, framework.Change{}, nil, now)
		require.Equal(t, Backoff, q.Place("p"))
		next := q.Flush(t.Context(), now)
		require.Equal(t, p.Backoff.Add(window), next)
		q.Flush(t.Context(), next.Add(-1))
		require.Equal(t, Backoff, q.Place("p"))
		now = next
		q.Flush(t.Context(), now)
		require.Equal(t, Active, q.Place("p"))
	}
}

func TestIdleQueueDoesNotPause(t *testing.T) {
	q := newTestQueue(nil)
	q.Add(t.Context(), podOf("rejected", 0), start)
	reject(t, q, start, "rejected", "Fit")
	q.Move(t.Context(), podDelete, framework.Change{}, nil, start)
	q.Add(t.Context(), podOf("broken", 0), start)
	reject(t, q, start, "broken")
	require.Equal(t, ErrorBackoff, q.Place("broken"))
	require.Equal(t, types.UID("rejected"), q.Pop(start).UID())
	require.Nil(t, q.Pop(start), "errors are worth a pause")
}

func TestPendingPluginSkipsBackoff(t *testing.T) {
	q := newTestQueue(nil)
	q.Add(t.Context(), podOf("p", 0), start)
	p := q.Pop(start)
	p.PendingBy = set("Fit")
	q.Return(t.Context(), p, start)
	q.Move(t.Context(), podDelete, framework.Change{}, nil, start)
	require.Equal(t, Active, q.Place("p"))
}

func TestEventsInFlight(t *testing.T) {
	q := newTestQueue(nil)
	for _, name := range []string{"a", "b", "c"} {
		q.Add(t.Context(), podOf(name, 0), start)
	}
	a := q.Pop(start)
	q.Move(t.Context(), podDelete, framework.Change{}, nil, start)
	b := q.Pop(start)
	q.Move(t.Context(), nodeLabel, framework.Change{}, nil, start)
	c := q.Pop(start)
	q.Placed("c")
	a.RejectedBy, b.RejectedBy, c.RejectedBy = set("Fit"), set("Fit"), nil
	q.Return(t.Context(), b, start)
	require.Equal(t, Unschedulable, q.Place("b"), "the event was before")
	q.Return(t.Context(), a, start)
	require.Equal(t, Backoff, q.Place("a"), "the event was not lost")
	require.Zero(t, q.flight.log.Len())
	q.Return(t.Context(), c, start)
	require.Equal(t, ErrorBackoff, q.Place("c"))
	require.Empty(t, q.flight.attempts)
}

func TestChangesInFlight(t *testing.T) {
	q := newTestQueue(nil)
	old := podOf("p", 0)
	q.Add(t.Context(), old, start)
	p := q.Pop(start)
	now := old.DeepCopy()
	now.Labels = map[string]string{"wants": "n1"}
	q.Update(t.Context(), old, now, start)
	p.RejectedBy = set("Affinity")
	require.True(t, q.Return(t.Context(), p, start))
	require.Equal(t, now, p.Pod)
	require.Equal(t, Backoff, q.Place("p"), "its own update may help it")

	q.Delete("p")
	q.Add(t.Context(), now, start)
	p = q.Pop(start)
	q.Delete("p")
	require.False(t, q.Return(t.Context(), p, start))
	require.Equal(t, Counts{}, q.Counts())
}

func TestWaitsNoLongerThanFiveMinutes(t *testing.T) {
	var events []string
	q := newTestQueue(func(to Place, event string) { events = append(events, to.String()+" "+event) })
	q.Add(t.Context(), podOf("p", 0), start)
	reject(t, q, start, "p", "Never")
	for at := start; at.Before(start.Add(5 * time.Minute)); at = q.Flush(t.Context(), at) {
		require.Equal(t, Unschedulable, q.Place("p"))
	}
	q.Flush(t.Context(), start.Add(5*time.Minute+sweep))
	require.Equal(t, Active, q.Place("p"))
	require.Equal(t, []string{"active " + PodAdd, "unschedulable " + AttemptFailure, "active " + UnschedulableTimeout}, events)
}

func TestActivate(t *testing.T) {
	q := newTestQueue(nil)
	q.Add(t.Context(), podOf("p", 0), start)
	reject(t, q, start, "p", "Never")
	q.Activate(t.Context(), start, "p", "unknown")
	require.Equal(t, Active, q.Place("p"))
	p := q.Pop(start)
	q.Activate(t.Context(), start, "p")
	p.RejectedBy = set("Never")
	q.Return(t.Context(), p, start)
	require.Equal(t, Backoff, q.Place("p"))
}

func TestNominations(t *testing.T) {
	q := newTestQueue(nil)
	pod := podOf("p", 0)
	q.Add(t.Context(), pod, start)
	p := reject(t, q, start, "p", "Fit")
	q.Nominate(p.PodInfo, "n1")
	require.Equal(t, "n1", q.NominatedNode("p"))
	labelled := pod.DeepCopy()
	labelled.Labels = map[string]string{"a": "b"}
	q.Update(t.Context(), pod, labelled, start)
	require.Equal(t, labelled, q.Nominated()["n1"][0].Pod, "an update that says nothing about it")
	named := labelled.DeepCopy()
	named.Status.NominatedNodeName = "n2"
	q.Update(t.Context(), labelled, named, start)
	require.Equal(t, "n2", q.NominatedNode("p"))
	require.NotContains(t, q.Nominated(), "n1")
	q.Update(t.Context(), named, labelled, start)
	require.Empty(t, q.Nominated(), "the status took it back")
	q.Add(t.Context(), named, start)
	q.Delete("p")
	require.Empty(t, q.Nominated())
}

func TestChanges(t *testing.T) {
	pod := podOf("p", 0)
	assigned := pod.DeepCopy()
	assigned.Spec.NodeName = "n"
	terminating := assigned.DeepCopy()
	terminating.Status.Phase = v1.PodRunning
	require.Equal(t, []framework.Event{{Resource: framework.AssignedPod, Action: framework.Update}}, PodChanges(assigned, terminating, framework.TargetPod))
	labelled := pod.DeepCopy()
	labelled.Labels = map[string]string{"a": "b"}
	labelled.Spec.Tolerations = []v1.Toleration{{Key: "k"}}
	require.Equal(t, []framework.Event{
		{Resource: framework.TargetPod, Action: framework.UpdatePodLabel}, {Resource: framework.TargetPod, Action: framework.UpdatePodToleration},
	}, PodChanges(pod, labelled, framework.TargetPod))

	node := &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n", Labels: map[string]string{"a": "b"}}}
	beat := node.DeepCopy()
	beat.Status.Conditions = []v1.NodeCondition{{Type: v1.NodeReady, Status: v1.ConditionTrue, LastHeartbeatTime: metav1.NewTime(start)}}
	require.Equal(t, []framework.Event{{Resource: framework.Node, Action: framework.UpdateNodeCondition}}, NodeChanges(node, beat))
	again := beat.DeepCopy()
	again.Status.Conditions[0].LastHeartbeatTime = metav1.NewTime(start.Add(time.Second))
	require.Empty(t, NodeChanges(beat, again))
	cordoned := node.DeepCopy()
	cordoned.Spec.Unschedulable = true
	require.Empty(t, NodeChanges(node, cordoned))
	require.Equal(t, []framework.Event{{Resource: framework.Node, Action: framework.UpdateNodeTaint}}, NodeChanges(cordoned, node))
}
