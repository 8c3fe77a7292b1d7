package integrity

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestJudge(t *testing.T) {
	voter := func(id, sum uint64) vote { return vote{id, sum, true, false} }
	learner := func(id, sum uint64) vote { return vote{id, sum, false, false} }
	held := func(id, sum uint64) vote { return vote{id, sum, true, true} }
	for name, c := range map[string]struct {
		votes  []vote
		voters int
		want   verdict
	}{
		"all agree":             {[]vote{voter(1, 7), voter(2, 7), voter(3, 7)}, 3, verdict{3, true, []uint64{1, 2, 3}, nil, false, false}},
		"one differs":           {[]vote{voter(1, 7), voter(2, 8), voter(3, 7)}, 3, verdict{3, true, []uint64{1, 3}, []uint64{2}, true, false}},
		"this one differs":      {[]vote{voter(1, 9), voter(2, 8), voter(3, 8)}, 3, verdict{3, true, []uint64{2, 3}, []uint64{1}, true, false}},
		"all differ":            {[]vote{voter(1, 7), voter(2, 8), voter(3, 9)}, 3, verdict{3, false, nil, nil, true, true}},
		"two members":           {[]vote{voter(1, 7), voter(2, 8)}, 2, verdict{2, false, nil, nil, true, true}},
		"two members agree":     {[]vote{voter(1, 7), voter(2, 7)}, 2, verdict{2, true, []uint64{1, 2}, nil, false, false}},
		"most of a minority":    {[]vote{voter(1, 7), voter(2, 8), voter(3, 7)}, 5, verdict{3, false, nil, nil, true, true}},
		"a minority agrees":     {[]vote{voter(1, 7), voter(2, 7)}, 5, verdict{2, false, nil, nil, false, false}},
		"half of four":          {[]vote{voter(1, 7), voter(2, 7), voter(3, 8), voter(4, 8)}, 4, verdict{4, false, nil, nil, true, true}},
		"a learner is judged":   {[]vote{learner(1, 7), voter(2, 8), voter(3, 8)}, 3, verdict{3, true, []uint64{2, 3}, []uint64{1}, true, false}},
		"learners do not judge": {[]vote{voter(1, 7), learner(2, 8), learner(3, 8)}, 1, verdict{3, true, []uint64{1}, []uint64{2, 3}, true, false}},
		"one of two is held":    {[]vote{held(1, 7), voter(2, 8)}, 3, verdict{2, false, nil, nil, true, false}},
		"held and healed":       {[]vote{held(1, 8), voter(2, 8), voter(3, 8)}, 3, verdict{3, true, []uint64{1, 2, 3}, nil, false, false}},
	} {
		t.Run(name, func(t *testing.T) { require.Equal(t, c.want, judge(c.votes, c.voters)) })
	}
}

func FuzzAnswer(f *testing.F) {
	for _, s := range []string{
		`{"version":1,"first":1,"last":123,"compactions":[-1,40],"sum":"9c1e"}`, `{"version":2}`, `{}`, `[]`,
		`{"version":1,"first":5,"last":4}`, `{"version":1,"last":9223372036854775807,"compactions":[9223372036854775807]}`, `{"version":1,"sum":"xyz"}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := parseAnswer(b)
		require.Equal(t, err == nil, a != nil)
		if a == nil {
			return
		}
		c := &Checker{}
		own := &answer{Version: sumVersion, First: 1, Last: 50, Compactions: []int64{-1, 40}}
		c.aim(own, map[uint64]*answer{2: a, 3: own})
		require.LessOrEqual(t, c.next.Rev, max(a.Last, own.Last))
	})
}
