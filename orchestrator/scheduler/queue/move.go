package queue

import (
	"context"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/keelson-io/keelson/orchestrator/scheduler/framework"
)

// strategy is what an event does for a pod.
type strategy uint8

const (
	skip strategy = iota
	afterBackoff
	immediately
)

// Move tells the queue of an event. With only, other pods than those it accepts stay where they are.
func (q *Queue) Move(ctx context.Context, event framework.Event, c framework.Change, only func(*v1.Pod) bool, now time.Time) {
	for _, e := range q.candidates(event) {
		if only != nil && !only(e.Pod) || e.GatedBy != "" && !q.opens(e, event) {
			continue
		}
		if s := q.worth(e.QueuedPod, event, c); s != skip {
			q.requeue(ctx, e, s, event.String(), now)
		}
	}
	q.flight.record(happened{event: event, change: c})
}

// candidates are the waiting pods that were rejected by a plugin that cares for the event.
func (q *Queue) candidates(event framework.Event) []*entry {
	if len(q.waiting) == 0 {
		return nil
	}
	var out []*entry
	if event.Wildcard() {
		for _, e := range q.waiting {
			out = append(out, e)
		}
		return out
	}
	seen := map[types.UID]struct{}{}
	for plugin, pods := range q.rejected {
		care := map[string]bool{}
		for name := range q.options.Profiles {
			care[name] = q.cares(name, plugin, event)
		}
		for uid, e := range pods {
			if cares, known := care[e.Pod.Spec.SchedulerName]; known && !cares {
				continue
			}
			if _, twice := seen[uid]; !twice {
				seen[uid] = struct{}{}
				out = append(out, e)
			}
		}
	}
	return out
}

// cares tells whether a hint of the plugin covers the event.
func (q *Queue) cares(profile, plugin string, event framework.Event) bool {
	hints, known := q.options.Profiles[profile].Hints[plugin]
	if !known {
		return true
	}
	for i := range hints {
		if hints[i].Event.Covers(event) {
			return true
		}
	}
	return false
}

// opens tells whether the event may concern what keeps a pod gated.
func (q *Queue) opens(e *entry, event framework.Event) bool {
	return event.Wildcard() || q.cares(e.Pod.Spec.SchedulerName, e.GatedBy, event)
}

// worth asks the hints of the plugins that rejected a pod.
func (q *Queue) worth(p *framework.QueuedPod, event framework.Event, c framework.Change) strategy {
	if event.Wildcard() || len(p.RejectedBy)+len(p.PendingBy) == 0 {
		return afterBackoff
	}
	for plugin := range p.PendingBy {
		if q.helps(p, plugin, event, c) {
			return immediately
		}
	}
	for plugin := range p.RejectedBy {
		if q.helps(p, plugin, event, c) {
			return afterBackoff
		}
	}
	return skip
}

func (q *Queue) helps(p *framework.QueuedPod, plugin string, event framework.Event, c framework.Change) bool {
	hints, known := q.options.Profiles[p.Pod.Spec.SchedulerName].Hints[plugin]
	if !known {
		return true
	}
	for i := range hints {
		if hints[i].Event.Covers(event) && (hints[i].Helps == nil || hints[i].Helps(p.PodInfo, c)) {
			return true
		}
	}
	return false
}

// Activate moves waiting pods to the active queue, whatever keeps them from it except gates.
func (q *Queue) Activate(ctx context.Context, now time.Time, uids ...types.UID) {
	for _, uid := range uids {
		e := q.pods[uid]
		switch {
		case e == nil && q.flight.attempts[uid] != nil:
			q.flight.record(happened{event: framework.Event{Action: framework.All, Label: ForceActivate}, target: uid})
		case e != nil && e.place != Active:
			q.requeue(ctx, e, immediately, ForceActivate, now)
		}
	}
}

// Flush moves the pods whose time has come, and returns when to call it again, which is zero for never.
func (q *Queue) Flush(ctx context.Context, now time.Time) time.Time {
	for _, heap := range []*ordered{&q.backoff, &q.errors} {
		for e := heap.first(); e != nil && !q.backingOff(e, now); e = heap.first() {
			q.leave(e)
			q.place(e, Active, BackoffComplete)
		}
	}
	if now.Sub(q.swept) >= sweep {
		q.swept = now
		q.sweep(ctx, now)
	}
	var next time.Time
	for _, heap := range []*ordered{&q.backoff, &q.errors} {
		if e := heap.first(); e != nil {
			next = earlier(next, e.Backoff.Add(window))
		}
	}
	if len(q.waiting) > 0 {
		next = earlier(next, q.swept.Add(sweep))
	}
	return next
}

