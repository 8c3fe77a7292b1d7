package apiserver

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"sync/atomic"

	"github.com/keelson-io/keelson/orchestrator/apiserver/health"
)

// stages are what the server has to reach before it is ready, and the end of that.
type stages struct {
	informers *health.Stage            // the objects that the server follows
	hooks     map[string]*health.Stage // by the name of their check
	retired   atomic.Bool
}

// Stages, by the names that kube-apiserver's checks have.
const (
	stageBootstrap   = "poststarthook/bootstrap-controller"
	stageInformers   = "poststarthook/priority-and-fairness-config-consumer"
	stageDefinitions = "poststarthook/crd-informer-synced"
)

// together are checks that a stage has beside its own: kube-apiserver does one after the other what is done at once here.
var together = map[string][]string{
	stageBootstrap: {
		"poststarthook/rbac/bootstrap-roles", "poststarthook/scheduling/bootstrap-system-priority-classes",
		"poststarthook/priority-and-fairness-config-producer",
	},
	stageInformers: {"poststarthook/generic-apiserver-start-informers"},
}

func newStages() *stages {
	s := &stages{informers: health.NewStage(), hooks: map[string]*health.Stage{}}
	for _, name := range []string{stageBootstrap, stageInformers, stageDefinitions} {
		s.hooks[name] = health.NewStage(name)
	}
	return s
}

func (s *stages) done(name string) { s.hooks[name].Done(name) }

func (s *stages) retire() { s.retired.Store(true) }

// list returns the checks of all stages, in the order of their names.
func (s *stages) list() (out []health.Check) {
	for name, stage := range s.hooks {
		for _, n := range append([]string{name}, together[name]...) {
			out = append(out, stage.Check(n))
		}
	}
	slices.SortFunc(out, func(a, b health.Check) int {
		if a.Name < b.Name {
			return -1
		}
		return 1
	})
	return out
}

// checks serves health. A server that is shutting down lives on, but is not ready.
func (a *API) checks(mux *http.ServeMux) {
	store := func(name string) health.Check { return health.Check{Name: name, Do: a.cfg.Store.Health} }
	shutdown := health.Check{Name: "shutdown", Do: func(context.Context) error {
		if a.stages.retired.Load() {
			return errors.New("process is shutting down")
		}
		return nil
	}}
	hooks := a.stages.list()
	lives := append([]health.Check{health.Ping(), store("etcd")}, hooks...)
	ready := append([]health.Check{health.Ping(), store("etcd"), store("etcd-readiness"), a.stages.informers.Check("informer-sync")}, hooks...)
	health.Serve(mux, "/healthz", a.cfg.Logger, lives...)
	health.Serve(mux, "/livez", a.cfg.Logger, lives...)
	health.Serve(mux, "/readyz", a.cfg.Logger, append(ready, shutdown)...)
}
