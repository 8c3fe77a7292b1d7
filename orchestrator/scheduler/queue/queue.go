package queue

import (
	"context"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/keelson-io/keelson/orchestrator/scheduler/framework"
)

// The labels of what moves pods besides events.
const (
	AttemptFailure       = "ScheduleAttemptFailure"
	BackoffComplete      = "BackoffComplete"
	PopFromBackoff       = "PopFromBackoffQ"
	ForceActivate        = "ForceActivate"
	UnschedulableTimeout = "UnschedulableTimeout"
	PodAdd               = "UnscheduledPodAdd"
)

const (
	// window is the granularity of back-off ends: pods that are ready about the same time go by the order of the queue.
	window = time.Second
	// sweep is how often unschedulable pods are looked through for those that waited too long.
	sweep = 30 * time.Second
)

// Profile is what the queue needs of the plugins of one scheduler name.
type Profile struct {
	PreEnqueue []framework.PreEnqueue
	// Hints by plugin. A plugin without an entry is taken to be helped by any event.
	Hints map[string][]framework.Hint
}

// Options of a queue.
type Options struct {
	Less func(a, b *framework.QueuedPod) bool
	// Profiles by scheduler name.
	Profiles map[string]Profile
	// InitialBackoff doubles with every failure up to MaxBackoff. Without MaxBackoff there is no back-off.
	InitialBackoff, MaxBackoff time.Duration
	// MaxUnschedulable is how long a pod waits for an event before it is tried all the same.
	MaxUnschedulable time.Duration
	// Moved, if not nil, is told of every pod that enters a place, and of the event behind it.
	Moved func(to Place, event string)
}

// Counts are numbers of pods by place.
type Counts struct{ Active, Backoff, Unschedulable, Gated, Flight int }

// Queue are the pods that wait.
type Queue struct {
	options   Options
	active    ordered
	backoff   ordered
	errors    ordered
	pods      map[types.UID]*entry
	rejected  map[string]map[types.UID]*entry // unschedulable and gated pods by plugin
	waiting   map[types.UID]*entry            // unschedulable and gated pods
	gated     int
	flight    flight
	nominated nominations
	number    uint64
	swept     time.Time
}

// New makes an empty queue.
func New(o Options) *Queue {
	q := &Queue{
		options: o, pods: map[types.UID]*entry{}, rejected: map[string]map[types.UID]*entry{}, waiting: map[types.UID]*entry{},
		flight: newFlight(), nominated: newNominations(),
	}
	byOrder := func(a, b *entry) bool {
		switch {
		case o.Less(a.QueuedPod, b.QueuedPod):
			return true
		case o.Less(b.QueuedPod, a.QueuedPod):
			return false
		}
		return a.number < b.number
	}
	byBackoff := func(a, b *entry) bool {
		if !a.Backoff.Equal(b.Backoff) {
			return a.Backoff.Before(b.Backoff)
		}
		return byOrder(a, b)
	}
	q.active.less, q.backoff.less, q.errors.less = byOrder, byBackoff, byBackoff
	return q
}

// Add takes a pod that is new to the queue. One that it knows is updated.
func (q *Queue) Add(ctx context.Context, pod *v1.Pod, now time.Time) {
	if q.Knows(pod.UID) {
		q.Update(ctx, nil, pod, now)
		return
	}
	p := &framework.QueuedPod{
		PodInfo: framework.NewPodInfo(pod), Added: now, RejectedBy: map[string]struct{}{}, PendingBy: map[string]struct{}{},
	}
	q.nominated.follow(nil, p.PodInfo)
	q.number++
	e := &entry{QueuedPod: p, number: q.number}
	q.pods[pod.UID] = e
	q.enter(ctx, e, Active, PodAdd)
}

// Knows tells whether a pod waits or is in flight.
func (q *Queue) Knows(uid types.UID) bool {
	return q.pods[uid] != nil || q.flight.attempts[uid] != nil
}

// Place tells where a pod is.
func (q *Queue) Place(uid types.UID) Place {
	switch e := q.pods[uid]; {
	case e != nil:
		return e.place
	case q.flight.attempts[uid] != nil:
		return Flight
	}
	return Nowhere
}

