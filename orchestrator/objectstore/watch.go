package objectstore

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/keelson-io/keelson/internal/clock"
)

// WatchQuery says which changes, from when on.
type WatchQuery struct {
	Namespace string          // "": all
	Labels    labels.Selector // nil: all
	Fields    fields.Selector // nil: all
	// ResourceVersion is after which revision changes are wanted. "" and "0" begin with the objects that there are: now, or
	// at any time. With SendInitialEvents all begin so, at a revision that is not older.
	ResourceVersion   string
	Match             metav1.ResourceVersionMatch
	SendInitialEvents *bool // false: never begin with the objects that there are
	Bookmarks         bool
	// Begun, if not nil, is called once: by Watch or Next, when no more of the objects that there are have to be read.
	Begun func()
}

// Event is one change that a watch reports.
type Event struct {
	Type watch.EventType
	// Item is the object's new state, or its last one; nil if Type is Bookmark or Error.
	Item *Item
	// Revision is that of the change. A bookmark says that all up to it was reported.
	Revision int64
	// InitialEnd says that a bookmark ends the objects that the watch began with.
	InitialEnd bool
	// Err is for users of the package that put errors into their streams. Streams do not.
	Err error
}

func (q *WatchQuery) validate() error {
	var errs field.ErrorList
	at := field.NewPath("resourceVersionMatch")
	if q.SendInitialEvents != nil && q.Match != metav1.ResourceVersionMatchNotOlderThan {
		errs = append(errs, field.Forbidden(at, "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"))
	}
	if q.Match != "" {
		if q.SendInitialEvents == nil {
			errs = append(errs, field.Forbidden(at, "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided"))
		}
		if q.Match != metav1.ResourceVersionMatchNotOlderThan {
			errs = append(errs, field.NotSupported(at, q.Match, []metav1.ResourceVersionMatch{metav1.ResourceVersionMatchNotOlderThan}))
		}
	}
	if len(errs) > 0 {
		return invalidOptions(errs)
	}
	return nil
}

const (
	maxBatch = 256 // events that Next returns at most
	// lastBookmark is how long before the end of a watch's context its last bookmark comes.
	lastBookmark = 2 * time.Second
)

// Stream is one watch: a position in the log of changes, and a filter. Next is for one goroutine at a time.
type Stream struct {
	c        *Collection
	scope    scope
	match    func(*Item) bool // nil: all
	interest interest

	initial  *version // the objects of which are still to be sent
	from     string   // the next key of them
	initEnd  bool     // a bookmark ends them
	begun    func()   // called when none is left
	pos      position
	after    int64 // changes up to here are not reported
	more     bool  // the log was not read to its end
	sent     int64 // revision of the last event or bookmark
	bookmark clock.Timer
	deadline time.Time // zero: none

	pending atomic.Pointer[position] // the first change since the log was read that may concern the stream
	failure atomic.Pointer[error]
	wake    chan struct{}
	closing sync.Once
}

// Watch begins to follow changes. ctx is for beginning; its deadline tells when the last bookmark is due. What is wrong
// with the revision is Next's first answer, as it is for clients of kube-apiserver.
func (c *Collection) Watch(ctx context.Context, q WatchQuery) (*Stream, error) {
	if err := c.open(); err != nil {
		return nil, err
	}
	if err := q.validate(); err != nil {
		return nil, err
	}
	revision, err := parseRevision(q.ResourceVersion)
	if err != nil {
		return nil, err
	}
	s := &Stream{c: c, scope: c.scope(q.Namespace, q.Fields), match: matcher(q.Labels, q.Fields), wake: make(chan struct{}, 1)}
	if s.scope.none {
		s.match = func(*Item) bool { return false }
	}
	s.interest, s.from = c.interestOf(s.scope, q.Fields), s.scope.prefix
	c.cache.wakers.add(s)
	c.store.metrics.streams.WithLabelValues(c.cache.resource).Inc()
	if err := s.begin(ctx, &q, revision); err != nil {
		if !apierrors.IsResourceExpired(err) && !apierrors.IsTimeout(err) || ctx.Err() != nil {
			s.Close()
			return nil, storeError(ctx, err, false)
		}
		s.fail(err)
	}
	if s.begun = q.Begun; s.begun == nil {
		s.begun = func() {}
	}
	if s.initial == nil {
		s.begun()
	}
	if q.Bookmarks {
		s.deadline, _ = ctx.Deadline()
		s.bookmark = c.store.cfg.Clock.NewTimer(s.untilBookmark())
	}
	return s, nil
}

