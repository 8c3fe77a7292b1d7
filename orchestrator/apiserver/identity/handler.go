package identity

import (
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"

	"go.uber.org/zap"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"

	"github.com/keelson-io/keelson/orchestrator/apiserver/request"
	"github.com/keelson-io/keelson/orchestrator/apiserver/rights"
)

// Config is what a Gate is made of.
type Config struct {
	// Authenticators in order. Their errors count only if none of them knows the user.
	Authenticators []Authenticator
	// Anonymous takes requests about which no authenticator had anything to say; nil: they are refused.
	Anonymous *Anonymous
	// Authorizer decides who may act for whom; nil: nobody may.
	Authorizer rights.Authorizer
	// Impersonated is told of users who act for others, before the request goes on; nil: nobody is told.
	Impersonated func(r *http.Request, user *request.User, constraint string)
	// Fail answers with an error; nil: as JSON.
	Fail   func(w http.ResponseWriter, r *http.Request, err error)
	Logger *zap.Logger
}

// Gate is the handlers that stand before all others.
type Gate struct{ cfg Config }

// New makes a Gate.
func New(cfg Config) *Gate {
	if cfg.Fail == nil {
		cfg.Fail = fail
	}
	if cfg.Logger == nil {
		cfg.Logger = zap.NewNop()
	}
	return &Gate{cfg}
}

// User finds a request's user: nil without an error is a stranger.
func (g *Gate) User(r *http.Request) (*request.User, error) {
	var errs []error
	for _, a := range g.cfg.Authenticators {
		u, err := a.Authenticate(r)
		if err != nil {
			errs = append(errs, err)
		} else if u != nil {
			return authenticated(u), nil
		}
	}
	if len(errs) > 0 {
		return nil, utilerrors.NewAggregate(errs)
	}
	if g.cfg.Anonymous == nil {
		return nil, nil
	}
	return g.cfg.Anonymous.Authenticate(r)
}

// Handler puts the user of a request into its context: him who asks, or whom he acts for.
func (g *Gate) Handler(next http.Handler) http.Handler { return g.Authenticate(g.Impersonate(next)) }

// Authenticate puts him who asks into the context of a request, and answers 401 to those who cannot tell.
func (g *Gate) Authenticate(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, err := g.User(r)
		// A stranger can open a connection of HTTP/2 at no cost to himself: he has to do so for every request.
		if r.ProtoMajor == 2 && (user == nil || slices.Contains(user.Groups, Unauthenticated)) {
			w.Header().Set("Connection", "close")
		}
		if user == nil {
			if err != nil {
				g.cfg.Logger.Info("a request was not authenticated", zap.String("path", r.URL.Path), zap.Error(err))
			}
			w.Header().Set("WWW-Authenticate", `Bearer realm="kubernetes"`)
			g.cfg.Fail(w, r, apierrors.NewUnauthorized("Unauthorized"))
			return
		}
		r.Header.Del("Authorization")
		// Nobody stands before this server: what a proxy would say of the user is the client's invention.
		for name := range r.Header {
			if strings.HasPrefix(name, "X-Remote-") {
				r.Header.Del(name)
			}
		}
		next.ServeHTTP(w, r.WithContext(request.WithUser(r.Context(), user)))
	})
}

// Impersonate replaces the user of the context by whom he wants to be, if he may.
func (g *Gate) Impersonate(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		want, err := wanted(r.Header)
		if err != nil {
			g.cfg.Fail(w, r, err)
			return
		}
		if want == nil {
			next.ServeHTTP(w, r)
			return
		}
		ctx, asked := r.Context(), rights.OfRequest(r)
		if asked.User == nil || g.cfg.Authorizer == nil {
			g.cfg.Fail(w, r, apierrors.NewInternalError(errors.New("no user that could impersonate another")))
			return
		}
		become, constraint, err := Impersonator{g.cfg.Authorizer}.Become(ctx, asked, want)
		if err != nil {
			g.cfg.Fail(w, r, err)
			return
		}
		if g.cfg.Impersonated != nil {
			g.cfg.Impersonated(r, become, constraint)
		}
		next.ServeHTTP(w, r.WithContext(request.WithUser(ctx, become)))
	})
}

// fail answers with a Status as JSON.
func fail(w http.ResponseWriter, _ *http.Request, err error) {
	var status apierrors.APIStatus
	if !errors.As(err, &status) {
		status = apierrors.NewInternalError(err)
	}
	s := status.Status()
	s.Kind, s.APIVersion = "Status", "v1"
	body, err := json.Marshal(s)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-cache, private")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(int(s.Code))
	_, _ = w.Write(append(body, '\n'))
}
