package accesslog

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

// sink is an output that a test holds back or lets fail.
type sink struct {
	bytes.Buffer
	gate   chan struct{} // if set, each write takes one
	err    error
	closed bool
}

func (s *sink) Write(p []byte) (int, error) {
	if s.gate != nil {
		<-s.gate
	}
	if s.err != nil {
		return 0, s.err
	}
	return s.Buffer.Write(p)
}

func (s *sink) Close() error { s.closed = true; return nil }

func TestLines(t *testing.T) {
	out := &sink{}
	l := New(Config{Output: out, Sample: 1})
	at := time.Date(2026, 1, 2, 3, 4, 5, 6000, time.UTC)
	l.Add(Record{Time: at, Event: "call", Identity: "alice", Remote: "10.0.0.1:5", Method: "/etcdserverpb.KV/Range", Key: Key("/a<b>"), RangeEnd: Key{0},
		Revision: 7, BytesIn: 1, BytesOut: 2, Keys: 3, Code: "OK", Seconds: 0.25})
	l.Add(Record{Time: at, Event: "call", Method: "m", Key: Key("\xff\x00\nx")})
	require.NoError(t, l.Close())
	require.True(t, out.closed)
	require.Equal(t, `{"time":"2026-01-02T03:04:05.000006Z","event":"call","identity":"alice","remote":"10.0.0.1:5","method":"/etcdserverpb.KV/Range","key":"/a<b>","range_end":"\u0000","revision":7,"bytes_in":1,"bytes_out":2,"keys":3,"code":"OK","seconds":0.25}
{"time":"2026-01-02T03:04:05.000006Z","event":"call","identity":"","remote":"","method":"m","key":"hex:ff000a78"}
`, out.String())
	l.Add(Record{})
	require.EqualValues(t, 1, l.dropped.Load(), "closed")
	require.EqualValues(t, 2, l.written.Load())
}

// TestFullQueue has an output that stands still: nobody waits for it.
func TestFullQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out := &sink{gate: make(chan struct{})}
		l := New(Config{Output: out, Sample: 1, Queue: 10})
		l.Add(Record{Method: "first"})
		synctest.Wait() // it is being written
		for range 15 {
			l.Add(Record{Method: "m"})
		}
		require.EqualValues(t, 5, l.dropped.Load())
		close(out.gate)
		require.NoError(t, l.Close())
		require.EqualValues(t, 11, l.written.Load())
		require.Equal(t, 11, strings.Count(out.String(), "\n"))
	})
}

func TestFullDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		core, logs := observer.New(zap.WarnLevel)
		out := &sink{err: errors.New("no space left")}
		l := New(Config{Output: out, Sample: 1, Logger: zap.New(core)})
		for range 3 {
			l.Add(Record{Method: "m"})
			synctest.Wait()
		}
		out.err = nil // there is room again
		l.Add(Record{Method: "m"})
		require.NoError(t, l.Close())
		require.EqualValues(t, 3, l.failed.Load())
		require.EqualValues(t, 1, l.written.Load())
		require.Equal(t, 1, logs.Len(), "said once")
	})
}

func TestSample(t *testing.T) {
	n := 0
	l := New(Config{Output: &sink{}, Sample: 0.1})
	for range 10_000 {
		if l.Sampled() {
			n++
		}
	}
	require.NoError(t, l.Close())
	require.InDelta(t, 1000, n, 300)
}

func TestManyAtOnce(t *testing.T) {
	out := &sink{}
	l := New(Config{Output: out, Sample: 1, Queue: 100})
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 500 {
				l.Add(Record{Method: "m"})
			}
		})
	}
	wg.Wait()
	require.NoError(t, l.Close())
	require.EqualValues(t, 4000, l.written.Load()+l.dropped.Load())
	for _, line := range strings.Split(strings.TrimSpace(out.String()), "\n") {
		require.NoError(t, json.Unmarshal([]byte(line), &map[string]any{}))
	}
}

func BenchmarkAdd(b *testing.B) {
	l := New(Config{Output: &sink{}, Sample: 1})
	b.ReportAllocs()
	for b.Loop() {
		l.Add(Record{Method: "m"})
	}
	_ = l.Close()
}
