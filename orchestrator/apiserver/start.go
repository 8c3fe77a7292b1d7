package apiserver

import (
	"net/http"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/keelson-io/keelson/orchestrator/apiserver/request"
)

// startPatience is how long requests wait for the server to be ready.
const startPatience = 10 * time.Second

// Answers to those who have to come again. They are 429, not 503: client-go's reflectors then keep their place in the stream of
// changes, instead of listing all objects anew.
var (
	errStarting = apierrors.NewTooManyRequests("the server is starting", 1)
	errStopping = apierrors.NewTooManyRequests("the server is shutting down", 1)
)

// hold makes requests for objects, and about what there is, wait until the server knows all custom resources and all rights. It
// would tell clients that what they ask for does not exist, or is forbidden, and they believe it.
func (a *API) hold(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-a.started:
		default:
			if err := a.awaitStart(r); err != nil {
				Fail(w, nil, err)
				return
			}
		}
		next.ServeHTTP(w, r)
	})
}

func (a *API) awaitStart(r *http.Request) error {
	if i := request.InfoFrom(r.Context()); !i.IsResource && !strings.HasPrefix(i.Path, "/api") && !strings.HasPrefix(i.Path, "/openapi/") {
		return nil
	}
	t := a.cfg.Clock.NewTimer(startPatience)
	defer t.Stop()
	select {
	case <-a.started:
		return nil
	case <-t.C():
	case <-r.Context().Done():
	}
	return errStarting
}
