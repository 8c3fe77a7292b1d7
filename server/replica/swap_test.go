package replica

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/keelson-io/keelson/mvcc/backend"
	"github.com/keelson-io/keelson/server/membership"
)

// puts are entries from..to, each a put of a key of its own.
func puts(t *testing.T, from, to uint64) (out []*raftpb.Entry) {
	for i := from; i <= to; i++ {
		data, err := proto.Marshal(&pb.InternalRaftRequest{
			Header: &pb.RequestHeader{ID: i}, Put: &pb.PutRequest{Key: fmt.Append(nil, "k", i), Value: fmt.Append(nil, i)},
		})
		require.NoError(t, err)
		out = append(out, &raftpb.Entry{Index: new(i), Term: new(uint64(2)), Type: raftpb.EntryNormal.Enum(), Data: data})
	}
	return out
}

// swapRig is a machine whose state differs, and the file of one whose state is right, up to an entry.
type swapRig struct {
	*Machine
	t     *testing.T
	fatal error
	path  string // of the machine's database
	right string // of the other one
}

func newSwapRig(t *testing.T, upTo uint64) *swapRig {
	good, _ := newMachine(t, 0)
	good.Apply(puts(t, 1, upTo))
	r := &swapRig{t: t, right: filepath.Join(t.TempDir(), "right")}
	snap, err := good.cfg.State.Backend().Snapshot()
	require.NoError(t, err)
	f, err := os.Create(r.right)
	require.NoError(t, err)
	_, err = snap.WriteTo(f)
	require.NoError(t, err)
	require.NoError(t, errors.Join(f.Close(), snap.Close()))

	r.Machine, _ = newMachine(t, 0)
	r.path = r.cfg.State.Backend().Path()
	r.cfg.Fatal = func(err error) { r.fatal = err }
	r.cfg.State.Members, err = membership.Load(membership.Config{}, Tables{r.cfg.State.Backend()})
	require.NoError(t, err)
	r.Apply(puts(t, 1, 5))
	_, release := r.Hold()
	w := r.cfg.State.Store.Write()
	w.Put([]byte("wrong"), []byte("data"), 0)
	w.End()
	r.cfg.State.Store.Publish()
	release()
	return r
}

func (r *swapRig) install() (*backend.Backend, error) {
	if err := os.Rename(r.right, r.path); err != nil {
		return nil, err
	}
	return backend.Open(backend.Config{Path: r.path})
}

// requireState compares the state with that of a machine that only ever did what is right.
func (r *swapRig) requireState(upTo uint64) {
	r.t.Helper()
	good, _ := newMachine(r.t, 0)
	good.Apply(puts(r.t, 1, upTo))
	want, _, err := good.cfg.State.Store.HashKV(0)
	require.NoError(r.t, err)
	got, _, err := r.cfg.State.Store.HashKV(0)
	require.NoError(r.t, err)
	require.Equal(r.t, want, got)
	index, _ := r.cfg.State.Backend().ConsistentIndex()
	require.Equal(r.t, upTo, index)
}

// TestSwap gives a machine another state, in the middle of a batch, at its end, before any, and not at all.
func TestSwap(t *testing.T) {
	for name, c := range map[string]struct {
		held    uint64   // up to which entry the other state goes
		batches []uint64 // their last entries
	}{
		"at once":          {5, []uint64{9}},
		"within a batch":   {8, []uint64{12}},
		"between batches":  {8, []uint64{7, 8, 9}},
		"with the last":    {8, []uint64{8}},
		"after many small": {9, []uint64{6, 7, 8, 9, 10}},
	} {
		t.Run(name, func(t *testing.T) {
			r := newSwapRig(t, c.held)
			applied, release := r.Hold()
			require.EqualValues(t, 5, applied)
			index, term, err := backend.Check(r.right)
			require.NoError(t, err)
			require.Equal(t, [2]uint64{c.held, 2}, [2]uint64{index, term})
			done := r.Swap(index, r.install)
			release()
			next := uint64(6)
			for _, last := range c.batches {
				r.Apply(puts(t, next, last))
				next = last + 1
			}
			require.NoError(t, <-done)
			require.NoError(t, r.fatal)
			r.requireState(next - 1)
			r.Apply(puts(t, c.held, c.held)) // seen before: nothing happens
			require.EqualValues(t, next, r.cfg.State.Store.Rev())
		})
	}
}

// TestSwapFails: where the files may be changed, the member stops; it comes up with the one or the other.
func TestSwapFails(t *testing.T) {
	for name, c := range map[string]struct {
		fails func(r *swapRig) (*backend.Backend, error)
		index uint64 // after a restart
	}{
		"before": {func(*swapRig) (*backend.Backend, error) { return nil, io.ErrUnexpectedEOF }, 5},
		"after": {func(r *swapRig) (*backend.Backend, error) {
			return nil, errors.Join(os.Rename(r.right, r.path), io.ErrUnexpectedEOF)
		}, 8},
	} {
		t.Run(name, func(t *testing.T) {
			r := newSwapRig(t, 8)
			require.NoError(t, r.cfg.State.Backend().Commit())
			_, release := r.Hold()
			done := r.Swap(8, func() (*backend.Backend, error) { return c.fails(r) })
			release()
			r.Apply(puts(t, 6, 8))
			require.ErrorIs(t, <-done, io.ErrUnexpectedEOF)
			require.ErrorIs(t, r.fatal, io.ErrUnexpectedEOF)
			require.NoError(t, r.cfg.State.Backend().Close())
			index, _, err := backend.Check(r.path)
			require.NoError(t, err)
			if c.index == 5 {
				require.GreaterOrEqual(t, index, c.index) // the old state, as far as it came
				return
			}
			require.Equal(t, c.index, index)
		})
	}
}

// TestDefragDoesNotUndoSwap: a rewriting of the old file that is under way must not take the new one's place.
func TestDefragDoesNotUndoSwap(t *testing.T) {
	r := newSwapRig(t, 5)
	old := r.cfg.State.Backend()
	old.Retire()
	require.Error(t, old.Defrag(t.Context()))
	_, release := r.Hold()
	done := r.Swap(5, r.install)
	release()
	require.NoError(t, <-done)
	r.requireState(5)
}
