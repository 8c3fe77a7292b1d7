package logs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/keelson-io/keelson/internal/clock"
)

// writer is a runtime with one container, which writes to its log.
type writer struct {
	path string
	err  error // of reopening

	mu   sync.Mutex
	file *os.File
}

func (w *writer) ListContainers(context.Context, *runtimeapi.ListContainersRequest, ...grpc.CallOption) (*runtimeapi.ListContainersResponse, error) {
	return &runtimeapi.ListContainersResponse{Containers: []*runtimeapi.Container{{Id: "c"}}}, nil
}

func (w *writer) ContainerStatus(context.Context, *runtimeapi.ContainerStatusRequest, ...grpc.CallOption) (*runtimeapi.ContainerStatusResponse, error) {
	return &runtimeapi.ContainerStatusResponse{Status: &runtimeapi.ContainerStatus{Id: "c", LogPath: w.path}}, nil
}

func (w *writer) ReopenContainerLog(context.Context, *runtimeapi.ReopenContainerLogRequest, ...grpc.CallOption) (*runtimeapi.ReopenContainerLogResponse, error) {
	if w.err != nil {
		return nil, w.err
	}
	f, err := os.OpenFile(w.path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.file != nil {
		_ = w.file.Close()
	}
	w.file = f
	return &runtimeapi.ReopenContainerLogResponse{}, nil
}

func (w *writer) put(line string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	_, err := w.file.WriteString(line)
	return err
}

// jumpy is a clock on which every look is a second after the last one.
type jumpy struct {
	clock.Clock
	seconds atomic.Int64
}

func (j *jumpy) Now() time.Time { return begin.Add(time.Duration(j.seconds.Add(1)) * time.Second) }

func newWriter(t *testing.T) *writer {
	w := &writer{path: filepath.Join(t.TempDir(), "0.log")}
	_, err := w.ReopenContainerLog(t.Context(), nil)
	require.NoError(t, err)
	t.Cleanup(func() { _ = w.file.Close() })
	return w
}

// Somebody who follows a log that is rotated all the time gets every line once, and somebody who comes later the last ones.
func TestFollowRotated(t *testing.T) {
	w := newWriter(t)
	r, err := NewRotator(Rotation{Runtime: w, MaxSize: 4 << 10, MaxFiles: 50, Clock: &jumpy{Clock: clock.Real}})
	require.NoError(t, err)
	const lines = 5000
	var running atomic.Bool
	running.Store(true)
	var out output
	done := make(chan error, 2)
	go func() {
		done <- Read(t.Context(), w.path, Options{Follow: true, Running: func(context.Context) bool { return running.Load() }}, &out)
	}()
	go func() {
		for i := range lines {
			if err := w.put(entry(i, "stdout", "F", fmt.Sprint(i))); err != nil {
				done <- err
				return
			}
			if i%100 == 99 { // the reader keeps up with what there is room for
				for strings.Count(out.String(), "\n") < i-2000 {
					time.Sleep(time.Millisecond)
				}
			}
		}
		running.Store(false)
		done <- nil
	}()
	for running.Load() {
		require.NoError(t, r.Pass(t.Context()))
	}
	require.NoError(t, <-done)
	require.NoError(t, <-done)
	got := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
	for i, line := range got {
		require.Equal(t, fmt.Sprint(i), line)
	}
	require.Len(t, got, lines)
}

// Of a log there are no more files than said, and all but the newest two are compressed.
func TestRotate(t *testing.T) {
	w := newWriter(t)
	r, err := NewRotator(Rotation{Runtime: w, MaxSize: 1 << 10, MaxFiles: 4, Clock: &jumpy{Clock: clock.Real}})
	require.NoError(t, err)
	for i := range 1000 {
		require.NoError(t, w.put(entry(i, "stdout", "F", fmt.Sprint(i))))
		require.NoError(t, r.Pass(t.Context()))
	}
	files, err := os.ReadDir(filepath.Dir(w.path))
	require.NoError(t, err)
	require.Len(t, files, 4)
	zippedFiles := 0
	for _, f := range files {
		if strings.HasSuffix(f.Name(), zipped) {
			zippedFiles++
		}
	}
	require.Equal(t, 2, zippedFiles)
	var out output
	require.NoError(t, Read(t.Context(), w.path, Options{}, &out))
	got := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
	require.Equal(t, "999", got[len(got)-1])
	require.Greater(t, len(got), 60)
	for i, line := range got {
		require.Equal(t, fmt.Sprint(1000-len(got)+i), line)
	}

	require.NoError(t, Remove(w.path))
	files, err = os.ReadDir(filepath.Dir(w.path))
	require.NoError(t, err)
	require.Empty(t, files)
	require.NoError(t, Remove(filepath.Join(filepath.Dir(w.path), "gone", "0.log")))
}

// A runtime that does not open a new file keeps the old one, and one that lost its file gets a new one.
func TestRotateFails(t *testing.T) {
	w := newWriter(t)
	r, err := NewRotator(Rotation{Runtime: w, MaxSize: 10, Clock: &jumpy{Clock: clock.Real}})
	require.NoError(t, err)
	require.NoError(t, w.put(entry(0, "stdout", "F", "text")))
	w.err = errors.New("not now")
	require.ErrorContains(t, r.Pass(t.Context()), "not now")
	files, err := os.ReadDir(filepath.Dir(w.path))
	require.NoError(t, err)
	require.Len(t, files, 1)
	require.Equal(t, "0.log", files[0].Name())

	w.err = nil
	require.NoError(t, os.Remove(w.path))
	require.NoError(t, r.Pass(t.Context()))
	require.FileExists(t, w.path)

	_, err = NewRotator(Rotation{MaxFiles: 1})
	require.Error(t, err)
}
