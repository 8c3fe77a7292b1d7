package queue

import (
	"container/list"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/keelson-io/keelson/orchestrator/scheduler/framework"
)

type happened struct {
	event  framework.Event
	change framework.Change
	// target is set if the event concerns one pod only.
	target types.UID
}

// attempt is a pod in flight.
type attempt struct {
	// start is nil once events no longer matter.
	start *list.Element
	// pod is the newest version, nil if there was none since the pod was popped.
	pod *v1.Pod
	// gone pods are not to come back.
	gone bool
}

// flight keeps the events since the oldest attempt that still runs. Its list holds events, and for each attempt a mark
// at the point where it began.
type flight struct {
	attempts map[types.UID]*attempt
	log      *list.List
}

func newFlight() flight { return flight{attempts: map[types.UID]*attempt{}, log: list.New()} }

func (f *flight) begin(uid types.UID) {
	f.attempts[uid] = &attempt{start: f.log.PushBack(uid)}
}

func (f *flight) record(h happened) {
	if f.log.Len() > 0 { // some attempt's mark
		f.log.PushBack(h)
	}
}

// since calls fn for the events since an attempt began, until it returns false.
func (f *flight) since(a *attempt, uid types.UID, fn func(happened) bool) {
	for el := a.start.Next(); el != nil; el = el.Next() {
		h, ok := el.Value.(happened)
		if ok && (h.target == "" || h.target == uid) && !fn(h) {
			return
		}
	}
}

// settle lets go of an attempt's events, but not of the attempt.
func (f *flight) settle(uid types.UID) {
	a := f.attempts[uid]
	if a == nil || a.start == nil {
		return
	}
	f.log.Remove(a.start)
	a.start = nil
	for el := f.log.Front(); el != nil; el = f.log.Front() {
		if _, isEvent := el.Value.(happened); !isEvent {
			return
		}
		f.log.Remove(el)
	}
}

// end forgets an attempt.
func (f *flight) end(uid types.UID) {
	f.settle(uid)
	delete(f.attempts, uid)
}
