package top

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/keelson-io/keelson/api/insightpb"
	"github.com/keelson-io/keelson/client/ctl/survey"
)

var begin = time.Unix(1_800_000_000, 0).UTC()

func member(id uint64, at time.Time, puts uint64) survey.Member {
	return survey.Member{
		Endpoint: "e", Source: survey.Insight, Asked: at, Answered: at,
		Look: &insightpb.LookResponse{
			Header: &pb.ResponseHeader{ClusterId: 9, MemberId: id}, Started: begin.Add(-time.Hour).UnixNano(),
			Member:  &insightpb.Member{Name: strings.Repeat("n", int(id)), ServerVersion: "3.7.3"},
			Raft:    &insightpb.Raft{Leader: 2, Committed: 100, Applied: 90},
			Store:   &insightpb.Store{Revision: int64(puts), Keys: 5, DbSize: 10 << 20, DbSizeInUse: 9 << 20, DbSizeQuota: 10 << 20},
			Watches: &insightpb.Watches{Watchers: 4},
			Methods: []*insightpb.Method{
				{Name: kv + "Put", Started: puts, Handled: map[string]uint64{"OK": puts, "Canceled": 3},
					Durations: &insightpb.Durations{Bounds: []float64{0.001, 0.01}, Counts: []uint64{puts, puts}, Count: puts}},
				{Name: insightpb.Insight_Look_FullMethodName, Started: puts, Handled: map[string]uint64{"OK": puts}},
				{Name: "/etcdserverpb.Watch/Watch", Stream: true, Started: 9, Handled: map[string]uint64{"Unavailable": puts / 10}},
			},
			Prefixes: &insightpb.Prefixes{
				Hottest: []*insightpb.HotPrefix{{Prefix: []byte("a/"), Reads: 1, Writes: 2}, {Prefix: []byte("b\x00\xff"), Key: true, Writes: 0.5}},
				Biggest: []*insightpb.BigPrefix{{Prefix: []byte("of " + string(rune('0'+id)) + "/"), Keys: 3, Bytes: 2048}},
			},
		},
	}
}

func TestFrame(t *testing.T) {
	second := begin.Add(2 * time.Second)
	before := []survey.Member{member(1, begin, 100), member(2, begin, 100), {Endpoint: "gone:1", Err: errors.New("refused")}}
	now := []survey.Member{member(1, second, 300), member(2, second, 500), {Endpoint: "gone:1", Err: errors.New("refused")}}
	f := NewFrame(before, now, second)
	require.Equal(t, []string{"nn", "n", "gone:1"}, []string{f.Members[0].Name, f.Members[1].Name, f.Members[2].Name})
	require.Equal(t, []string{"leader", "follower", "down"}, []string{f.Members[0].Role, f.Members[1].Role, f.Members[2].Role})
	lead := f.Members[0]
	require.Equal(t, Rates{Put: 200, Failed: 20}, lead.Rates)
	require.Equal(t, Number(0.0005), lead.Durations.Write50)
	require.False(t, lead.Durations.Read50.Known())
	require.EqualValues(t, 10, lead.Load.Lag)
	require.Equal(t, []Number{200, 2}, []Number{f.Changes, Number(f.Interval)})
	require.Equal(t, Hot{[]byte("a/"), false, 2, 4}, f.Hottest[0])
	require.Equal(t, "of 2/", string(f.Biggest[0].Prefix)) // the leader's
	require.False(t, f.Members[2].Rates.Put.Known())

	restarted := member(2, second, 7)
	restarted.Look.Started++
	f = NewFrame(before[1:2], []survey.Member{restarted}, second)
	require.False(t, f.Members[0].Rates.Put.Known())
	require.True(t, f.Members[0].Durations.Write50.Known()) // since the start
}

// TestDraw: whatever the size of the screen, nothing is wider or higher.
func TestDraw(t *testing.T) {
	second := begin.Add(time.Second)
	for _, members := range [][]survey.Member{nil, {{Endpoint: "down", Err: errors.New("first\nsecond")}}, {member(1, second, 300), member(2, second, 500)}} {
		f := NewFrame(nil, members, second)
		for _, size := range []Size{{}, {1, 1}, {10, 3}, {40, 10}, {80, 24}, {200, 60}} {
			var b bytes.Buffer
			f.Draw(&b, size, false, "\n")
			lines := strings.Split(b.String(), "\n")
			if size.Width == 0 {
				continue
			}
			require.LessOrEqual(t, len(lines), size.Height)
			for _, l := range lines {
				require.LessOrEqual(t, utf8.RuneCountInString(l), size.Width, l)
			}
		}
	}
}

func TestDrawnText(t *testing.T) {
	second := begin.Add(2 * time.Second)
	f := NewFrame([]survey.Member{member(1, begin, 100), member(2, begin, 100)}, []survey.Member{member(1, second, 300), member(2, second, 500)}, second)
	var b bytes.Buffer
	f.Draw(&b, Size{}, false, "\n")
	require.Equal(t, []string{
		" cluster 9   2 members   leader nn   revision 500 (+200/s)   08:00:02",
		"MEMBER  ROLE      PUT/S  GET/S  TXN/S  DEL/S  OTHER/S  FAIL/S  WRITE P50    P99  READ P50  P99  FSYNC P99  COMMIT P99  RTT",
		"nn      leader      200      0      0      0        0      20      500µs  990µs         -    -          -           -    -",
		"n       follower    100      0      0      0        0      10      500µs  990µs         -    -          -           -    -",
		"",
		"MEMBER  VERSION  LAG  WATCHERS  SLOW  PENDING  LEASES  KEYS     DB  IN USE  OF QUOTA  CONNS  FILES  MEMORY",
		"nn      3.7.3     10         4     0        0       0     5  10MiB  9.0MiB       90%      -      -       -",
		"n       3.7.3     10         4     0        0       0     5  10MiB  9.0MiB       90%      -      -       -",
		"",
		"HOTTEST PREFIX   READ/S  WRITE/S   BIGGEST PREFIX     KEYS    BYTES",
		"a/                  2.0      4.0   of 2/                 3   2.0KiB",
		`b\x00\xff             0      1.0`,
	}, strings.Split(strings.TrimRight(strings.ReplaceAll(b.String(), " \n", "\n"), "\n"), "\n"))
}

func TestTexts(t *testing.T) {
	for _, c := range []struct{ want, got string }{
		{"-", rate(unknown)}, {"0", rate(0)}, {"0.1", rate(0.06)}, {"10", rate(9.96)}, {"1500", rate(1500)}, {"1.2M", rate(1_234_567)},
		{"-", size(unknown)}, {"0B", size(0)}, {"2.0GiB", size(2 << 30)},
		{"-", duration(unknown)}, {"12µs", duration(12e-6)}, {"1.5ms", duration(1.52e-3)}, {"15ms", duration(15.2e-3)}, {"2.05s", duration(2.051)}, {"1m40s", duration(100)},
		{"/reg…ry/pods/x", show([]byte("/registry/namespaces/very/pods/x"), 14)}, {`\xff`, show([]byte{0xff}, 10)}, {`a\"b`, show([]byte(`a"b`), 10)},
	} {
		require.Equal(t, c.want, c.got)
	}
}
