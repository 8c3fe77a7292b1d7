package objectstore

import (
	"context"
	"errors"
	"strconv"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.uber.org/zap"

	"github.com/keelson-io/keelson/client"
)

// compactKey is where the API servers of a cluster agree on who compacts the store. It is kube-apiserver's, so that both may
// share a store.
const compactKey = "compact_rev_key"

// compactor compacts the store now and then to the revision it had one interval before. The version of compactKey counts the
// intervals: of several API servers, whoever raises it first compacts.
type compactor struct {
	client  *client.Client
	timeout time.Duration

	version  int64 // of compactKey, when last seen
	revision int64 // of the store, then; 0: not known yet
}

// step does what an interval asks for, and returns the revision to which the store was compacted, or 0.
func (c *compactor) step(ctx context.Context) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	r, err := c.client.Txn(ctx).
		If(client.Version(compactKey).Equals(c.version)).
		Then(client.OpPut(compactKey, strconv.FormatInt(c.revision, 10))).
		Else(client.OpGet(compactKey)).
		Commit()
	if err != nil {
		return 0, err
	}
	to := c.revision
	c.revision = r.Header.Revision
	if !r.Succeeded {
		c.version = 0
		if kvs := r.Responses[0].GetResponseRange().GetKvs(); len(kvs) > 0 {
			c.version = kvs[0].Version
		}
		return 0, nil
	}
	c.version++
	if to == 0 {
		return 0, nil
	}
	_, err = c.client.Compact(ctx, to, false)
	if errors.Is(err, rpctypes.ErrCompacted) {
		return 0, nil // by somebody else
	}
	return to, err
}

// compact runs until the store is closed.
func (s *Store) compact() {
	c := compactor{client: s.cfg.Client, timeout: s.cfg.StoreTimeout}
	t := s.cfg.Clock.NewTicker(s.cfg.CompactEvery)
	defer t.Stop()
	for {
		switch to, err := c.step(s.ctx); {
		case s.ctx.Err() != nil:
			return
		case err != nil:
			s.cfg.Logger.Warn("the store could not be compacted", zap.Error(err))
		case to != 0:
			s.cfg.Logger.Debug("the store was compacted", zap.Int64("revision", to))
		}
		select {
		case <-t.C():
		case <-s.ctx.Done():
			return
		}
	}
}