// begin finds where the stream begins.
func (s *Stream) begin(ctx context.Context, q *WatchQuery, revision int64) (err error) {
	wanted := q.SendInitialEvents != nil && *q.SendInitialEvents
	state := wanted || q.SendInitialEvents == nil && revision == 0
	if q.ResourceVersion == "" {
		if revision, err = s.c.store.now.get(ctx); err != nil {
			return err
		}
	}
	least := revision
	named := q.ResourceVersion != "" && revision > 0 && !state
	if named {
		least = 0 // it may begin in the future
	}
	v, err := s.c.notOlder(ctx, least)
	if err != nil {
		return err
	}
	s.after = v.revision
	if named {
		s.after = revision
	}
	for {
		var floor int64
		var ok bool
		if s.pos, floor, ok = s.c.cache.log.seek(s.after); ok {
			break
		}
		if named {
			if err := s.c.cache.reach(ctx, s.after); err != nil {
				return err
			}
			continue
		}
		// The cache is being filled anew, or the log is very short: there is a newer version, or will be at once.
		if v, err = s.c.notOlder(ctx, floor); err != nil {
			return err
		}
		s.after = v.revision
	}
	// The stream was registered before it saw v: it was, or will be, told of all that v does not contain.
	s.more, s.sent = s.after < v.revision, s.after
	if state {
		s.initial, s.initEnd = v, wanted && q.Bookmarks
	}
	return nil
}

// Close ends the stream.
func (s *Stream) Close() {
	s.closing.Do(func() {
		s.c.cache.wakers.remove(s)
		s.c.store.metrics.streams.WithLabelValues(s.c.cache.resource).Dec()
		if s.bookmark != nil {
			s.bookmark.Stop()
		}
	})
}

// mark tells the stream of a change that may concern it, and says whether the stream has to be woken.
func (s *Stream) mark(p *position) bool { return s.pending.CompareAndSwap(nil, p) }

func (s *Stream) rouse() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// fail ends the stream.
func (s *Stream) fail(err error) {
	s.failure.CompareAndSwap(nil, &err)
	s.rouse()
}

