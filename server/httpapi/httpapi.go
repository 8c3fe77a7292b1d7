// Package httpapi is what a member serves over plain HTTP beside gRPC: health checks, metrics, its version, the JSON gateway
// and, when enabled, runtime profiles.
//
// Paths, parameters and bodies are etcd's: monitoring that reads an etcd member reads this one.
//
// # Concurrency
//
// Handlers are called concurrently; all state behind them is the member's own.
package httpapi

import (
	"encoding/json"
	"expvar"
	"net/http"
	"net/http/pprof"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.etcd.io/etcd/api/v3/version"

	"github.com/keelson-io/keelson/server/httpapi/gateway"
)

// Config is what the handlers need.
type Config struct {
	Health         Health
	Metrics        prometheus.Gatherer
	Registerer     prometheus.Registerer // where scrapes are counted; may be nil
	ClusterVersion func() string         // "" while it is not decided
	StorageVersion func() string         // "" if unknown
	Pprof          bool
	Gateway        *gateway.Gateway // nil: no JSON gateway
	UI             http.Handler     // of paths below /ui/; nil: no page for people
}

// NewClient makes the handler of the client port.
func NewClient(cfg Config) http.Handler {
	mux := http.NewServeMux()
	NewHealth(cfg.Health).register(mux)
	mux.Handle("/metrics", scrapes(cfg))
	mux.HandleFunc("/version", Version(cfg.ClusterVersion, cfg.StorageVersion))
	mux.Handle("/debug/vars", expvar.Handler())
	if cfg.Gateway != nil {
		cfg.Gateway.Register(mux)
	}
	if cfg.UI != nil {
		mux.Handle("/ui/", http.StripPrefix("/ui", cfg.UI))
		mux.Handle("/ui", http.RedirectHandler("/ui/", http.StatusMovedPermanently))
	}
	if cfg.Pprof {
		Pprof(mux)
	}
	return mux
}

// Pprof adds the runtime profiles to a mux.
func Pprof(mux *http.ServeMux) {
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
}

// NewMetrics makes the handler of a listener for monitoring only.
func NewMetrics(cfg Config) http.Handler {
	mux := http.NewServeMux()
	NewHealth(cfg.Health).register(mux)
	mux.Handle("/metrics", scrapes(cfg))
	return mux
}

// scrapes serves the metrics, and counts how often.
func scrapes(cfg Config) http.Handler {
	h := promhttp.HandlerFor(cfg.Metrics, promhttp.HandlerOpts{})
	if cfg.Registerer == nil {
		return h
	}
	return promhttp.InstrumentMetricHandler(cfg.Registerer, h) // those of two listeners share their counters
}

// Version answers with the versions of the member, the cluster and the storage.
func Version(cluster, storage func() string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if !allow(w, r, http.MethodGet) {
			return
		}
		vs := version.Versions{Server: version.Version, Cluster: cluster(), Storage: storage()}
		if vs.Cluster == "" {
			vs.Cluster = "not_decided"
		}
		if vs.Storage == "" {
			vs.Storage = "unknown"
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(vs)
	}
}

func allow(w http.ResponseWriter, r *http.Request, method string) bool {
	if r.Method == method {
		return true
	}
	w.Header().Set("Allow", method)
	http.Error(w, "Method Not Allowed", http.StatusMethodNotAllowed)
	return false
}
