package logs

import (
	"bytes"
	"errors"
	"time"
)

// Entry is a line of a log file, or a part of a line that was longer than what is written at once.
type Entry struct {
	Time    time.Time
	Stream  string // "stdout" or "stderr"
	Partial bool   // the next entry of the stream goes on with the same line
	Content []byte // without the end of the line
}

// Streams of a container.
const (
	Stdout = "stdout"
	Stderr = "stderr"
)

var errLine = errors.New("logs: the line is not as the CRI says")

// Parse reads a line, which may end with a newline or not. The entry's content is a part of it.
func Parse(line []byte) (e Entry, err error) {
	line = bytes.TrimSuffix(line, []byte{'\n'})
	stamp, rest, ok := bytes.Cut(line, []byte{' '})
	if !ok {
		return e, errLine
	}
	if e.Time, err = time.Parse(time.RFC3339Nano, string(stamp)); err != nil {
		return e, errLine
	}
	stream, rest, ok := bytes.Cut(rest, []byte{' '})
	switch {
	case !ok:
		return e, errLine
	case string(stream) == Stdout:
		e.Stream = Stdout
	case string(stream) == Stderr:
		e.Stream = Stderr
	default:
		return e, errLine
	}
	tags, content, _ := bytes.Cut(rest, []byte{' '})
	first, _, _ := bytes.Cut(tags, []byte{':'})
	if len(first) == 0 {
		return e, errLine
	}
	e.Partial, e.Content = string(first) == "P", content
	return e, nil
}
