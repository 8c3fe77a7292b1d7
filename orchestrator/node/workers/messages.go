package workers

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Bounds on what containers say at their end.
const (
	maxMessage     = 4096      // bytes of one message
	maxMessages    = 12 * 1024 // bytes of all messages of a pod
	maxLogMessage  = 2048      // bytes of logs in place of a message
	maxLogLines    = 80
	messageFile    = 0o666
	logReadAtMost  = 64 * 1024 // bytes from the end of a log that are looked at
	defaultMessage = corev1.TerminationMessagePathDefault
)

// messagePath is the file that a container writes its message to.
func (ws *Workers) messagePath(p *corev1.Pod, name string, attempt int32) string {
	return filepath.Join(ws.podDir(p), "containers", name, strconv.Itoa(int(attempt)))
}

// makeMessage makes the file of a container's message, writable for any user in it, and returns the mount of it.
func (ws *Workers) makeMessage(p *corev1.Pod, s start) (*runtimeapi.Mount, error) {
	if s.container.TerminationMessagePath == "" {
		return nil, nil
	}
	path := ws.messagePath(p, s.container.Name, s.attempt)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, messageFile)
	if err != nil {
		return nil, err
	}
	if err := f.Close(); err != nil {
		return nil, err
	}
	if err := os.Chmod(path, messageFile); err != nil { // whatever the umask
		return nil, err
	}
	return &runtimeapi.Mount{HostPath: path, ContainerPath: s.container.TerminationMessagePath}, nil
}

// lastWords is what a container that ended left as its message.
func (ws *Workers) lastWords(p *corev1.Pod, c *container) string {
	size := maxMessage
	if n := len(p.Spec.Containers) + len(p.Spec.InitContainers); n > 0 {
		size = min(size, maxMessages/n)
	}
	var said string
	if c.status.Annotations[annotationMessagePath] != "" {
		said = head(ws.messagePath(p, c.name, c.attempt), size)
	}
	policy := c.status.Annotations[annotationMessagePolicy]
	if said == "" && policy == string(corev1.TerminationMessageFallbackToLogsOnError) && c.status.ExitCode != 0 && c.status.LogPath != "" {
		said = tail(c.status.LogPath, maxLogLines, min(size, maxLogMessage))
	}
	return said
}

// head is the beginning of a file, "" if it cannot be read.
func head(path string, size int) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer func() { _ = f.Close() }()
	raw, err := io.ReadAll(io.LimitReader(f, int64(size)))
	if err != nil {
		return ""
	}
	return strings.ToValidUTF8(string(raw), "\uFFFD")
}

// tail is the end of a container's log: at most so many lines and bytes, without what the format adds.
func tail(path string, lines, size int) string {
	f, err := os.Open(path)
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			return "Error reading termination message from logs: " + err.Error()
		}
		return ""
	}
	defer func() { _ = f.Close() }()
	if end, err := f.Seek(0, io.SeekEnd); err == nil {
		_, _ = f.Seek(max(0, end-logReadAtMost), io.SeekStart)
	}
	raw, err := io.ReadAll(f)
	if err != nil {
		return ""
	}
	return logTail(raw, lines, size)
}

// logTail undoes the format of logs, "time stream tag content", and keeps the end.
func logTail(raw []byte, lines, size int) string {
	var texts []string // one for each whole line
	open := false      // the last one goes on
	for line := range bytes.Lines(raw) {
		at, rest, ok := bytes.Cut(bytes.TrimSuffix(line, []byte("\n")), []byte(" "))
		if _, err := time.Parse(time.RFC3339Nano, string(at)); !ok || err != nil {
			continue // the first may be cut
		}
		_, rest, _ = bytes.Cut(rest, []byte(" "))
		tags, content, _ := bytes.Cut(rest, []byte(" "))
		part := string(content)
		if open {
			texts[len(texts)-1] += part
		} else {
			texts = append(texts, part)
		}
		open = bytes.HasPrefix(tags, []byte("P"))
	}
	if len(texts) > lines {
		texts = texts[len(texts)-lines:]
	}
	if len(texts) == 0 {
		return ""
	}
	s := strings.Join(texts, "\n")
	if !open {
		s += "\n"
	}
	if len(s) > size {
		s = s[len(s)-size:]
	}
	return strings.ToValidUTF8(s, "\uFFFD")
}
