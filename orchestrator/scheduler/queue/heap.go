package queue

import (
	"container/heap"
	"time"

	"github.com/keelson-io/keelson/orchestrator/scheduler/framework"
)

// Place is where a pod waits.
type Place uint8

// The places. Pods in Flight are those that were popped.
const (
	Nowhere Place = iota
	Active
	Backoff
	ErrorBackoff
	Unschedulable
	Gated
	Flight
)

// String is the place's name in metrics.
func (p Place) String() string {
	switch p {
	case Active:
		return "active"
	case Backoff, ErrorBackoff:
		return "backoff"
	case Unschedulable:
		return "unschedulable"
	case Gated:
		return "gated"
	case Flight:
		return "flight"
	}
	return "nowhere"
}

type entry struct {
	*framework.QueuedPod
	place Place
	// position in the heap of its place.
	position int
	// number orders entries that are otherwise equal: first come, first served.
	number uint64
	// flushed is when the pod last waited too long.
	flushed time.Time
	// kept are the plugins under which the pod is found while it waits.
	kept []string
}

// ordered is a heap of entries that know their position.
type ordered struct {
	entries []*entry
	less    func(a, b *entry) bool
}

func (o *ordered) Len() int           { return len(o.entries) }
func (o *ordered) Less(i, j int) bool { return o.less(o.entries[i], o.entries[j]) }
func (o *ordered) Swap(i, j int) {
	o.entries[i], o.entries[j] = o.entries[j], o.entries[i]
	o.entries[i].position, o.entries[j].position = i, j
}

// Push is for package heap.
func (o *ordered) Push(x any) {
	e := x.(*entry)
	e.position = len(o.entries)
	o.entries = append(o.entries, e)
}

// Pop is for package heap.
func (o *ordered) Pop() any {
	last := len(o.entries) - 1
	e := o.entries[last]
	o.entries[last] = nil
	o.entries = o.entries[:last]
	return e
}

func (o *ordered) add(e *entry)    { heap.Push(o, e) }
func (o *ordered) remove(e *entry) { heap.Remove(o, e.position) }
func (o *ordered) fix(e *entry)    { heap.Fix(o, e.position) }

func (o *ordered) first() *entry {
	if len(o.entries) == 0 {
		return nil
	}
	return o.entries[0]
}
