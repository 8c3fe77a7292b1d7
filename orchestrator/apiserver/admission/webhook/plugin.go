package webhook

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"github.com/keelson-io/keelson/internal/clock"
	"github.com/keelson-io/keelson/orchestrator/apiserver/admission"
	"github.com/keelson-io/keelson/orchestrator/apiserver/admission/match"
	"github.com/keelson-io/keelson/orchestrator/apiserver/rights"
)

// Config is what webhooks need.
type Config struct {
	Lookup     admission.Lookup
	Versions   match.Versions        // nil: nothing is served in two versions
	Resolver   Resolver              // nil: services cannot be called
	Authorizer rights.Authorizer     // for match conditions, nil: no opinion on anything
	Registerer prometheus.Registerer // nil: metrics are not shown
	Clock      clock.Clock           // nil: the system's
	Logger     *zap.Logger           // nil: none
}

// plugin is what both kinds of webhooks have in common.
type plugin struct {
	source     *source
	matcher    *match.Matcher
	authorizer authorizer.UnconditionalAuthorizer
	metrics    *metrics
	clock      clock.Clock
	log        *zap.Logger
}

// Mutating calls mutating webhooks.
type Mutating struct{ plugin }

// Validating calls validating webhooks.
type Validating struct{ plugin }

// New makes the plugins.
func New(c Config) (*Mutating, *Validating) {
	if c.Logger == nil {
		c.Logger = zap.NewNop()
	}
	if c.Clock == nil {
		c.Clock = clock.Real
	}
	m, compiler := newMetrics(c.Registerer), match.NewCompiler()
	make := func(resource, stage string) plugin {
		return plugin{
			source:  newSource(c.Lookup, resource, stage, compiler, c.Resolver),
			matcher: &match.Matcher{Lookup: c.Lookup, Versions: c.Versions}, authorizer: match.Authorizer(c.Authorizer),
			metrics: m, clock: c.Clock, log: c.Logger,
		}
	}
	return &Mutating{make("mutatingwebhookconfigurations", "admit")}, &Validating{make("validatingwebhookconfigurations", "validating")}
}

// call asks a hook. Its errors are *callError, *rejection and status errors; an answer comes with a *rejection, too.
func (p *plugin) call(ctx context.Context, h *hook, a *admission.Attributes, e *encoded) (*answer, error) {
	failed := func(code int32, format string, args ...any) error {
		return &callError{h.name, fmt.Errorf(format, args...), code}
	}
	if a.DryRun {
		switch {
		case h.sideEffects == nil:
			return nil, failed(http.StatusBadRequest, "Webhook SideEffects is nil")
		case *h.sideEffects != admissionv1.SideEffectClassNone && *h.sideEffects != admissionv1.SideEffectClassNoneOnDryRun:
			return nil, apierrors.NewBadRequest(fmt.Sprintf("admission webhook %q does not support dry run", h.name))
		}
	}
	r, err := newReview(h.versions, types.UID(uuid.NewString()), a, e)
	if err != nil {
		return nil, failed(http.StatusBadRequest, "could not create admission objects: %w", err)
	}
	client, err := h.client()
	if err != nil {
		return nil, failed(http.StatusInternalServerError, "could not get REST client: %w", err)
	}
	if h.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, h.timeout)
		defer cancel()
	}
	post := client.Post().SetHeader("Content-Type", "application/json").Body(r.body)
	if deadline, ok := ctx.Deadline(); ok {
		if left := deadline.Sub(p.clock.Now()); left > 0 {
			post.Timeout((left + time.Second - 1).Truncate(time.Second))
		}
	}
	if err := post.Do(ctx).Into(r.response); err != nil {
		code := int32(http.StatusServiceUnavailable)
		var status *apierrors.StatusError
		if errors.As(err, &status) {
			code = status.ErrStatus.Code
		}
		return nil, failed(code, "failed to call webhook: %w", err)
	}
	out, err := r.answer(p.source.stage == "admit")
	if err != nil {
		return nil, failed(http.StatusServiceUnavailable, "received invalid webhook response: %w", err)
	}
	if !out.allowed {
		return out, rejected(h.name, out.result)
	}
	return out, nil
}

// tell passes on what a hook says to client and audit log.
func (o *answer) tell(h *hook, a *admission.Attributes) {
	if o == nil {
		return
	}
	for k, v := range o.annotations {
		a.AddAnnotation(h.name+"/"+k, v)
	}
	for _, w := range o.warnings {
		a.AddWarning(w)
	}
}

// passOver says whether a failure is to be passed over. Then it is logged and counted.
func (p *plugin) passOver(h *hook, err error) bool {
	var failed *callError
	if !errors.As(err, &failed) {
		return false
	}
	if !h.ignore {
		p.log.Warn("failed calling webhook, failing closed", hookField(h), zap.Error(err))
		return false
	}
	p.log.Warn("failed calling webhook, failing open", hookField(h), zap.Error(err))
	return true
}

func timedOut() error {
	return apierrors.NewTimeoutError("request did not complete within requested timeout", 0)
}

func hookField(h *hook) zap.Field { return zap.String("webhook", h.configuration+"/"+h.name) }