// Next waits for events and returns those that there are, some hundreds at most. An error is final unless it is ctx's.
func (s *Stream) Next(ctx context.Context) ([]Event, error) {
	var due <-chan time.Time
	if s.bookmark != nil {
		due = s.bookmark.C()
	}
	marked := false // a bookmark is due
	for {
		events, err := s.ready()
		if err != nil || len(events) > 0 {
			return events, err
		}
		if marked {
			if e, ok := s.makeBookmark(); ok {
				return []Event{e}, nil
			}
			continue
		}
		select {
		case <-s.wake:
		case <-due:
			marked = true
			s.bookmark.Reset(s.untilBookmark())
		case <-s.c.closed:
			s.fail(errClosed)
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// ready returns events that need no waiting.
func (s *Stream) ready() ([]Event, error) {
	if err := s.failure.Load(); err != nil {
		return nil, s.ended(*err)
	}
	if s.initial != nil {
		if events, err := s.readInitial(); err != nil || len(events) > 0 {
			return events, err
		}
	}
	p := s.pending.Swap(nil)
	if p == nil && !s.more {
		return nil, nil
	}
	// Nothing between the end of the last reading and the pending change concerns the stream.
	if !s.more && p.number() > s.pos.number() {
		s.pos = *p
	}
	return s.readLog()
}

// readInitial returns some of the objects that the stream begins with.
func (s *Stream) readInitial() ([]Event, error) {
	var events []Event
	var failure error
	v := s.initial
	done := true
	v.tree.Ascend(&Item{Key: s.from}, func(it *Item) bool {
		if it.Key >= s.scope.end {
			return false
		}
		if len(events) == maxBatch {
			s.from, done = it.Key, false
			return false
		}
		if it, failure = it.as(s.c.kind); failure != nil {
			return false
		}
		if s.match == nil || s.match(it) {
			events = append(events, Event{Type: watch.Added, Item: it, Revision: it.Revision})
		}
		return true
	})
	if failure != nil {
		s.fail(failure)
		return nil, failure
	}
	if done {
		s.initial = nil
		s.begun()
		if s.initEnd {
			events = append(events, Event{Type: watch.Bookmark, Revision: v.revision, InitialEnd: true})
		}
	}
	return events, nil
}

// readLog returns what the log has for the stream.
func (s *Stream) readLog() ([]Event, error) {
	var events []Event
	for len(events) < maxBatch {
		ch, behind := s.c.cache.log.read(&s.pos)
		if behind {
			s.c.store.metrics.expired.WithLabelValues(s.c.cache.resource).Inc()
			s.fail(errRefilled)
			break
		}
		if ch == nil {
			s.more = false
			return events, nil
		}
		if ch.revision <= s.after {
			continue
		}
		e, ok, err := s.event(ch)
		if err != nil {
			s.fail(err)
			break
		}
		if ok {
			s.sent = ch.revision
			events = append(events, e)
		}
	}
	s.more = true
	if err := s.failure.Load(); err != nil && len(events) == 0 {
		return nil, s.ended(*err)
	}
	return events, nil
}

// event is what a change is for the stream, which may be nothing.
func (s *Stream) event(ch *change) (Event, bool, error) {
	key := ""
	if ch.item != nil {
		key = ch.item.Key
	} else {
		key = ch.prev.Key
	}
	if key < s.scope.prefix || key >= s.scope.end {
		return Event{}, false, nil
	}
	item, now, err := s.matches(ch.item)
	if err != nil {
		return Event{}, false, err
	}
	before := false
	if ch.prev != nil && ch.prev.broken == nil {
		if _, before, err = s.matches(ch.prev); err != nil {
			return Event{}, false, err
		}
	}
	switch {
	case now && before:
		return Event{Type: watch.Modified, Item: item, Revision: ch.revision}, true, nil
	case now:
		return Event{Type: watch.Added, Item: item, Revision: ch.revision}, true, nil
	case before:
		item, err := ch.gone().as(s.c.kind)
		return Event{Type: watch.Deleted, Item: item, Revision: ch.revision}, err == nil, err
	}
	return Event{}, false, nil
}

// matches returns an item, if there is one, as the stream's kind, and whether the stream is about it.
func (s *Stream) matches(it *Item) (*Item, bool, error) {
	if it == nil {
		return nil, false, nil
	}
	it, err := it.as(s.c.kind)
	return it, err == nil && (s.match == nil || s.match(it)), err
}

// makeBookmark says how far the stream is, if it has reported all that is published.
func (s *Stream) makeBookmark() (Event, bool) {
	v := s.c.cache.current.Load() // first: what it contains was marked before
	if s.pending.Load() != nil || s.failure.Load() != nil || s.more || s.initial != nil {
		return Event{}, false
	}
	s.sent = max(s.sent, v.revision)
	return Event{Type: watch.Bookmark, Revision: s.sent}, true
}

// untilBookmark is how long it is until the next bookmark: the usual time, or shortly before the end.
func (s *Stream) untilBookmark() time.Duration {
	every := s.c.store.cfg.BookmarkEvery
	if s.deadline.IsZero() {
		return every
	}
	left := s.deadline.Sub(s.c.store.cfg.Clock.Now()) - lastBookmark
	if left <= 0 {
		return lastBookmark + every // it was the last
	}
	return min(every, left)
}

// ended is what clients are told of the end of a stream.
func (s *Stream) ended(err error) error {
	var known *apierrors.StatusError
	switch {
	case errors.As(err, &known):
		return err
	case errors.Is(err, errClosed):
		return busy("the server does not serve " + s.c.kind.GroupResource().String() + " any more")
	}
	return apierrors.NewResourceExpired(fmt.Sprintf("too old resource version: %d (%d)", s.sent, s.c.cache.current.Load().revision))
}
