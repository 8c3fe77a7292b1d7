package dns

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/miekg/dns"
	"go.uber.org/zap"

	"github.com/keelson-io/keelson/internal/clock"
)

// Times of a question that is asked upstream. Resolvers give up after 5 s.
const (
	// hedgeAfter is how long the next server waits for the one before it.
	hedgeAfter = 600 * time.Millisecond
	// askTimeout is when there is no answer, and deadTimeout when there is none from servers that are all known to fail.
	askTimeout  = 2500 * time.Millisecond
	deadTimeout = 1200 * time.Millisecond
	// staleAfter is how long a client waits for an answer if there is an old one.
	staleAfter = 500 * time.Millisecond
)

// tries is how often a question is sent at most.
const tries = 4

var (
	errNoUpstream = errors.New("dns: there is no server upstream")
	errSilent     = errors.New("dns: no server upstream answered")
)

// forwarder asks upstream, once for equal questions that come at the same time, and keeps the answers.
type forwarder struct {
	servers []*upstream
	cache   *cache
	clock   clock.Clock
	lg      *zap.Logger
	metrics *metrics

	mu     sync.Mutex
	flying map[string]*flight
	wg     sync.WaitGroup
}

// flight is a question that is under way.
type flight struct {
	done  chan struct{}
	entry *entry
	err   error
}

// question is what is asked upstream.
type question struct {
	name  string // as people write it
	qtype uint16
	do    bool
	check bool // CD
}

func (q *query) question() question {
	return question{name: textName(q.name()), qtype: q.qtype, do: q.do, check: q.flags&flagCD != 0}
}

func (q question) key() string {
	wire, _ := wireName(q.name)
	k := []byte{plainKey, byte(q.qtype >> 8), byte(q.qtype)}
	if q.do {
		k[0] |= dnssecKey
	}
	if q.check {
		k[0] |= checkKey
	}
	return string(k) + wire
}

// message is the question as it is sent.
func (q question) message(edns bool) *dns.Msg {
	m := new(dns.Msg)
	m.SetQuestion(q.name, q.qtype)
	m.CheckingDisabled = q.check
	if edns {
		m.SetEdns0(1232, q.do)
	}
	return m
}

