package wal

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/keelson-io/keelson/internal/clock"
	"github.com/keelson-io/keelson/internal/vfs"
)

func touch(t *testing.T, fs vfs.FS, names ...string) {
	t.Helper()
	for _, n := range names {
		writeFile(t, fs, n, nil)
	}
}

func TestPurge(t *testing.T) {
	mem := vfs.NewMem()
	require.NoError(t, mem.MkdirAll("/d", 0o700))
	touch(t, mem, "/d/1.snap", "/d/2.snap", "/d/3.snap", "/d/4.snap", "/d/1.snap.db", "/d/0.snap.broken", "/d/db")
	_, err := Purge(mem, "/nowhere", ".snap", 1, nil)
	require.Error(t, err)
	deleted, err := Purge(mem, "/d", ".snap", 0, nil)
	require.NoError(t, err)
	require.Empty(t, deleted, "0 keeps all")
	deleted, err = Purge(mem, "/d", ".snap", 4, nil)
	require.NoError(t, err)
	require.Empty(t, deleted)

	lock, err := mem.Lock("/d/2.snap")
	require.NoError(t, err)
	deleted, err = Purge(mem, "/d", ".snap", 1, nil)
	require.NoError(t, err)
	require.Equal(t, []string{"/d/1.snap"}, deleted, "up to the one that is locked")
	require.NoError(t, lock.Close())

	broken := errors.New("broken")
	deleted, err = Purge(vfs.NewFaulty(mem, func(op vfs.Op, name string) error {
		if op == vfs.OpRemove && name == "/d/3.snap" {
			return broken
		}
		return nil
	}), "/d", ".snap", 1, nil)
	require.ErrorIs(t, err, broken)
	require.Equal(t, []string{"/d/2.snap"}, deleted)

	// Another one removes the same files meanwhile.
	deleted, err = Purge(vfs.NewFaulty(mem, func(op vfs.Op, name string) error {
		if op == vfs.OpLock {
			return mem.Remove(name)
		}
		return nil
	}), "/d", ".snap", 1, nil)
	require.NoError(t, err)
	require.Empty(t, deleted)
	names, err := mem.ReadDir("/d")
	require.NoError(t, err)
	require.Equal(t, []string{"0.snap.broken", "1.snap.db", "4.snap", "db"}, names)
}

// manual is a clock whose tickers tick when told to.
type manual struct {
	clock.Clock
	c chan time.Time
	d time.Duration
}

func (m *manual) NewTicker(d time.Duration) clock.Ticker { m.d = d; return m }
func (m *manual) C() <-chan time.Time                    { return m.c }
func (m *manual) Stop()                                  {}
func (m *manual) Reset(time.Duration)                    {}

func TestPurger(t *testing.T) {
	mem := vfs.NewMem()
	require.NoError(t, mem.MkdirAll("/a", 0o700))
	require.NoError(t, mem.MkdirAll("/b", 0o700))
	c := &manual{Clock: clock.Real, c: make(chan time.Time)}
	p := NewPurger(mem, c, nil, []Retention{{"/missing", ".x", 1}, {"/a", ".wal", 2}, {"/b", ".snap", 1}, {"/b", ".db", 0}})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	touch(t, mem, "/a/0.wal", "/a/1.wal", "/a/2.wal", "/b/1.db", "/b/2.db")
	go func() { p.Run(ctx); close(done) }()
	c.c <- time.Time{} // taken after the first pass
	c.c <- time.Time{}
	left := func() string {
		a, err := mem.ReadDir("/a")
		require.NoError(t, err)
		b, err := mem.ReadDir("/b")
		require.NoError(t, err)
		return fmt.Sprint(a, b)
	}
	require.Equal(t, "[1.wal 2.wal] [1.db 2.db]", left())
	touch(t, mem, "/a/3.wal", "/b/1.snap", "/b/2.snap")
	c.c <- time.Time{}
	c.c <- time.Time{}
	require.Equal(t, "[2.wal 3.wal] [1.db 2.db 2.snap]", left())
	require.Equal(t, 30*time.Second, c.d)
	cancel()
	<-done
}

// TestMetrics opens two logs in a process with one registry.
func TestMetrics(t *testing.T) {
	reg, mem := prometheus.NewRegistry(), vfs.NewMem()
	for _, dir := range []string{"/a", "/b"} {
		l, err := Create(mem, dir, nil, Options{SegmentBytes: 4096, Registerer: reg})
		require.NoError(t, err)
		require.NoError(t, l.Save(nil, []*raftpb.Entry{entry(1, 1, 100)}, true))
		require.NoError(t, l.Close())
	}
	families, err := reg.Gather()
	require.NoError(t, err)
	got := map[string]string{}
	for _, f := range families {
		m := f.GetMetric()[0]
		got[f.GetName()] = fmt.Sprint(f.GetType(), " ", m.GetHistogram().GetSampleCount(), " ", len(m.GetHistogram().GetBucket()), " ", m.GetGauge().GetValue() > 200)
	}
	require.Equal(t, map[string]string{
		"etcd_disk_wal_fsync_duration_seconds": "HISTOGRAM 2 14 false",
		"etcd_disk_wal_write_duration_seconds": "HISTOGRAM 4 14 false",
		"etcd_disk_wal_write_bytes_total":      "GAUGE 0 0 true",
	}, got)
}
