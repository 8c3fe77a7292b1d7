// Package accesslog writes a line for each call of a client, or for a sample of them: who called what, how it ended and what it
// cost. No line holds a value, a password or a token: a Record has no place for them.
//
// Calls do not wait for the log. Lines go through a queue to one goroutine that writes them; when the queue is full they are
// dropped, and counted.
//
// # Concurrency
//
// Sampled and Add may be called from any goroutine, Close once; what is added later is dropped.
package accesslog

import (
	"bufio"
	"encoding/hex"
	"encoding/json"
	"io"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
)

// Record is a line, as a JSON object. What is empty is left out but for the first fields.
type Record struct {
	Time     time.Time `json:"time"`  // of the call's begin; of an open stream's line, of the line
	Event    string    `json:"event"` // call, or of a stream: open, watch, end
	Identity string    `json:"identity"`
	Remote   string    `json:"remote"`
	Method   string    `json:"method"`
	Name     string    `json:"name,omitempty"` // of a user, a role, a lock or an election
	Key      Key       `json:"key,omitempty"`  // of a transaction: that of its first operation
	RangeEnd Key       `json:"range_end,omitempty"`
	Lease    int64     `json:"lease,omitempty"`
	Ops      int       `json:"ops,omitempty"`      // of a transaction, both branches and nested ones
	Revision int64     `json:"revision,omitempty"` // of the response
	BytesIn  int64     `json:"bytes_in,omitempty"`
	BytesOut int64     `json:"bytes_out,omitempty"`
	Keys     int64     `json:"keys,omitempty"` // in the response, or deleted; of a watch: events
	Code     string    `json:"code,omitempty"`
	Seconds  float64   `json:"seconds,omitempty"`
}

// Key is a key. One that is not text is written as hex:00ff.
type Key []byte

// MarshalText is encoding.TextMarshaler.
func (k Key) MarshalText() ([]byte, error) {
	if utf8.Valid(k) {
		return k, nil
	}
	return hex.AppendEncode([]byte("hex:"), k), nil
}

// Config says where lines go.
type Config struct {
	Output io.WriteCloser
	Sample float64 // share of calls that have a line
	Queue  int     // lines that may wait to be written; 0: 4096
	Logger *zap.Logger
}

// Log is described in the package comment.
type Log struct {
	cfg   Config
	queue chan Record
	done  chan struct{}

	mu     sync.RWMutex // of closed
	closed bool

	written, dropped, failed atomic.Int64
}

// New starts a log; Close ends it.
func New(cfg Config) *Log {
	if cfg.Queue == 0 {
		cfg.Queue = 4096
	}
	l := &Log{cfg: cfg, queue: make(chan Record, cfg.Queue), done: make(chan struct{})}
	go l.run()
	return l
}

// Register registers the metrics.
func (l *Log) Register(r prometheus.Registerer) {
	counter := func(name, help string, n *atomic.Int64) prometheus.Collector {
		return prometheus.NewCounterFunc(prometheus.CounterOpts{Namespace: "keelson", Subsystem: "access_log", Name: name, Help: help},
			func() float64 { return float64(n.Load()) })
	}
	r.MustRegister(
		counter("written_total", "Lines of the access log.", &l.written),
		counter("dropped_total", "Lines that were dropped since the queue before the access log was full.", &l.dropped),
		counter("failed_total", "Lines of the access log that could not be written.", &l.failed),
	)
}

// Sampled decides whether a call has a line.
func (l *Log) Sampled() bool { return l.cfg.Sample >= 1 || rand.Float64() < l.cfg.Sample }

// Add queues a line. It never waits.
func (l *Log) Add(r Record) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if !l.closed {
		select {
		case l.queue <- r:
			return
		default:
		}
	}
	l.dropped.Add(1)
}

// Close writes what is queued and closes the output.
func (l *Log) Close() error {
	l.mu.Lock()
	l.closed = true
	close(l.queue)
	l.mu.Unlock()
	<-l.done
	return l.cfg.Output.Close()
}

func (l *Log) run() {
	defer close(l.done)
	out := &output{log: l, to: l.cfg.Output}
	w := bufio.NewWriterSize(out, 64<<10)
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	for r := range l.queue {
		if err := enc.Encode(&r); err != nil {
			l.failed.Add(1)
		} else {
			l.written.Add(1)
		}
		if len(l.queue) == 0 {
			_ = w.Flush()
		}
	}
	_ = w.Flush()
}

// output counts what cannot be written, and goes on: a disk may have room again later.
type output struct {
	log   *Log
	to    io.Writer
	wrong bool // the last write failed
}

// Write writes whole lines or none that count.
func (o *output) Write(p []byte) (int, error) {
	_, err := o.to.Write(p)
	if err != nil {
		lines := int64(0)
		for _, c := range p {
			if c == '\n' {
				lines++
			}
		}
		o.log.failed.Add(lines)
		o.log.written.Add(-lines)
		if !o.wrong {
			o.log.cfg.Logger.Warn("the access log cannot be written", zap.Error(err))
		}
	}
	o.wrong = err != nil
	return len(p), nil
}
