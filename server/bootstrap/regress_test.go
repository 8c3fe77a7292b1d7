package bootstrap

import (
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/keelson-io/keelson/internal/clock"
	"github.com/keelson-io/keelson/internal/vfs"
	"github.com/keelson-io/keelson/server/config"
	"github.com/keelson-io/keelson/server/membership"
	"github.com/keelson-io/keelson/server/replica"
)

// The tests named after etcd's issues are listed in docs/contributing/regressions.md.

// home is the data directory of a member.
type home struct {
	t    *testing.T
	args []string
	fs   vfs.FS
}

func newHome(t *testing.T) *home {
	return &home{t: t, fs: vfs.OS, args: []string{
		"--name=me", "--data-dir=" + filepath.Join(t.TempDir(), "a", "b", "data"), "--initial-advertise-peer-urls=http://127.0.0.1:1",
		"--initial-cluster=me=http://127.0.0.1:1", "--unsafe-no-fsync",
	}}
}

func (h *home) run(flags ...string) (*Result, error) {
	cfg, err := config.Parse(append(slices.Clone(h.args), flags...), nil)
	require.NoError(h.t, err)
	e := env()
	e.FS, e.Clock, e.Peers = h.fs, clock.Real, http.DefaultClient
	return Run(h.t.Context(), cfg, e)
}

func (h *home) start(flags ...string) *Result {
	h.t.Helper()
	r, err := h.run(flags...)
	require.NoError(h.t, err)
	return r
}

func (h *home) stop(r *Result) {
	h.t.Helper()
	require.NoError(h.t, r.Close())
}

// addition is an entry that adds a member.
func addition(t *testing.T, index, id uint64) *raftpb.Entry {
	t.Helper()
	context, err := json.Marshal(membership.Member{ID: id})
	require.NoError(t, err)
	data, err := proto.Marshal(&raftpb.ConfChange{Type: raftpb.ConfChangeAddNode.Enum(), NodeId: &id, Context: context})
	require.NoError(t, err)
	return &raftpb.Entry{Type: raftpb.EntryConfChange.Enum(), Index: &index, Term: proto.Uint64(1), Data: data}
}

func hardState(commit uint64) *raftpb.HardState {
	return &raftpb.HardState{Term: proto.Uint64(1), Vote: proto.Uint64(1), Commit: &commit}
}

var errKilled = errors.New("killed")

// TestEtcd12578KillInFirstStart kills a member at every step of its first start, up to the moment when the log is there and
// nothing is in it yet. With etcd it did not start again: it had a log, and no cluster.
func TestEtcd12578KillInFirstStart(t *testing.T) {
	var id uint64
	founded := func(h *home, after int) {
		t.Helper()
		r := h.start()
		require.False(t, r.HadLog)
		require.Len(t, r.Peers, 1, "after operation %d", after)
		if id == 0 {
			id = r.MemberID
		}
		require.Equal(t, id, r.MemberID)
		require.NotNil(t, r.Members.Member(id))
		// What the first entries do to the members can be done.
		require.NoError(t, r.Members.Add(r.Members.Member(id)))
		require.NoError(t, r.Log.Save(hardState(1), []*raftpb.Entry{addition(t, 1, id)}, true))
		r.Backend.SetConsistentIndex(1, 1)
		r.Backend.Publish(nil)
		h.stop(r)
		r = h.start()
		require.True(t, r.HadLog)
		require.Empty(t, r.Peers)
		require.Len(t, r.Recovered.Entries, 1)
		require.EqualValues(t, 1, r.Recovered.HardState.GetCommit())
		h.stop(r)
	}
	for n, killed := 1, true; killed; n++ {
		h := newHome(t)
		var mu sync.Mutex
		left := n
		h.fs = vfs.NewFaulty(vfs.OS, func(vfs.Op, string) error {
			mu.Lock()
			defer mu.Unlock()
			if left--; left <= 0 {
				return errKilled
			}
			return nil
		})
		r, err := h.run()
		if killed = err != nil; killed {
			require.ErrorIs(t, err, errKilled)
		} else {
			_ = r.Close()
		}
		h.fs = vfs.OS
		founded(h, n)
	}

	// Part of the first write is there: entries, but no state.
	h := newHome(t)
	r := h.start()
	require.NoError(t, r.Log.Save(&raftpb.HardState{}, []*raftpb.Entry{addition(t, 1, 77)}, true))
	h.stop(r)
	founded(h, 0)

	// Whoever starts another member on it is told.
	h = newHome(t)
	h.stop(h.start())
	_, err := h.run("--initial-cluster-token=another")
	require.ErrorContains(t, err, "in which nothing was ever decided, was created for member")
	founded(h, 0)
}

