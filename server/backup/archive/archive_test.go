package archive

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/stretchr/testify/require"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/keelson-io/keelson/api/backuppb"
	"github.com/keelson-io/keelson/server/backup/store"
)

const chainName = "20261127T215500Z-00000000000000ab-0badcafe"

// chunk is one of the entries from..to, which left revision rev.
func chunk(from, to uint64, rev int64) *backuppb.Chunk {
	c := &backuppb.Chunk{Revision: rev, TimeUnixNano: int64(to) * 1e9}
	for i := from; i <= to; i++ {
		c.Entries = append(c.Entries, &raftpb.Entry{Index: &i, Term: proto.Uint64(2), Type: raftpb.EntryNormal.Enum(), Data: fmt.Appendf(nil, "command %d", i)})
	}
	return c
}

// segment makes a segment of chunks of three entries.
func segment(t testing.TB, from, to uint64) (*Segment, []byte) {
	w, err := NewWriter(&backuppb.SegmentHead{ClusterId: 0xab, Chain: chainName, FirstIndex: from, MinLeaseTtl: 2}, int64(from-1), int64(from-1)*1e9)
	require.NoError(t, err)
	for i := from; i <= to; i += 3 {
		require.NoError(t, w.Add(chunk(i, min(i+2, to), int64(min(i+2, to)))))
	}
	s, b, err := w.Close()
	require.NoError(t, err)
	return s, b
}

func openStore(t testing.TB) store.Store {
	st, err := store.Open(filepath.Join(t.TempDir(), "archive"), store.S3Options{})
	require.NoError(t, err)
	return st
}

func TestSegment(t *testing.T) {
	s, b := segment(t, 10, 31)
	require.Equal(t, []any{uint64(10), uint64(31), int64(9), int64(31)}, []any{s.First, s.Last, s.Before, s.After})
	require.Equal(t, []time.Time{time.Unix(9, 0), time.Unix(31, 0)}, []time.Time{s.From, s.To})
	_, again, err := parseName(s.Name(), s.Size)
	require.NoError(t, err)
	require.Equal(t, s, again)

	r, err := NewReader(bytes.NewReader(b))
	require.NoError(t, err)
	defer r.Close()
	require.EqualValues(t, 2, r.Head().MinLeaseTtl)
	next := uint64(10)
	for {
		c, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		require.NoError(t, err)
		require.True(t, proto.Equal(chunk(next, min(next+2, 31), int64(min(next+2, 31))), c))
		next += uint64(len(c.Entries))
	}
	require.EqualValues(t, 32, next)
	require.Equal(t, uint64(31), r.Tail().Index)
}

func TestWriterRefusesGaps(t *testing.T) {
	w, err := NewWriter(&backuppb.SegmentHead{FirstIndex: 5}, 0, 0)
	require.NoError(t, err)
	require.Error(t, w.Add(chunk(6, 7, 0)))
	require.Error(t, w.Add(&backuppb.Chunk{}))
	hole := chunk(5, 7, 0)
	hole.Entries = append(hole.Entries[:1], hole.Entries[2])
	require.Error(t, w.Add(hole))
	require.NoError(t, w.Add(chunk(5, 7, 0)), "nothing of what was refused was added")
	require.Error(t, w.Add(chunk(7, 8, 0)))
	require.NoError(t, w.Add(chunk(8, 8, 0)))
}

