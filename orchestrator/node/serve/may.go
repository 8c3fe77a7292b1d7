package serve

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/cache"
	"k8s.io/client-go/kubernetes"
)

// How long it is believed that somebody may do something, and that he may not.
const (
	allowedTime = 5 * time.Minute
	deniedTime  = 30 * time.Second
)

// authorizer finds out who may do what.
type authorizer struct {
	node    string
	client  kubernetes.Interface
	answers *cache.LRUExpireCache // bool by question
}

func newAuthorizer(cfg *Config) *authorizer {
	return &authorizer{node: cfg.Node, client: cfg.Client, answers: cache.NewLRUExpireCacheWithClock(cacheSize, cfg.Clock)}
}

// fineGrained are paths that have a subresource of their own beside proxy.
var fineGrained = []struct{ path, subresource string }{
	{"/pods", "pods"}, {"/runningpods", "pods"}, {"/healthz", "healthz"}, {"/configz", "configz"},
}

// instead are paths that have a subresource in place of proxy.
var instead = []struct{ path, subresource string }{
	{"/stats", "stats"}, {"/metrics", "metrics"}, {"/logs", "log"}, {"/checkpoint", "checkpoint"},
}

// acting are paths whose requests are always to create something.
var acting = []string{"/exec", "/attach", "/portForward", "/run"}

var verbs = map[string]string{
	http.MethodGet: "get", http.MethodHead: "get", http.MethodPost: "create", http.MethodPut: "update", http.MethodPatch: "patch", http.MethodDelete: "delete",
}

func below(path, root string) bool { return path == root || strings.HasPrefix(path, root+"/") }

// asked says what a request needs: a verb, and one of some subresources of the node.
func asked(r *http.Request) (verb string, subresources []string) {
	verb = verbs[r.Method]
	if slices.ContainsFunc(acting, func(p string) bool { return below(r.URL.Path, p) }) {
		verb = "create"
	}
	for _, x := range instead {
		if below(r.URL.Path, x.path) {
			return verb, []string{x.subresource}
		}
	}
	for _, x := range fineGrained {
		if below(r.URL.Path, x.path) {
			return verb, []string{x.subresource, "proxy"}
		}
	}
	return verb, []string{"proxy"}
}

// may says whether somebody may have what he asks for. It is an error if the API server could not be asked.
func (a *authorizer) may(r *http.Request, u *user) (bool, error) {
	verb, subresources := asked(r)
	if verb == "" {
		return false, nil
	}
	if slices.Contains(u.Groups, masters) {
		return true, nil
	}
	for _, sub := range subresources {
		if ok, err := a.ask(r.Context(), u, verb, sub); ok || err != nil {
			return ok, err
		}
	}
	return false, nil
}

func (a *authorizer) ask(ctx context.Context, u *user, verb, subresource string) (bool, error) {
	spec := authorizationv1.SubjectAccessReviewSpec{
		User: u.Username, UID: u.UID, Groups: u.Groups, Extra: map[string]authorizationv1.ExtraValue{},
		ResourceAttributes: &authorizationv1.ResourceAttributes{Verb: verb, Version: "v1", Resource: "nodes", Subresource: subresource, Name: a.node},
	}
	for k, v := range u.Extra {
		spec.Extra[k] = authorizationv1.ExtraValue(v)
	}
	b, err := json.Marshal(spec)
	if err != nil {
		return false, err
	}
	question := string(b)
	if ok, known := a.answers.Get(question); known {
		return ok.(bool), nil
	}
	ctx, cancel := context.WithTimeout(ctx, reviewTimeout)
	defer cancel()
	review, err := a.client.AuthorizationV1().SubjectAccessReviews().Create(ctx, &authorizationv1.SubjectAccessReview{Spec: spec}, metav1.CreateOptions{})
	if err != nil {
		return false, fmt.Errorf("the API server does not say who may do that: %w", err)
	}
	ok := review.Status.Allowed && !review.Status.Denied
	long := deniedTime
	if ok {
		long = allowedTime
	}
	a.answers.Add(question, ok, long)
	return ok, nil
}

// gate lets requests through whose sender is known and may have what he asks for.
func (s *Server) gate(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		u, err := s.who.user(r)
		switch {
		case err != nil:
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		case u == nil:
			http.Error(w, "Unauthorized", http.StatusUnauthorized)
			return
		}
		switch ok, err := s.may.may(r, u); {
		case err != nil:
			http.Error(w, err.Error(), http.StatusInternalServerError)
		case !ok:
			verb, sub := asked(r)
			http.Error(w, fmt.Sprintf("Forbidden (user=%s, verb=%s, resource=nodes, subresource(s)=%v)", u.Username, verb, sub), http.StatusForbidden)
		default:
			next.ServeHTTP(w, r)
		}
	})
}
