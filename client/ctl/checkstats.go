package ctl

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

// latencies gathers how long requests took. add may be called by many goroutines, the rest after finish.
type latencies struct {
	mu    sync.Mutex
	start time.Time
	total time.Duration
	secs  []float64
	errs  map[string]int // by text
}

func newLatencies() *latencies { return &latencies{start: time.Now(), errs: map[string]int{}} }

func (l *latencies) add(took time.Duration, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		l.errs[err.Error()]++
		return
	}
	l.secs = append(l.secs, took.Seconds())
}

func (l *latencies) finish() { l.total = time.Since(l.start) }

// rate is how many requests succeeded in a second.
func (l *latencies) rate() float64 { return float64(len(l.secs)) / l.total.Seconds() }

func (l *latencies) slowest() (s float64) {
	for _, t := range l.secs {
		s = max(s, t)
	}
	return s
}

// stddev is the standard deviation, not a number if nothing succeeded.
func (l *latencies) stddev() float64 {
	n := float64(len(l.secs))
	var sum, squares float64
	for _, t := range l.secs {
		sum += t
	}
	for _, t := range l.secs {
		squares += (t - sum/n) * (t - sum/n)
	}
	return math.Sqrt(squares / n)
}

// pace makes turns come at a rate.
type pace struct {
	every time.Duration // 0 is no limit
	next  time.Time
}

// wait waits for the next turn. Turns missed by more than a timer is late by are not made up for.
func (p *pace) wait(ctx context.Context) error {
	const late = 10 * time.Millisecond
	if p.every > 0 {
		if oldest := time.Now().Add(-late); p.next.Before(oldest) {
			p.next = oldest
		}
		p.next = p.next.Add(p.every)
		select {
		case <-time.After(time.Until(p.next)):
		case <-ctx.Done():
		}
	}
	return ctx.Err()
}

// residentBytes asks an endpoint's metrics how much memory its process has.
func residentBytes(ctx context.Context, endpoint string, cfg *tls.Config) (float64, error) {
	url := endpoint
	switch {
	case strings.HasPrefix(url, "http://"), strings.HasPrefix(url, "https://"):
	case cfg != nil:
		url = "https://" + url
	default:
		url = "http://" + url
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/metrics", nil)
	if err != nil {
		return 0, fmt.Errorf("fetch error: %w", err)
	}
	tr := &http.Transport{TLSClientConfig: cfg}
	defer tr.CloseIdleConnections()
	resp, err := (&http.Client{Transport: tr, Timeout: checkTimeout}).Do(req)
	if err != nil {
		return 0, fmt.Errorf("fetch error: %w", err)
	}
	defer resp.Body.Close()
	return parseMetric(resp.Body, "process_resident_memory_bytes")
}

// parseMetric finds a metric without labels in the text format.
func parseMetric(r io.Reader, name string) (float64, error) {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		if value, ok := strings.CutPrefix(lines.Text(), name+" "); ok {
			v, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
			if err != nil {
				return 0, fmt.Errorf("parse error: %w", err)
			}
			return v, nil
		}
	}
	if err := lines.Err(); err != nil {
		return 0, fmt.Errorf("fetch error: %w", err)
	}
	return 0, errors.New("could not find: " + name)
}

// bar shows progress on a terminal, and nothing elsewhere.
type bar struct {
	out io.Writer

	mu          sync.Mutex
	done, total int
	began, last time.Time
	shown       bool
}

func (b *bar) start(total int) {
	f, ok := b.out.(*os.File)
	if ok {
		info, err := f.Stat()
		ok = err == nil && info.Mode()&os.ModeCharDevice != 0
	}
	b.total, b.began, b.shown = total, time.Now(), ok
	b.draw()
}

// add counts n steps. It draws five times a second at most.
func (b *bar) add(n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.done += n
	if time.Since(b.last) >= 200*time.Millisecond {
		b.draw()
	}
}

// finish draws for the last time, as complete if it is, and ends the line.
func (b *bar) finish(complete bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if complete {
		b.done = b.total
	}
	b.draw()
	if b.shown {
		fmt.Fprintln(b.out)
	}
}

func (b *bar) draw() {
	if !b.shown {
		return
	}
	const width = 40
	b.last = time.Now()
	part := float64(b.done) / float64(max(b.total, 1))
	full := int(part * width)
	speed := float64(b.done) / max(time.Since(b.began).Seconds(), 0.001)
	fmt.Fprintf(b.out, "\r%d / %d [%s%s] %.2f%% %.0f p/s ", b.done, b.total,
		strings.Repeat("-", full), strings.Repeat("_", width-full), 100*part, speed)
}
