package admission

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
	admissionv1 "k8s.io/api/admission/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	psadmission "k8s.io/pod-security-admission/admission"
	psconfig "k8s.io/pod-security-admission/admission/api"
	psapi "k8s.io/pod-security-admission/api"
	psmetrics "k8s.io/pod-security-admission/metrics"
	"k8s.io/pod-security-admission/policy"
)

// PodSecurity keeps pods within the pod security standard that their namespace's labels name (enforce), and warns of pods,
// and of templates in workloads, that would not be (warn, audit). Nobody is exempt; without labels everything is allowed.
type PodSecurity struct{ of *psadmission.Admission }

// NewPodSecurity makes the plugin. Metrics are shown by r, if it is not nil.
func NewPodSecurity(l Lookup, r prometheus.Registerer) (*PodSecurity, error) {
	checks, err := policy.NewEvaluator(policy.DefaultChecks(), nil)
	if err != nil {
		return nil, fmt.Errorf("pod security checks: %w", err)
	}
	privileged := string(psapi.LevelPrivileged)
	of := &psadmission.Admission{
		Configuration: &psconfig.PodSecurityConfiguration{Defaults: psconfig.PodSecurityDefaults{
			Enforce: privileged, EnforceVersion: psapi.VersionLatest, Audit: privileged, AuditVersion: psapi.VersionLatest,
			Warn: privileged, WarnVersion: psapi.VersionLatest,
		}},
		Evaluator: checks, Metrics: newPodSecurityMetrics(r), PodSpecExtractor: psadmission.DefaultPodSpecExtractor{},
		NamespaceGetter: podSecurityLookup{l}, PodLister: podSecurityLookup{l},
	}
	if err := of.CompleteConfiguration(); err != nil {
		return nil, fmt.Errorf("pod security: %w", err)
	}
	if err := of.ValidateConfiguration(); err != nil {
		return nil, fmt.Errorf("pod security: %w", err)
	}
	return &PodSecurity{of}, nil
}

// Validate checks pods, templates of pods, and the labels of namespaces.
func (p *PodSecurity) Validate(ctx context.Context, a *Attributes) error {
	r := a.Kind.GroupResource()
	if a.Operation != Create && a.Operation != Update || !p.of.PodSpecExtractor.HasPodSpec(r) && r != namespacesResource {
		return nil
	}
	q := &psapi.AttributesRecord{
		Name: nameOf(a), Namespace: a.Namespace, Kind: a.ObjectKind, Resource: a.Kind.GroupVersionResource(), Subresource: a.Subresource,
		Operation: admissionv1.Operation(a.Operation), Object: a.Object, OldObject: a.Old,
	}
	if a.User != nil {
		q.Username = a.User.Name
	}
	out := p.of.Validate(ctx, q)
	for _, w := range out.Warnings {
		a.AddWarning(w)
	}
	for k, v := range out.AuditAnnotations {
		a.AddAnnotation(psapi.AuditAnnotationPrefix+k, v)
	}
	if out.Allowed {
		return nil
	}
	refused := apierrors.NewForbidden(r, nameOf(a), errors.New("not allowed by PodSecurity"))
	if s := out.Result; s != nil {
		to := &refused.ErrStatus
		if s.Message != "" {
			to.Message = s.Message
		}
		if s.Reason != "" {
			to.Reason = s.Reason
		}
		if s.Details != nil {
			to.Details = s.Details
		}
		if s.Code != 0 {
			to.Code = s.Code
		}
	}
	return refused
}

// podSecurityLookup reads what the checks need.
type podSecurityLookup struct{ Lookup }

func (l podSecurityLookup) GetNamespace(ctx context.Context, name string) (*corev1.Namespace, error) {
	o, err := l.Get(ctx, namespacesResource, "", name, false)
	if apierrors.IsNotFound(err) {
		o, err = l.Get(ctx, namespacesResource, "", name, true)
	}
	if err != nil {
		return nil, err
	}
	ns, ok := objectOf[*corev1.Namespace](o)
	if !ok {
		return nil, fmt.Errorf("namespace %q is a %T", name, o)
	}
	return ns, nil
}

func (l podSecurityLookup) ListPods(ctx context.Context, namespace string) (out []*corev1.Pod, err error) {
	all, err := l.List(ctx, schema.GroupResource{Resource: "pods"}, namespace)
	for _, o := range all {
		if pod, ok := objectOf[*corev1.Pod](o); ok {
			out = append(out, pod)
		}
	}
	return out, err
}

// podSecurityMetrics have the names that dashboards know from kube-apiserver.
type podSecurityMetrics struct {
	evaluations *prometheus.CounterVec // decision, policy_level, policy_version, mode, request_operation, resource, subresource
	errors      *prometheus.CounterVec // fatal, request_operation, resource, subresource
}

func newPodSecurityMetrics(r prometheus.Registerer) *podSecurityMetrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		c := prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, append(labels, "request_operation", "resource", "subresource"))
		var there prometheus.AlreadyRegisteredError
		if r == nil {
			return c
		} else if err := r.Register(c); errors.As(err, &there) { // by a second server in one process
			if have, ok := there.ExistingCollector.(*prometheus.CounterVec); ok {
				return have
			}
		}
		return c
	}
	return &podSecurityMetrics{
		evaluations: counter("pod_security_evaluations_total", "Checks of pods against a pod security standard.", "decision", "policy_level", "policy_version", "mode"),
		errors:      counter("pod_security_errors_total", "Checks of pods that could not be done.", "fatal"),
	}
}

// RecordEvaluation counts a check.
func (m *podSecurityMetrics) RecordEvaluation(d psmetrics.Decision, v psapi.LevelVersion, mode psmetrics.Mode, a psapi.Attributes) {
	version := v.Version.String()
	if !v.Version.Latest() { // clients choose it: every other one is the same
		version = "other"
	}
	m.evaluations.WithLabelValues(string(d), string(v.Level), version, string(mode), string(a.GetOperation()), a.GetResource().Resource, a.GetSubresource()).Inc()
}

// RecordExemption does nothing: there are none.
func (m *podSecurityMetrics) RecordExemption(psapi.Attributes) {}

// RecordError counts a check that could not be done.
func (m *podSecurityMetrics) RecordError(fatal bool, a psapi.Attributes) {
	m.errors.WithLabelValues(strconv.FormatBool(fatal), string(a.GetOperation()), a.GetResource().Resource, a.GetSubresource()).Inc()
}
