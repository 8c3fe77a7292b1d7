package apiserver

import (
	"context"
	"net/http"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/client-go/applyconfigurations"

	"github.com/keelson-io/keelson/orchestrator/apiserver/admission"
	"github.com/keelson-io/keelson/orchestrator/apiserver/admission/match"
	"github.com/keelson-io/keelson/orchestrator/apiserver/admission/policy"
	"github.com/keelson-io/keelson/orchestrator/apiserver/admission/webhook"
	"github.com/keelson-io/keelson/orchestrator/apiserver/aggregate"
	"github.com/keelson-io/keelson/orchestrator/apiserver/allocation"
	"github.com/keelson-io/keelson/orchestrator/apiserver/audit"
	"github.com/keelson-io/keelson/orchestrator/apiserver/connect"
	"github.com/keelson-io/keelson/orchestrator/apiserver/fairness"
	"github.com/keelson-io/keelson/orchestrator/apiserver/identity"
	"github.com/keelson-io/keelson/orchestrator/apiserver/meter"
	"github.com/keelson-io/keelson/orchestrator/apiserver/request"
	"github.com/keelson-io/keelson/orchestrator/apiserver/rights"
	"github.com/keelson-io/keelson/orchestrator/apiserver/verbs"
	"github.com/keelson-io/keelson/orchestrator/kinds"
)

// API is a whole API server: an http.Handler for requests as they come from the network, and what runs behind it.
type API struct {
	http.Handler
	cfg     Config
	server  *Server
	objects Objects
	policy  *rights.Policy
	graph   *rights.Graph
	chain   *admission.Chain
	types   func() (managedfields.TypeConverter, error)
	flow    *fairness.Limiter
	stages  *stages
	started chan struct{} // closed once requests can be served
	builtin []*verbs.Resource
	custom  *custom
	// aggregator sends requests to other API servers.
	aggregator *aggregate.Aggregator
	// services hands out cluster IPs and node ports.
	services *allocation.Services
	// connector reaches nodes, pods and services.
	connector *connect.Connector
}

// New makes an API server. Requests wait until Run has called started.
func New(cfg Config) (*API, error) {
	cfg.setDefaults()
	set, err := kinds.NewSet(cfg.Kinds...)
	if err != nil {
		return nil, err
	}
	a := &API{
		cfg: cfg, policy: rights.NewPolicy(), graph: rights.NewGraph(), stages: newStages(), started: make(chan struct{}),
		types: sync.OnceValues(func() (managedfields.TypeConverter, error) {
			return applyconfigurations.NewTypeConverter(set.Scheme()), nil
		}),
	}
	s := &Server{clock: cfg.Clock, logger: cfg.Logger, parts: map[part]func(*call) error{}, virtual: byResource(a.virtual()), workers: newWorkers(cfg.Logger)}
	s.draining, s.drain = context.WithCancel(context.Background())
	if a.flow, err = a.limiter(); err != nil {
		return nil, err
	}
	a.server, a.objects = s, s.objects()

	authorizer := rights.Chain{rights.Privileged{}, rights.NewNodes(a.graph), a.policy}
	if a.chain, err = a.admission(authorizer); err != nil {
		return nil, err
	}
	a.serveBuiltin()
	t := newTable(a.builtin)
	s.table.Store(t)
	a.services = allocation.New(allocation.Config{
		Store: cfg.Store, Addresses: t.preferred[addressResource].Objects, Services: t.preferred[serviceResource].Objects,
		Ranges: cfg.ServiceRanges, Ports: cfg.NodePorts, Clock: cfg.Clock, Logger: cfg.Logger,
	})
	t.preferred[serviceResource].Reserver = a.services
	if a.aggregator, err = a.newAggregator(); err != nil {
		return nil, err
	}
	if a.custom, err = newCustom(a); err != nil {
		return nil, err
	}
	tokens, issuer := a.tokens()
	r := &reviews{tokens: tokens, audiences: cfg.Audiences, authorizer: authorizer, policy: a.policy, issuer: issuer}
	for p, do := range r.parts() {
		s.parts[p] = do
	}
	for p, do := range a.streams(authorizer).parts() {
		s.parts[p] = do
	}
	for p, do := range a.metrics() {
		s.parts[p] = do
	}
	s.parts[part{"", "pods", "binding"}], s.parts[part{"", "bindings", ""}] = (*call).bind, (*call).bind
	s.parts[part{"", "pods", "eviction"}] = (*call).evict
	if s.others, err = a.others(); err != nil {
		return nil, err
	}
	a.Handler, err = a.handlers(tokens, authorizer)
	return a, err
}

// objects reads what the server serves.
func (s *Server) objects() Objects { return Objects{func() *table { return s.table.Load() }} }

// defaultTolerationSeconds is how long pods stay on a node that is not ready, unless they say otherwise.
const defaultTolerationSeconds = 300

