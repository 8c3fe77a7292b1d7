package bench

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"
)

// Op is one operation of worker w. Its latency is recorded by the runner.
type Op func(ctx context.Context, e *Env, w *Worker) error

// Worker is one client of the loop.
type Worker struct {
	ID    int
	Rng   *rand.Rand
	N     int64     // the number of the operation
	Begin time.Time // when the operation began, or in an open loop should have begun
}

func newWorker(id int) *Worker {
	return &Worker{ID: id, Rng: rand.New(rand.NewPCG(uint64(id), uint64(time.Now().UnixNano())))}
}

// Session is a workload prepared for one run.
type Session struct {
	Op Op
	// Own says that the session records by itself, with recorders that it got from Start: what counts is not how long Op
	// takes but something that it sets off.
	Own bool
	// Drain waits for what operations set off, when no more are begun. The run includes it. Nil: nothing.
	Drain func(ctx context.Context)
	// Close cleans up, after the measurement. Nil: nothing.
	Close func(ctx context.Context) error
}

// Workload is one kind of load. Either Op or Start is set.
type Workload struct {
	Name string
	Doc  string
	// Keys is the size of the key space if Options do not say. Space makes it; nil is the one that most workloads share.
	Keys  int
	Space func(n int) *Space
	// Load says that the key space is to be filled first.
	Load bool
	// Rate is that of an open loop if Options do not say; 0: a closed loop.
	Rate  float64
	Op    Op
	Start func(ctx context.Context, e *Env, record func() *Recorder) (*Session, error)
}

// Workloads are all of them, in the order of reports.
func Workloads() []Workload {
	return slices.Concat(kvWorkloads(), watchWorkloads(), leaseWorkloads(), kubernetesWorkloads())
}

// Find returns workloads by name; "all" is all of them.
func Find(names []string) ([]Workload, error) {
	var out []Workload
	for _, name := range names {
		found := false
		for _, w := range Workloads() {
			if w.Name == name || name == "all" {
				out, found = append(out, w), true
			}
		}
		if !found {
			return nil, fmt.Errorf("there is no workload %q; there are: %s", name, strings.Join(Names(), " "))
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("no workload is named; there are: %s", strings.Join(Names(), " "))
	}
	return out, nil
}

// Names lists the workloads.
func Names() (out []string) {
	for _, w := range Workloads() {
		out = append(out, w.Name)
	}
	return out
}