// TestEtcd12578DirectoriesAreSynced looks which directories are made durable before the member may promise anything.
func TestEtcd12578DirectoriesAreSynced(t *testing.T) {
	h := newHome(t)
	var mu sync.Mutex
	synced := map[string]bool{}
	h.fs = vfs.NewFaulty(vfs.OS, func(op vfs.Op, name string) error {
		mu.Lock()
		defer mu.Unlock()
		if op == vfs.OpSyncDir {
			synced[name] = true
		}
		return nil
	})
	r := h.start()
	defer h.stop(r)
	data := filepath.Dir(filepath.Dir(filepath.Dir(r.Backend.Path())))
	mu.Lock()
	defer mu.Unlock()
	for _, dir := range []string{filepath.Dir(filepath.Dir(filepath.Dir(data))), filepath.Dir(filepath.Dir(data)), filepath.Dir(data), data, filepath.Join(data, "member"), filepath.Join(data, "member", "snap")} {
		require.True(t, synced[dir], "%s is not synced, but %v", dir, slices.Collect(maps.Keys(synced)))
	}
}

// ahead makes a data directory whose log ends at entry 3, and whose database says that entries up to applied are executed.
// Members 2 and 3 are in the database; entry 3 of the log added member 2, and nothing ever added member 3.
func ahead(t *testing.T, h *home, commit, applied uint64, others bool) (id uint64) {
	t.Helper()
	r := h.start()
	id = r.MemberID
	require.NoError(t, r.Members.Add(r.Members.Member(id)))
	entries := []*raftpb.Entry{addition(t, 1, id), {Index: proto.Uint64(2), Term: proto.Uint64(1)}, {Index: proto.Uint64(3), Term: proto.Uint64(1)}}
	if others {
		entries[2] = addition(t, 3, 2)
		require.NoError(t, r.Members.Add(&membership.Member{ID: 2}))
		require.NoError(t, r.Members.Add(&membership.Member{ID: 3}))
	}
	require.NoError(t, r.Log.Save(hardState(commit), entries, true))
	r.Backend.SetConsistentIndex(applied, 1)
	r.Backend.Publish(nil)
	h.stop(r)
	return id
}

// removed lists who is removed by entries that a start has added to the log.
func removed(t *testing.T, r *Result) (ids []uint64) {
	t.Helper()
	applied, _ := r.Backend.ConsistentIndex()
	for _, e := range r.Recovered.Entries {
		cc := &raftpb.ConfChange{}
		if e.GetType() != raftpb.EntryConfChange {
			continue
		}
		require.NoError(t, proto.Unmarshal(e.Data, cc))
		if cc.GetType() == raftpb.ConfChangeRemoveNode {
			require.Greater(t, e.GetIndex(), applied, "it would count as executed")
			require.LessOrEqual(t, e.GetIndex(), r.Recovered.HardState.GetCommit(), "it is committed")
			ids = append(ids, cc.GetNodeId())
		}
	}
	return ids
}

// TestEtcd14009AppliedBeyondTheLog starts members whose database is ahead of their log. etcd panicked, or went on and took new
// entries for executed ones.
func TestEtcd14009AppliedBeyondTheLog(t *testing.T) {
	for name, c := range map[string]struct {
		applied uint64
		others  bool
		flags   []string
		err     string
	}{
		"forced":                  {10, true, []string{"--force-new-cluster"}, "the database holds the effects of entry 10, but the log ends at entry 3"},
		"alone":                   {10, false, nil, "the database holds the effects of entry 10, but the log ends at entry 3: its end is lost"},
		"others may send the end": {10, true, nil, ""},
		"alone, nothing lost":     {3, false, nil, ""},
		"forced, nothing lost":    {3, true, []string{"--force-new-cluster"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHome(t)
			ahead(t, h, 3, c.applied, c.others)
			r, err := h.run(c.flags...)
			if c.err != "" {
				require.ErrorContains(t, err, c.err)
				require.ErrorContains(t, err, "restore the member from a snapshot")
				return
			}
			require.NoError(t, err)
			h.stop(r)
		})
	}
}

// TestEtcd20055CommitNotSynced forces a new cluster of a member whose log does not say yet that the addition of another one is
// committed, while its database has it. In etcd that other member stayed.
func TestEtcd20055CommitNotSynced(t *testing.T) {
	h := newHome(t)
	id := ahead(t, h, 2, 3, true)
	r := h.start("--force-new-cluster")
	require.Contains(t, removed(t, r), uint64(2))
	require.NotContains(t, removed(t, r), id)
	h.stop(r)
}

// TestEtcd22686Zombies forces a new cluster of a member whose database knows a member that its log does not. In etcd such members
// came back to life.
func TestEtcd22686Zombies(t *testing.T) {
	h := newHome(t)
	ahead(t, h, 3, 3, true)
	r := h.start("--force-new-cluster")
	require.Equal(t, []uint64{2, 3}, removed(t, r))
	members, err := membership.Load(membership.Config{}, replica.Tables{Backend: r.Backend})
	require.NoError(t, err)
	require.Len(t, members.Members(), 3, "until those entries are applied")
	for _, gone := range removed(t, r) {
		require.NoError(t, r.Members.ValidateConfigurationChange(&raftpb.ConfChange{Type: raftpb.ConfChangeRemoveNode.Enum(), NodeId: &gone}))
	}
	h.stop(r)
}
