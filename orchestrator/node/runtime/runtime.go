//go:build linux

package runtime

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/keelson-io/keelson/internal/clock"
	"github.com/keelson-io/keelson/orchestrator/node/runtime/spec"
	"github.com/keelson-io/keelson/orchestrator/node/shim"
)

// maxMessage bounds a request or a response on the socket, in bytes.
const maxMessage = 64 << 20

// Runtime serves CRI's RuntimeService. Its methods are those of its parts.
type Runtime struct {
	unimplemented
	*sandboxes
	*containers
	*queries
	*streams
	*meters
	*info
	*hub

	cfg Config
	m   *machine
}

// unimplemented answers what the other parts do not: checkpoints of pods.
type unimplemented struct {
	runtimeapi.UnimplementedRuntimeServiceServer
}

var _ runtimeapi.RuntimeServiceServer = (*Runtime)(nil)

// machine is what all parts stand on.
type machine struct {
	cfg       Config
	host      spec.Host
	shims     shims
	log       *zap.Logger
	clock     clock.Clock
	table     *table
	hub       *hub
	pods      book[sandboxRecord]
	tasks     book[containerRecord]
	following sync.WaitGroup
	close     context.CancelFunc
	life      context.Context // ends with Close
}

// Open takes up what a runtime before this one left: it connects to the shims that run, and cleans up what is half made.
func Open(cfg Config) (*Runtime, error) { return open(cfg, realShims()) }

func open(cfg Config, via shims) (*Runtime, error) {
	cfg, err := cfg.complete()
	if err != nil {
		return nil, err
	}
	m := &machine{
		cfg: cfg, host: spec.Probe(), shims: via, log: cfg.Logger, clock: cfg.Clock, table: newTable(), hub: newHub(),
		pods:  book[sandboxRecord]{filepath.Join(cfg.Root, "sandboxes")},
		tasks: book[containerRecord]{filepath.Join(cfg.Root, "containers")},
	}
	m.host.Seccomp, m.host.SeccompDir = shim.Seccomp(), cfg.SeccompDir
	m.life, m.close = context.WithCancel(context.Background())
	for _, dir := range []string{m.netnsDir(), m.shimsDir(), m.sandboxesDir(), m.bundlesDir()} {
		if err := os.MkdirAll(dir, 0o711); err != nil {
			return nil, fmt.Errorf("runtime: %w", err)
		}
	}
	cs := &containers{m: m}
	ss := &sandboxes{m: m, containers: cs}
	r := &Runtime{cfg: cfg, m: m, sandboxes: ss, containers: cs, queries: &queries{m}, hub: m.hub, info: &info{m: m}}
	r.meters = newMeters(m)
	if r.streams, err = newStreams(m, cfg.StreamAddress); err != nil {
		return nil, err
	}
	m.hub.describe = r.queries.describe
	if err := (&recovery{m: m, sandboxes: ss, containers: cs}).run(m.life); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return r, nil
}

// Close lets go of the shims. Containers run on.
func (r *Runtime) Close() error {
	r.m.close()
	err := r.streams.close()
	r.m.hub.close()
	r.m.following.Wait()
	return err
}

// Serve answers CRI on the socket until the context ends. It serves exec, attach and port-forward besides.
func (r *Runtime) Serve(ctx context.Context) error {
	if r.cfg.Socket == "" {
		return errors.New("runtime: no socket to serve on")
	}
	if err := os.MkdirAll(filepath.Dir(r.cfg.Socket), 0o711); err != nil {
		return fmt.Errorf("runtime: %w", err)
	}
	if err := os.Remove(r.cfg.Socket); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("runtime: %w", err)
	}
	l, err := net.Listen("unix", r.cfg.Socket)
	if err != nil {
		return fmt.Errorf("runtime: %w", err)
	}
	if err := os.Chmod(r.cfg.Socket, 0o660); err != nil {
		return errors.Join(err, l.Close())
	}
	server := grpc.NewServer(grpc.MaxRecvMsgSize(maxMessage), grpc.MaxSendMsgSize(maxMessage), grpc.WaitForHandlers(true))
	runtimeapi.RegisterRuntimeServiceServer(server, r)
	if r.cfg.ImageService != nil {
		runtimeapi.RegisterImageServiceServer(server, r.cfg.ImageService)
	}
	stop := context.AfterFunc(ctx, func() {
		r.m.hub.close() // streams of events would keep the server from stopping
		done := time.AfterFunc(stopPatience, server.Stop)
		server.GracefulStop()
		done.Stop()
	})
	defer stop()
	if err := server.Serve(l); err != nil && ctx.Err() == nil {
		return fmt.Errorf("runtime: %w", err)
	}
	server.Stop()
	return nil
}

// stopPatience is how long calls may go on when the server is to stop.
const stopPatience = 2 * time.Second

func (m *machine) netnsDir() string                 { return filepath.Join(m.cfg.State, "netns") }
func (m *machine) shimsDir() string                 { return filepath.Join(m.cfg.State, "shims") }
func (m *machine) sandboxesDir() string             { return filepath.Join(m.cfg.State, "sandboxes") }
func (m *machine) bundlesDir() string               { return filepath.Join(m.cfg.State, "bundles") }
func (m *machine) netns(sandbox string) string      { return filepath.Join(m.netnsDir(), sandbox) }
func (m *machine) shimDir(sandbox string) string    { return filepath.Join(m.shimsDir(), sandbox) }
func (m *machine) sandboxDir(sandbox string) string { return filepath.Join(m.sandboxesDir(), sandbox) }
func (m *machine) bundle(container string) string   { return filepath.Join(m.bundlesDir(), container) }
