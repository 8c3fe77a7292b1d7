// Package tcpproxy passes TCP connections on to the members of a cluster: clients need to know one address near them, and no
// TLS is ended on the way.
//
// Targets are taken by the rules of SRV records (RFC 2782): the lowest priority of those that can be reached; among these by
// weight, or in turn if none has one. A target that cannot be reached is left out, and tried again after a while.
//
// # Concurrency
//
// A Proxy serves one listener. Every connection has goroutines of its own; Serve ends when they have.
package tcpproxy

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
	"time"

	"go.uber.org/zap"
)

const (
	defaultRetryDelay = 5 * time.Minute
	dialTimeout       = 10 * time.Second
	acceptPause       = 50 * time.Millisecond // after an error, such as too many open files
	rarely            = 100                   // one of so many connections goes to a target of weight 0 beside others with weights
)

// Config is what a Proxy is made of.
type Config struct {
	Targets    []*net.SRV    // each with host and port; priority and weight may be 0
	RetryDelay time.Duration // until a target that cannot be reached is tried again; 0: 5 minutes
	Logger     *zap.Logger
}

// Proxy is described in the package comment.
type Proxy struct {
	cfg     Config
	targets []*target

	mu   sync.Mutex
	turn int // of those without weights
}

// target is one target; down is guarded by the mutex of the Proxy.
type target struct {
	addr             string
	priority, weight int
	down             bool
}

// New makes a Proxy. Nothing is connected yet.
func New(cfg Config) *Proxy {
	if cfg.RetryDelay <= 0 {
		cfg.RetryDelay = defaultRetryDelay
	}
	p := &Proxy{cfg: cfg}
	for _, r := range cfg.Targets {
		addr := net.JoinHostPort(r.Target, strconv.Itoa(int(r.Port)))
		p.targets = append(p.targets, &target{addr: addr, priority: int(r.Priority), weight: int(r.Weight)})
	}
	return p
}

// Serve passes connections on until ctx ends; then it closes the listener and all connections.
func (p *Proxy) Serve(ctx context.Context, l net.Listener) {
	var work sync.WaitGroup
	defer work.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(ctx, func() { _ = l.Close() })()
	work.Go(func() { p.retry(ctx) })
	addrs := make([]string, len(p.targets))
	for i, t := range p.targets {
		addrs[i] = t.addr
	}
	p.cfg.Logger.Info("ready to proxy client requests", zap.Strings("endpoints", addrs))
	for {
		in, err := l.Accept()
		switch {
		case err == nil:
			work.Go(func() { p.pass(ctx, in) })
		case ctx.Err() != nil || errors.Is(err, net.ErrClosed):
			return
		default:
			p.cfg.Logger.Warn("cannot accept a connection", zap.Error(err))
			pause(ctx, acceptPause)
		}
	}
}

// pass connects one client with a target. Without any, the client's connection is closed.
func (p *Proxy) pass(ctx context.Context, in net.Conn) {
	defer in.Close()
	out := p.connect(ctx)
	if out == nil {
		return
	}
	defer out.Close()
	defer context.AfterFunc(ctx, func() { in.Close(); out.Close() })()
	back := make(chan struct{})
	go func() {
		defer close(back)
		_, _ = io.Copy(in, out)
		in.Close() // what ends in one direction ends in both
		out.Close()
	}()
	_, _ = io.Copy(out, in)
	in.Close()
	out.Close()
	<-back
}

// connect connects with the first target that can be reached; nil: none.
func (p *Proxy) connect(ctx context.Context) net.Conn {
	for ctx.Err() == nil {
		t := p.pick()
		if t == nil {
			return nil
		}
		out, err := dial(ctx, t)
		if err == nil {
			return out
		}
		p.setDown(t, true)
		p.cfg.Logger.Warn("deactivated endpoint", zap.String("address", t.addr), zap.Duration("interval", p.cfg.RetryDelay), zap.Error(err))
	}
	return nil
}

func dial(ctx context.Context, t *target) (net.Conn, error) {
	d := net.Dialer{Timeout: dialTimeout}
	return d.DialContext(ctx, "tcp", t.addr)
}

func (p *Proxy) setDown(t *target, down bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	t.down = down
}

// pick chooses the target of the next connection, nil if all are down.
func (p *Proxy) pick() *target {
	p.mu.Lock()
	defer p.mu.Unlock()
	best := -1
	for _, t := range p.targets {
		if !t.down && (best < 0 || t.priority < best) {
			best = t.priority
		}
	}
	var weighted, plain []*target
	sum := 0
	for _, t := range p.targets {
		switch {
		case t.down || t.priority != best:
		case t.weight > 0:
			weighted, sum = append(weighted, t), sum+t.weight
		default:
			plain = append(plain, t)
		}
	}
	if len(weighted) > 0 && (len(plain) == 0 || rand.IntN(rarely) > 0) {
		return byWeight(weighted, rand.IntN(sum))
	}
	if len(plain) == 0 {
		return nil
	}
	return p.inTurn(best)
}

// byWeight returns the target whose share a number below the sum of all weights falls into.
func byWeight(targets []*target, n int) *target {
	for _, t := range targets {
		if n -= t.weight; n < 0 {
			return t
		}
	}
	return targets[len(targets)-1]
}

// inTurn returns the next target without a weight in the order of all targets, so that one that comes back takes its old place.
// There must be one.
func (p *Proxy) inTurn(priority int) *target {
	for {
		t := p.targets[p.turn%len(p.targets)]
		p.turn++
		if !t.down && t.priority == priority && t.weight == 0 {
			return t
		}
	}
}

// retry tries targets that are down again.
func (p *Proxy) retry(ctx context.Context) {
	for pause(ctx, p.cfg.RetryDelay) {
		var tries sync.WaitGroup
		for _, t := range p.down() {
			tries.Go(func() { p.tryAgain(ctx, t) })
		}
		tries.Wait()
	}
}

func (p *Proxy) down() []*target {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []*target
	for _, t := range p.targets {
		if t.down {
			out = append(out, t)
		}
	}
	return out
}

func (p *Proxy) tryAgain(ctx context.Context, t *target) {
	conn, err := dial(ctx, t)
	if err != nil {
		p.cfg.Logger.Warn("failed to activate endpoint (stay inactive for another interval)", zap.String("address", t.addr), zap.Duration("interval", p.cfg.RetryDelay), zap.Error(err))
		return
	}
	_ = conn.Close()
	p.setDown(t, false)
	p.cfg.Logger.Info("activated", zap.String("address", t.addr))
}

// pause waits, and says whether ctx still goes on.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
