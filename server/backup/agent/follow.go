package agent

import (
	"context"
	"errors"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/keelson-io/keelson/api/backuppb"
	"github.com/keelson-io/keelson/server/backup/archive"
)

const (
	// silentPatience is how long the members that do not answer are waited for when the others have it no longer.
	silentPatience = 10 * time.Second
	// finalTimeout is how long archiving what was received may take once the agent is to end.
	finalTimeout = 15 * time.Second
)

// round is how following went since something last came.
type round struct {
	tried  map[string]codes.Code // by endpoint, how its stream ended
	since  time.Time
	ended  int  // streams
	worked bool // something came before
}

// follow follows the members in turn, each as long as it serves.
func (a *agent) follow(ctx context.Context) error {
	r := round{tried: map[string]codes.Code{}, since: time.Now()}
	for at := 0; ; at++ {
		c := a.link.conns[at%len(a.link.conns)]
		got, err := a.session(ctx, c)
		a.metrics.connected.Set(0)
		a.shared.follow(false)
		for _, err := range []error{err, a.flush(ctx)} {
			if isFatal(err) {
				return err
			}
		}
		if ctx.Err() != nil {
			return a.final()
		}
		a.metrics.failures.WithLabelValues("stream").Inc()
		a.lg.Warn("the stream from a member ended", zap.String("endpoint", c.endpoint), zap.Error(err))
		c.failed(err)
		if got {
			r = round{tried: map[string]codes.Code{}, since: time.Now(), worked: true}
			at-- // it is the first to be asked again
		}
		r.ended++
		r.tried[c.endpoint] = status.Code(err)
		if err := a.judge(&r, err); err != nil {
			return err
		}
		if err := sleep(ctx, r.pause(len(a.link.conns))); err != nil {
			return a.final()
		}
	}
}

// pause is short until every member was asked.
func (r *round) pause(members int) time.Duration {
	if r.ended < members {
		return 10 * time.Millisecond
	}
	return backoff(r.ended / members)
}

// judge decides, when all members were asked in vain, what that means.
func (a *agent) judge(r *round, err error) error {
	if len(r.tried) < len(a.link.conns) {
		return nil
	}
	count := map[codes.Code]int{}
	for _, code := range r.tried {
		count[code]++
	}
	gone := count[codes.OutOfRange] + count[codes.FailedPrecondition]
	switch {
	case count[codes.Unimplemented] == len(r.tried) && !r.worked:
		return errNoFeed
	case count[codes.PermissionDenied]+count[codes.InvalidArgument] == len(r.tried) && !a.founded:
		return err // rights that may change later end no agent that has worked
	case gone == len(r.tried), gone > 0 && time.Since(r.since) > silentPatience:
		a.lg.Error("the chain cannot be continued: no member has what comes next", zap.String("chain", a.chain), zap.Error(err))
		a.chain, a.tail = "", nil
		r.tried, r.since = map[string]codes.Code{}, time.Now()
	}
	return nil
}

// session follows one member until the stream ends. got: something came.
func (a *agent) session(ctx context.Context, c *conn) (got bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	asUser, err := a.link.as(ctx, c)
	if err != nil {
		return false, err
	}
	stream, err := backuppb.NewBackupClient(c).Log(asUser, a.request())
	if err != nil {
		return false, err
	}
	first, err := receiveFirst(stream, cancel)
	if err != nil {
		return false, err
	}
	if err := a.found(ctx, first.ClusterId); err != nil {
		return false, err
	}
	if a.chain == "" {
		a.beginChain(first.ClusterId, first.NextIndex)
	}
	a.metrics.connected.Set(1)
	a.shared.follow(true)
	a.lg.Info("following the log of a member", zap.String("endpoint", c.endpoint), zap.Uint64("from", first.NextIndex))
	return a.receive(ctx, stream)
}

// request asks for what comes next.
func (a *agent) request() *backuppb.LogRequest {
	if a.tail == nil {
		return &backuppb.LogRequest{}
	}
	return &backuppb.LogRequest{FromIndex: a.tail.Index + 1, PrevTerm: a.tail.Term, PrevCrc: a.tail.Crc}
}

