package rights

import (
	"context"
	"net/http"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/keelson-io/keelson/orchestrator/apiserver/request"
)

// OfRequest returns the attributes of a request whose user is in its context.
func OfRequest(r *http.Request) Attributes {
	info := request.InfoFrom(r.Context())
	if info == nil {
		info = request.Parse(r)
	}
	a := Of(request.UserFrom(r.Context()), info)
	switch a.Verb {
	case "list", "watch", "deletecollection":
		q := r.URL.Query()
		a.Select(q.Get("fieldSelector"), q.Get("labelSelector"))
	}
	return a
}

// Handler lets requests pass that an Authorizer allows, and fails the others. What was decided, and why, is annotated for the
// audit log; annotate may be nil.
func Handler(next http.Handler, by Authorizer, annotate func(ctx context.Context, key, value string), fail func(http.ResponseWriter, *http.Request, error)) http.Handler {
	const prefix = "authorization.k8s.io/"
	if annotate == nil {
		annotate = func(context.Context, string, string) {}
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, a := r.Context(), OfRequest(r)
		d, reason, err := by.Authorize(ctx, a)
		switch {
		case d == Allow:
			annotate(ctx, prefix+"decision", "allow")
			annotate(ctx, prefix+"reason", reason)
			next.ServeHTTP(w, r)
		case err != nil:
			annotate(ctx, prefix+"reason", "internal error")
			fail(w, r, apierrors.NewInternalError(err))
		default:
			annotate(ctx, prefix+"decision", "forbid")
			annotate(ctx, prefix+"reason", reason)
			fail(w, r, Forbidden(a, reason))
		}
	})
}