// readAll reads a segment to its end, or to its first fault.
func readAll(b []byte) error {
	r, err := NewReader(bytes.NewReader(b))
	if err != nil {
		return err
	}
	defer r.Close()
	for {
		if _, err := r.Next(); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// TestDamage cuts a segment short everywhere, and flips every bit of it, with and without compression around.
func TestDamage(t *testing.T) {
	_, b := segment(t, 10, 31)
	zr, err := zstd.NewReader(nil)
	require.NoError(t, err)
	plain, err := zr.DecodeAll(b, nil)
	require.NoError(t, err)
	zw, err := zstd.NewWriter(nil)
	require.NoError(t, err)
	pack := func(b []byte) []byte { return zw.EncodeAll(b, nil) }
	require.NoError(t, readAll(pack(plain)))
	for i := range plain {
		require.ErrorIs(t, readAll(pack(plain[:i])), ErrDamaged, "cut at %d", i)
	}
	require.ErrorIs(t, readAll(pack(append(bytes.Clone(plain), 0))), ErrDamaged, "something follows")
	for i := range 8 * len(plain) {
		flipped := bytes.Clone(plain)
		flipped[i/8] ^= 1 << (i % 8)
		require.ErrorIs(t, readAll(pack(flipped)), ErrDamaged, "bit %d", i)
	}
	for i := range b {
		require.ErrorIs(t, readAll(b[:i]), ErrDamaged, "cut at %d", i)
	}
}

func FuzzSegment(f *testing.F) {
	_, b := segment(f, 10, 14)
	zr, err := zstd.NewReader(nil)
	require.NoError(f, err)
	plain, err := zr.DecodeAll(b, nil)
	require.NoError(f, err)
	zw, err := zstd.NewWriter(nil)
	require.NoError(f, err)
	f.Add(b, plain)
	f.Add([]byte(magic), []byte(magic))
	f.Fuzz(func(t *testing.T, b, plain []byte) {
		for _, b := range [][]byte{b, zw.EncodeAll(plain, nil)} {
			if err := readAll(b); err != nil && !errors.Is(err, ErrDamaged) {
				t.Fatal(err)
			}
		}
	})
}

func FuzzName(f *testing.F) {
	s, _ := segment(f, 10, 14)
	base := &Base{Chain: chainName, Index: 7, Term: 2, Revision: 5, Time: time.UnixMilli(1), Sum: [32]byte{1}}
	f.Add(s.Name())
	f.Add(base.Name())
	f.Add("chains/a/log-1-2-3-4-5-6-.seg")
	f.Fuzz(func(t *testing.T, name string) {
		b, s, err := parseName(name, 1)
		switch {
		case err != nil:
		case b != nil && b.Name() != name, s != nil && s.Name() != name, b == nil && s == nil:
			t.Errorf("%q is read as %v, %v", name, b, s)
		}
	})
}

// putBase writes a base whose database is nothing but a text.
func putBase(t *testing.T, st store.Store, chain string, index uint64, at time.Time) *Base {
	content := fmt.Sprintf("database %d", index)
	b := &Base{Chain: chain, Index: index, Term: 2, Revision: int64(index), Time: at, Sum: sha(content)}
	require.NoError(t, PutBase(t.Context(), st, b, strings.NewReader(content)))
	return b
}

// TestVerify damages and loses objects, and looks at what is said.
func TestVerify(t *testing.T) {
	ctx, st := t.Context(), openStore(t)
	_, err := Read(ctx, st)
	require.ErrorIs(t, err, store.ErrNotFound)
	require.NoError(t, Found(ctx, st, 0xab))
	require.NoError(t, Found(ctx, st, 0xab), "again")
	require.ErrorContains(t, Found(ctx, st, 0xac), "of cluster ab, and the endpoints are of cluster ac")
	base := putBase(t, st, chainName, 9, time.Unix(9, 0))
	var segments []*Segment
	for i := uint64(10); i < 40; i += 10 {
		s, b := segment(t, i, i+9)
		require.NoError(t, PutSegment(ctx, st, s, b))
		segments = append(segments, s)
	}
	problems := func() []string {
		cat, err := Read(ctx, st)
		require.NoError(t, err)
		r, err := Verify(ctx, st, cat)
		require.NoError(t, err)
		return r.Problems
	}
	require.Empty(t, problems())
	cat, err := Read(ctx, st)
	require.NoError(t, err)
	spans := cat.Latest().Spans()
	require.Len(t, spans, 1)
	require.Equal(t, []any{int64(9), int64(39), uint64(39)}, []any{spans[0].FirstRevision, spans[0].LastRevision, spans[0].LastIndex})

	replace := func(name string, change func([]byte) []byte) func() {
		r, err := st.Get(ctx, name)
		require.NoError(t, err)
		b, err := io.ReadAll(r)
		require.NoError(t, err)
		require.NoError(t, r.Close())
		require.NoError(t, st.Put(ctx, name, bytes.NewReader(change(bytes.Clone(b))), -1))
		return func() { require.NoError(t, st.Put(ctx, name, bytes.NewReader(b), -1)) }
	}
	flip := func(b []byte) []byte { b[rand.IntN(len(b))] ^= 4; return b }
	half := func(b []byte) []byte { return b[:len(b)/2] }
	for _, name := range []string{base.Name(), segments[1].Name()} {
		for _, change := range []func([]byte) []byte{flip, half, func([]byte) []byte { return nil }} {
			undo := replace(name, change)
			found := problems()
			require.Len(t, found, 1, name)
			require.Contains(t, found[0], "damaged")
			require.Contains(t, found[0], name)
			undo()
		}
	}
	require.NoError(t, st.Delete(ctx, segments[1].Name()))
	require.Equal(t, []string{"chain " + chainName + ": the entries 20 to 29 are missing"}, problems())
	cat, err = Read(ctx, st)
	require.NoError(t, err)
	require.Equal(t, uint64(19), cat.Latest().Spans()[0].LastIndex, "what is behind the gap cannot be restored")
	require.NoError(t, st.Put(ctx, "notes.txt", strings.NewReader("x"), 1))
	require.Contains(t, problems()[0], "notes.txt is no part")
}

// TestFrom finds what continues an index among segments that overlap.
func TestFrom(t *testing.T) {
	c := &Chain{}
	for _, s := range [][2]uint64{{1, 10}, {1, 4}, {5, 12}, {11, 20}, {15, 18}, {21, 25}, {30, 40}} {
		c.Segments = append(c.Segments, &Segment{First: s[0], Last: s[1]})
	}
	for index, want := range map[uint64]string{0: "1-10 5-12 11-20 21-25", 10: "5-12 11-20 21-25", 12: "11-20 21-25", 25: "", 26: "", 29: "30-40", 40: ""} {
		segments, last := c.From(index)
		var got []string
		for _, s := range segments {
			got = append(got, fmt.Sprintf("%d-%d", s.First, s.Last))
		}
		require.Equal(t, want, strings.Join(got, " "), index)
		if len(segments) > 0 {
			require.Equal(t, segments[len(segments)-1].Last, last)
		} else {
			require.Equal(t, index, last)
		}
	}
}

// TestPolicy compares what a policy lets go with what it must keep: every moment that it wants can be restored.
func TestPolicy(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	day := 24 * time.Hour
	c := &Catalog{}
	for i, age := range []int{9, 8, 7, 3, 2, 1} { // days; a base at each, segments between
		chain := "a"
		if i >= 3 {
			chain = "b"
		}
		if n := len(c.Chains); n == 0 || c.Chains[n-1].Name != chain {
			c.Chains = append(c.Chains, &Chain{Name: chain})
		}
		ch := c.Chains[len(c.Chains)-1]
		index := uint64(100 * (i + 1))
		ch.Bases = append(ch.Bases, &Base{Chain: chain, Index: index, Time: now.Add(-time.Duration(age) * day)})
		for k := uint64(0); k < 100; k += 50 {
			ch.Segments = append(ch.Segments, &Segment{Chain: chain, First: index + k - 9, Last: index + k + 40})
		}
	}
	for _, test := range []struct {
		policy          Policy
		bases, segments int // that go
	}{
		{Policy{}, 0, 0},
		{Policy{Bases: 1}, 5, 10},
		{Policy{Bases: 2}, 4, 8},
		{Policy{Bases: 100}, 0, 0},
		{Policy{For: time.Hour}, 5, 10},
		{Policy{For: day}, 5, 10},
		{Policy{For: 36 * time.Hour}, 4, 8},
		{Policy{For: 5 * day}, 2, 4},
		{Policy{For: 100 * day}, 0, 0},
		{Policy{For: time.Hour, Bases: 4}, 2, 4},
		{Policy{For: 5 * day, Bases: 1}, 2, 4},
	} {
		bases, segments := 0, 0
		for i, name := range c.Expired(test.policy, now) {
			if strings.Contains(name, "/base-") {
				require.Zero(t, segments, "bases go first")
				bases++
			} else {
				segments++
			}
			require.NotEmpty(t, name, i)
		}
		require.Equal(t, []int{test.bases, test.segments}, []int{bases, segments}, "%+v", test.policy)
	}
}

func TestClaim(t *testing.T) {
	ctx, st := t.Context(), openStore(t)
	one, two := Agent{ID: "1", Host: "here"}, Agent{ID: "2", Host: "there"}
	require.NoError(t, Check(ctx, st, one), "nobody was there")
	require.NoError(t, Check(ctx, st, one))
	require.NoError(t, Claim(ctx, st, two))
	err := Check(ctx, st, one)
	require.ErrorIs(t, err, ErrTakenOver)
	require.ErrorContains(t, err, "there")
	require.NoError(t, Check(ctx, st, two))
}

func sha(s string) [32]byte { return sha256.Sum256([]byte(s)) }
