// Package corruption finds members whose data differ from those of the others: all members have applied the same commands,
// so the hashes of their key spaces at one revision, with one compact revision, are the same.
//
//	at start    a member compares its hash with those of its peers before it takes part in anything
//	from time   the leader compares its hash with those of the members now, and what cannot be: a member that is ahead of it
//	to time
//	compaction  the leader compares the hashes that a recent compaction left on every member; those do not change, so that
//	            the members need not be at the same revision when they are asked
//
// What the leader finds it reports as a CORRUPT alarm of the member, or of member 0 if there is no majority that is right.
// The rules and the questions to other members are etcd's: members of both kinds check each other.
//
// # Concurrency
//
// Initial, Periodic and Compactions are called by one goroutine each; the handler by any.
package corruption

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.uber.org/zap"

	"github.com/keelson-io/keelson/internal/clock"
	"github.com/keelson-io/keelson/mvcc"
	"github.com/keelson-io/keelson/server/membership"
)

// Hasher hashes the key space of this member.
type Hasher interface {
	HashKV(rev int64) (h mvcc.KVHash, current int64, err error)
	CompactHashes() []mvcc.KVHash
}

// Config is what a Checker needs.
type Config struct {
	MemberID uint64
	Members  *membership.Cluster
	Hasher   Hasher
	IsLeader func() bool
	// Gate waits until this member has applied everything that was committed before the call.
	Gate func(context.Context) error
	// Raise raises the CORRUPT alarm of a member, 0 for the whole cluster.
	Raise   func(ctx context.Context, member uint64) error
	Peers   *http.Client
	Timeout time.Duration // of a question to a peer
	Clock   clock.Clock
	Logger  *zap.Logger
}

// Checker is described in the package comment.
type Checker struct {
	cfg     Config
	checked int64 // up to this compaction all members had the same hashes
}

// New makes a Checker.
func New(cfg Config) *Checker { return &Checker{cfg: cfg} }

// Initial compares this member with its peers before it runs. The error says that a peer with the same compact revision has
// another hash. A peer that does not answer says nothing.
func (c *Checker) Initial(ctx context.Context) error {
	id := membership.FormatID(c.cfg.MemberID)
	c.cfg.Logger.Info("starting initial corruption check", zap.String("local-member-id", id), zap.Duration("timeout", c.cfg.Timeout))
	own, _, err := c.cfg.Hasher.HashKV(0)
	if err != nil {
		return fmt.Errorf("%s failed to fetch hash (%w)", id, err)
	}
	differ := false
	for _, p := range c.ask(ctx, own.Rev) {
		lg := c.cfg.Logger.With(fields(id, own, p)...)
		switch {
		case errors.Is(p.err, mvcc.ErrFutureRev):
			lg.Warn("cannot fetch hash from slow remote peer")
		case errors.Is(p.err, mvcc.ErrCompacted):
			lg.Warn("cannot fetch hash from remote peer; local member is behind")
		case p.err != nil:
			lg.Warn("cannot fetch hash from remote peer", zap.Error(p.err))
		case p.resp.Hash == own.Hash:
		case p.resp.CompactRevision == own.CompactRev:
			lg.Warn("found different hash values from remote peer")
			differ = true
		default:
			lg.Warn("found different compact revision values from remote peer")
		}
	}
	if differ {
		return fmt.Errorf("%s found data inconsistency with peers", id)
	}
	c.cfg.Logger.Info("initial corruption checking passed; no corruption", zap.String("local-member-id", id))
	return nil
}

func fields(id string, own mvcc.KVHash, p answer) []zap.Field {
	f := []zap.Field{
		zap.String("local-member-id", id), zap.Int64("local-member-revision", own.Rev),
		zap.Int64("local-member-compact-revision", own.CompactRev), zap.Uint32("local-member-hash", own.Hash),
		zap.String("remote-peer-id", membership.FormatID(p.id)), zap.Strings("remote-peer-endpoints", p.urls),
	}
	if p.resp == nil {
		return f
	}
	return append(f, zap.Int64("remote-peer-revision", p.resp.GetHeader().GetRevision()),
		zap.Int64("remote-peer-compact-revision", p.resp.CompactRevision), zap.Uint32("remote-peer-hash", p.resp.Hash))
}

// every calls check once in an interval, on the leader, until ctx ends.
func (c *Checker) every(ctx context.Context, interval time.Duration, check func(context.Context) error) error {
	t := c.cfg.Clock.NewTicker(interval)
	defer t.Stop()
	for {
		select {
		case <-t.C():
		case <-ctx.Done():
			return ctx.Err()
		}
		if !c.cfg.IsLeader() {
			continue
		}
		if err := check(ctx); err != nil && ctx.Err() == nil {
			c.cfg.Logger.Warn("failed to check hash KV", zap.Error(err))
		}
	}
}

// Periodic checks the members once in an interval (0: never) while this one leads.
func (c *Checker) Periodic(ctx context.Context, interval time.Duration) error {
	if interval == 0 {
		return nil
	}
	c.cfg.Logger.Info("enabled corruption checking", zap.String("local-member-id", membership.FormatID(c.cfg.MemberID)), zap.Duration("interval", interval))
	return c.every(ctx, interval, c.checkNow)
}

