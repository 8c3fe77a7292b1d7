package queue

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/types"

	"github.com/keelson-io/keelson/orchestrator/scheduler/framework"
)

// modelPod is a pod in a queue that is as plain as can be: a list that is searched for everything.
type modelPod struct {
	uid                types.UID
	place              Place
	priority           int32
	number             int
	rejected           []string
	rejections, errors int
	end, since         time.Time
	// seen are the events while the pod is in flight, nil if they do not matter.
	seen []framework.Event
	gone bool
}

type modelQueue struct {
	pods   map[types.UID]*modelPod
	number int
	swept  time.Time
}

// helped are the events that help against a plugin.
func helped(plugin string, e framework.Event) bool {
	return plugin == "Fit" && (e == nodeAdd || e == podDelete) || plugin == "Affinity" && e == relabelled || plugin == "Other"
}

func (p *modelPod) helpedBy(e framework.Event) bool {
	for _, plugin := range p.rejected {
		if helped(plugin, e) {
			return true
		}
	}
	return len(p.rejected) == 0
}

func (p *modelPod) requeue(now time.Time) {
	switch {
	case p.end.IsZero() || p.end.Before(now.Truncate(time.Second)):
		p.place = Active
	case len(p.rejected) == 0:
		p.place = ErrorBackoff
	default:
		p.place = Backoff
	}
}

func (m *modelQueue) next() *modelPod {
	var best *modelPod
	for _, place := range []Place{Active, Backoff} {
		for _, p := range m.pods {
			if p.place != place {
				continue
			}
			switch {
			case best == nil:
				best = p
			case place == Backoff && !p.end.Equal(best.end):
				if p.end.Before(best.end) {
					best = p
				}
			case p.priority > best.priority, p.priority == best.priority && p.number < best.number:
				best = p
			}
		}
		if best != nil {
			return best
		}
	}
	return nil
}

func (m *modelQueue) give(p *modelPod, plugins []string, now time.Time) {
	if p.gone {
		delete(m.pods, p.uid)
		return
	}
	p.rejected, p.since = plugins, now
	count := 0
	if len(plugins) == 0 {
		p.errors++
		count = p.errors
	} else {
		p.errors = 0
		p.rejections++
		count = p.rejections
	}
	p.end = now.Add(min(10*time.Second, time.Second<<(count-1))).Truncate(time.Second)
	m.number++
	p.number = m.number
	p.place = Unschedulable
	for _, e := range p.seen {
		if p.helpedBy(e) {
			p.requeue(now)
		}
	}
	if p.seen == nil || len(plugins) == 0 {
		p.requeue(now)
	}
}

func (m *modelQueue) flush(now time.Time) {
	for _, p := range m.pods {
		if (p.place == Backoff || p.place == ErrorBackoff) && p.end.Before(now.Truncate(time.Second)) {
			p.place = Active
		}
	}
	if now.Sub(m.swept) < sweep {
		return
	}
	m.swept = now
	for _, p := range m.pods {
		if p.place == Unschedulable && now.Sub(p.since) > 5*time.Minute {
			p.since = now
			p.requeue(now)
		}
	}
}

func TestAgainstModel(t *testing.T) {
	for seed := range uint64(60) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { againstModel(t, rand.New(rand.NewPCG(seed, 1))) })
	}
}

func againstModel(t *testing.T, r *rand.Rand) {
	q, m := newTestQueue(nil), &modelQueue{pods: map[types.UID]*modelPod{}}
	now := start
	flight := map[types.UID]*framework.QueuedPod{}
	random := func() types.UID { return types.UID(fmt.Sprint("p", r.IntN(12))) }
	for step := range 1500 {
		switch uid := random(); r.IntN(9) {
		case 0, 1:
			if m.pods[uid] == nil {
				m.number++
				p := &modelPod{uid: uid, place: Active, priority: int32(r.IntN(3)), number: m.number}
				m.pods[uid] = p
				q.Add(t.Context(), podOf(string(uid), p.priority), now)
			}
		case 2, 3:
			got, want := q.Pop(now), m.next()
			if want == nil {
				require.Nil(t, got)
				break
			}
			require.Equal(t, want.uid, got.UID(), "step %d", step)
			want.place, want.seen = Flight, []framework.Event{}
			flight[want.uid] = got
		case 4, 5:
			if p := flight[uid]; p != nil {
				delete(flight, uid)
				plugins := [][]string{nil, {"Fit"}, {"Affinity"}, {"Fit", "Never"}, {"Other"}, {"Never"}}[r.IntN(6)]
				p.RejectedBy = set(plugins...)
				require.Equal(t, !m.pods[uid].gone, q.Return(t.Context(), p, now))
				m.give(m.pods[uid], plugins, now)
			}
		case 6:
			e := []framework.Event{nodeAdd, podDelete, nodeLabel}[r.IntN(3)]
			q.Move(t.Context(), e, framework.Change{}, nil, now)
			for _, p := range m.pods {
				if p.place == Unschedulable && p.helpedBy(e) {
					p.requeue(now)
				}
				if p.seen != nil && p.place == Flight {
					p.seen = append(p.seen, e)
				}
			}
		case 7:
			p := m.pods[uid]
			switch {
			case p == nil:
			case p.place != Flight:
				q.Delete(uid)
				delete(m.pods, uid)
			case r.IntN(3) == 0:
				q.Done(uid)
				delete(m.pods, uid)
				delete(flight, uid)
			case r.IntN(2) == 0:
				q.Placed(uid)
				p.seen = nil
			default:
				q.Delete(uid)
				p.gone = true
			}
		case 8:
			now = now.Add(time.Duration(r.ExpFloat64() * float64(3*time.Second)))
			if r.IntN(50) == 0 {
				now = now.Add(time.Duration(r.IntN(400)) * time.Second)
			}
			q.Flush(t.Context(), now)
			m.flush(now)
		}
		var counts Counts
		for uid, p := range m.pods {
			require.Equal(t, p.place, q.Place(uid), "step %d: %s", step, uid)
			switch p.place {
			case Active:
				counts.Active++
			case Backoff, ErrorBackoff:
				counts.Backoff++
			case Unschedulable:
				counts.Unschedulable++
			case Flight:
				counts.Flight++
			}
		}
		require.Equal(t, counts, q.Counts())
	}
}
