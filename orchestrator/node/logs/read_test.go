package logs

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"k8s.io/utils/ptr"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var begin = time.Date(2026, 1, 2, 15, 4, 5, 123456789, time.UTC)

// entry is a line of a file, n seconds after begin.
func entry(n int, stream, tag, text string) string {
	return begin.Add(time.Duration(n)*time.Second).Format(time.RFC3339Nano) + " " + stream + " " + tag + " " + text + "\n"
}

// write makes a log of three files, of which the oldest is compressed.
func write(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	path := filepath.Join(dir, "0.log")
	oldest := entry(0, "stdout", "F", "one") + entry(1, "stderr", "F", "two")
	var z bytes.Buffer
	w := gzip.NewWriter(&z)
	_, _ = w.Write([]byte(oldest))
	require.NoError(t, w.Close())
	for name, text := range map[string]string{
		"0.log.20260102-150406.gz":  z.String(),
		"0.log.20260102-150408":     entry(2, "stdout", "P", "thr") + entry(2, "stdout", "F", "ee") + "nonsense\n" + entry(3, "stderr", "F:x", "four"),
		"0.log":                     entry(4, "stdout", "F", "five") + entry(5, "stdout", "F", "") + entry(6, "stderr", "F", "seven"),
		"1.log":                     entry(4, "stdout", "F", "another container"),
		"0.log.20260102-150406.tmp": "half",
		"0.log.bak":                 entry(9, "stdout", "F", "not ours"),
	} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
	}
	return path
}

func TestRead(t *testing.T) {
	path := write(t)
	for name, c := range map[string]struct {
		o    Options
		want string
	}{
		"all":            {Options{}, "one\ntwo\nthree\nfour\nfive\n\nseven\n"},
		"no tail":        {Options{Tail: ptr.To(int64(0))}, ""},
		"tail":           {Options{Tail: ptr.To(int64(2))}, "\nseven\n"},
		"tail of it all": {Options{Tail: ptr.To(int64(3))}, "five\n\nseven\n"},
		"tail before":    {Options{Tail: ptr.To(int64(5))}, "three\nfour\nfive\n\nseven\n"},
		"tail zipped":    {Options{Tail: ptr.To(int64(6))}, "two\nthree\nfour\nfive\n\nseven\n"},
		"long tail":      {Options{Tail: ptr.To(int64(600))}, "one\ntwo\nthree\nfour\nfive\n\nseven\n"},
		"since":          {Options{Since: begin.Add(3 * time.Second)}, "four\nfive\n\nseven\n"},
		"since and tail": {Options{Since: begin.Add(3 * time.Second), Tail: ptr.To(int64(2))}, "\nseven\n"},
		"limit":          {Options{Limit: ptr.To(int64(10))}, "one\ntwo\nth"},
		"limit 0":        {Options{Limit: ptr.To(int64(0))}, ""},
		"stdout":         {Options{Stream: Stdout}, "one\nthree\nfive\n\n"},
		"stderr":         {Options{Stream: Stderr}, "two\nfour\nseven\n"},
		"ended":          {Options{Follow: true, Tail: ptr.To(int64(1))}, "seven\n"},
		"times": {
			Options{Timestamps: true, Tail: ptr.To(int64(5)), Limit: ptr.To(int64(92))},
			"2026-01-02T15:04:07.123456789Z three\n2026-01-02T15:04:08.123456789Z four\n2026-01-02T15:04:09",
		},
	} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			require.NoError(t, Read(t.Context(), path, c.o, &out))
			require.Equal(t, c.want, out.String())
		})
	}
	err := Read(t.Context(), filepath.Join(t.TempDir(), "0.log"), Options{}, &bytes.Buffer{})
	require.ErrorIs(t, err, fs.ErrNotExist)
}

// A tail is found across the blocks in which a file is read.
func TestLongTail(t *testing.T) {
	path := filepath.Join(t.TempDir(), "0.log")
	var all strings.Builder
	var lines []string
	for i := range 5000 {
		text := strings.Repeat("x", i%200) + fmt.Sprint(i)
		lines = append(lines, text+"\n")
		if i%7 == 0 {
			all.WriteString(entry(i, "stdout", "P", text[:1]))
			text = text[1:]
		}
		all.WriteString(entry(i, "stdout", "F", text))
	}
	require.NoError(t, os.WriteFile(path, []byte(all.String()), 0o600))
	for _, n := range []int{1, 2, 77, 999, 3000, 4999, 5000, 5001} {
		var out bytes.Buffer
		require.NoError(t, Read(t.Context(), path, Options{Tail: ptr.To(int64(n))}, &out))
		require.Equal(t, strings.Join(lines[max(0, len(lines)-n):], ""), out.String(), n)
	}
}

