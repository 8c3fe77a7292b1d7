package fairness

import (
	"context"
	"errors"
	"hash/maphash"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	"k8s.io/apiserver/pkg/apis/flowcontrol/bootstrap"

	"github.com/keelson-io/keelson/internal/clock"
	"github.com/keelson-io/keelson/orchestrator/apiserver/request"
	"github.com/keelson-io/keelson/orchestrator/kinds"
)

// Config is what a Limiter is made of.
type Config struct {
	// Seats are those of the whole server. Default 600.
	Seats int
	// LongestWait bounds the wait of requests without a deadline; those with one wait for a quarter of their time. Default 15 s.
	LongestWait time.Duration
	Clock       clock.Clock           // nil: clock.Real
	Registerer  prometheus.Registerer // nil: none
}

// Limiter gives out seats.
type Limiter struct {
	cfg     Config
	metrics *metrics
	config  atomic.Pointer[config]

	mu      sync.Mutex
	schemas map[string]*flowcontrolv1.FlowSchema
	objects map[string]*flowcontrolv1.PriorityLevelConfiguration
	levels  map[string]*state
	changed chan struct{} // holds something if objects changed
}

// state is a level with what is known of it.
type state struct {
	*level
	object  *flowcontrolv1.PriorityLevelConfiguration
	share   share
	seats   int // its current limit
	removed bool
}

// New returns a Limiter that has the mandatory schemas and levels.
func New(cfg Config) (*Limiter, error) {
	if cfg.Seats <= 0 {
		cfg.Seats = 600
	}
	if cfg.LongestWait <= 0 {
		cfg.LongestWait = 15 * time.Second
	}
	if cfg.Clock == nil {
		cfg.Clock = clock.Real
	}
	l := &Limiter{
		cfg: cfg, metrics: newMetrics(), schemas: map[string]*flowcontrolv1.FlowSchema{},
		objects: map[string]*flowcontrolv1.PriorityLevelConfiguration{}, levels: map[string]*state{}, changed: make(chan struct{}, 1),
	}
	if err := l.metrics.register(cfg.Registerer); err != nil {
		return nil, err
	}
	l.Set()
	return l, nil
}

// Set takes objects that are new or have changed. Those of other kinds are passed over.
func (l *Limiter) Set(objects ...kinds.Object) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, o := range objects {
		switch o := o.(type) {
		case *flowcontrolv1.FlowSchema:
			l.schemas[o.Name] = o
		case *flowcontrolv1.PriorityLevelConfiguration:
			l.objects[o.Name] = o
		}
	}
	l.build()
}

// Remove takes out objects that are gone.
func (l *Limiter) Remove(objects ...kinds.Object) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, o := range objects {
		switch o.(type) {
		case *flowcontrolv1.FlowSchema:
			delete(l.schemas, o.GetName())
		case *flowcontrolv1.PriorityLevelConfiguration:
			delete(l.objects, o.GetName())
		}
	}
	l.build()
}

// sound says whether a level's configuration makes sense. What does not is as if it were not there.
func sound(o *flowcontrolv1.PriorityLevelConfiguration) bool {
	exempt := o.Spec.Type == flowcontrolv1.PriorityLevelEnablementExempt
	if exempt != (o.Name == flowcontrolv1.PriorityLevelConfigurationNameExempt) || exempt == (o.Spec.Limited != nil) {
		return false
	}
	return exempt || (o.Spec.Limited.LimitResponse.Type == flowcontrolv1.LimitResponseTypeQueue) == (o.Spec.Limited.LimitResponse.Queuing != nil)
}