// Update takes a new version of a pod; old may be nil.
func (q *Queue) Update(ctx context.Context, old, pod *v1.Pod, now time.Time) {
	if a := q.flight.attempts[pod.UID]; a != nil {
		a.pod = pod
		for _, e := range PodChanges(old, pod, framework.TargetPod) {
			q.flight.record(happened{e, framework.Change{Old: oldPod(old), New: pod}, pod.UID})
		}
		return
	}
	e := q.pods[pod.UID]
	if e == nil {
		q.Add(ctx, pod, now)
		return
	}
	if old == nil {
		old = e.Pod
	}
	e.PodInfo = framework.NewPodInfo(pod)
	q.nominated.follow(old, e.PodInfo)
	switch e.place {
	case Active:
		q.active.fix(e)
	case Backoff:
		q.backoff.fix(e)
	case ErrorBackoff:
		q.errors.fix(e)
	case Unschedulable, Gated:
		for _, event := range PodChanges(old, pod, framework.TargetPod) {
			s := q.worth(e.QueuedPod, event, framework.Change{Old: old, New: pod})
			if q.requeue(ctx, e, s, event.String(), now) {
				return
			}
		}
	}
}

// oldPod avoids an interface that holds a nil pointer.
func oldPod(p *v1.Pod) any {
	if p == nil {
		return nil
	}
	return p
}

// Delete forgets a pod and its nomination. If it is in flight, it will not be taken back.
func (q *Queue) Delete(uid types.UID) {
	q.nominated.drop(uid)
	if a := q.flight.attempts[uid]; a != nil {
		a.gone = true
	}
	if e := q.pods[uid]; e != nil {
		q.leave(e)
		delete(q.pods, uid)
	}
}

// Pop takes the next pod, or returns nil. It is in flight until Return or Done.
func (q *Queue) Pop(now time.Time) *framework.QueuedPod {
	e := q.active.first()
	if e == nil {
		if e = q.backoff.first(); e == nil {
			return nil
		}
		q.moved(Active, PopFromBackoff)
	}
	q.leave(e)
	delete(q.pods, e.UID())
	q.flight.begin(e.UID())
	e.Attempts++
	if e.FirstTried.IsZero() {
		e.FirstTried = now
	}
	return e.QueuedPod
}

// Placed tells that a pod in flight has a node and is being bound. Events no longer matter to it, but it may come back.
func (q *Queue) Placed(uid types.UID) { q.flight.settle(uid) }

// Done lets go of a pod in flight.
func (q *Queue) Done(uid types.UID) { q.flight.end(uid) }

// Return takes a pod in flight back after a failure; RejectedBy and PendingBy tell what came in its way, and are empty
// after an error. It returns false if the pod is gone meanwhile. The newest version of the pod is put into it.
func (q *Queue) Return(ctx context.Context, p *framework.QueuedPod, now time.Time) bool {
	uid := p.UID()
	a := q.flight.attempts[uid]
	defer q.flight.end(uid)
	if a != nil && a.gone || q.pods[uid] != nil {
		return false
	}
	if a != nil && a.pod != nil {
		old := p.Pod
		p.PodInfo = framework.NewPodInfo(a.pod)
		q.nominated.follow(old, p.PodInfo)
	}
	if len(p.RejectedBy)+len(p.PendingBy) == 0 {
		p.Errors++
	} else {
		p.Rejections++
		p.Errors = 0
	}
	p.Added = now
	p.Backoff = q.backoffEnd(p)
	strategy := q.missed(a, p)
	q.number++
	e := &entry{QueuedPod: p, number: q.number}
	q.pods[uid] = e
	if strategy == skip {
		q.enter(ctx, e, Unschedulable, AttemptFailure)
		return true
	}
	q.requeue(ctx, e, strategy, AttemptFailure, now)
	return true
}

// missed holds the events during an attempt against its outcome.
func (q *Queue) missed(a *attempt, p *framework.QueuedPod) strategy {
	if len(p.RejectedBy)+len(p.PendingBy) == 0 || a == nil || a.start == nil {
		return afterBackoff
	}
	best := skip
	q.flight.since(a, p.UID(), func(h happened) bool {
		best = max(best, q.worth(p, h.event, h.change))
		return best != immediately && (best == skip || len(p.PendingBy) > 0)
	})
	return best
}

// Counts tells how many pods are where.
func (q *Queue) Counts() Counts {
	return Counts{
		Active: q.active.Len(), Backoff: q.backoff.Len() + q.errors.Len(), Unschedulable: len(q.waiting) - q.gated,
		Gated: q.gated, Flight: len(q.flight.attempts),
	}
}
