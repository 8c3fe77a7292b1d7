package autocompact

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/keelson-io/keelson/internal/clock"
	"github.com/keelson-io/keelson/mvcc"
)

// done is one compaction: when, since the start, and to which revision.
type done struct {
	At  time.Duration
	Rev int64
}

// run lets a compactor run for a time. The revision is 1, and one more after each unit.
func run(t *testing.T, cfg Config, unit, total time.Duration, outcome func(done) error) (all []done) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		cfg.Clock, cfg.Logger = clock.Real, zap.NewNop()
		cfg.Rev = func() int64 { return 1 + int64(time.Since(start)/unit) }
		cfg.Compact = func(_ context.Context, rev int64) error {
			d := done{time.Since(start), rev}
			all = append(all, d)
			if outcome != nil {
				return outcome(d)
			}
			return nil
		}
		if cfg.IsLeader == nil {
			cfg.IsLeader = func() bool { return true }
		}
		ctx, cancel := context.WithTimeout(t.Context(), total)
		defer cancel()
		require.ErrorIs(t, Run(ctx, cfg), context.DeadlineExceeded)
	})
	return all
}

func TestPeriodic(t *testing.T) {
	for _, c := range []struct {
		name            string
		period          time.Duration
		total           time.Duration
		first, interval time.Duration
		want            int
	}{
		{"five seconds", 5 * time.Second, time.Minute - time.Millisecond, 5 * time.Second, 5 * time.Second, 11},
		{"59 minutes", 59 * time.Minute, 10*time.Hour - 1, 59 * time.Minute, 59 * time.Minute, 10},
		{"an hour", time.Hour, 5*time.Hour - 1, time.Hour, time.Hour, 4},
		{"a day: then every hour", 24 * time.Hour, 30*time.Hour - 1, 24 * time.Hour, time.Hour, 6},
	} {
		t.Run(c.name, func(t *testing.T) {
			unit, note := time.Millisecond, min(c.period, longest)/notes
			all := run(t, Config{Retention: c.period}, unit, c.total, nil)
			require.Len(t, all, c.want)
			require.Equal(t, done{c.first, 1}, all[0], "to the note of the start")
			for i, d := range all[1:] {
				require.Equal(t, c.first+time.Duration(i+1)*c.interval, d.At)
				require.EqualValues(t, 1+(d.At-c.period-note)/unit, d.Rev, "it keeps the period, and a note more")
			}
		})
	}
}

func TestRevision(t *testing.T) {
	all := run(t, Config{Revisions: true, Retention: 400}, time.Second, 31*time.Minute, nil)
	require.Equal(t, []done{
		{10 * time.Minute, 201}, {15 * time.Minute, 501}, {20 * time.Minute, 801}, {25 * time.Minute, 1101}, {30 * time.Minute, 1401},
	}, all)
}

// TestNothingNew is silent while the revision stays what it was.
func TestNothingNew(t *testing.T) {
	for _, c := range []Config{{Retention: time.Minute}, {Revisions: true, Retention: 1}} {
		all := run(t, c, time.Hour, 90*time.Minute, nil)
		want := []int64{1, 2}
		if c.Revisions {
			want = want[:1]
		}
		require.Len(t, all, len(want), c.Revisions)
		for i, d := range all {
			require.Equal(t, want[i], d.Rev)
		}
	}
}

func TestFailure(t *testing.T) {
	t.Run("periodic tries again after a tenth", func(t *testing.T) {
		all := run(t, Config{Retention: time.Minute}, time.Millisecond, 5*time.Minute, func(d done) error {
			if d.At < 2*time.Minute {
				return errors.New("no leader")
			}
			return nil
		})
		require.Greater(t, len(all), 10)
		for i := 1; i < 9; i++ { // the first two are to the note of the start
			require.Equal(t, 6*time.Second, all[i+1].At-all[i].At)
			require.EqualValues(t, 6000, all[i+1].Rev-all[i].Rev)
		}
	})
	t.Run("compacted already is success", func(t *testing.T) {
		all := run(t, Config{Retention: time.Minute}, time.Millisecond, 5*time.Minute-1, func(done) error { return mvcc.ErrCompacted })
		require.Len(t, all, 4)
	})
}

// TestFollower keeps its notes and compacts at once when it leads.
func TestFollower(t *testing.T) {
	for _, c := range []Config{{Retention: time.Hour}, {Revisions: true, Retention: 100}} {
		synctest.Test(t, func(t *testing.T) {
			start := time.Now()
			leads := func() bool { return time.Since(start) > 10*time.Hour }
			var all []done
			ctx, cancel := context.WithTimeout(t.Context(), 11*time.Hour-time.Minute)
			defer cancel()
			c.Clock, c.Logger, c.IsLeader = clock.Real, zap.NewNop(), leads
			c.Rev = func() int64 { return int64(time.Since(start) / time.Second) }
			c.Compact = func(_ context.Context, rev int64) error {
				all = append(all, done{time.Since(start), rev})
				return nil
			}
			_ = Run(ctx, c)
			require.NotEmpty(t, all)
			require.Greater(t, all[0].At, 10*time.Hour)
			require.Less(t, all[0].At, 10*time.Hour+7*time.Minute, "soon after it was elected")
			require.Greater(t, all[0].Rev, int64(8*3600))
		})
	}
}