// receiveFirst waits for the member's answer, for so long as dialing may take.
func receiveFirst(stream backuppb.Backup_LogClient, cancel func()) (*backuppb.LogResponse, error) {
	timer := time.AfterFunc(dialTimeout, cancel)
	defer timer.Stop()
	return stream.Recv()
}

// receive takes in chunks. Segments are closed when they are large or old enough.
func (a *agent) receive(ctx context.Context, stream backuppb.Backup_LogClient) (got bool, err error) {
	responses, ended := make(chan *backuppb.LogResponse), make(chan error, 1)
	go func() {
		for {
			r, err := stream.Recv()
			if err != nil {
				ended <- err
				return
			}
			select {
			case responses <- r:
			case <-ctx.Done():
				ended <- ctx.Err()
				return
			}
		}
	}()
	var age <-chan time.Time
	for {
		select {
		case r := <-responses:
			if err := a.take(ctx, r); err != nil {
				return got, err
			}
			got = true
			if a.segment.Bytes() >= a.cfg.SegmentBytes {
				age = nil
				if err := a.flush(ctx); err != nil {
					return got, err
				}
			} else if age == nil {
				age = time.After(a.cfg.SegmentAge)
			}
		case <-age:
			age = nil
			if err := a.flush(ctx); err != nil {
				return got, err
			}
		case err := <-ended:
			return got, err
		}
	}
}

// take adds what came to the open segment.
func (a *agent) take(ctx context.Context, r *backuppb.LogResponse) error {
	c := r.Chunk
	if c == nil || len(c.Entries) == 0 {
		return errors.New("a member sent a response without entries")
	}
	if a.segment != nil && a.minTTL != r.MinLeaseTtl {
		if err := a.flush(ctx); err != nil {
			return err
		}
	}
	if a.segment == nil {
		a.minTTL = r.MinLeaseTtl
		w, err := archive.NewWriter(&backuppb.SegmentHead{
			ClusterId: r.ClusterId, Chain: a.chain, FirstIndex: a.tail.Index + 1, MinLeaseTtl: r.MinLeaseTtl,
		}, a.tail.Revision, a.tail.Time)
		if err != nil {
			return fatal{err}
		}
		a.segment = w
		a.metrics.waiting(time.Now())
	}
	if err := a.segment.Add(c); err != nil {
		return err
	}
	t := a.segment.Tail()
	a.tail = &t
	a.metrics.received(r, t)
	a.shared.add(c.Entries, c.TimeUnixNano)
	return nil
}

// flush archives the open segment. It tries until ctx ends.
func (a *agent) flush(ctx context.Context) error {
	if a.segment == nil {
		return nil
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	s, object, err := a.segment.Close()
	if err != nil {
		return fatal{err}
	}
	a.segment = nil
	for failures := 0; ; failures++ {
		err := a.put(ctx, s, object)
		if err == nil {
			return nil
		}
		if errors.Is(err, archive.ErrTakenOver) {
			return fatal{err}
		}
		a.metrics.failures.WithLabelValues("segment").Inc()
		a.lg.Error("a segment cannot be archived; trying again", zap.String("segment", s.Name()), zap.Error(err))
		if err := sleep(ctx, backoff(failures)); err != nil {
			return a.lastTry(s, object)
		}
	}
}

func (a *agent) put(ctx context.Context, s *archive.Segment, object []byte) error {
	if err := archive.Check(ctx, a.cfg.Store, a.self); err != nil {
		return err
	}
	if err := archive.PutSegment(ctx, a.cfg.Store, s, object); err != nil {
		return err
	}
	a.metrics.archived(s)
	a.shared.stored(s)
	return nil
}

// lastTry is for a segment that could not be archived until the agent was to end.
func (a *agent) lastTry(s *archive.Segment, object []byte) error {
	ctx, cancel := context.WithTimeout(context.Background(), finalTimeout)
	defer cancel()
	if err := a.put(ctx, s, object); err != nil {
		return fatal{err}
	}
	return nil
}

// final archives what was received, when the agent is to end.
func (a *agent) final() error {
	if a.segment == nil {
		return nil
	}
	s, object, err := a.segment.Close()
	if err != nil {
		return err
	}
	a.segment = nil
	return a.lastTry(s, object)
}
