package apiserver

import (
	"context"
	"errors"
	"mime"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"go.uber.org/zap"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/keelson-io/keelson/internal/clock"
	"github.com/keelson-io/keelson/orchestrator/apiserver/discovery"
	"github.com/keelson-io/keelson/orchestrator/apiserver/media"
	"github.com/keelson-io/keelson/orchestrator/apiserver/meter"
	"github.com/keelson-io/keelson/orchestrator/apiserver/request"
)

// Server serves requests whose user is known and may do what he asks.
type Server struct {
	table    atomic.Pointer[table]
	parts    map[part]func(*call) error // subresources and virtual resources with code of their own
	virtual  map[schema.GroupResource]discovery.Virtual
	others   http.Handler // what is no resource
	meter    *meter.Meter
	clock    clock.Clock
	logger   *zap.Logger
	draining context.Context // ends when watches are to end
	drain    context.CancelFunc
	workers  *workers
	buffers  sync.Pool // *[]byte, of events on their way to clients
	// compressors are *gzip.Writer, of answers that have ended.
	compressors sync.Pool
}

// part names a subresource, or a virtual resource, for which subresource is "".
type part struct{ group, resource, subresource string }

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	info := request.InfoFrom(r.Context())
	if !info.IsResource {
		s.others.ServeHTTP(w, r)
		return
	}
	c := &call{s: s, w: w, r: r, info: info, query: r.URL.Query()}
	c.shown.Now = s.clock.Now()
	defer func() {
		if c.unbound != nil {
			c.unbound()
		}
	}()
	serve := c.serve
	if shortVerbs[info.Verb] && !apart(info) {
		serve = func() error { return s.workers.do(c.serve) }
	}
	switch err := serve(); {
	case err == nil:
	case errors.Is(err, errAborted):
		panic(http.ErrAbortHandler)
	default:
		c.fail(err)
	}
}

// shortVerbs are those whose requests do not take long, whatever the client does.
var shortVerbs = map[string]bool{"get": true, "create": true, "update": true, "patch": true, "delete": true}

// errAborted ends a request of whose answer a part was sent.
var errAborted = errors.New("the answer could not be completed")

// serve finds out what is asked for, and in which form, and calls it.
func (c *call) serve() (err error) {
	gvr := schema.GroupVersionResource{Group: c.info.Group, Version: c.info.Version, Resource: c.info.Resource}
	c.res = c.s.table.Load().resources[gvr]
	if err := c.placed(); err != nil {
		return err
	}
	free := false
	if c.res != nil {
		free = c.res.Kind.Coerce != nil
	}
	do := c.s.parts[part{c.info.Group, c.info.Resource, c.info.Subresource}]
	c.format, err = media.Accept(c.r, media.Answer{Watch: c.info.Verb == "watch", Free: free, Plain: do != nil})
	switch {
	case err != nil && (do == nil || !apart(c.info)): // what is reached through this server has forms of its own
		return err
	case err == nil && c.format.Table():
		c.shown.Include = metav1.IncludeObjectPolicy(c.query.Get("includeObject"))
	}
	if c.res != nil && c.res.Kind.Deprecation != "" {
		c.warn(c.res.Kind.Deprecation)
	}
	switch {
	case do != nil:
		return do(c)
	case c.res == nil:
		return errNoSuchPath
	case c.info.Subresource != "":
		return c.serveSubresource()
	}
	do = verbTable[c.info.Verb]
	if do == nil || c.info.Verb == "create" && c.info.Name != "" || c.res.Kind.Verbs != nil && !slices.Contains(c.res.Kind.Verbs, c.info.Verb) {
		return apierrors.NewMethodNotSupported(gvr.GroupResource(), c.info.Verb)
	}
	return do(c)
}

// placed refuses a path with a namespace to what is in none, and one without to what is in one, but for lists and watches of
// all namespaces. Rights are decided by the path: who has them in a namespace must not get out of it.
func (c *call) placed() error {
	i := c.info
	made, virtual := c.s.virtual[schema.GroupResource{Group: i.Group, Resource: i.Resource}]
	namespaced, posted := made.Namespaced, virtual && !slices.Contains(made.Verbs, "list")
	switch {
	case c.res != nil:
		namespaced = c.res.Kind.Namespaced
	case !virtual:
		return nil // there is no such thing
	}
	itself := i.Group == "" && i.Resource == "namespaces" && i.Name == i.Namespace // a namespace's path is in it
	switch {
	case i.Namespace != "" && !namespaced && !itself, i.Namespace == "" && namespaced && (i.Name != "" || posted):
		return errNoSuchPath
	case i.Namespace == "" && namespaced && i.Verb != "list" && i.Verb != "watch":
		return apierrors.NewMethodNotSupported(schema.GroupResource{Group: i.Group, Resource: i.Resource}, i.Verb)
	}
	return nil
}

// serveSubresource serves status, scale and those that are parts of an object.
func (c *call) serveSubresource() error {
	k := c.res.Kind
	named := k.Subresource(c.info.Subresource)
	switch {
	case c.info.Subresource == "status" && k.Status != nil, named != nil && named.Prepare != nil:
		if do := partVerbs[c.info.Verb]; do != nil {
			return do(c)
		}
		return apierrors.NewMethodNotSupported(k.GroupResource(), c.info.Verb)
	case c.info.Subresource == "scale" && k.Scale != nil:
		return c.scale()
	}
	return errNoSuchPath
}

var partVerbs = map[string]func(*call) error{"get": (*call).get, "update": (*call).update, "patch": (*call).patch}

var errNoSuchPath = errors.New("404 page not found")

// fail answers with an error.
func (c *call) fail(err error) {
	if errors.Is(err, errNoSuchPath) {
		http.Error(c.w, err.Error(), http.StatusNotFound)
		return
	}
	if c.ctx().Err() != nil && !errors.Is(err, context.DeadlineExceeded) {
		c.s.logger.Debug("the client went away", zap.String("path", c.r.URL.Path), zap.Error(err))
	}
	refused(c.ctx(), err)
	Fail(c.w, c.format, err)
}

// Fail answers with an error as a Status, in the form that goes with f, which may be nil: JSON.
func Fail(w http.ResponseWriter, f *media.Format, err error) {
	if apierrors.ReasonForError(err) == metav1.StatusReasonUnknown && errors.Is(err, context.DeadlineExceeded) {
		err = errTookTooLong
	}
	status := media.StatusOf(err)
	f = f.Status()
	b, err := f.Any(status)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", f.ContentType())
	w.Header().Set("Cache-Control", "no-cache, private")
	if d := status.Details; d != nil && d.RetryAfterSeconds > 0 {
		w.Header().Set("Retry-After", itoa(int64(d.RetryAfterSeconds)))
	}
	w.WriteHeader(int(status.Code))
	_, _ = w.Write(b) // the client is gone
}

// options decodes the options of a request from its query.
func (c *call) options(into any) error { return media.Query(c.query, into) }

// mediaType is a Content-Type without its parameters.
func mediaType(header string) string {
	if t, _, err := mime.ParseMediaType(header); err == nil {
		return t
	}
	return strings.TrimSpace(header)
}

// Drain ends all watches, with the end of their streams.
func (s *Server) Drain() { s.drain() }
