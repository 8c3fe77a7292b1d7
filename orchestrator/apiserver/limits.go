package apiserver

import (
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/keelson-io/keelson/orchestrator/apiserver/audit"
	"github.com/keelson-io/keelson/orchestrator/apiserver/fairness"
	"github.com/keelson-io/keelson/orchestrator/apiserver/request"
	"github.com/keelson-io/keelson/orchestrator/apiserver/verbs"
)

// errTookTooLong is the answer to a request whose time is over.
var errTookTooLong = apierrors.NewTimeoutError("request did not complete within the allotted timeout", 0)

// limitTime gives requests that are not long-running a deadline. Whatever a request waits for ends with its context, so that no
// goroutine has to watch over it; bodies and long answers are bounded by call.body and call.begin.
func (a *API) limitTime(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if audit.LongRunning(request.InfoFrom(r.Context())) {
			next.ServeHTTP(w, r)
			return
		}
		limit, err := timeOf(r, a.cfg.Limits.RequestTime)
		if err != nil {
			Fail(w, nil, err)
			return
		}
		ctx, cancel := context.WithTimeout(r.Context(), limit)
		defer cancel()
		next.ServeHTTP(w, r.WithContext(ctx))
	})
}

// timeOf is how long a request may take: what it asks for, and no more than a limit.
func timeOf(r *http.Request, limit time.Duration) (time.Duration, error) {
	if !strings.Contains(r.URL.RawQuery, "timeout=") {
		return limit, nil
	}
	text := r.URL.Query().Get("timeout")
	if text == "" {
		return limit, nil
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		return 0, apierrors.NewBadRequest("invalid timeout specified in the request URL - " + err.Error())
	}
	if d <= 0 || d > limit {
		return limit, nil
	}
	return d, nil
}

// limiter makes what gives out seats.
func (a *API) limiter() (*fairness.Limiter, error) {
	l := a.cfg.Limits
	return fairness.New(fairness.Config{
		Seats: l.RequestsInFlight + l.MutatingInFlight, LongestWait: l.RequestTime / 4, Clock: a.cfg.Clock, Registerer: a.cfg.Registry,
	})
}

// apart says which requests take no seats.
func apart(i *request.Info) bool { return i.Verb != "watch" && audit.LongRunning(i) }

// asked is what serves the resource that a request is about, nil if nothing does.
func (a *API) asked(i *request.Info) *verbs.Resource {
	return a.server.table.Load().resources[schema.GroupVersionResource{Group: i.Group, Version: i.Version, Resource: i.Resource}]
}

// served says whether there is what a request for a resource asks for.
func (a *API) served(i *request.Info) bool {
	if a.server.parts[part{i.Group, i.Resource, i.Subresource}] != nil {
		return true
	}
	res := a.asked(i)
	if res == nil {
		return false
	}
	k := res.Kind
	return i.Subresource == "" || i.Subresource == "status" && k.Status != nil || i.Subresource == "scale" && k.Scale != nil || k.Subresource(i.Subresource) != nil
}

// A list takes a seat for each objectsPerSeat that it may have to look at, and no more than maxWidth.
const (
	objectsPerSeat = 100
	maxWidth       = 10
)

// width is how many seats a request takes. Lists take more, and so do watches that begin with the objects that there are.
func (a *API) width(r *http.Request, i *request.Info) int {
	if i.Verb != "list" && i.Verb != "watch" || i.Name != "" {
		return 1
	}
	res := a.asked(i)
	if res == nil {
		return 1
	}
	n := res.Objects.Len()
	if n <= objectsPerSeat {
		return 1
	}
	q := r.URL.Query()
	version := q.Get("resourceVersion")
	if i.Verb == "watch" && q.Get("sendInitialEvents") != "true" && version != "" && version != "0" {
		return 1
	}
	if limit, err := strconv.Atoi(q.Get("limit")); err == nil && limit > 0 {
		n = min(n, limit)
	}
	return min(maxWidth, (n+objectsPerSeat-1)/objectsPerSeat)
}

// readBody reads all of a body before the request's time is over.
func (c *call) readBody(limit int64) ([]byte, error) {
	if d, ok := c.ctx().Deadline(); ok {
		out := http.NewResponseController(c.w)
		if out.SetReadDeadline(d) == nil { // not everything that carries requests can
			defer func() { _ = out.SetReadDeadline(time.Time{}) }()
		}
	}
	b, err := io.ReadAll(http.MaxBytesReader(c.w, c.r.Body, limit))
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return nil, errTookTooLong
	}
	return b, err
}

// boundWrite makes writing an answer end with the request's time. A client that does not read would keep its seats.
func (c *call) boundWrite() (end func()) {
	d, ok := c.ctx().Deadline()
	out := http.NewResponseController(c.w)
	if !ok || out.SetWriteDeadline(d) != nil {
		return func() {}
	}
	return func() { _ = out.SetWriteDeadline(time.Time{}) }
}
