package policy

import (
	"errors"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/keelson-io/keelson/orchestrator/apiserver/admission"
)

// refusals is what went wrong in mutating policies whose failures matter.
type refusals struct {
	texts  []string
	reason metav1.StatusReason // of the first
}

func (r *refusals) add(f failure, reason metav1.StatusReason) {
	if f.rule.ignore {
		return
	}
	text := fmt.Sprintf("policy %q denied request: %v", f.rule.name, f.err)
	if f.binding != nil {
		text = fmt.Sprintf("policy '%s' with binding '%s' denied request: %v", f.rule.name, f.binding.name, f.err)
	}
	if len(r.texts) == 0 {
		r.reason = reason
	}
	r.texts = append(r.texts, text)
}

// status returns a status error, nil if nothing went wrong.
func (r *refusals) status(a *admission.Attributes) error {
	if len(r.texts) == 0 {
		return nil
	}
	err := admission.Forbidden(a, errors.New("admission request denied by policy"))
	var status *apierrors.StatusError
	if !errors.As(err, &status) {
		return err
	}
	s := &status.ErrStatus
	s.Message = r.texts[0]
	if r.reason != "" {
		s.Reason = r.reason
	}
	for _, text := range r.texts {
		s.Details.Causes = append(s.Details.Causes, metav1.StatusCause{Message: text})
	}
	return status
}
