package webhook

import (
	"errors"
	"fmt"
	"net/http"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// callError says that a webhook could not be asked, or that its answer makes no sense.
type callError struct {
	name   string
	reason error
	code   int32 // for metrics
}

func (e *callError) Error() string {
	return fmt.Sprintf("failed calling webhook %q: %v", e.name, e.reason)
}

func (e *callError) Unwrap() error { return e.reason }

// rejection is a webhook's refusal.
type rejection struct{ status *apierrors.StatusError }

func (e *rejection) Error() string { return e.status.Error() }

func (e *rejection) Unwrap() error { return e.status }

// rejected makes a refusal of what a webhook said, whatever that was.
func rejected(name string, result *metav1.Status) *rejection {
	if result == nil {
		result = &metav1.Status{}
	}
	if result.Code < http.StatusBadRequest {
		result.Code = http.StatusBadRequest
	}
	if result.Status == "" || result.Status == metav1.StatusSuccess {
		result.Status = metav1.StatusFailure
	}
	why := " without explanation"
	switch {
	case result.Message != "":
		why = ": " + result.Message
	case result.Reason != "":
		why = ": " + string(result.Reason)
	}
	result.Message = fmt.Sprintf("admission webhook %q denied the request%s", name, why)
	return &rejection{&apierrors.StatusError{ErrStatus: *result}}
}

// forClient makes the status error of whatever a call ended with.
func forClient(err error) error {
	var refused *rejection
	var failed *callError
	switch {
	case errors.As(err, &refused):
		return refused.status
	case errors.As(err, &failed):
		return apierrors.NewInternalError(failed)
	}
	return err
}
