package client

import (
	"container/heap"
	"context"
	"slices"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// KeepAlive renews one lease until it is closed, its context ends, or the lease is lost. All keep-alives of a client
// share one stream, and those of one lease share its renewals.
type KeepAlive struct {
	id      LeaseID
	keeper  *keeper
	first   *LeaseKeepAliveResponse
	ready   chan struct{} // closed with the first answer, or when over
	done    chan struct{}
	renewed chan *LeaseKeepAliveResponse
	stop    func() bool

	mu      sync.Mutex
	err     error
	expires time.Time
}

// KeepAlive renews a lease every third of its time to live. It returns after the first renewal, or with the reason
// why there was none.
func (c *Client) KeepAlive(ctx context.Context, id LeaseID) (*KeepAlive, error) {
	k := &KeepAlive{
		id: id, keeper: &c.leases,
		ready:   make(chan struct{}),
		done:    make(chan struct{}),
		renewed: make(chan *LeaseKeepAliveResponse, 1),
	}
	if err := c.leases.add(k); err != nil {
		return nil, err
	}
	select {
	case <-k.ready:
	case <-ctx.Done():
		k.Close()
		return nil, c.pool.unreachable(ctx.Err())
	}
	if err := k.Err(); err != nil {
		return nil, err
	}
	k.mu.Lock()
	k.stop = context.AfterFunc(ctx, func() { c.leases.remove(k, ctx.Err()) })
	k.mu.Unlock()
	return k, nil
}

// ID is the lease's ID.
func (k *KeepAlive) ID() LeaseID { return k.id }

// Done is closed when the lease is not renewed any more.
func (k *KeepAlive) Done() <-chan struct{} { return k.done }

// Err says why Done is closed: the context's error, ErrClosed, rpctypes.ErrLeaseNotFound (expired or revoked), or
// ErrLeaseExpired (no member could be asked in time). It is nil before.
func (k *KeepAlive) Err() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.err
}

// Expires is the time until which the lease certainly lives: the last renewal's request plus its time to live.
func (k *KeepAlive) Expires() time.Time {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.expires
}

// Renewed delivers the newest renewal that was not received yet. It is closed after Done. It need not be drained.
func (k *KeepAlive) Renewed() <-chan *LeaseKeepAliveResponse { return k.renewed }

// Close ends the renewals. The lease lives on until it expires.
func (k *KeepAlive) Close() { k.keeper.remove(k, ErrClosed) }

// answered takes in a renewal. The keeper's lock is held, so that calls do not overlap with each other or finish.
func (k *KeepAlive) answered(resp *LeaseKeepAliveResponse, expires time.Time) {
	k.mu.Lock()
	k.expires = expires
	k.mu.Unlock()
	if k.first == nil {
		k.first = resp
		close(k.ready)
	}
	select {
	case <-k.renewed: // the newest counts
	default:
	}
	k.renewed <- resp
}

// finish ends k. The keeper's lock is held, and k was in the keeper's table.
func (k *KeepAlive) finish(err error) {
	k.mu.Lock()
	k.err = err
	stop := k.stop
	k.mu.Unlock()
	if k.first == nil {
		close(k.ready)
	}
	close(k.done)
	close(k.renewed)
	if stop != nil {
		stop()
	}
}

// kept is a lease being renewed.
type kept struct {
	id       LeaseID
	subs     []*KeepAlive
	at       time.Time // when to look at it next: renew, suspect the stream, or give up
	sent     time.Time // the unanswered request's; zero without one
	queued   bool
	ttl      time.Duration // 0 before the first answer
	deadline time.Time     // zero before the first answer
	index    int
}

// patience is how long an answer may take before the stream is thought to be stuck.
func (l *kept) patience() time.Duration { return max(l.ttl/3, time.Second) }

// keeper renews leases. One goroutine watches the clock (a heap of due times), one serves the stream.
type keeper struct {
	e *engine

	mu      sync.Mutex
	leases  map[LeaseID]*kept
	due     dueHeap
	out     []*kept // to be sent
	started bool
	closed  bool

	clockWake chan struct{}
	outWake   chan struct{}
	needed    chan struct{} // a stream is wanted
	stuck     chan struct{} // the stream is stuck
}

