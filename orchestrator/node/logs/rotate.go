package logs

import (
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/keelson-io/keelson/internal/clock"
)

// Runtime is the part of a CRI runtime that a Rotator needs.
type Runtime interface {
	ListContainers(ctx context.Context, in *runtimeapi.ListContainersRequest, opts ...grpc.CallOption) (*runtimeapi.ListContainersResponse, error)
	ContainerStatus(ctx context.Context, in *runtimeapi.ContainerStatusRequest, opts ...grpc.CallOption) (*runtimeapi.ContainerStatusResponse, error)
	ReopenContainerLog(ctx context.Context, in *runtimeapi.ReopenContainerLogRequest, opts ...grpc.CallOption) (*runtimeapi.ReopenContainerLogResponse, error)
}

// Rotation says how logs are rotated.
type Rotation struct {
	Runtime Runtime
	// MaxSize is how large a file may be, in bytes; 0: 10 MiB. Less than 0: none is rotated.
	MaxSize int64
	// MaxFiles is how many files a log may have, at least 2; 0: 5.
	MaxFiles int
	// Every is the time between two looks at all logs; 0: 10 s.
	Every  time.Duration
	Clock  clock.Clock // nil: clock.Real
	Logger *zap.Logger // nil: none
}

// Rotator rotates the logs of running containers.
type Rotator struct{ cfg Rotation }

// NewRotator makes a Rotator.
func NewRotator(cfg Rotation) (*Rotator, error) {
	if cfg.MaxSize == 0 {
		cfg.MaxSize = 10 << 20
	}
	if cfg.MaxFiles == 0 {
		cfg.MaxFiles = 5
	}
	if cfg.MaxFiles < 2 {
		return nil, fmt.Errorf("logs: a container's log cannot have %d files: two are needed to rotate it", cfg.MaxFiles)
	}
	if cfg.Every == 0 {
		cfg.Every = 10 * time.Second
	}
	if cfg.Clock == nil {
		cfg.Clock = clock.Real
	}
	if cfg.Logger == nil {
		cfg.Logger = zap.NewNop()
	}
	return &Rotator{cfg}, nil
}

// Run rotates until the context ends.
func (r *Rotator) Run(ctx context.Context) error {
	if r.cfg.MaxSize < 0 {
		return nil
	}
	t := r.cfg.Clock.NewTicker(r.cfg.Every)
	defer t.Stop()
	for {
		select {
		case <-t.C():
		case <-ctx.Done():
			return nil
		}
		if err := r.Pass(ctx); err != nil && ctx.Err() == nil {
			r.cfg.Logger.Warn("logs of containers could not be rotated", zap.Error(err))
		}
	}
}

// Pass rotates every log that is too large.
func (r *Rotator) Pass(ctx context.Context) error {
	running := &runtimeapi.ContainerFilter{State: &runtimeapi.ContainerStateValue{State: runtimeapi.ContainerState_CONTAINER_RUNNING}}
	list, err := r.cfg.Runtime.ListContainers(ctx, &runtimeapi.ListContainersRequest{Filter: running})
	if err != nil {
		return fmt.Errorf("logs: %w", err)
	}
	var errs []error
	for _, c := range list.Containers {
		if err := r.container(ctx, c.Id); err != nil {
			errs = append(errs, fmt.Errorf("logs: container %s: %w", c.Id, err))
		}
	}
	return errors.Join(errs...)
}

func (r *Rotator) container(ctx context.Context, id string) error {
	s, err := r.cfg.Runtime.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: id})
	if err != nil {
		return err
	}
	path := s.GetStatus().GetLogPath()
	if path == "" {
		return nil
	}
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) { // the agent ended between the two halves of a rotation
		return r.reopen(ctx, id)
	}
	if err != nil || info.Size() < r.cfg.MaxSize {
		return err
	}
	return r.rotate(ctx, id, path)
}

func (r *Rotator) reopen(ctx context.Context, id string) error {
	_, err := r.cfg.Runtime.ReopenContainerLog(ctx, &runtimeapi.ReopenContainerLogRequest{ContainerId: id})
	return err
}

// rotate makes room, compresses what is compressed by now, and takes the file away from its writer.
func (r *Rotator) rotate(ctx context.Context, id, path string) error {
	older, err := history(path)
	if err != nil {
		return err
	}
	for len(older) > r.cfg.MaxFiles-2 { // with the one that there will be, and the new one
		if err := older[0].remove(); err != nil {
			return err
		}
		older = older[1:]
	}
	for _, o := range older {
		if err := o.zip(); err != nil {
			return err
		}
	}
	to := path + "." + r.cfg.Clock.Now().UTC().Format(stampFormat)
	if n := len(older); n > 0 && older[n-1].path >= to {
		return nil // the clock was set back, or has not gone on: the next pass will do
	}
	if err := os.Rename(path, to); err != nil {
		return err
	}
	if err := r.reopen(ctx, id); err != nil {
		if _, there := os.Stat(path); errors.Is(there, fs.ErrNotExist) {
			err = errors.Join(err, os.Rename(to, path))
		}
		return err
	}
	return nil
}

func (r rotated) remove() error {
	for _, p := range []string{r.path, r.path + zipped, r.path + zipped + unfinished} {
		if err := os.Remove(p); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// zip compresses a file, in a way that it is always there in one form.
func (r rotated) zip() error {
	in, err := os.Open(r.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }() // it was only read
	tmp := r.path + zipped + unfinished
	out, err := os.OpenFile(tmp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o640)
	if err != nil {
		return err
	}
	z := gzip.NewWriter(out)
	_, err = io.Copy(z, in)
	if err = errors.Join(err, z.Close(), out.Close()); err != nil {
		return errors.Join(err, os.Remove(tmp))
	}
	if err := os.Rename(tmp, r.path+zipped); err != nil {
		return err
	}
	return os.Remove(r.path)
}
