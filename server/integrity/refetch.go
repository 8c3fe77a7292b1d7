package integrity

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/keelson-io/keelson/internal/until"
	"github.com/keelson-io/keelson/internal/vfs"
	"github.com/keelson-io/keelson/mvcc/backend"
	"github.com/keelson-io/keelson/server/membership"
)

// Errors of refetching.
var (
	ErrLeads    = errors.New("integrity: this member leads the cluster; move leadership to another one first")
	ErrBusy     = errors.New("integrity: this member is replacing its data already")
	ErrNoSource = errors.New("integrity: no member is known to have the data of the majority; is a majority reachable, and of this version?")
)

// Machine applies the log.
type Machine interface {
	Hold() (applied uint64, release func())
	Swap(index uint64, open func() (*backend.Backend, error)) (done <-chan error)
}

// RefetchConfig is what replacing this member's data needs.
type RefetchConfig struct {
	Checker  *Checker
	Machine  Machine
	IsLeader func() bool
	FS       vfs.FS
	Dir      string // for the file that is received; Install's is in the same file system
	// Install puts a database in the place of this member's and opens it.
	Install func(path string) (*backend.Backend, error)
	Stopped <-chan struct{}
	Logger  *zap.Logger
}

// Refetcher replaces this member's data by those of another one. See the package comment.
type Refetcher struct {
	cfg  RefetchConfig
	busy sync.Mutex
}

// NewRefetcher makes a Refetcher.
func NewRefetcher(cfg RefetchConfig) *Refetcher { return &Refetcher{cfg: cfg} }

// Refetched says what was done.
type Refetched struct {
	From        uint64 // the member whose data these are
	Index       uint64 // of the log, up to which they had everything
	Bytes       int64
	Quarantined bool // whether this member still is, because nothing has been compared since
}

// settleTime bounds how long Refetch waits for comparisons: before, that say whose data are right; afterwards, that end
// quarantine.
const settleTime = 15 * time.Second

// Refetch replaces the data. Errors: ErrLeads, ErrBusy, ErrNoSource, that of the transfer; the old data are then still there. It
// goes on to the end of a transfer only as long as ctx does.
func (r *Refetcher) Refetch(ctx context.Context) (Refetched, error) {
	if !r.busy.TryLock() {
		return Refetched{}, ErrBusy
	}
	defer r.busy.Unlock()
	if r.cfg.IsLeader() {
		return Refetched{}, ErrLeads
	}
	ctx, cancel := until.Closed(ctx, r.cfg.Stopped)
	defer cancel()
	if r.wait(ctx, func() bool { return len(r.cfg.Checker.sources()) > 0 }); r.cfg.IsLeader() {
		return Refetched{}, ErrLeads
	}
	var errs []error
	for _, m := range r.cfg.Checker.sources() {
		res, err := r.from(ctx, m)
		if err == nil {
			return res, nil
		}
		if ctx.Err() != nil {
			return Refetched{}, ctx.Err()
		}
		errs = append(errs, fmt.Errorf("from member %s: %w", membership.FormatID(m.ID), err))
	}
	if len(errs) == 0 {
		errs = []error{ErrNoSource}
	}
	return Refetched{}, errors.Join(errs...)
}

// sources are the members whose data are those of the majority.
func (c *Checker) sources() (list []*membership.Member) {
	c.mu.Lock()
	right := slices.Clone(c.right)
	c.mu.Unlock()
	for _, id := range right {
		if m := c.cfg.Members.Member(id); m != nil {
			list = append(list, m)
		}
	}
	return list
}

// from replaces the data by those of a member.
func (r *Refetcher) from(ctx context.Context, m *membership.Member) (Refetched, error) {
	done, res, err := r.fetch(ctx, m)
	if err != nil {
		return Refetched{}, err
	}
	select { // not for ctx: it is too late to go back
	case err = <-done:
	case <-r.cfg.Stopped:
		err = errors.New("integrity: the member stops")
	}
	if err != nil {
		return Refetched{}, err
	}
	r.cfg.Checker.swapped()
	r.cfg.Logger.Info("replaced the data of this member by those of another one", zap.String("member-id", membership.FormatID(m.ID)),
		zap.Uint64("index", res.Index), zap.Int64("bytes", res.Bytes))
	res.Quarantined = !r.wait(ctx, func() bool { return !r.cfg.Checker.Quarantined() })
	return res, nil
}