func (k *keeper) init(e *engine) {
	k.e = e
	k.leases = map[LeaseID]*kept{}
	for _, c := range []*chan struct{}{&k.clockWake, &k.outWake, &k.needed, &k.stuck} {
		*c = make(chan struct{}, 1)
	}
}

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func (k *keeper) add(a *KeepAlive) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.closed {
		return ErrClosed
	}
	if !k.started {
		k.started = true
		k.e.wg.Go(k.runClock)
		k.e.wg.Go(k.runStream)
	}
	l := k.leases[a.id]
	if l == nil {
		l = &kept{id: a.id, index: -1}
		k.leases[a.id] = l
	}
	l.subs = append(l.subs, a)
	k.renewLocked(l)
	return nil
}

// renewLocked queues a request, unless one is under way: its answer is for all.
func (k *keeper) renewLocked(l *kept) {
	if !l.queued && l.sent.IsZero() {
		l.queued = true
		k.out = append(k.out, l)
		poke(k.outWake)
	}
	poke(k.needed)
}

func (k *keeper) remove(a *KeepAlive, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	l := k.leases[a.id]
	if l == nil {
		return
	}
	i := slices.Index(l.subs, a)
	if i < 0 {
		return
	}
	l.subs = slices.Delete(l.subs, i, i+1)
	a.finish(err)
	if len(l.subs) == 0 {
		k.dropLocked(l, err)
	}
}

// dropLocked stops renewing l.
func (k *keeper) dropLocked(l *kept, err error) {
	delete(k.leases, l.id)
	if l.index >= 0 {
		heap.Remove(&k.due, l.index)
	}
	for _, a := range l.subs {
		a.finish(err)
	}
	l.subs = nil
}

func (k *keeper) close() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.closed = true
	for _, l := range k.leases {
		k.dropLocked(l, ErrClosed)
	}
}

// scheduleLocked puts l into the heap for its next look.
func (k *keeper) scheduleLocked(l *kept, at time.Time) {
	if !l.deadline.IsZero() && l.deadline.Before(at) {
		at = l.deadline
	}
	l.at = at
	if l.index < 0 {
		heap.Push(&k.due, l)
	} else {
		heap.Fix(&k.due, l.index)
	}
	if l.index == 0 {
		poke(k.clockWake)
	}
}

// runClock looks at leases when they are due.
func (k *keeper) runClock() {
	t := time.NewTimer(time.Hour)
	defer t.Stop()
	for {
		next := k.tick(time.Now())
		t.Reset(next)
		select {
		case <-k.e.ctx.Done():
			return
		case <-t.C:
		case <-k.clockWake:
		}
	}
}

// tick handles everything that is due and returns how long nothing will be.
func (k *keeper) tick(now time.Time) time.Duration {
	k.mu.Lock()
	defer k.mu.Unlock()
	for len(k.due) > 0 {
		l := k.due[0]
		if wait := l.at.Sub(now); wait > 0 {
			return wait
		}
		switch {
		case !l.deadline.IsZero() && !now.Before(l.deadline):
			k.dropLocked(l, ErrLeaseExpired)
		case !l.sent.IsZero() && now.Sub(l.sent) >= l.patience():
			poke(k.stuck)
			k.scheduleLocked(l, now.Add(l.patience()))
		default:
			k.renewLocked(l)
			k.scheduleLocked(l, now.Add(l.patience()))
		}
	}
	return time.Hour
}

// runStream keeps a stream open on some member while there are leases.
func (k *keeper) runStream() {
	e := k.e
	ctx := RequireLeader(e.ctx)
	var avoid *link
	for attempt := 0; ; attempt++ {
		k.mu.Lock()
		idle := len(k.leases) == 0
		k.mu.Unlock()
		if idle {
			attempt = 0
			select {
			case <-k.needed:
				continue
			case <-e.ctx.Done():
				return
			}
		}
		l, err := e.pool.pick(ctx, avoid)
		if err != nil {
			return
		}
		received, err := k.serve(ctx, l)
		if e.ctx.Err() != nil {
			return
		}
		if received {
			attempt = 0
			l.succeeded()
		}
		k.judge(l, err)
		e.log.Debug("keep-alive stream broke", zap.String("endpoint", l.endpoint), zap.Error(err))
		avoid = l
		if e.pause(ctx, attempt) != nil {
			return
		}
	}
}

