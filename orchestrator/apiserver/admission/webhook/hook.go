package webhook

import (
	"context"
	"fmt"
	"slices"
	"time"

	"go.uber.org/zap"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/admission/plugin/webhook/matchconditions"
	"k8s.io/client-go/rest"
	"k8s.io/utils/ptr"

	"github.com/keelson-io/keelson/orchestrator/apiserver/admission"
	"github.com/keelson-io/keelson/orchestrator/apiserver/admission/match"
	"github.com/keelson-io/keelson/orchestrator/kinds"
)

// hook is a compiled webhook.
type hook struct {
	id            string // of the webhook, in all configurations
	configuration string
	name          string
	criteria      *match.Criteria
	conditions    matchconditions.Matcher // nil: none
	server        server
	client        func() (*rest.RESTClient, error)
	versions      []string // of AdmissionReview
	ignore        bool     // failures
	sideEffects   *admissionv1.SideEffectClass
	timeout       time.Duration // 0: the request's
	reinvoke      bool          // if the object changed after its call
}

// failing says what becomes of a request if the hook cannot be asked.
func failing(p *admissionv1.FailurePolicyType) bool {
	return ptr.Deref(p, admissionv1.Fail) == admissionv1.Ignore
}

// source has the hooks of all configurations of one resource.
type source struct {
	lookup   admission.Lookup
	resource schema.GroupResource
	stage    string // in metrics: "admit" or "validating"
	compiler *match.Compiler
	clients  *clients
	compiled match.Compiled[[]*hook, []*hook] // by configuration, and all
}

func newSource(l admission.Lookup, resource, stage string, compiler *match.Compiler, r Resolver) *source {
	s := &source{
		lookup: l, resource: schema.GroupResource{Group: admissionv1.GroupName, Resource: resource}, stage: stage,
		compiler: compiler, clients: newClients(r),
	}
	s.compiled.Compile, s.compiled.Join = s.compile, s.join
	return s
}

// hooks returns the hooks in the order in which they are called.
func (s *source) hooks(ctx context.Context) ([]*hook, error) {
	objects, err := s.lookup.List(ctx, s.resource, "")
	if err != nil {
		if apierrors.ReasonForError(err) != "" {
			return nil, err
		}
		return nil, apierrors.NewInternalError(err)
	}
	return s.compiled.Of(objects), nil
}

func (s *source) join(all [][]*hook) []*hook {
	hooks, used := slices.Concat(all...), map[server]bool{}
	for _, h := range hooks {
		used[h.server] = true
	}
	s.clients.retain(used)
	return hooks
}

func (s *source) compile(o kinds.Object) (hooks []*hook) {
	seen := map[string]int{}
	add := func(w *admissionv1.MutatingWebhook) {
		h := s.hook(o.GetName(), w)
		h.id = fmt.Sprintf("%s/%s/%d", h.configuration, w.Name, seen[w.Name])
		seen[w.Name]++
		hooks = append(hooks, h)
	}
	switch o := o.(type) {
	case *admissionv1.MutatingWebhookConfiguration:
		for i := range o.Webhooks {
			add(&o.Webhooks[i])
		}
	case *admissionv1.ValidatingWebhookConfiguration:
		for i := range o.Webhooks {
			w := &o.Webhooks[i]
			add(&admissionv1.MutatingWebhook{
				Name: w.Name, ClientConfig: w.ClientConfig, Rules: w.Rules, FailurePolicy: w.FailurePolicy, MatchPolicy: w.MatchPolicy,
				NamespaceSelector: w.NamespaceSelector, ObjectSelector: w.ObjectSelector, SideEffects: w.SideEffects,
				TimeoutSeconds: w.TimeoutSeconds, AdmissionReviewVersions: w.AdmissionReviewVersions, MatchConditions: w.MatchConditions,
			})
		}
	}
	return hooks
}

func (s *source) hook(configuration string, w *admissionv1.MutatingWebhook) *hook {
	t, _ := targetOf(&w.ClientConfig) // the client tells of the error
	return &hook{
		configuration: configuration, name: w.Name,
		criteria:   match.ForWebhook(w.Rules, w.MatchPolicy, w.NamespaceSelector, w.ObjectSelector),
		conditions: s.compiler.Compile(w.MatchConditions, w.FailurePolicy, s.stage, w.Name),
		server:     t.server,
		client:     func() (*rest.RESTClient, error) { return s.clients.client(&w.ClientConfig) },
		versions:   w.AdmissionReviewVersions, ignore: failing(w.FailurePolicy), sideEffects: w.SideEffects,
		timeout:  time.Duration(ptr.Deref(w.TimeoutSeconds, 0)) * time.Second,
		reinvoke: ptr.Deref(w.ReinvocationPolicy, admissionv1.NeverReinvocationPolicy) == admissionv1.IfNeededReinvocationPolicy,
	}
}

// asks returns the view of a request that a hook is to see, nil if it is not about the request. Errors are status errors.
func (p *plugin) asks(ctx context.Context, h *hook, a *admission.Attributes, views *match.Views) (*match.View, error) {
	v, ok, err := p.matcher.Match(ctx, h.criteria, a)
	if err != nil || !ok {
		return nil, err
	}
	view, err := views.Of(ctx, v)
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	if h.conditions == nil {
		return view, nil
	}
	switch r := h.conditions.Match(ctx, view.CEL, nil, p.authorizer); {
	case r.Error != nil:
		p.log.Warn("match conditions cannot be evaluated", hookField(h), zap.Error(r.Error))
		return nil, apierrors.NewForbidden(a.Kind.GroupResource(), a.Name, r.Error)
	case !r.Matches:
		p.metrics.excluded.WithLabelValues(h.name, "webhook", p.source.stage, string(a.Operation)).Inc()
		return nil, nil
	}
	return view, nil
}
