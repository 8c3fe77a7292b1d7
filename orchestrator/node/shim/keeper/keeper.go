//go:build linux && cgo

package keeper

import (
	"fmt"
	"log"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/keelson-io/keelson/orchestrator/node/shim/ledger"
	"github.com/keelson-io/keelson/orchestrator/node/shim/wire"
)

// Keeper is a shim at work.
type Keeper struct {
	dir  string
	down chan struct{} // closed by Shutdown
	idle *time.Timer   // is set anew by all that happens; then rest

	starts  sync.RWMutex  // read-held while libcontainer starts processes and waits for its helpers
	started chan struct{} // wakes reap after that

	mu         sync.Mutex
	ledger     ledger.Ledger // but for the containers
	sandbox    *sandbox
	containers map[string]*container
	order      []string     // of their creation
	owned      map[int]bool // processes that somebody waits for
	feeds      map[*feed]bool
}

func newKeeper(dir string, l ledger.Ledger) *Keeper {
	k := &Keeper{
		dir: dir, down: make(chan struct{}), started: make(chan struct{}, 1), ledger: l,
		containers: map[string]*container{}, owned: map[int]bool{}, feeds: map[*feed]bool{},
	}
	k.idle = time.AfterFunc(time.Hour, rest)
	return k
}

// codeError is an error that a client can tell apart.
type codeError struct {
	code wire.Code
	text string
}

func (e *codeError) Error() string { return e.text }

func errorf(code wire.Code, format string, args ...any) error {
	return &codeError{code, fmt.Sprintf(format, args...)}
}

// find returns a container that was created.
func (k *Keeper) find(id string) (*container, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	c := k.containers[id]
	if c == nil || c.state.Status == "" {
		return nil, errorf(wire.NotFound, "no container %q", id)
	}
	return c, nil
}

// states tells all containers, the oldest first. The lock is held.
func (k *Keeper) states() []wire.State {
	states := []wire.State{}
	for _, id := range k.order {
		if s := k.containers[id].state; s.Status != "" {
			states = append(states, s)
		}
	}
	return states
}

// set changes the state of a container, and tells everybody.
func (k *Keeper) set(c *container, change func(*wire.State)) {
	k.mu.Lock()
	change(&c.state)
	for f := range k.feeds {
		f.push(c.state)
	}
	k.mu.Unlock()
	if err := k.save(); err != nil {
		log.Print(err)
	}
}

// save writes the ledger.
func (k *Keeper) save() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	l := k.ledger
	for _, id := range k.order {
		c := k.containers[id]
		l.Containers = append(l.Containers, ledger.Container{State: c.state, Init: c.process, Cgroup: c.cgroup})
	}
	return l.Write(k.dir)
}

func (k *Keeper) stateDir() string { return filepath.Join(k.dir, ledger.StateName) }

// own runs what starts a process, and notes that somebody waits for it.
func (k *Keeper) own(start func() (pid int, err error)) (int, error) {
	defer k.starting()()
	pid, err := start()
	if err == nil {
		k.mu.Lock()
		k.owned[pid] = true
		k.mu.Unlock()
	}
	return pid, err
}

// starting keeps what is started from being reaped by anybody else, until done is called.
func (k *Keeper) starting() (done func()) {
	k.starts.RLock()
	return func() {
		k.starts.RUnlock()
		select {
		case k.started <- struct{}{}:
		default:
		}
	}
}

// disown says that a process has been waited for.
func (k *Keeper) disown(pid int) {
	k.mu.Lock()
	delete(k.owned, pid)
	k.mu.Unlock()
}

// reap waits for processes that nobody else does: those that were orphaned in containers without a PID namespace.
func (k *Keeper) reap() {
	children := make(chan os.Signal, 1)
	signal.Notify(children, unix.SIGCHLD)
	for {
		select {
		case <-children:
		case <-k.started:
		}
		for k.reapOne() {
		}
	}
}

// reapOne tells whether there may be more.
func (k *Keeper) reapOne() bool {
	if !k.starts.TryLock() {
		return false // the end of the last of them comes back to it
	}
	pid, ok := peek()
	k.mu.Lock()
	owned := k.owned[pid]
	k.mu.Unlock()
	if ok && !owned {
		_, _ = unix.Wait4(pid, nil, unix.WNOHANG, nil)
	}
	k.starts.Unlock()
	if owned { // its owner is about to; what hides behind it comes next
		time.Sleep(time.Millisecond)
	}
	return ok
}

// feed carries the changes of states to one client.
type feed struct {
	mu    sync.Mutex
	queue []wire.State
	wake  chan struct{}
}

func (f *feed) push(s wire.State) {
	f.mu.Lock()
	f.queue = append(f.queue, s)
	f.mu.Unlock()
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

func (f *feed) take() []wire.State {
	f.mu.Lock()
	defer f.mu.Unlock()
	queue := f.queue
	f.queue = nil
	return queue
}

// subscribe begins with the states of now.
func (k *Keeper) subscribe() *feed {
	f := &feed{wake: make(chan struct{}, 1)}
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, s := range k.states() {
		f.push(s)
	}
	k.feeds[f] = true
	return f
}

func (k *Keeper) unsubscribe(f *feed) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.feeds, f)
}