// judge takes note of why a stream broke, and gives up on those that wait for a first answer if it will not come.
func (k *keeper) judge(l *link, err error) {
	switch {
	case isStaleToken(err) && k.e.cfg.Username != "":
		ctx, cancel := context.WithTimeout(k.e.ctx, k.e.cfg.DialTimeout)
		defer cancel()
		if k.e.authenticate(ctx) == nil {
			return
		}
	case refusedByLearner(err):
		l.failed()
		return
	}
	switch status.Code(err) {
	case codes.Unavailable, codes.DeadlineExceeded:
		l.failed()
		return
	case codes.OK, codes.Internal, codes.Canceled, codes.Unknown, codes.Aborted:
		return
	}
	terr := translate(k.e.ctx, err)
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, l := range k.leases {
		if l.ttl == 0 {
			k.dropLocked(l, terr)
		}
	}
}

// serve runs one stream until it breaks or is stuck.
func (k *keeper) serve(parent context.Context, l *link) (received bool, err error) {
	ctx, cancel := context.WithCancel(parent)
	var sender sync.WaitGroup
	defer func() {
		cancel()
		sender.Wait()
	}()
	gs, err := pb.NewLeaseClient(l.conn).LeaseKeepAlive(k.e.outgoing(ctx))
	if err != nil {
		return false, err
	}
	k.attach()
	sender.Go(func() {
		if k.send(ctx, gs) {
			cancel() // stuck
		}
	})
	for {
		resp, err := gs.Recv()
		if err != nil {
			if parent.Err() == nil && ctx.Err() != nil {
				err = status.Error(codes.DeadlineExceeded, "client: no answer to a lease renewal")
			}
			return received, err
		}
		received = true
		k.confirm(resp)
	}
}

// attach queues again what the last stream left unanswered.
func (k *keeper) attach() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.out = k.out[:0]
	for _, l := range k.leases {
		if l.queued || !l.sent.IsZero() {
			l.queued, l.sent = true, time.Time{}
			k.out = append(k.out, l)
		}
	}
	select {
	case <-k.stuck:
	default:
	}
	poke(k.outWake)
}

// send writes what is queued. True means that the stream is stuck.
func (k *keeper) send(ctx context.Context, gs pb.Lease_LeaseKeepAliveClient) (stuck bool) {
	var batch []*kept
	for {
		k.mu.Lock()
		batch, k.out = k.out, batch[:0]
		now := time.Now()
		for _, l := range batch {
			l.queued = false
			if len(l.subs) > 0 {
				l.sent = now
				k.scheduleLocked(l, now.Add(l.patience()))
			}
		}
		k.mu.Unlock()
		for _, l := range batch {
			if err := gs.Send(&pb.LeaseKeepAliveRequest{ID: int64(l.id)}); err != nil {
				return false // the receiver learns why
			}
		}
		select {
		case <-k.outWake:
		case <-k.stuck:
			return true
		case <-ctx.Done():
			return false
		}
	}
}

// confirm takes in an answer.
func (k *keeper) confirm(resp *LeaseKeepAliveResponse) {
	k.mu.Lock()
	defer k.mu.Unlock()
	l := k.leases[LeaseID(resp.ID)]
	if l == nil || l.sent.IsZero() {
		return
	}
	if resp.TTL <= 0 {
		k.dropLocked(l, rpctypes.ErrLeaseNotFound)
		return
	}
	l.ttl = time.Duration(resp.TTL) * time.Second
	l.deadline = l.sent.Add(l.ttl)
	l.sent = time.Time{}
	for _, a := range l.subs {
		a.answered(resp, l.deadline)
	}
	k.scheduleLocked(l, time.Now().Add(l.ttl/3))
}

// dueHeap orders leases by when they are due.
type dueHeap []*kept

func (h dueHeap) Len() int           { return len(h) }
func (h dueHeap) Less(i, j int) bool { return h[i].at.Before(h[j].at) }
func (h dueHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}

// Push is heap.Interface's.
func (h *dueHeap) Push(x any) {
	l := x.(*kept)
	l.index = len(*h)
	*h = append(*h, l)
}

// Pop is heap.Interface's.
func (h *dueHeap) Pop() any {
	old := *h
	l := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	l.index = -1
	return l
}