func earlier(a, b time.Time) time.Time {
	if a.IsZero() || b.Before(a) {
		return b
	}
	return a
}

// sweep moves pods that waited for an event for too long.
func (q *Queue) sweep(ctx context.Context, now time.Time) {
	var late []*entry
	for _, e := range q.waiting {
		since := e.Added
		if e.flushed.After(since) {
			since = e.flushed
		}
		if now.Sub(since) > q.options.MaxUnschedulable {
			late = append(late, e)
		}
	}
	for _, e := range late {
		e.flushed = now
		q.requeue(ctx, e, afterBackoff, UnschedulableTimeout, now)
	}
}

// requeue takes a pod to where the strategy wants it, and tells whether it is ready now.
func (q *Queue) requeue(ctx context.Context, e *entry, s strategy, event string, now time.Time) bool {
	if s == skip {
		return false
	}
	to := Active
	if s == afterBackoff && q.backingOff(e, now) {
		to = Backoff
		if len(e.RejectedBy)+len(e.PendingBy) == 0 {
			to = ErrorBackoff
		}
	}
	q.leave(e)
	return q.enter(ctx, e, to, event)
}

// enter puts a pod into a place, unless a PreEnqueue plugin keeps it from getting ready.
func (q *Queue) enter(ctx context.Context, e *entry, to Place, event string) bool {
	ready := to == Active || to == Backoff || to == ErrorBackoff
	if ready && !q.passes(ctx, e) {
		to, ready = Gated, false
	}
	q.place(e, to, event)
	return ready
}

func (q *Queue) passes(ctx context.Context, e *entry) bool {
	for _, p := range q.options.Profiles[e.Pod.Spec.SchedulerName].PreEnqueue {
		if s := p.PreEnqueue(ctx, e.Pod); !s.IsSuccess() {
			e.GatedBy = p.Name()
			if e.RejectedBy == nil {
				e.RejectedBy = map[string]struct{}{}
			}
			e.RejectedBy[p.Name()] = struct{}{}
			return false
		}
	}
	e.GatedBy = ""
	return true
}

func (q *Queue) place(e *entry, to Place, event string) {
	e.place = to
	switch to {
	case Active:
		q.active.add(e)
	case Backoff:
		q.backoff.add(e)
	case ErrorBackoff:
		q.errors.add(e)
	case Unschedulable, Gated:
		q.wait(e)
	}
	q.moved(to, event)
}

func (q *Queue) wait(e *entry) {
	if e.place == Gated {
		q.gated++
	}
	q.waiting[e.UID()] = e
	e.kept = e.kept[:0]
	for _, plugins := range []map[string]struct{}{e.RejectedBy, e.PendingBy} {
		for plugin := range plugins {
			pods := q.rejected[plugin]
			if pods == nil {
				pods = map[types.UID]*entry{}
				q.rejected[plugin] = pods
			}
			pods[e.UID()] = e
			e.kept = append(e.kept, plugin)
		}
	}
}

// leave takes a pod out of its place.
func (q *Queue) leave(e *entry) {
	switch e.place {
	case Active:
		q.active.remove(e)
	case Backoff:
		q.backoff.remove(e)
	case ErrorBackoff:
		q.errors.remove(e)
	case Unschedulable, Gated:
		if e.place == Gated {
			q.gated--
		}
		delete(q.waiting, e.UID())
		for _, plugin := range e.kept {
			if delete(q.rejected[plugin], e.UID()); len(q.rejected[plugin]) == 0 {
				delete(q.rejected, plugin)
			}
		}
	}
	e.place = Nowhere
}

func (q *Queue) moved(to Place, event string) {
	if q.options.Moved != nil {
		q.options.Moved(to, event)
	}
}

// backoffEnd is when a pod that failed just now may be tried again.
func (q *Queue) backoffEnd(p *framework.QueuedPod) time.Time {
	count := p.Rejections
	if p.Errors > 0 {
		count = p.Errors
	}
	if count == 0 || q.options.MaxBackoff == 0 {
		return time.Time{}
	}
	d := q.options.MaxBackoff
	if shift := count - 1; shift < 62 && q.options.InitialBackoff <= d>>shift {
		d = q.options.InitialBackoff << shift
	}
	return p.Added.Add(d).Truncate(window)
}

func (q *Queue) backingOff(e *entry, now time.Time) bool {
	return !e.Backoff.IsZero() && !e.Backoff.Before(now.Truncate(window))
}
