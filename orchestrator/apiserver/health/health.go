// Package health serves /healthz, /livez and /readyz as kube-apiserver does: named checks, each with a path of its own, that can
// be listed (?verbose) and left out (?exclude=name).
//
// # Concurrency
//
// Checks are called from many goroutines, those of one request in turn. A Stage may be reached from any goroutine.
package health

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"

	"go.uber.org/zap"
)

// Check is one thing that has to be in order.
type Check struct {
	Name string
	// Do returns what is wrong. It takes no longer than a few seconds.
	Do func(context.Context) error
}

// Ping is always in order.
func Ping() Check { return Check{"ping", func(context.Context) error { return nil }} }

// Stage is something that has to be done once, or several such things.
type Stage struct {
	mu      sync.Mutex
	waiting []string
}

// NewStage returns a Stage that is reached when all of some things are done.
func NewStage(things ...string) *Stage { return &Stage{waiting: things} }

// Expect adds something that has to be done.
func (s *Stage) Expect(thing string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.waiting = append(s.waiting, thing)
}

// Done notes that something is done.
func (s *Stage) Done(thing string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.waiting = slices.DeleteFunc(s.waiting, func(w string) bool { return w == thing })
}

// Check is in order when everything is done.
func (s *Stage) Check(name string) Check {
	return Check{name, func(context.Context) error {
		s.mu.Lock()
		defer s.mu.Unlock()
		if len(s.waiting) > 0 {
			return errors.New("not done yet: " + strings.Join(s.waiting, ", "))
		}
		return nil
	}}
}

// Serve adds checks to a mux, at a path such as /livez and below it.
func Serve(mux *http.ServeMux, path string, lg *zap.Logger, checks ...Check) {
	mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) { all(w, r, strings.TrimPrefix(path, "/"), lg, checks) })
	for _, c := range checks {
		mux.HandleFunc(path+"/"+c.Name, func(w http.ResponseWriter, r *http.Request) {
			if err := c.Do(r.Context()); err != nil {
				http.Error(w, "internal server error: "+err.Error(), http.StatusInternalServerError)
				return
			}
			_, _ = fmt.Fprint(w, "ok") // the client is gone
		})
	}
}

// all answers for all checks. What is wrong is for the log: the path is public.
func all(w http.ResponseWriter, r *http.Request, name string, lg *zap.Logger, checks []Check) {
	query := r.URL.Query()
	unknown := slices.Clone(query["exclude"])
	var out strings.Builder
	failed := false
	for _, c := range checks {
		if slices.Contains(query["exclude"], c.Name) {
			unknown = slices.DeleteFunc(unknown, func(n string) bool { return n == c.Name })
			fmt.Fprintf(&out, "[+]%s excluded: ok\n", c.Name)
		} else if err := c.Do(r.Context()); err != nil {
			failed = true
			fmt.Fprintf(&out, "[-]%s failed: reason withheld\n", c.Name)
			lg.Info("a check failed", zap.String("of", name), zap.String("check", c.Name), zap.Error(err))
		} else {
			fmt.Fprintf(&out, "[+]%s ok\n", c.Name)
		}
	}
	if len(unknown) > 0 {
		slices.Sort(unknown)
		fmt.Fprintf(&out, "warn: some health checks cannot be excluded: no matches for %q\n", slices.Compact(unknown))
	}
	if failed {
		http.Error(w, out.String()+name+" check failed", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	if query.Has("verbose") {
		_, _ = fmt.Fprintf(w, "%s%s check passed\n", out.String(), name)
		return
	}
	_, _ = fmt.Fprint(w, "ok")
}