// build makes levels and the configuration of the objects. l.mu is held.
func (l *Limiter) build() {
	now := l.cfg.Clock.Now()
	want := map[string]*flowcontrolv1.PriorityLevelConfiguration{}
	for _, o := range bootstrap.MandatoryPriorityLevelConfigurations {
		want[o.Name] = o
	}
	for name, o := range l.objects {
		if sound(o) {
			want[name] = o
		}
	}
	for name, o := range want {
		if l.levels[name] == nil {
			l.levels[name] = &state{level: newLevel(name, now)}
		}
		l.levels[name].object = o
	}
	l.reap(want)
	all := 0.0
	for _, s := range l.levels {
		shares, _, _ := commons(&s.object.Spec)
		all += float64(shares)
	}
	for name, s := range l.levels {
		s.share = divide(&s.object.Spec, l.cfg.Seats, all)
		r := rulesOf(&s.object.Spec)
		widest := math.Ceil(widestPart * float64(s.share.nominal))
		if r.hand > 0 {
			widest = min(widest, float64(s.share.nominal/r.hand))
		}
		if s.free {
			widest = math.MaxInt32
		}
		s.configure(r, int(widest))
		l.metrics.bounds(name, s.share)
	}
	l.classifiers()
	l.adjust(now)
	select {
	case l.changed <- struct{}{}:
	default:
	}
}

// widestPart of a level's seats is what one request may take.
const widestPart = 0.15

func rulesOf(s *flowcontrolv1.PriorityLevelConfigurationSpec) rules {
	if s.Limited == nil {
		return rules{}
	}
	if q := s.Limited.LimitResponse.Queuing; q != nil {
		return rules{queues: max(1, int(q.Queues)), hand: max(1, int(q.HandSize)), length: int(q.QueueLengthLimit)}
	}
	return rules{}
}

// reap drops levels that are not wanted and have no requests.
func (l *Limiter) reap(want map[string]*flowcontrolv1.PriorityLevelConfiguration) {
	for name, s := range l.levels {
		s.removed = want[name] == nil
		if s.removed && s.idle() {
			delete(l.levels, name)
			l.metrics.forget(name)
		}
	}
}

// classifiers publishes what requests are classified by.
func (l *Limiter) classifiers() {
	c, current := &config{}, map[string]*schema{}
	add := func(o *flowcontrolv1.FlowSchema) {
		s := l.levels[o.Spec.PriorityLevelConfiguration.Name]
		if s == nil || s.removed {
			return
		}
		compiled := &schema{
			object: o, level: s.level, uid: []string{string(o.UID)}, lvlUID: []string{string(s.object.UID)},
			seed: maphash.String(hashSeed, o.Name), meters: l.metrics.of(s.name, o.Name),
		}
		current[o.Name] = compiled
		c.schemas = append(c.schemas, compiled)
	}
	for _, o := range l.schemas {
		add(o)
	}
	for _, o := range bootstrap.MandatoryFlowSchemas {
		if current[o.Name] == nil {
			add(o)
		}
	}
	slices.SortFunc(c.schemas, byPrecedence)
	c.catchAll = current[flowcontrolv1.FlowSchemaNameCatchAll]
	l.config.Store(c)
}

// AdjustEvery is the period after which seats are lent anew.
const AdjustEvery = 10 * time.Second

// Run lends seats until the context ends.
func (l *Limiter) Run(ctx context.Context) {
	t := l.cfg.Clock.NewTicker(AdjustEvery)
	defer t.Stop()
	for {
		select {
		case <-t.C():
			l.mu.Lock()
			if slices.ContainsFunc(l.states(), func(s *state) bool { return s.removed && s.idle() }) {
				l.build()
			} else {
				l.adjust(l.cfg.Clock.Now())
			}
			l.mu.Unlock()
		case <-ctx.Done():
			return
		}
	}
}

func (l *Limiter) states() (out []*state) {
	for _, s := range l.levels {
		out = append(out, s)
	}
	return out
}

