package aggregate

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/transport"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	"k8s.io/kube-aggregator/pkg/apis/apiregistration/v1/helper"
	"k8s.io/kube-openapi/pkg/handler3"
)

const (
	checkTimeout = 5 * time.Second
	attempts     = 5        // at once, for different endpoints: one that answers is enough
	maxDocument  = 16 << 20 // bytes
)

// check looks at a server, and writes down what it found.
func (a *Aggregator) check(ctx context.Context, name string, r *remote) {
	found, resources := a.look(ctx, r)
	at := ""
	if resources != nil {
		at = r.schemaURL(ctx)
	}
	if ctx.Err() != nil {
		return
	}
	err := a.cfg.Objects.UpdateStatus(ctx, name, func(o *apiregistrationv1.APIService) bool {
		if o.UID != r.uid || !equality.Semantic.DeepEqual(o.Spec, r.spec) {
			return false // it is another one by now
		}
		before := o.Status.DeepCopy()
		helper.SetAPIServiceCondition(o, found)
		return !equality.Semantic.DeepEqual(before, &o.Status)
	})
	failed := found.Status != apiregistrationv1.ConditionTrue
	if err != nil && !apierrors.IsNotFound(err) {
		if !apierrors.IsConflict(err) && ctx.Err() == nil {
			a.cfg.Logger.Warn("the status of an APIService", zap.String("name", name), zap.Error(err))
		}
		failed = true
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	r.busy = false
	wait := checkEvery
	if failed {
		wait = min(checkEvery, retryAfter<<min(r.failures, 10))
		r.failures++
	} else {
		r.failures = 0
	}
	if resources != nil {
		r.resources, r.schema = resources, at
	}
	r.due = a.cfg.Clock.Now().Add(wait)
	if r.again {
		r.due = time.Time{}
	}
	if a.remotes[name] == r {
		a.publish()
	}
	a.Poke()
}

// look finds out whether a server can be reached, and which resources it has.
func (a *Aggregator) look(ctx context.Context, r *remote) (apiregistrationv1.APIServiceCondition, []metav1.APIResource) {
	verdict := func(status apiregistrationv1.ConditionStatus, reason, format string, args ...any) apiregistrationv1.APIServiceCondition {
		return apiregistrationv1.APIServiceCondition{
			Type: apiregistrationv1.Available, Status: status, LastTransitionTime: metav1.Time{Time: a.cfg.Clock.Now().Truncate(time.Second)},
			Reason: reason, Message: fmt.Sprintf(format, args...),
		}
	}
	if r.broken != nil {
		return verdict(apiregistrationv1.ConditionFalse, "FailedDiscoveryCheck", "%v", r.broken), nil
	}
	to := r.spec.Service
	svc, err := a.cfg.Services.Service(ctx, to.Namespace, to.Name)
	switch {
	case apierrors.IsNotFound(err):
		return verdict(apiregistrationv1.ConditionFalse, "ServiceNotFound", "service/%s in %q is not present", to.Name, to.Namespace), nil
	case err != nil:
		return verdict(apiregistrationv1.ConditionUnknown, "ServiceAccessError", "service/%s in %q cannot be checked due to: %v", to.Name, to.Namespace, err), nil
	}
	if svc.Spec.Type == corev1.ServiceTypeClusterIP {
		port, listens := portName(svc, r.port())
		if !listens {
			return verdict(apiregistrationv1.ConditionFalse, "ServicePortError", "service/%s in %q is not listening on port %d", to.Name, to.Namespace, r.port()), nil
		}
		slices, err := a.cfg.Services.Slices(ctx, to.Namespace, to.Name)
		switch {
		case err != nil:
			return verdict(apiregistrationv1.ConditionUnknown, "EndpointsAccessError", "service/%s in %q cannot be checked due to: %v", to.Name, to.Namespace, err), nil
		case len(slices) == 0:
			return verdict(apiregistrationv1.ConditionFalse, "EndpointsNotFound", "cannot find endpointslices for service/%s in %q", to.Name, to.Namespace), nil
		case !listening(slices, port):
			return verdict(apiregistrationv1.ConditionFalse, "MissingEndpoints", "endpointslices for service/%s in %q have no addresses with port name %q", to.Name, to.Namespace, port), nil
		}
	}
	resources, err := r.discover(ctx)
	if err != nil {
		r.transport.CloseIdleConnections() // the next attempt is for other endpoints
		return verdict(apiregistrationv1.ConditionFalse, "FailedDiscoveryCheck", "%v", err), nil
	}
	return verdict(apiregistrationv1.ConditionTrue, "Passed", "all checks passed"), resources
}

// portName finds the name of a service's port.
func portName(svc *corev1.Service, port int32) (string, bool) {
	for _, p := range svc.Spec.Ports {
		if p.Port == port {
			return p.Name, true
		}
	}
	return "", false
}

// listening says whether somebody is ready behind a port.
func listening(slices []*discoveryv1.EndpointSlice, port string) bool {
	for _, s := range slices {
		has := false
		for _, p := range s.Ports {
			has = has || p.Name != nil && *p.Name == port
		}
		for _, e := range s.Endpoints {
			if has && len(e.Addresses) > 0 && (e.Conditions.Ready == nil || *e.Conditions.Ready) {
				return true
			}
		}
	}
	return false
}

// discover asks a server for its resources. It is an error if no endpoint answers.
func (r *remote) discover(ctx context.Context) ([]metav1.APIResource, error) {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	type answer struct {
		resources []metav1.APIResource
		err       error
	}
	answers := make(chan answer, attempts)
	for range attempts {
		go func() {
			resources, err := r.ask(ctx)
			answers <- answer{resources, err}
		}()
	}
	var got answer
	won := false
	for range attempts { // all are waited for, so that none outlives the check
		if next := <-answers; !won {
			got, won = next, next.err == nil
			if won {
				cancel()
			}
		}
	}
	return got.resources, got.err
}

func (r *remote) ask(ctx context.Context) ([]metav1.APIResource, error) {
	var list metav1.APIResourceList
	if err := r.fetch(ctx, r.root(), &list); err != nil {
		return nil, err
	}
	if list.APIResources == nil {
		list.APIResources = []metav1.APIResource{}
	}
	return list.APIResources, nil
}

// schemaURL asks a server where its document of OpenAPI 3 is; "" if it has none.
func (r *remote) schemaURL(ctx context.Context) string {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	var index handler3.OpenAPIV3Discovery
	if r.fetch(ctx, "/openapi/v3", &index) != nil {
		return ""
	}
	at := index.Paths[r.root()[1:]].ServerRelativeURL
	if !strings.HasPrefix(at, "/openapi/v3"+r.root()) {
		return "" // it could not be proxied
	}
	return at
}

// fetch gets a document in JSON.
func (r *remote) fetch(ctx context.Context, path string, into any) error {
	at := "https://" + r.host + path
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at, nil)
	if err != nil {
		return err
	}
	req.Header.Set("Accept", "application/json")
	transport.SetAuthProxyHeaders(req, "system:kube-aggregator", "", []string{"system:masters"}, nil)
	resp, err := r.transport.RoundTrip(req)
	if err != nil {
		return fmt.Errorf("failing or missing response from %s: %w", at, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		return fmt.Errorf("failing or missing response from %s: bad status: %d", at, resp.StatusCode)
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxDocument)).Decode(into); err != nil {
		return fmt.Errorf("the answer from %s: %w", at, err)
	}
	return nil
}
