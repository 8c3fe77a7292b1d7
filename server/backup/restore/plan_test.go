package restore

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/keelson-io/keelson/server/backup/archive"
)

func at(minute int) time.Time { return time.Unix(int64(60*minute), 0).UTC() }

// twoChains is an archive with a gap: one entry makes one revision, one minute is ten of them.
//
//	chain a   base 10 ... base 50 ... 100
//	chain b                               base 200 ... 300      no base before entry 195
func twoChains() *archive.Catalog {
	base := func(chain string, index uint64) *archive.Base {
		return &archive.Base{Chain: chain, Index: index, Revision: int64(index), Time: at(int(index / 10))}
	}
	segment := func(chain string, first, last uint64) *archive.Segment {
		return &archive.Segment{
			Chain: chain, First: first, Last: last, Before: int64(first - 1), After: int64(last), From: at(int(first-1) / 10), To: at(int(last) / 10),
		}
	}
	return &archive.Catalog{Chains: []*archive.Chain{
		{Name: "a", Bases: []*archive.Base{base("a", 10), base("a", 50)},
			Segments: []*archive.Segment{segment("a", 5, 40), segment("a", 41, 60), segment("a", 55, 100)}},
		{Name: "b", Bases: []*archive.Base{base("b", 200)},
			Segments: []*archive.Segment{segment("b", 196, 250), segment("b", 251, 300)}},
	}}
}

func TestChoose(t *testing.T) {
	for _, c := range []struct {
		target   Target
		base     uint64
		segments int
		notes    int
		err      string
	}{
		{target: Target{}, base: 200, segments: 2},
		{target: Target{Revision: 300}, base: 200, segments: 2},
		{target: Target{Revision: 201}, base: 200, segments: 2},
		{target: Target{Revision: 200}, base: 200, segments: 2, notes: 1}, // nothing before it is known
		{target: Target{Revision: 301}, err: "is not in the archive: it ends with revision 300"},
		{target: Target{Revision: 150}, err: "revision 150 is in a gap of the archive: nothing is known between revision 100"},
		{target: Target{Revision: 100}, base: 50, segments: 2},
		{target: Target{Revision: 51}, base: 50, segments: 2},
		{target: Target{Revision: 50}, base: 10, segments: 3}, // the base of the revision may have more
		{target: Target{Revision: 9}, err: "begins with revision 10"},
		{target: Target{Revision: -1}, err: "no revision -1"},
		{target: Target{Time: at(30)}, base: 200, segments: 2},
		{target: Target{Time: at(40)}, base: 200, segments: 2, notes: 1},
		{target: Target{Time: at(15)}, err: "is in a gap of the archive"},
		{target: Target{Time: at(15), Chain: "a"}, base: 50, segments: 2, notes: 1},
		{target: Target{Time: at(5)}, base: 50, segments: 2},
		{target: Target{Time: at(4)}, base: 10, segments: 3},
		{target: Target{Time: at(0)}, err: "begins with revision 10"},
		{target: Target{Chain: "a"}, base: 50, segments: 2},
		{target: Target{Chain: "c"}, err: `no chain "c"`},
		{target: Target{Revision: 100, Chain: "b"}, err: "begins with revision 200"},
	} {
		p, err := Choose(twoChains(), c.target)
		if c.err != "" {
			require.ErrorContains(t, err, c.err, "%+v", c.target)
			continue
		}
		require.NoError(t, err, "%+v", c.target)
		require.Equal(t, []any{c.base, c.segments, c.notes}, []any{p.Base.Index, len(p.Segments), len(p.Notes)}, "%+v", c.target)
	}
	_, err := Choose(&archive.Catalog{Chains: []*archive.Chain{{Name: "a"}}}, Target{})
	require.ErrorContains(t, err, "no base yet")
}
