package storage

import (
	"sync"

	v1 "k8s.io/api/core/v1"
)

// topic is a claim or a volume.
type topic struct {
	kind string
	key  Key
}

func claimTopic(k Key) topic        { return topic{"claim", k} }
func volumeTopic(name string) topic { return topic{"volume", Key{Name: name}} }
func (d *Decision) topics() []topic {
	var out []topic
	for _, m := range d.Matches {
		out = append(out, claimTopic(KeyOf(m.Claim)), volumeTopic(m.Volume.Name))
	}
	for _, c := range d.Provision {
		out = append(out, claimTopic(KeyOf(c)))
	}
	return out
}

// board tells watches what happens to claims and volumes.
type board struct {
	mu      sync.Mutex
	watches map[topic]map[*Watch]struct{}
}

// Watch follows the claims and volumes of a decision, for whoever carries it out.
type Watch struct {
	board  *board
	topics []topic
	news   chan struct{}
	latest map[topic]any // guarded by the board's mutex
}

// Watch follows what happens to the claims and volumes of a decision from now on, until Close.
func (t *Table) Watch(d *Decision) *Watch {
	w := &Watch{board: &t.board, topics: d.topics(), news: make(chan struct{}, 1), latest: map[topic]any{}}
	t.board.mu.Lock()
	defer t.board.mu.Unlock()
	if t.board.watches == nil {
		t.board.watches = map[topic]map[*Watch]struct{}{}
	}
	for _, k := range w.topics {
		put(t.board.watches, k, w, struct{}{})
	}
	return w
}

// Close ends the watch.
func (w *Watch) Close() {
	w.board.mu.Lock()
	defer w.board.mu.Unlock()
	for _, k := range w.topics {
		take(w.board.watches, k, w)
	}
}

// News has an element if something happened since it was last taken out.
func (w *Watch) News() <-chan struct{} { return w.news }

// Claim returns what was last seen of a claim: nil if it is gone; false if nothing happened to it.
func (w *Watch) Claim(k Key) (*v1.PersistentVolumeClaim, bool) {
	o, seen := w.last(claimTopic(k))
	c, _ := o.(*v1.PersistentVolumeClaim)
	return c, seen
}

// Volume returns what was last seen of a volume: nil if it is gone; false if nothing happened to it.
func (w *Watch) Volume(name string) (*v1.PersistentVolume, bool) {
	o, seen := w.last(volumeTopic(name))
	v, _ := o.(*v1.PersistentVolume)
	return v, seen
}

func (w *Watch) last(k topic) (any, bool) {
	w.board.mu.Lock()
	defer w.board.mu.Unlock()
	o, seen := w.latest[k]
	return o, seen
}

// post is told of an object that changed, or, with nil, that is gone.
func (b *board) post(k topic, o any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for w := range b.watches[k] {
		w.latest[k] = o
		select {
		case w.news <- struct{}{}:
		default:
		}
	}
}
