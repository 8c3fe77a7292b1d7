package bench

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/keelson-io/keelson/client"
)

// watchers is how many see each put.
const watchers = 100

func watchWorkloads() []Workload {
	return []Workload{
		{Name: "watch", Doc: fmt.Sprintf("puts that %d watchers see; what counts is the events, latency from the put to the event", watchers), Start: startFanOut},
	}
}

// fanOut is puts under way, one for each worker, and those who wait to see them. A worker goes on when all watchers
// have seen its put: a queue that grows would say more about its length than about the servers.
type fanOut struct {
	puts    []sighting
	streams Streams
	stop    context.CancelFunc
	wg      sync.WaitGroup
}

// sighting is a worker's put.
type sighting struct {
	key   string
	seq   atomic.Uint64 // which put it is: it is the value's beginning
	begin atomic.Int64  // Unix time in nanoseconds
	left  atomic.Int64  // watchers that have not seen it
	all   chan uint64   // the put that all watchers have seen
}

func startFanOut(ctx context.Context, e *Env, record func() *Recorder) (_ *Session, err error) {
	ctx, cancel := context.WithCancel(ctx)
	f := &fanOut{puts: make([]sighting, e.Options.Clients), stop: cancel}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.close())
		}
	}()
	for i := range f.puts {
		f.puts[i].key = fmt.Sprintf("%s%06d", watchPrefix, i)
		f.puts[i].all = make(chan uint64, 1)
	}
	if f.streams, err = e.Streams(); err != nil {
		return nil, err
	}
	for i := range watchers {
		w := f.streams.Of(i).Watch(ctx, watchPrefix, client.WithPrefix()) // returns when it is established
		if err := w.Err(); err != nil {
			return nil, err
		}
		r := record()
		f.wg.Go(func() { f.see(ctx, w, r) })
	}
	pad := max(0, e.Options.ValueBytes-8)
	return &Session{
		Own:   true,
		Op:    func(ctx context.Context, e *Env, w *Worker) error { return f.put(ctx, e, w, pad) },
		Close: func(context.Context) error { return f.close() },
	}, nil
}

const watchPrefix = "bench/watch/"

// put puts the worker's key and waits until all have seen it.
func (f *fanOut) put(ctx context.Context, e *Env, w *Worker, pad int) error {
	s := &f.puts[w.ID]
	s.begin.Store(w.Begin.UnixNano())
	s.left.Store(watchers)
	seq := s.seq.Add(1)
	value := append(binary.BigEndian.AppendUint64(make([]byte, 0, 8+pad), seq), e.Value[:pad]...)
	if _, err := e.Client.Do(ctx, client.OpPut(s.key, value)); err != nil {
		return err
	}
	for {
		select {
		case seen := <-s.all:
			if seen == seq { // and not an earlier one that failed, and happened nonetheless
				return nil
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// see records what one watcher sees.
func (f *fanOut) see(ctx context.Context, w *client.Watcher, r *Recorder) {
	for {
		resp, err := w.Next(ctx)
		if err != nil {
			if ctx.Err() == nil {
				r.Fail(err)
			}
			return
		}
		now := time.Now().UnixNano()
		for _, ev := range resp.Events {
			var id int
			for _, c := range ev.Kv.Key[len(watchPrefix):] {
				id = id*10 + int(c-'0')
			}
			if id >= len(f.puts) || len(ev.Kv.Value) < 8 {
				continue // not ours
			}
			s, seq := &f.puts[id], binary.BigEndian.Uint64(ev.Kv.Value)
			if seq != s.seq.Load() {
				continue
			}
			r.Record(time.Duration(now - s.begin.Load()))
			if s.left.Add(-1) > 0 {
				continue
			}
			select {
			case s.all <- seq:
			case <-ctx.Done():
				return
			}
		}
	}
}

func (f *fanOut) close() error {
	f.stop()
	f.wg.Wait()
	return f.streams.Close()
}
