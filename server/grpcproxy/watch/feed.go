package watch

import (
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// feed is one watch at the members. Its fields are its link's.
type feed struct {
	span span
	prev bool  // with previous values
	id   int64 // at the members; 0: never had one
	next int64 // everything below was delivered

	created    bool
	createdRev int64 // of the store, at the creation
	head       bool  // it had everything at a moment since its creation

	held     []event // of the last revision of a fragment, which may not be all of it
	watchers map[*watcher]struct{}
}

// watcher is a client's watch. Its fields are its link's.
type watcher struct {
	stream *stream
	id     int64
	span   span
	next   int64 // the lowest revision that the client may still get
	take   selection
	feed   *feed // nil: the client does not read

	progress, fragment bool
}

// mark finds out whether the feed is at the head: it is when it is beyond the revision of its creation.
func (f *feed) mark() { f.head = f.head || f.created && f.next > f.createdRev }

// attach gives a watcher a feed that will deliver everything from its next revision on.
func (l *link) attach(w *watcher) {
	var best *feed
	for _, f := range l.groups[w.span] {
		fits := (f.next == w.next || f.head && f.next <= w.next) && (f.prev || !w.take.prev)
		if fits && (best == nil || f.next > best.next) {
			best = f
		}
	}
	if best == nil {
		best = &feed{span: w.span, prev: w.take.prev, next: w.next, watchers: map[*watcher]struct{}{}}
		l.groups[w.span] = append(l.groups[w.span], best)
		l.hub.cfg.Metrics.feeds.Inc()
		l.create(best)
		l.start()
	}
	l.enter(w, best)
}

func (l *link) enter(w *watcher, f *feed) {
	if len(f.watchers) > 0 {
		l.hub.cfg.Metrics.watchers.Inc()
	}
	f.watchers[w] = struct{}{}
	w.feed = f
}

// exit takes a watcher out of its feed, which may be left without watchers.
func (l *link) exit(w *watcher) {
	f := w.feed
	delete(f.watchers, w)
	w.feed = nil
	if len(f.watchers) > 0 {
		l.hub.cfg.Metrics.watchers.Dec()
	}
}

// detach takes a watcher out of its feed, if it has one, and ends the feed if it was the last one.
func (l *link) detach(w *watcher) {
	if f := w.feed; f != nil {
		l.exit(w)
		if len(f.watchers) == 0 {
			l.stop(f)
		}
	}
}

// merge makes one of those feeds of a range whose watchers can wait for another one that is at the head.
func (l *link) merge(s span) {
	for _, from := range slices.Clone(l.groups[s]) {
		for _, to := range l.groups[s] {
			if from == to || !from.created || !to.head || to.next > from.next || from.prev && !to.prev {
				continue
			}
			for w := range from.watchers {
				l.exit(w)
				l.enter(w, to)
			}
			l.stop(from)
			break
		}
	}
}

// deliver gives events, or the word that there are none, to the watchers of a feed.
func (l *link) deliver(f *feed, r *response) {
	if len(r.events) == 0 {
		l.deliverProgress(f, r)
		return
	}
	events := append(f.held, r.events...)
	f.held = nil
	if r.fragment { // more of the last revision may follow
		whole := len(events)
		for whole > 0 && events[whole-1].rev == events[len(events)-1].rev {
			whole--
		}
		events, f.held = events[:whole], slices.Clone(events[whole:])
	}
	for len(events) > 0 && events[0].rev < f.next {
		events = events[1:]
	}
	if len(events) == 0 {
		return
	}
	b := newBatch(r.header, events)
	f.next = b.last() + 1
	f.mark()
	l.hub.cfg.Metrics.events.Add(float64(len(f.watchers) - 1))
	for w := range f.watchers {
		w.take.from = w.next
		if !b.any(w.take) {
			w.next = max(w.next, f.next)
			continue
		}
		if !w.stream.push(item{batch: b, id: w.id, take: w.take, fragment: w.fragment}) {
			l.hub.cfg.Metrics.lagging.Inc()
			l.exit(w)
			continue
		}
		w.next = f.next
	}
	if len(f.watchers) == 0 {
		l.stop(f)
	}
}

// deliverProgress passes a progress response on to those who want it and are not beyond it.
func (l *link) deliverProgress(f *feed, r *response) {
	if len(f.held) > 0 {
		return
	}
	f.next, f.head = max(f.next, r.rev+1), true
	for w := range f.watchers {
		if w.next > r.rev+1 {
			continue
		}
		if w.progress && !w.stream.push(item{frame: encodeControl(&pb.WatchResponse{Header: parseHeader(r.header), WatchId: w.id})}) {
			continue
		}
		w.next = r.rev + 1
	}
}