// answer is the answer to a question: from the cache, or from upstream. It may be an old one if there is no newer one.
// ctx is that of the server: the question goes on when the client that asked it first is content with an old answer.
func (f *forwarder) answer(ctx context.Context, q question) (*entry, error) {
	k := q.key()
	lookup := key{n: len(k)}
	copy(lookup.buf[:], k)
	now := f.clock.Now()
	old, fresh := f.cache.get(&lookup, now)
	if fresh {
		return old, nil
	}
	fl := f.begin(ctx, k, q)
	if old != nil && !old.failure() {
		timer := f.clock.NewTimer(staleAfter)
		defer timer.Stop()
		select {
		case <-fl.done:
		case <-timer.C():
			return old, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	select {
	case <-fl.done:
		return fl.entry, fl.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// refresh asks upstream for what is in the cache and will end soon.
func (f *forwarder) refresh(ctx context.Context, q question) { f.begin(ctx, q.key(), q) }

// begin asks upstream, or joins those who did.
func (f *forwarder) begin(ctx context.Context, k string, q question) *flight {
	f.mu.Lock()
	defer f.mu.Unlock()
	if fl := f.flying[k]; fl != nil {
		return fl
	}
	fl := &flight{done: make(chan struct{})}
	f.flying[k] = fl
	f.wg.Go(func() {
		fl.entry, fl.err = f.fly(ctx, k, q)
		f.mu.Lock()
		delete(f.flying, k)
		f.mu.Unlock()
		close(fl.done)
	})
	return fl
}

func (f *forwarder) fly(ctx context.Context, k string, q question) (*entry, error) {
	m, err := f.ask(ctx, q)
	now := f.clock.Now()
	if err != nil || m.Rcode == dns.RcodeServerFailure || m.Rcode == dns.RcodeRefused {
		if old := f.cache.hold(k, now); old != nil {
			return old, nil
		}
	}
	if err != nil {
		return nil, err
	}
	e, err := newEntry(m, now)
	if err != nil {
		return nil, err
	}
	f.cache.put(k, e, now)
	return e, nil
}

// outcome is what a server said.
type outcome struct {
	try int
	msg *dns.Msg
	err error
}

// useful says whether an answer settles the matter.
func (o outcome) useful() bool {
	return o.err == nil && o.msg.Rcode != dns.RcodeServerFailure && o.msg.Rcode != dns.RcodeRefused
}

// race is a question that is sent to one server after the other, each a moment after the one before.
type race struct {
	f       *forwarder
	q       question
	servers []*upstream
	results chan outcome
	waiting []*upstream // of each try, nil when it is over
	over    int
	refused *dns.Msg // better than nothing
	failed  error
}

// ask sends a question upstream until there is an answer.
func (f *forwarder) ask(ctx context.Context, q question) (*dns.Msg, error) {
	servers, timeout := f.order()
	if len(servers) == 0 {
		return nil, errNoUpstream
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	r := &race{f: f, q: q, servers: servers, results: make(chan outcome, tries), failed: errSilent}
	r.send(ctx)
	hedge := time.NewTimer(hedgeAfter)
	defer hedge.Stop()
	for {
		select {
		case <-hedge.C:
			if len(r.waiting) < tries {
				r.send(ctx)
				hedge.Reset(hedgeAfter)
			}
		case o := <-r.results:
			if o.useful() {
				r.overtaken(o.try)
				return o.msg, nil
			}
			r.note(ctx, o)
			switch {
			case len(r.waiting) < min(len(servers), tries):
				r.send(ctx) // to the next one, at once
				hedge.Reset(hedgeAfter)
			case r.over == len(r.waiting) && (r.refused != nil || r.over >= tries):
				return r.end()
			}
		case <-ctx.Done():
			return r.end()
		}
	}
}

func (r *race) send(ctx context.Context) {
	try := len(r.waiting)
	u := r.servers[try%len(r.servers)]
	r.waiting = append(r.waiting, u)
	r.f.wg.Go(func() {
		m, err := u.exchange(ctx, r.q)
		r.f.seen(ctx, u, err)
		r.results <- outcome{try, m, err}
	})
}

// note remembers an answer that settles nothing.
func (r *race) note(ctx context.Context, o outcome) {
	r.over++
	r.waiting[o.try] = nil
	switch {
	case o.err == nil:
		r.refused = o.msg
	case ctx.Err() == nil:
		r.failed = fmt.Errorf("%w: %w", errSilent, o.err)
	}
}

func (r *race) end() (*dns.Msg, error) {
	if r.refused != nil {
		return r.refused, nil
	}
	return nil, r.failed
}

// overtaken holds it against servers that one which was asked later was faster.
func (r *race) overtaken(by int) {
	for _, u := range r.waiting[:by] {
		if u != nil && u != r.waiting[by] {
			r.f.failed(u, errSilent)
		}
	}
}

// order is the servers as they are to be asked: those that are well, in the order in which they were given, then the others.
func (f *forwarder) order() ([]*upstream, time.Duration) {
	var well, ill []*upstream
	for _, u := range f.servers {
		switch {
		case u.loops.Load():
		case u.down():
			ill = append(ill, u)
		default:
			well = append(well, u)
		}
	}
	if len(well) == 0 {
		return ill, deadTimeout
	}
	return append(well, ill...), askTimeout
}

// seen notes how it went with a server, and has it probed when it went badly.
func (f *forwarder) seen(ctx context.Context, u *upstream, err error) {
	switch {
	case err == nil:
		u.fails.Store(0)
	case errors.Is(ctx.Err(), context.Canceled):
		// somebody else was faster, or the server stops: that says nothing
	default:
		f.failed(u, err)
	}
}

func (f *forwarder) failed(u *upstream, err error) {
	f.metrics.upstreamFailures.WithLabelValues(u.addr.String()).Inc()
	if u.fails.Add(1) == downAfter {
		f.lg.Warn("a server upstream does not answer", zap.Stringer("server", u.addr), zap.Error(err))
	}
	u.wake()
}

// isProbe says whether a name is that of a question with which we look for loops, and notes that there is one.
func (f *forwarder) isProbe(name []byte) bool {
	for _, u := range f.servers {
		if string(name) == u.probe {
			if !u.loops.Swap(true) {
				f.lg.Error("a server upstream sends our questions back to us: it is not used", zap.Stringer("server", u.addr))
			}
			return true
		}
	}
	return false
}