// admission is the chain of plugins, in the order of kube-apiserver.
func (a *API) admission(authorizer rights.Authorizer) (*admission.Chain, error) {
	served := match.Served(func() []*kinds.Kind { return a.objects.table().kinds })
	mutating, validating := webhook.New(webhook.Config{
		Lookup: a.objects, Versions: served, Resolver: services{a.objects}, Authorizer: authorizer, Registerer: a.cfg.Registry, Logger: a.cfg.Logger, Clock: a.cfg.Clock,
	})
	mutators, validators := policy.New(policy.Config{
		Lookup: a.objects, Kinds: a.objects, Versions: served, Authorizer: authorizer, Types: a.objects, Registerer: a.cfg.Registry, Clock: a.cfg.Clock,
	})
	security, err := admission.NewPodSecurity(a.objects, a.cfg.Registry)
	if err != nil {
		return nil, err
	}
	return admission.NewChain(
		&admission.NamespaceLifecycle{Lookup: a.objects, Immortal: []string{"default", "kube-system", "kube-public"}},
		&admission.LimitRanger{Lookup: a.objects},
		&admission.ServiceAccount{Lookup: a.objects},
		&restriction{objects: a.objects, authorizer: authorizer},
		&guard{rights.Guard{Policy: a.policy, Authorizer: authorizer, Rules: rulesOf(a.objects)}},
		&signers{rights.Signers{Authorizer: authorizer}},
		&devices{a.objects, authorizer},
		admission.TaintNewNodes{},
		security,
		&admission.Priority{Lookup: a.objects},
		&admission.DefaultTolerationSeconds{Seconds: defaultTolerationSeconds},
		&admission.RuntimeClass{Lookup: a.objects},
		&admission.DefaultClass{Lookup: a.objects},
		admission.StorageProtection{},
		&admission.ClaimResize{Lookup: a.objects},
		mutators, mutating, validators, validating,
		&admission.ResourceQuota{Lookup: a.objects, Quotas: a.objects, Clock: a.cfg.Clock},
	), nil
}

// streams are the ways to nodes, pods and services.
func (a *API) streams(authorizer rights.Authorizer) *streams {
	a.connector = connect.New(connect.Config{
		Certificate: a.cfg.Nodes.Certificate, Authorities: a.cfg.Nodes.Authorities, Fail: a.fail, Ending: a.server.draining, Dial: a.cfg.Nodes.Dial,
	})
	return &streams{authorizer: authorizer, connector: a.connector, services: services{a.objects}}
}

// tokens is who knows bearer tokens, and who makes them.
func (a *API) tokens() (identity.TokenAuthenticator, *identity.Issuer) {
	look := tokenObjects{a.objects}
	accounts := &identity.ServiceAccounts{
		Keys: a.cfg.Keys, Issuers: []string{a.cfg.Issuer}, Audiences: a.cfg.Audiences, Lookup: look, Clock: a.cfg.Clock, Annotate: audit.Annotate,
	}
	issuer := &identity.Issuer{Keys: a.cfg.Keys, Name: a.cfg.Issuer, Audiences: a.cfg.Audiences, Extend: true, Lookup: look, Clock: a.cfg.Clock}
	return identity.Tokens{identity.NewStatic(a.cfg.Tokens), accounts, identity.NewBootstrap(look, a.cfg.Clock)}, issuer
}

// fail answers with an error to a request that is not served by a call.
func (a *API) fail(w http.ResponseWriter, r *http.Request, err error) {
	refused(r.Context(), err)
	Fail(w, nil, err)
}

// handlers are what a request goes through before it is served.
func (a *API) handlers(tokens identity.TokenAuthenticator, authorizer rights.Authorizer) (http.Handler, error) {
	log, err := audit.New(audit.Config{
		Policy: a.cfg.AuditPolicy, Writer: a.cfg.AuditLog, Clock: a.cfg.Clock, Registry: a.cfg.Registry, Logger: a.cfg.Logger,
	})
	if err != nil {
		return nil, err
	}
	var authenticators []identity.Authenticator
	if a.cfg.ClientCAs != nil {
		authenticators = append(authenticators, identity.NewCertificates(a.cfg.ClientCAs, a.cfg.Clock))
	}
	gate := identity.New(identity.Config{
		Authenticators: append(authenticators, identity.Bearer{Tokens: tokens}),
		Anonymous:      &identity.Anonymous{},
		Authorizer:     authorizer,
		Impersonated: func(r *http.Request, u *request.User, constraint string) {
			audit.FromContext(r.Context()).Impersonated(u, constraint)
		},
		Fail: a.fail, Logger: a.cfg.Logger,
	})
	m, err := meter.New(meter.Config{
		Served: a.served, LongRunning: audit.LongRunning, Clock: a.cfg.Clock, Registerer: a.cfg.Registry, Logger: a.cfg.Logger,
	})
	if err != nil {
		return nil, err
	}
	a.server.meter = m
	seats := &fairness.Gate{Limiter: a.flow, Apart: apart, Width: a.width}
	h := rights.Handler(a.aggregator.Handler(a.server), authorizer, audit.Annotate, a.fail)
	h = seats.Handler(h)
	h = gate.Impersonate(h)
	h = log.Handler(h)
	h = gate.Authenticate(h)
	h = log.Begin(h)
	h = a.hold(h)
	h = a.limitTime(h)
	h = m.Handler(h)
	return parsed(h), nil
}

// parsed puts what a request asks for into its context.
func parsed(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		i := request.Parse(r)
		if i.IsResource && i.Verb == "" && i.Subresource != "proxy" {
			Fail(w, nil, apierrors.NewMethodNotSupported(nodeResource, r.Method))
			return
		}
		next.ServeHTTP(w, r.WithContext(request.WithInfo(r.Context(), i)))
	})
}
