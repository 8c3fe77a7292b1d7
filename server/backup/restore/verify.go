package restore

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"slices"

	"go.uber.org/zap"

	"github.com/keelson-io/keelson/mvcc/backend"
	"github.com/keelson-io/keelson/server/backup/archive"
	"github.com/keelson-io/keelson/server/backup/store"
)

// Replay replays all that can be restored, in files in dir that it removes, and compares the state with that of every base that it
// comes to. problems says in words where they differ; an error is that of a restore.
func Replay(ctx context.Context, st store.Store, cat *archive.Catalog, dir string, lg *zap.Logger) (outcomes []*Outcome, problems []string, err error) {
	for _, c := range cat.Chains {
		for _, span := range c.Spans() {
			p := &Plan{Base: span.First}
			p.Segments, _ = c.From(span.First.Index)
			v := &verification{st: st, dir: dir, lg: lg}
			for _, b := range c.Bases {
				if b.Index > span.First.Index && b.Index <= span.LastIndex {
					v.bases = append(v.bases, b)
				}
			}
			o, err := v.run(ctx, p)
			problems = append(problems, v.problems...)
			if err != nil {
				return outcomes, problems, err
			}
			outcomes = append(outcomes, o)
		}
	}
	return outcomes, problems, nil
}

// verification compares the state of a replay with bases.
type verification struct {
	st       store.Store
	dir      string
	lg       *zap.Logger
	bases    []*archive.Base // that the replay will come to
	problems []string
}

func (v *verification) run(ctx context.Context, p *Plan) (*Outcome, error) {
	path := filepath.Join(v.dir, "replay.db")
	defer os.Remove(path)
	r := &replay{st: v.st, plan: p, path: path, lg: v.lg}
	r.stop = func() uint64 {
		if len(v.bases) == 0 {
			return 0
		}
		return v.bases[0].Index
	}
	r.stopped = func() error {
		b := v.bases[0]
		v.bases = v.bases[1:]
		return v.compare(ctx, r, b)
	}
	return r.run(ctx)
}

// compare compares the state of a replay with that of a base.
func (v *verification) compare(ctx context.Context, r *replay, b *archive.Base) (err error) {
	path := filepath.Join(v.dir, "base.db")
	defer os.Remove(path)
	if err := fetch(ctx, v.st, b, path); err != nil {
		return err
	}
	other, err := openState(path, r.minTTL, v.lg)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, other.close()) }()
	got, err := r.state.digest()
	if err != nil {
		return err
	}
	want, err := other.digest()
	if err != nil {
		return err
	}
	if got != want {
		v.problems = append(v.problems, fmt.Sprintf("%s: replaying the log up to entry %d gives %v, the base holds %v", b.Name(), b.Index, got, want))
	}
	return nil
}

// digest is a state in short.
type digest struct {
	revision, compacted int64
	keys, tables        uint32
}

// String is for people.
func (d digest) String() string {
	return fmt.Sprintf("revision %d, compacted up to %d, hash of keys %08x, of the rest %08x", d.revision, d.compacted, d.keys, d.tables)
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// digest hashes the keys as HashKV does, and the rows of all other buckets but meta.
func (s *state) digest() (digest, error) {
	kv, rev, err := s.store.HashKV(0)
	if err != nil {
		return digest{}, err
	}
	h := crc32.New(castagnoli)
	for _, b := range []backend.Bucket{
		backend.Lease, backend.Alarm, backend.Auth, backend.AuthUsers, backend.AuthRoles,
		backend.Cluster, backend.Members, backend.MembersRemoved,
	} {
		var rows []string
		if err := s.be.ForEach(b, func(k, v []byte) error {
			rows = append(rows, fmt.Sprintf("%q=%q", k, v))
			return nil
		}); err != nil {
			return digest{}, err
		}
		slices.Sort(rows)
		fmt.Fprintln(h, b, rows)
	}
	return digest{rev, kv.CompactRev, kv.Hash, h.Sum32()}, nil
}
