package httpapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.uber.org/zap"
)

// Health is the member as the health checks see it.
type Health struct {
	Alarms    func() []*pb.AlarmMember
	Lead      func() uint64
	IsLearner func() bool
	// Read reads one key, linearizably or not.
	Read       func(ctx context.Context, serializable bool) error
	Timeout    time.Duration
	Registerer prometheus.Registerer
	Logger     *zap.Logger
}

// Checks are the handlers of /health, /livez and /readyz.
type Checks struct {
	cfg      Health
	ok       prometheus.Counter
	failed   prometheus.Counter
	outcome  *prometheus.GaugeVec
	outcomes *prometheus.CounterVec
}

type check struct {
	name string
	run  func(context.Context) error
}

// NewHealth makes the checks and registers their metrics; metrics that are registered already are shared.
func NewHealth(cfg Health) *Checks {
	return &Checks{
		cfg: cfg,
		ok: register(cfg.Registerer, prometheus.NewCounter(prometheus.CounterOpts{
			Name: "etcd_server_health_success", Help: "The total number of successful health checks"})),
		failed: register(cfg.Registerer, prometheus.NewCounter(prometheus.CounterOpts{
			Name: "etcd_server_health_failures", Help: "The total number of failed health checks"})),
		outcome: register(cfg.Registerer, prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "etcd_server_healthcheck", Help: "The result of each kind of healthcheck."}, []string{"type", "name"})),
		outcomes: register(cfg.Registerer, prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "etcd_server_healthchecks_total", Help: "The total number of each kind of healthcheck."},
			[]string{"type", "name", "status"})),
	}
}

func register[C prometheus.Collector](r prometheus.Registerer, c C) C {
	if r == nil {
		return c
	}
	var already prometheus.AlreadyRegisteredError
	if err := r.Register(c); errors.As(err, &already) {
		return already.ExistingCollector.(C)
	}
	return c
}

func (c *Checks) register(mux *http.ServeMux) {
	mux.HandleFunc("/health", c.health)
	read := func(serializable bool) func(context.Context) error {
		return func(ctx context.Context) error { return c.cfg.Read(ctx, serializable) }
	}
	c.family(mux, "livez", []check{{"serializable_read", read(true)}})
	c.family(mux, "readyz", []check{
		{"data_corruption", c.notCorrupt},
		{"serializable_read", read(true)},
		{"linearizable_read", read(false)},
		{"non_learner", c.notLearner},
	})
}

func (c *Checks) notCorrupt(context.Context) error {
	for _, a := range c.cfg.Alarms() {
		if a.Alarm == pb.AlarmType_CORRUPT {
			return fmt.Errorf("alarm activated: %s", a.Alarm)
		}
	}
	return nil
}

func (c *Checks) notLearner(context.Context) error {
	if c.cfg.IsLearner() {
		return errors.New("not supported for learner")
	}
	return nil
}

// health is the oldest of the checks: one JSON object with health and reason.
func (c *Checks) health(w http.ResponseWriter, r *http.Request) {
	if allow(w, r, http.MethodGet) {
		c.tell(w, c.unhealthy(r))
	}
}

// Simple is a handler of that kind alone, for another check: unhealthy says why not, or "".
func (c *Checks) Simple(unhealthy func(ctx context.Context) (reason string)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if allow(w, r, http.MethodGet) {
			c.tell(w, unhealthy(r.Context()))
		}
	}
}

func (c *Checks) tell(w http.ResponseWriter, reason string) {
	body, _ := json.Marshal(struct {
		Health string `json:"health"`
		Reason string `json:"reason"`
	}{fmt.Sprint(reason == ""), reason})
	if reason != "" {
		c.failed.Inc()
		c.cfg.Logger.Warn("serving /health false", zap.String("reason", reason))
		http.Error(w, string(body), http.StatusServiceUnavailable)
		return
	}
	c.ok.Inc()
	_, _ = w.Write(body)
}

func (c *Checks) unhealthy(r *http.Request) (reason string) {
	q := r.URL.Query()
	excluded := toSet(q["exclude"])
	for _, a := range c.cfg.Alarms() {
		if !excluded[a.Alarm.String()] {
			return "ALARM " + a.Alarm.String()
		}
	}
	serializable := q.Get("serializable") == "true"
	if !serializable && c.cfg.Lead() == 0 {
		return "RAFT NO LEADER"
	}
	ctx, cancel := context.WithTimeout(r.Context(), c.cfg.Timeout)
	defer cancel()
	if err := c.cfg.Read(ctx, serializable); err != nil {
		return fmt.Sprintf("RANGE ERROR:%s", err)
	}
	return ""
}

// family serves /kind, which runs all checks, and /kind/name for each.
func (c *Checks) family(mux *http.ServeMux, kind string, checks []check) {
	mux.HandleFunc("/"+kind, func(w http.ResponseWriter, r *http.Request) {
		excluded := toSet(r.URL.Query()["exclude"])
		var run []check
		for _, ch := range checks {
			if !excluded[ch.name] {
				run = append(run, ch)
			}
		}
		c.serve(w, r, kind, run)
	})
	for _, ch := range checks {
		mux.HandleFunc("/"+kind+"/"+ch.name, func(w http.ResponseWriter, r *http.Request) {
			c.serve(w, r, kind, []check{ch})
		})
	}
}

func (c *Checks) serve(w http.ResponseWriter, r *http.Request, kind string, checks []check) {
	if !allow(w, r, http.MethodGet) {
		return
	}
	var lines strings.Builder
	healthy := true
	for _, ch := range checks {
		status, value := "success", 1.0
		if err := ch.run(r.Context()); err != nil {
			healthy, status, value = false, "error", 0
			fmt.Fprintf(&lines, "[-]%s failed: %v\n", ch.name, err)
		} else {
			fmt.Fprintf(&lines, "[+]%s ok\n", ch.name)
		}
		c.outcome.WithLabelValues(kind, ch.name).Set(value)
		c.outcomes.WithLabelValues(kind, ch.name, status).Inc()
	}
	if !healthy {
		c.cfg.Logger.Error("health check failed", zap.String("path", r.URL.Path), zap.String("reason", lines.String()))
		http.Error(w, lines.String(), http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	if r.URL.Query().Has("verbose") {
		fmt.Fprint(w, lines.String())
	}
	fmt.Fprint(w, "ok\n")
}

func toSet(names []string) map[string]bool {
	set := make(map[string]bool, len(names))
	for _, n := range names {
		set[n] = n != ""
	}
	return set
}