// adjust finds the limits of all levels by what they wanted in the last period. l.mu is held.
func (l *Limiter) adjust(now time.Time) {
	var limited []*state
	var claims []claim
	left, lowest, asked := 0, 0, 0
	for _, s := range l.levels {
		w := s.wanted(now)
		l.metrics.demand(s.name, w)
		left += s.share.nominal
		if s.object.Spec.Limited == nil {
			s.seats = max(s.share.lower, w.highest)
			left -= s.seats
			s.setLimit(s.seats, now)
			l.metrics.limit(s.name, s.seats, float64(s.seats))
			continue
		}
		// What it uses it keeps, as far as that is its own.
		lower := max(s.share.lower, min(s.share.nominal, w.highest))
		lowest, asked = lowest+s.share.lower, asked+lower
		limited = append(limited, s)
		claims = append(claims, claim{target: max(float64(lower), w.smoothed), lower: float64(lower), upper: float64(s.share.upper)})
	}
	var given []float64
	fraction := 0.0
	if left > asked {
		given, fraction = allocate(float64(left), claims)
	}
	for i, s := range limited {
		switch {
		case given != nil:
			s.seats = int(math.Round(given[i]))
		case left > lowest: // exempt requests use so much that nobody keeps all that is his
			part := float64(left-lowest) / float64(asked-lowest)
			s.seats = s.share.lower + int(math.Round((claims[i].lower-float64(s.share.lower))*part))
		default:
			s.seats = s.share.lower
		}
		s.setLimit(s.seats, now)
		l.metrics.limit(s.name, s.seats, claims[i].target)
	}
	l.metrics.fraction.Set(fraction)
}

// Reasons of rejections, beside "queue-full" and "concurrency-limit".
const (
	timedOut  = "time-out"
	cancelled = "cancelled"
)

// ErrRejected says that a request got no seat.
var ErrRejected = errors.New("too many requests")

// Seat is what a request holds while it is served. It is given back once.
type Seat struct {
	schema *schema
	level  *level
	queue  *queue
	width  int
	since  time.Time
}

// Enter waits until a request may be served. If it may not be at all, the error matches ErrRejected, and the Seat is not to be
// given back, but tells which schema the request had.
func (l *Limiter) Enter(ctx context.Context, u *request.User, i *request.Info, width int) (Seat, error) {
	s := l.config.Load().classify(u, i)
	var flow uint64
	if !s.level.free {
		flow = s.flow(u, i)
	}
	now := l.cfg.Clock.Now()
	seat, w, refused := s.level.enter(s, flow, width, now)
	if w != nil {
		if refused = l.wait(ctx, w, now); refused == "" {
			seat = w.seat
		}
	}
	if refused != "" {
		l.metrics.rejected.WithLabelValues(s.level.name, s.object.Name, refused).Inc()
		if !s.level.free {
			s.meters.waitedInVain.Observe(l.cfg.Clock.Now().Sub(now).Seconds())
		}
		return seat, ErrRejected
	}
	m := s.meters
	if !s.level.free {
		m.waited.Observe(seat.since.Sub(now).Seconds())
	}
	m.dispatched.Inc()
	m.executing.Inc()
	m.seats.Add(float64(seat.width))
	return seat, nil
}

// wait waits for a seat and returns why there is none.
func (l *Limiter) wait(ctx context.Context, w *waiter, now time.Time) (refused string) {
	m := w.seat.schema.meters
	m.queued.Inc()
	m.queuedSeats.Add(float64(w.seat.width))
	defer func() {
		m.queued.Dec()
		m.queuedSeats.Sub(float64(w.seat.width))
	}()
	limit := l.cfg.LongestWait
	if d, ok := ctx.Deadline(); ok {
		limit = d.Sub(now) / 4
	}
	t := l.cfg.Clock.NewTimer(min(limit, time.Minute))
	defer t.Stop()
	select {
	case <-w.ready:
		return ""
	case <-ctx.Done():
		refused = cancelled
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			refused = timedOut
		}
	case <-t.C():
		refused = timedOut
	}
	if !w.seat.level.abandon(w, l.cfg.Clock.Now()) {
		return "" // it was given one at this moment
	}
	return refused
}

// Leave gives a seat back.
func (l *Limiter) Leave(s *Seat) {
	now := l.cfg.Clock.Now()
	s.level.leave(s, now)
	m := s.schema.meters
	m.executing.Dec()
	m.seats.Sub(float64(s.width))
	m.execution.Observe(now.Sub(s.since).Seconds())
}
