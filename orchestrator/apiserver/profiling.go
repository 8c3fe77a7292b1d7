package apiserver

import (
	"net/http"
	"net/http/pprof"
)

// profiling serves profiles of the process, as kube-apiserver's --profiling does, to whoever may read the path.
func profiling(mux *http.ServeMux) {
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
}