// checkNow hashes twice: what a member says must fit to what was here before it was asked, and not be ahead of what is here
// after that.
func (c *Checker) checkNow(ctx context.Context) error {
	before, _, err := c.cfg.Hasher.HashKV(0)
	if err != nil {
		return err
	}
	peers := c.ask(ctx, before.Rev)
	gctx, cancel := context.WithTimeout(ctx, c.cfg.Timeout)
	err = c.cfg.Gate(gctx)
	cancel()
	if err != nil {
		return err
	}
	after, rev, err := c.cfg.Hasher.HashKV(0)
	if err != nil {
		return err
	}
	if after.Rev == before.Rev && after.CompactRev == before.CompactRev && after.Hash != before.Hash {
		c.cfg.Logger.Warn("found hash mismatch", zap.Int64("revision", before.Rev), zap.Int64("compact-revision", before.CompactRev),
			zap.Uint32("hash-1", before.Hash), zap.Uint32("hash-2", after.Hash))
		return c.cfg.Raise(ctx, c.cfg.MemberID)
	}
	checked := 0
	for _, p := range peers {
		if p.resp == nil {
			continue
		}
		checked++
		if what := suspicious(p.resp, before, after, rev); what != "" {
			c.cfg.Logger.Warn(what, zap.Int64("leader-revision", rev), zap.Int64("leader-compact-revision", after.CompactRev),
				zap.Uint32("leader-hash", before.Hash), zap.String("follower-peer-id", membership.FormatID(p.id)),
				zap.Int64("follower-revision", p.resp.GetHeader().GetRevision()),
				zap.Int64("follower-compact-revision", p.resp.CompactRevision), zap.Uint32("follower-hash", p.resp.Hash))
			return c.cfg.Raise(ctx, p.id) // one alarm at a time, as in etcd
		}
	}
	c.cfg.Logger.Info("finished peer corruption check", zap.Int("number-of-peers-checked", checked))
	return nil
}

// suspicious says what is wrong with a follower's answer, "" if nothing is. rev is the leader's revision afterwards.
func suspicious(r *pb.HashKVResponse, before, after mvcc.KVHash, rev int64) string {
	switch {
	case r.GetHeader().GetRevision() > rev:
		return "revision from follower must be less than or equal to leader's"
	case r.CompactRevision > after.CompactRev:
		return "compact revision from follower must be less than or equal to leader's"
	case r.CompactRevision == before.CompactRev && r.Hash != before.Hash:
		return "same compact revision then hashes must match"
	}
	return ""
}

// Compactions compares, once in an interval while this member leads, the hashes that compactions left.
func (c *Checker) Compactions(ctx context.Context, interval time.Duration) error {
	return c.every(ctx, interval, c.checkCompactions)
}

// checkCompactions looks for the latest compaction that all members can be compared at.
func (c *Checker) checkCompactions(ctx context.Context) error {
	own := slices.DeleteFunc(c.cfg.Hasher.CompactHashes(), func(h mvcc.KVHash) bool { return h.Rev <= c.checked })
	slices.SortFunc(own, func(a, b mvcc.KVHash) int { return cmp.Compare(b.Rev, a.Rev) })
	for i, h := range own {
		peers := c.ask(ctx, h.Rev)
		if len(peers) == 0 {
			continue
		}
		if done, err := c.compare(ctx, h, peers); done || err != nil {
			c.cfg.Logger.Info("finished compaction hash check", zap.Int("number-of-hashes-checked", i+1))
			return err
		}
	}
	if len(own) > 0 {
		c.cfg.Logger.Info("finished compaction hash check", zap.Int("number-of-hashes-checked", len(own)))
	}
	return nil
}

// compare groups the members by their hashes and raises alarms. It is false if members could not be compared and nothing
// was found.
func (c *Checker) compare(ctx context.Context, own mvcc.KVHash, peers []answer) (done bool, err error) {
	groups := map[uint32][]uint64{own.Hash: {c.cfg.MemberID}}
	compared := 0
	for _, p := range peers {
		if p.resp == nil || p.resp.CompactRevision != own.CompactRev {
			c.cfg.Logger.Warn("skipped a member's hash", zap.Int64("revision", own.Rev), zap.Int64("compact-revision", own.CompactRev),
				zap.String("peer-id", membership.FormatID(p.id)), zap.Int64("peer-compact-revision", p.resp.GetCompactRevision()), zap.Error(p.err))
			continue
		}
		compared++
		groups[p.resp.Hash] = append(groups[p.resp.Hash], p.id)
	}
	if len(groups) == 1 {
		if compared < len(peers) {
			return false, nil
		}
		c.checked = own.Rev
		c.cfg.Logger.Info("successfully checked hash on whole cluster", zap.Int("number-of-peers-checked", compared),
			zap.Int64("revision", own.Rev), zap.Int64("compact-revision", own.CompactRev))
		return true, nil
	}
	return true, c.accuse(ctx, own, groups, (len(peers)+1)/2+1)
}

// accuse raises the alarm of every member that is not in the majority; without a majority nobody knows who is right.
func (c *Checker) accuse(ctx context.Context, own mvcc.KVHash, groups map[uint32][]uint64, quorum int) error {
	majority := false
	for hash, ids := range groups {
		if len(ids) >= quorum {
			majority = true
			delete(groups, hash)
		}
	}
	var errs []error
	for hash, ids := range groups {
		names := make([]string, len(ids))
		for i, id := range ids {
			names[i] = membership.FormatID(id)
			if majority {
				errs = append(errs, c.cfg.Raise(ctx, id))
			}
		}
		c.cfg.Logger.Error("Detected compaction hash mismatch", zap.Int64("leader-revision", own.Rev),
			zap.Int64("leader-compact-revision", own.CompactRev), zap.Uint32("leader-hash", own.Hash),
			zap.Uint32("peer-hash", hash), zap.Strings("peer-ids", names), zap.Bool("quorum-exist", majority))
	}
	if !majority {
		errs = append(errs, c.cfg.Raise(ctx, 0))
	}
	return errors.Join(errs...)
}
