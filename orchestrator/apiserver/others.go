package apiserver

import (
	"encoding/json"
	"net/http"
	"runtime"
	"strings"
	"sync"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/version"

	"github.com/keelson-io/keelson/orchestrator/apiserver/discovery"
	"github.com/keelson-io/keelson/orchestrator/apiserver/identity"
	"github.com/keelson-io/keelson/orchestrator/apiserver/openapi"
)

// Version is the version of Kubernetes whose API is served.
const (
	major      = "1"
	minor      = "37"
	patchLevel = "2"
)

// virtual are the resources that are never stored, whatever else there is.
func virtual() []discovery.Virtual {
	create := []string{"create"}
	of := func(gv schema.GroupVersion, kind, resource string, namespaced bool) discovery.Virtual {
		return discovery.Virtual{GroupVersionKind: gv.WithKind(kind), Resource: resource, Singular: strings.ToLower(kind), Verbs: create, Namespaced: namespaced}
	}
	authentication, authorization := authenticationv1.SchemeGroupVersion, authorizationv1.SchemeGroupVersion
	return []discovery.Virtual{
		of(corev1.SchemeGroupVersion, "Binding", "bindings", true),
		of(authentication, "TokenReview", "tokenreviews", false),
		of(authentication, "SelfSubjectReview", "selfsubjectreviews", false),
		of(authorization, "SubjectAccessReview", "subjectaccessreviews", false),
		of(authorization, "LocalSubjectAccessReview", "localsubjectaccessreviews", true),
		of(authorization, "SelfSubjectAccessReview", "selfsubjectaccessreviews", false),
		of(authorization, "SelfSubjectRulesReview", "selfsubjectrulesreviews", false),
	}
}

// virtual are the resources that this server has and that are never stored.
func (a *API) virtual() []discovery.Virtual {
	if a.cfg.Metrics == nil {
		return virtual()
	}
	return append(virtual(), metricsResources()...)
}

// byResource finds them by their names.
func byResource(of []discovery.Virtual) map[schema.GroupResource]discovery.Virtual {
	out := map[schema.GroupResource]discovery.Virtual{}
	for _, v := range of {
		out[schema.GroupResource{Group: v.Group, Resource: v.Resource}] = v
	}
	return out
}

// others serves what is no resource.
func (a *API) others() (http.Handler, error) {
	mux := http.NewServeMux()
	documents := a.documents()
	mux.Handle("/api", documents)
	mux.Handle("/api/", documents)
	mux.Handle("/apis", documents)
	mux.Handle("/apis/", documents)
	schemas := openapi.New(a.cfg.Kinds, a.virtual(), a.custom.all, a.aggregator.Schemas)
	for _, p := range []string{"/openapi/v2", "/openapi/v3", "/openapi/v3/"} {
		mux.Handle(p, schemas)
	}
	mux.HandleFunc("/version", serveVersion)
	mux.HandleFunc("/version/", serveVersion)
	a.checks(mux)
	mux.Handle("/metrics", promhttp.HandlerFor(a.cfg.Registry, promhttp.HandlerOpts{}))
	if strings.HasPrefix(a.cfg.Issuer, "https://") {
		d, err := identity.NewDiscovery(a.cfg.Issuer, "", a.cfg.Address, a.cfg.Keys)
		if err != nil {
			return nil, err
		}
		mux.Handle(identity.ConfigurationPath, d)
		mux.Handle(identity.KeysPath, d)
	}
	profiling(mux)
	mux.HandleFunc("/{$}", serveRoot)
	return mux, nil
}

// documents serves discovery for whatever is served at the moment.
func (a *API) documents() http.Handler {
	var mu sync.Mutex
	var of *table
	var others *discovery.Aggregated
	var handler http.Handler
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		if t, o := a.server.table.Load(), a.aggregator.Discovery(); t != of || o != others {
			of, others, handler = t, o, discovery.New(t.kinds, a.virtual(), *o)
		}
		h := handler
		mu.Unlock()
		h.ServeHTTP(w, r)
	})
}

func writeJSON(w http.ResponseWriter, v any) {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(b) // the client is gone
}

func serveVersion(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, version.Info{
		Major: major, Minor: minor, EmulationMajor: major, EmulationMinor: minor, MinCompatibilityMajor: major, MinCompatibilityMinor: "36",
		GitVersion: "v" + major + "." + minor + "." + patchLevel + "+keelson", GitTreeState: "clean",
		GoVersion: runtime.Version(), Compiler: runtime.Compiler, Platform: runtime.GOOS + "/" + runtime.GOARCH,
	})
}

// serveRoot lists the paths below the root.
func serveRoot(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, map[string][]string{"paths": {
		"/.well-known/openid-configuration", "/api", "/api/v1", "/apis", "/debug/pprof", "/healthz", "/livez", "/metrics", "/openapi/v2", "/openapi/v3",
		"/openid/v1/jwks", "/readyz", "/version",
	}})
}
