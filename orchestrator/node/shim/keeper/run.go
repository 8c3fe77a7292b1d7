//go:build linux && cgo

package keeper

import (
	"errors"
	"fmt"
	"log"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/keelson-io/keelson/orchestrator/node/shim/ledger"
	"github.com/keelson-io/keelson/orchestrator/node/shim/wire"
)

// Config is what a shim is started with.
type Config struct {
	Dir         string
	Cgroup      string
	OOMScoreAdj int
}

// Memory: a shim does little, and there is one for every pod.
const (
	gcPercent = 20
	memLimit  = 8 << 20 // bytes of the heap and what Go adds to it, above which the collector works harder
	procs     = 2
	quiet     = time.Second // after which unused memory is given back
	maxLog    = 1 << 20     // bytes of the shim's own log, after which it begins anew
)

// Run serves until Shutdown. It tells ready what went wrong at the start, or "ok", and closes it. The caller has locked itself
// to the main thread: libcontainer and the sandbox leave threads in other namespaces, or as other users, and let them end,
// which the main thread cannot.
func Run(cfg Config, ready *os.File) error {
	debug.SetGCPercent(gcPercent)
	debug.SetMemoryLimit(memLimit)
	runtime.GOMAXPROCS(procs)
	k, listener, err := start(cfg)
	if err != nil {
		_, _ = fmt.Fprintln(ready, err)
		_ = ready.Close()
		return err
	}
	_, _ = fmt.Fprintln(ready, "ok")
	_ = ready.Close()
	k.idle.Reset(quiet)
	served := make(chan struct{})
	go func() {
		defer close(served)
		k.serve(listener)
	}()
	<-served
	return nil
}

func start(cfg Config) (*Keeper, *net.UnixListener, error) {
	unix.Umask(0o022)
	if err := os.Chdir("/"); err != nil {
		return nil, nil, err
	}
	// Handled, so that they end neither the shim nor, as ignored ones would be inherited, go unheard in containers.
	deaf := make(chan os.Signal, 1)
	signal.Notify(deaf, unix.SIGHUP, unix.SIGINT, unix.SIGTERM, unix.SIGQUIT, unix.SIGPIPE)
	go func() {
		for range deaf {
		}
	}()
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return nil, nil, fmt.Errorf("shim: subreaper: %w", err)
	}
	if cfg.OOMScoreAdj != 0 {
		if err := os.WriteFile("/proc/self/oom_score_adj", []byte(strconv.Itoa(cfg.OOMScoreAdj)), 0); err != nil {
			log.Printf("its OOM score stays: %v", err)
		}
	}
	self, err := ledger.Find(os.Getpid())
	if err != nil {
		return nil, nil, err
	}
	k := newKeeper(cfg.Dir, ledger.Ledger{Shim: self, Cgroup: cfg.Cgroup})
	if err := k.save(); err != nil {
		return nil, nil, err
	}
	if cfg.Cgroup != "" {
		m, err := ledger.Own(cfg.Cgroup)
		if err == nil {
			err = m.Apply(os.Getpid())
		}
		if err != nil {
			return nil, nil, fmt.Errorf("shim: cgroup %s: %w", cfg.Cgroup, err)
		}
	}
	listener, err := listen(cfg.Dir)
	if err != nil {
		return nil, nil, err
	}
	go k.reap()
	return k, listener, nil
}

// rest is what is done when all is quiet.
func rest() {
	debug.FreeOSMemory()
	if info, err := os.Stderr.Stat(); err == nil && info.Mode().IsRegular() && info.Size() > maxLog {
		_ = os.Stderr.Truncate(0)
	}
}

func listen(dir string) (*net.UnixListener, error) {
	if err := os.Remove(filepath.Join(dir, ledger.SocketName)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	path, done, err := ledger.SocketPath(dir)
	if err != nil {
		return nil, err
	}
	defer done()
	old := unix.Umask(0o177)
	defer unix.Umask(old)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("shim: %w", err)
	}
	l.SetUnlinkOnClose(false)
	return l, nil
}

func (k *Keeper) serve(l *net.UnixListener) {
	go func() {
		<-k.down
		_ = l.Close()
	}()
	for {
		conn, err := l.AcceptUnix()
		select {
		case <-k.down:
			return
		default:
		}
		if err != nil {
			log.Printf("accept: %v", err)
			time.Sleep(100 * time.Millisecond) // out of descriptors, most likely
			continue
		}
		go k.answer(wire.Conn{UnixConn: conn})
	}
}