// output is what a Read has written, for a test that waits for it.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// A line that is written in two pieces is printed as one, and the last one when the container has ended.
func TestFollowPieces(t *testing.T) {
	path := filepath.Join(t.TempDir(), "0.log")
	f, err := os.Create(path)
	require.NoError(t, err)
	defer f.Close()
	var running atomic.Bool
	running.Store(true)
	var out output
	done := make(chan error, 1)
	go func() {
		done <- Read(t.Context(), path, Options{Follow: true, Running: func(context.Context) bool { return running.Load() }}, &out)
	}()
	put := func(s string) {
		_, err := f.WriteString(s)
		require.NoError(t, err)
	}
	line := entry(0, "stdout", "F", "in two pieces")
	put(entry(0, "stdout", "F", "first"))
	require.Eventually(t, func() bool { return out.String() == "first\n" }, time.Minute, time.Millisecond)
	put(line[:20])
	put(line[20:])
	require.Eventually(t, func() bool { return out.String() == "first\nin two pieces\n" }, time.Minute, time.Millisecond)
	put(strings.TrimSuffix(entry(0, "stdout", "F", "the end"), "\n"))
	running.Store(false)
	require.NoError(t, <-done)
	require.Equal(t, "first\nin two pieces\nthe end\n", out.String())
}

// A log that is rotated twice before anybody looks, and whose newest file is still empty, has no line held back.
func TestFollowOvertaken(t *testing.T) {
	path := filepath.Join(t.TempDir(), "0.log")
	require.NoError(t, os.WriteFile(path, []byte(entry(0, "stdout", "F", "one")), 0o600))
	ctx, cancel := context.WithCancel(t.Context())
	var out output
	done := make(chan error, 1)
	go func() {
		done <- Read(ctx, path, Options{Follow: true, Running: func(context.Context) bool { return true }}, &out)
	}()
	is := func(text string) {
		t.Helper()
		require.Eventually(t, func() bool { return out.String() == text }, 10*time.Second, time.Millisecond)
	}
	is("one\n")
	require.NoError(t, os.Rename(path, path+".20260101-000000"))
	require.NoError(t, os.WriteFile(path+".20260101-000001", []byte(entry(1, "stdout", "F", "two")), 0o600))
	require.NoError(t, os.WriteFile(path+".20260101-000002", []byte(entry(2, "stdout", "F", "three")), 0o600))
	require.NoError(t, os.WriteFile(path, nil, 0o600))
	is("one\ntwo\nthree\n")
	f, err := os.OpenFile(path+".20260101-000002", os.O_APPEND|os.O_WRONLY, 0) // its writer has not been told yet
	require.NoError(t, err)
	_, err = f.WriteString(entry(3, "stdout", "F", "four"))
	require.NoError(t, errors.Join(err, f.Close()))
	is("one\ntwo\nthree\nfour\n")
	require.NoError(t, os.WriteFile(path, []byte(entry(4, "stdout", "F", "five")), 0o600))
	is("one\ntwo\nthree\nfour\nfive\n")
	cancel()
	require.NoError(t, <-done)
}

// A context that ends is no error.
func TestFollowCanceled(t *testing.T) {
	path := write(t)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	var out output
	go func() {
		done <- Read(ctx, path, Options{Follow: true, Tail: ptr.To(int64(1)), Running: func(context.Context) bool { return true }}, &out)
	}()
	require.Eventually(t, func() bool { return out.String() == "seven\n" }, time.Minute, time.Millisecond)
	cancel()
	require.NoError(t, <-done)
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(entry(0, "stdout", "F", "text")))
	f.Add([]byte("2016-10-06T00:17:09.669794202Z stderr P:tag "))
	f.Add([]byte("x stdout F"))
	f.Fuzz(func(t *testing.T, line []byte) {
		e, err := Parse(line)
		if err != nil {
			return
		}
		tag := "F"
		if e.Partial {
			tag = "P"
		}
		again, err := Parse([]byte(e.Time.Format(time.RFC3339Nano) + " " + e.Stream + " " + tag + " " + string(e.Content) + "\n"))
		require.NoError(t, err)
		require.True(t, e.Time.Equal(again.Time))
		require.Equal(t, e.Stream+string(e.Content), again.Stream+string(again.Content))
	})
}

// FuzzTail compares the tail of a file with that of all its lines.
func FuzzTail(f *testing.F) {
	f.Add([]byte(entry(0, "stdout", "F", "a")+entry(1, "stdout", "P", "b")+entry(1, "stdout", "F", "c")), uint8(1))
	f.Add([]byte("\n\n2016-10-06T00:17:09Z stdout F x"), uint8(3))
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, text []byte, n uint8) {
		path := filepath.Join(dir, "f.log")
		require.NoError(t, os.WriteFile(path, text, 0o600))
		file, err := os.Open(path)
		require.NoError(t, err)
		defer file.Close()
		all, err := linesOf(bytes.NewReader(text))
		require.NoError(t, err)
		offset, found, err := tailOf(file, int64(n))
		require.NoError(t, err)
		require.Equal(t, min(all, int64(n)), found)
		rest, err := linesOf(bytes.NewReader(text[offset:]))
		require.NoError(t, err)
		require.Equal(t, found, rest)
	})
}