// fetch receives a database while no entry is applied, and leaves it to the machine.
func (r *Refetcher) fetch(ctx context.Context, m *membership.Member) (done <-chan error, res Refetched, err error) {
	applied, release := r.cfg.Machine.Hold()
	defer release()
	path := filepath.Join(r.cfg.Dir, "refetch.db.tmp") // a start removes what ends with .tmp
	defer func() {
		if err != nil {
			_ = r.cfg.FS.Remove(path)
		}
	}()
	r.cfg.Logger.Info("getting the data of another member", zap.String("member-id", membership.FormatID(m.ID)), zap.Uint64("applied", applied))
	n, err := r.download(ctx, m, applied, path)
	if err != nil {
		return nil, res, err
	}
	index, _, err := backend.Check(path)
	switch {
	case err != nil:
		return nil, res, err
	case index < applied:
		return nil, res, fmt.Errorf("integrity: a database of index %d, older than what is here (%d)", index, applied)
	case r.cfg.IsLeader():
		return nil, res, ErrLeads
	}
	done = r.cfg.Machine.Swap(index, func() (*backend.Backend, error) { return r.cfg.Install(path) })
	return done, Refetched{From: m.ID, Index: index, Bytes: n}, nil
}

// download receives a database into a file, durable and verified.
func (r *Refetcher) download(ctx context.Context, m *membership.Member, index uint64, path string) (n int64, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	idle := time.AfterFunc(idleTime, func() { cancel(errIdle) })
	defer idle.Stop()
	resp, err := r.cfg.Checker.asker().Get(ctx, m.PeerURLs, fmt.Sprintf("%s?index=%d", StatePath, index))
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
		return 0, fmt.Errorf("integrity: %s: %s", resp.Status, bytes.TrimSpace(text))
	}
	size, err := strconv.ParseInt(resp.Header.Get(bytesHeader), 10, 64)
	if err != nil || size <= 0 {
		return 0, fmt.Errorf("integrity: a database of %q bytes", resp.Header.Get(bytesHeader))
	}
	f, err := vfs.Create(r.cfg.FS, path)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	sum, got := sha256.New(), make([]byte, sha256.Size)
	body := alive{resp.Body, idle}
	if n, err = io.CopyN(io.MultiWriter(f, sum), body, size); err != nil {
		return n, fmt.Errorf("integrity: after %d of %d bytes: %w", n, size, cmp.Or(context.Cause(ctx), err))
	}
	if _, err := io.ReadFull(body, got); err != nil {
		return n, fmt.Errorf("integrity: the checksum is missing: %w", err)
	}
	if !bytes.Equal(got, sum.Sum(nil)) {
		return n, errors.New("integrity: the database was damaged on its way")
	}
	return n, f.Sync()
}

// idleTime is how long nothing may come of a transfer: no entry is applied meanwhile.
const idleTime = 20 * time.Second

var errIdle = errors.New("nothing came any more")

// alive puts the end of a transfer off as long as something comes.
type alive struct {
	io.Reader
	idle *time.Timer
}

// Read is io.Reader.
func (a alive) Read(p []byte) (int, error) {
	n, err := a.Reader.Read(p)
	if n > 0 {
		a.idle.Reset(idleTime)
	}
	return n, err
}

// wait waits a while for a condition, and says whether it came about.
func (r *Refetcher) wait(ctx context.Context, ok func() bool) bool {
	clk := r.cfg.Checker.cfg.Clock
	end := clk.Now().Add(settleTime)
	tick := clk.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for !ok() && clk.Now().Before(end) {
		select {
		case <-tick.C():
		case <-ctx.Done():
			return ok()
		}
	}
	return ok()
}
