package crilog

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func at() time.Time { return time.Date(2026, 3, 1, 12, 0, 0, 120, time.FixedZone("", 3600)) }

func open(t testing.TB) (*Writer, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "logs", "0.log")
	w, err := Open(path, at)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.Close() })
	return w, path
}

func read(t testing.TB, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestWrite(t *testing.T) {
	const stamp = "2026-03-01T11:00:00.000000120Z"
	x := strings.Repeat("x", MaxLine)
	for _, tc := range []struct {
		name   string
		writes []string
		want   []string
	}{
		{"a line", []string{"one\n"}, []string{"stdout F one"}},
		{"lines at once", []string{"one\n\ntwo\n"}, []string{"stdout F one", "stdout F ", "stdout F two"}},
		{"a line in pieces", []string{"o", "n", "e\nt", "wo\n"}, []string{"stdout F one", "stdout F two"}},
		{"no newline", []string{"one\ntw"}, []string{"stdout F one", "stdout P tw"}},
		{"as long as may be", []string{x + "\n"}, []string{"stdout F " + x}},
		{"one byte longer", []string{x + "y\n"}, []string{"stdout P " + x, "stdout F y"}},
		{"longer in pieces", []string{x[:100], x, x[100:], "y"}, []string{"stdout P " + x, "stdout P " + x, "stdout P y"}},
		{"much longer", []string{x + x + x + "\nz\n"}, []string{"stdout P " + x, "stdout P " + x, "stdout F " + x, "stdout F z"}},
		{"as long, no newline", []string{x}, []string{"stdout P " + x}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w, path := open(t)
			for _, p := range tc.writes {
				if err := w.Write(Stdout, []byte(p)); err != nil {
					t.Fatal(err)
				}
			}
			if err := w.End(Stdout); err != nil {
				t.Fatal(err)
			}
			var want strings.Builder
			for _, line := range tc.want {
				want.WriteString(stamp + " " + line + "\n")
			}
			if got := read(t, path); got != want.String() {
				t.Errorf("%.300q\nis not\n%.300q", got, want.String())
			}
		})
	}
}

// TestStreamsDoNotMix has a line begun on each stream.
func TestStreamsDoNotMix(t *testing.T) {
	w, path := open(t)
	for _, p := range []struct {
		s    Stream
		text string
	}{{Stdout, "ou"}, {Stderr, "er"}, {Stdout, "t\n"}, {Stderr, "r\n"}} {
		if err := w.Write(p.s, []byte(p.text)); err != nil {
			t.Fatal(err)
		}
	}
	if got := read(t, path); !strings.Contains(got, "stdout F out\n") || !strings.Contains(got, "stderr F err\n") {
		t.Error(got)
	}
}

func TestReopen(t *testing.T) {
	w, path := open(t)
	_ = w.Write(Stdout, []byte("one\ntw"))
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	_ = w.Write(Stdout, []byte("o\nthr")) // still the old one
	if err := w.Reopen(); err != nil {
		t.Fatal(err)
	}
	_ = w.Write(Stdout, []byte("ee\n"))
	if got := read(t, path+".1"); strings.Count(got, "\n") != 2 || !strings.Contains(got, "F two\n") {
		t.Errorf("the old one: %q", got)
	}
	if got := read(t, path); strings.Count(got, "\n") != 1 || !strings.Contains(got, "F three\n") {
		t.Errorf("the new one: %q", got)
	}
	// Opened again, it goes on at the end.
	again, err := Open(path, at)
	if err != nil {
		t.Fatal(err)
	}
	_ = again.Write(Stderr, []byte("four\n"))
	_ = again.Close()
	if got := read(t, path); strings.Count(got, "\n") != 2 {
		t.Errorf("opened again: %q", got)
	}
}

// TestFailure tells the first of the errors of a disk that takes nothing, and goes on.
func TestFailure(t *testing.T) {
	w := &Writer{path: "/dev/full", now: at}
	if err := w.Reopen(); err != nil {
		t.Fatal(err)
	}
	if err := w.Write(Stdout, []byte("one\n")); err == nil {
		t.Error("no error")
	}
	if err := w.Write(Stdout, []byte("two\n")); err != nil {
		t.Errorf("told twice: %v", err)
	}
	_ = w.Close()
	var none *Writer
	if err := none.Write(Stdout, []byte("x")); err != nil {
		t.Error(err)
	}
}

// FuzzWrite cuts output in pieces: what is read back from the log is what was written.
func FuzzWrite(f *testing.F) {
	f.Add([]byte("one\ntwo\n\nthree"), uint8(3), 1)
	f.Add([]byte("no newline"), uint8(200), 5000)
	f.Fuzz(func(t *testing.T, text []byte, piece uint8, repeat int) {
		whole := bytes.Repeat(text, 1+int(uint(repeat)%200))
		w, path := open(t)
		for rest := whole; len(rest) > 0; {
			n := min(len(rest), 1+int(piece)*97)
			if err := w.Write(Stderr, rest[:n]); err != nil {
				t.Fatal(err)
			}
			rest = rest[n:]
		}
		if err := w.End(Stderr); err != nil {
			t.Fatal(err)
		}
		var back bytes.Buffer
		for line := range bytes.Lines([]byte(read(t, path))) {
			fields := bytes.SplitN(bytes.TrimSuffix(line, []byte{'\n'}), []byte{' '}, 4)
			if len(fields) != 4 || string(fields[1]) != "stderr" || len(fields[3]) > MaxLine {
				t.Fatalf("entry %.100q", line)
			}
			back.Write(fields[3])
			switch string(fields[2]) {
			case "F":
				back.WriteByte('\n')
			case "P":
			default:
				t.Fatalf("tag %q", fields[2])
			}
		}
		if !bytes.Equal(back.Bytes(), whole) {
			t.Errorf("%d bytes come back of %d", back.Len(), len(whole))
		}
	})
}

func BenchmarkWrite(b *testing.B) {
	w, _ := open(b)
	var chunk bytes.Buffer
	for i := 0; chunk.Len() < 32<<10; i++ {
		fmt.Fprintf(&chunk, "a line of a program that has something to say, number %d\n", i)
	}
	b.SetBytes(int64(chunk.Len()))
	for b.Loop() {
		if err := w.Write(Stdout, chunk.Bytes()); err != nil {
			b.Fatal(err)
		}
	}
}
