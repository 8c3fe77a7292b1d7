package policy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/keelson-io/keelson/orchestrator/apiserver/admission"
	"github.com/keelson-io/keelson/orchestrator/apiserver/admission/match"
)

// Validating applies validating admission policies.
type Validating struct{ plugin }

// Bounds of what policies may write into the audit log.
const (
	maxNoteBytes   = 10 << 10
	maxFailedNotes = 50
)

// Validate evaluates all policies that are bound and about a request.
func (p *Validating) Validate(ctx context.Context, a *admission.Attributes) error {
	if match.Exempt(a) {
		return nil
	}
	rules, err := p.source.rules(ctx)
	if err != nil || len(rules) == 0 {
		return err
	}
	v := &verdict{a: a, metrics: p.metrics, notes: map[string][]string{}}
	views := p.matcher.Views(a)
	var broken error // ends the request
	var ns *corev1.Namespace
	p.meet(ctx, a, rules, meeting{failed: v.failed, found: func(r *rule, b *binding, version match.Version, params []param) {
		view, err := views.Of(ctx, version)
		if err != nil {
			v.failed(failure{r, b, fmt.Errorf("failed to configure binding: failed to convert object version: %w", err)})
			return
		}
		if ns == nil && broken == nil {
			ns, broken = p.namespace(ctx, a)
		}
		if broken != nil {
			return
		}
		for _, param := range params {
			start := p.clock.Now()
			findings, notes, ran := r.validator.validate(ctx, &invocation{view: view, param: param, namespace: ns, authz: p.authorizer})
			if ran {
				v.add(r, b, findings, notes)
				p.metrics.took(r, b, p.clock.Now().Sub(start))
			}
		}
	}})
	if broken != nil {
		return broken
	}
	v.publish()
	return v.refusal
}

// verdict is what comes of all policies together.
type verdict struct {
	a       *admission.Attributes
	metrics *metrics
	refusal error // the first one
	audited []audited
	notes   map[string][]string // by key
}

// audited is an entry of the annotation validation_failure.
type audited struct {
	Message           string                         `json:"message"`
	Policy            string                         `json:"policy"`
	Binding           string                         `json:"binding"`
	ExpressionIndex   int                            `json:"expressionIndex"`
	ValidationActions []admissionv1.ValidationAction `json:"validationActions"`
}

func (v *verdict) failed(f failure) {
	if !f.rule.ignore {
		v.refuse(f.rule, f.binding, "", f.err.Error())
	}
}

// refuse keeps the first refusal.
func (v *verdict) refuse(r *rule, b *binding, reason metav1.StatusReason, text string) {
	if v.refusal != nil {
		return
	}
	by := fmt.Sprintf("ValidatingAdmissionPolicy '%s'", r.name)
	if b != nil {
		by += fmt.Sprintf(" with binding '%s'", b.name)
	}
	text = by + " denied request: " + text
	if reason == "" {
		reason = metav1.StatusReasonInvalid
	}
	var status *apierrors.StatusError
	if err := admission.Forbidden(v.a, errors.New(text)); errors.As(err, &status) {
		status.ErrStatus.Reason, status.ErrStatus.Code = reason, code(reason)
		status.ErrStatus.Details.Causes = append(status.ErrStatus.Details.Causes, metav1.StatusCause{Message: text})
		v.refusal = status
	}
}

func code(reason metav1.StatusReason) int32 {
	switch reason {
	case metav1.StatusReasonForbidden:
		return http.StatusForbidden
	case metav1.StatusReasonUnauthorized:
		return http.StatusUnauthorized
	case metav1.StatusReasonRequestEntityTooLarge:
		return http.StatusRequestEntityTooLarge
	}
	return http.StatusUnprocessableEntity
}

// add does what a binding wants done about findings.
func (v *verdict) add(r *rule, b *binding, findings []finding, notes []note) {
	if len(findings) == 0 {
		v.metrics.counted(r, b, "", "allow")
	}
	for _, f := range findings {
		if f.failed && r.ignore {
			v.metrics.counted(r, b, f.text, "allow")
			continue
		}
		for _, action := range b.actions {
			switch action {
			case admissionv1.Deny:
				v.refuse(r, b, f.reason, f.text)
			case admissionv1.Audit:
				v.audited = append(v.audited, audited{f.text, r.name, b.name, f.index, b.actions})
			case admissionv1.Warn:
				v.a.AddWarning(fmt.Sprintf("Validation failed for ValidatingAdmissionPolicy '%s' with binding '%s': %s", r.name, b.name, f.text))
			}
			v.metrics.counted(r, b, f.text, strings.ToLower(string(action)))
		}
	}
	for _, n := range notes {
		key := r.name + "/" + n.key
		switch {
		case n.err != "" && !r.ignore:
			v.refuse(r, b, "", n.err)
			v.metrics.counted(r, b, n.err, "deny")
		case n.err == "":
			if value := n.value[:min(len(n.value), maxNoteBytes)]; !slices.Contains(v.notes[key], value) {
				v.notes[key] = append(v.notes[key], value)
			}
		}
	}
}

// publish tells the audit log.
func (v *verdict) publish() {
	for key, values := range v.notes {
		v.a.AddAnnotation(key, strings.Join(values, ", "))
	}
	if len(v.audited) == 0 {
		return
	}
	if b, err := json.Marshal(v.audited[:min(len(v.audited), maxFailedNotes)]); err == nil {
		v.a.AddAnnotation("validation.policy.admission.k8s.io/validation_failure", string(b))
	}
}
