package feed

import (
	"context"
	"errors"
	"hash/crc32"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/keelson-io/keelson/api/backuppb"
	"github.com/keelson-io/keelson/internal/clock"
	"github.com/keelson-io/keelson/server/replica"
	"github.com/keelson-io/keelson/wal"
)

const (
	chunkBytes = 1 << 20               // of the entries of one chunk, but at least one entry
	pause      = 20 * time.Millisecond // between two looks of a stream, so that it sends runs of entries
	noteEvery  = time.Second           // of the timeline
)

// Config is what a Service needs of its member.
type Config struct {
	ClusterID, MemberID uint64
	MinLeaseTTL         int64 // in seconds
	// Position is up to where the log is applied and published.
	Position func() replica.Position
	// WaitApplied returns when an index is.
	WaitApplied func(ctx context.Context, index uint64) error
	// CatchUp returns when everything is applied that any member had applied before; an error if that cannot be found out.
	CatchUp func(ctx context.Context) error
	// Entries reads applied entries lo..hi-1, as many as fit maxBytes but at least one; wal.ErrReleased.
	Entries func(ctx context.Context, lo, hi, maxBytes uint64) ([]*raftpb.Entry, error)
	// Allow refuses callers who may not read everything. It is asked again before every chunk.
	Allow      func(ctx context.Context) error
	Clock      clock.Clock
	Registerer prometheus.Registerer
}

// Service is keelson.backup.Backup.
type Service struct {
	backuppb.UnimplementedBackupServer
	cfg     Config
	times   timeline
	streams prometheus.Gauge
	sent    prometheus.Counter
}

// New makes a Service.
func New(cfg Config) *Service {
	s := &Service{
		cfg:     cfg,
		streams: prometheus.NewGauge(prometheus.GaugeOpts{Name: "keelson_backup_log_streams", Help: "Streams of the log to backup agents."}),
		sent:    prometheus.NewCounter(prometheus.CounterOpts{Name: "keelson_backup_log_entries_total", Help: "Entries of the log that were sent to backup agents."}),
	}
	cfg.Registerer.MustRegister(s.streams, s.sent)
	return s
}

// Run keeps the timeline until ctx ends.
func (s *Service) Run(ctx context.Context) error {
	ticker := s.cfg.Clock.NewTicker(noteEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C():
			s.note()
		}
	}
}

// note adds the present position to the timeline.
func (s *Service) note() replica.Position {
	p := s.cfg.Position()
	s.times.add(p, s.cfg.Clock.Now().UnixNano())
	return p
}

// Log streams the log. See api/backuppb.
func (s *Service) Log(r *backuppb.LogRequest, stream backuppb.Backup_LogServer) error {
	ctx := stream.Context()
	if err := s.cfg.Allow(ctx); err != nil {
		return err
	}
	next, err := s.begin(ctx, r)
	if err != nil {
		return err
	}
	s.streams.Inc()
	defer s.streams.Dec()
	if err := stream.Send(s.response(next, nil)); err != nil {
		return err
	}
	for {
		if err := s.cfg.WaitApplied(ctx, next); err != nil {
			return unavailable(err)
		}
		if err := s.cfg.Allow(ctx); err != nil {
			return err
		}
		if next, err = s.send(ctx, stream, next, s.note().Index); err != nil {
			return err
		}
		if err := s.rest(ctx); err != nil {
			return err
		}
	}
}

func (s *Service) rest(ctx context.Context) error {
	timer := s.cfg.Clock.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-timer.C():
		return nil
	case <-ctx.Done():
		return status.FromContextError(ctx.Err()).Err()
	}
}

// begin finds out where a stream begins.
func (s *Service) begin(ctx context.Context, r *backuppb.LogRequest) (next uint64, err error) {
	at := s.note()
	if r.FromIndex == 0 {
		return at.Index + 1, nil
	}
	prev := r.FromIndex - 1
	if prev == 0 {
		return 1, nil
	}
	if prev > at.Index {
		if err := s.cfg.CatchUp(ctx); err != nil {
			return 0, status.Errorf(codes.Aborted, "backup: this member has applied the log up to entry %d only, not to %d: %v", at.Index, prev, err)
		}
		if at = s.note(); prev > at.Index {
			return 0, status.Errorf(codes.FailedPrecondition, "backup: the log ends with entry %d, entry %d is of another history", at.Index, prev)
		}
	}
	ents, err := s.cfg.Entries(ctx, prev, prev+1, 0)
	if err != nil {
		return 0, unavailable(err)
	}
	e := ents[0]
	if r.PrevTerm != 0 && r.PrevTerm != e.GetTerm() || r.PrevCrc != nil && *r.PrevCrc != Checksum(e) {
		return 0, status.Errorf(codes.FailedPrecondition, "backup: entry %d of this member's log is another one: it has another history", prev)
	}
	return r.FromIndex, nil
}

// send sends the entries from next up to an index in chunks that end where a note does.
func (s *Service) send(ctx context.Context, stream backuppb.Backup_LogServer, next, upTo uint64) (uint64, error) {
	for next <= upTo {
		n, ok := s.times.at(next)
		if !ok { // the position is noted before anything up to it is sent
			return 0, status.Errorf(codes.Internal, "backup: entry %d has no time", next)
		}
		ents, err := s.cfg.Entries(ctx, next, min(n.Index, upTo)+1, chunkBytes)
		if err != nil {
			return 0, unavailable(err)
		}
		chunk := &backuppb.Chunk{Entries: ents, TimeUnixNano: n.time}
		if next += uint64(len(ents)); next == n.Index+1 {
			chunk.Revision = n.Revision
		}
		if err := stream.Send(s.response(next, chunk)); err != nil {
			return 0, err
		}
		s.sent.Add(float64(len(ents)))
	}
	return next, nil
}

func (s *Service) response(next uint64, chunk *backuppb.Chunk) *backuppb.LogResponse {
	return &backuppb.LogResponse{
		ClusterId: s.cfg.ClusterID, MemberId: s.cfg.MemberID, MinLeaseTtl: s.cfg.MinLeaseTTL,
		AppliedIndex: s.cfg.Position().Index, NextIndex: next, Chunk: chunk,
	}
}

// Checksum is the CRC32-Castagnoli of an entry's data.
func Checksum(e *raftpb.Entry) uint32 { return crc32.Checksum(e.GetData(), castagnoli) }

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// unavailable says why entries cannot be had.
func unavailable(err error) error {
	switch {
	case errors.Is(err, wal.ErrReleased):
		return status.Error(codes.OutOfRange, "backup: the entries are no longer in this member's log")
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return status.FromContextError(err).Err()
	}
	return status.Error(codes.Unavailable, err.Error())
}
