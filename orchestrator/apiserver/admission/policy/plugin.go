package policy

import (
	"context"
	"errors"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"github.com/keelson-io/keelson/internal/clock"
	"github.com/keelson-io/keelson/orchestrator/apiserver/admission"
	"github.com/keelson-io/keelson/orchestrator/apiserver/admission/match"
	"github.com/keelson-io/keelson/orchestrator/apiserver/rights"
	"github.com/keelson-io/keelson/orchestrator/kinds"
)

// TypeConverters knows the schemas of objects.
type TypeConverters interface {
	// TypeConverter returns what makes typed values of objects of a kind, nil if the kind is not known.
	TypeConverter(k schema.GroupVersionKind) managedfields.TypeConverter
}

// Config is what policies need.
type Config struct {
	Lookup     admission.Lookup
	Kinds      admission.KindFinder // of parameters
	Versions   match.Versions       // nil: nothing is served in two versions
	Authorizer rights.Authorizer    // for expressions, nil: no opinion on anything
	// Types is for mutating policies. Nil knows no kind.
	Types      TypeConverters
	Registerer prometheus.Registerer // nil: metrics are not shown
	Clock      clock.Clock           // nil: the system's
}

// plugin is what both kinds of policies have in common.
type plugin struct {
	source     *source
	matcher    *match.Matcher
	kinds      admission.KindFinder
	authorizer authorizer.UnconditionalAuthorizer
	metrics    *metrics
	clock      clock.Clock
}

// New makes the plugins.
func New(c Config) (*Mutating, *Validating) {
	if c.Clock == nil {
		c.Clock = clock.Real
	}
	make := func(stage string, s *source) plugin {
		return plugin{
			source: s, matcher: &match.Matcher{Lookup: c.Lookup, Versions: c.Versions}, kinds: c.Kinds,
			authorizer: match.Authorizer(c.Authorizer), metrics: newMetrics(c.Registerer, stage), clock: c.Clock,
		}
	}
	return &Mutating{plugin: make("mutating", mutatingSource(c.Lookup)), types: c.Types}, &Validating{make("validating", validatingSource(c.Lookup))}
}

// failure says that a policy, or a binding of it if that is not nil, could not be applied.
type failure struct {
	rule    *rule
	binding *binding
	err     error
}

// meeting is what plugin.meet finds.
type meeting struct {
	// found is called for each binding that is about a request, with its parameters.
	found func(*rule, *binding, match.Version, []param)
	// failed is called for policies and bindings that are wrong.
	failed func(failure)
}

// meet compares policies and their bindings with a request.
func (p *plugin) meet(ctx context.Context, a *admission.Attributes, rules []*rule, m meeting) {
	for _, r := range rules {
		v, kind, ok, err := p.ruleMatches(ctx, a, r)
		if err != nil {
			m.failed(failure{r, nil, fmt.Errorf("failed to configure policy: %w", err)})
		}
		if !ok {
			continue
		}
		for _, b := range r.bindings {
			params, err := p.bindingMatches(ctx, a, b, kind)
			if err != nil {
				m.failed(failure{r, b, fmt.Errorf("failed to configure binding: %w", err)})
			} else if len(params) > 0 {
				m.found(r, b, v, params)
			}
		}
	}
}

func (p *plugin) ruleMatches(ctx context.Context, a *admission.Attributes, r *rule) (v match.Version, paramKind *kinds.Kind, ok bool, err error) {
	if r.criteria == nil {
		return v, nil, false, errors.New("policy contained no match constraints, a required field")
	}
	if v, ok, err = p.matcher.Match(ctx, r.criteria, a); err != nil || !ok {
		return v, nil, false, err
	}
	paramKind, err = p.paramKind(r)
	return v, paramKind, err == nil, err
}

// bindingMatches returns the parameters of a binding, none if it is not about a request.
func (p *plugin) bindingMatches(ctx context.Context, a *admission.Attributes, b *binding, paramKind *kinds.Kind) ([]param, error) {
	if b.criteria != nil {
		if _, ok, err := p.matcher.Match(ctx, b.criteria, a); err != nil || !ok {
			return nil, err
		}
	}
	return p.params(ctx, paramKind, b.params, a.Namespace)
}

// namespace returns the namespace of a request, nil for what is in none.
func (p *plugin) namespace(ctx context.Context, a *admission.Attributes) (*corev1.Namespace, error) {
	if a.Namespace == "" || a.ObjectKind == corev1.SchemeGroupVersion.WithKind("Namespace") {
		return nil, nil
	}
	return p.matcher.Namespace(ctx, a.Namespace)
}

// listError is a status error.
func listError(err error) error {
	if apierrors.ReasonForError(err) != "" {
		return err
	}
	return apierrors.NewInternalError(err)
}
