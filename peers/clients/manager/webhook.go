package manager

import (
	"context"
	"errors"
	"fmt"

	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"

	v1 "github.com/keelson-io/keelson/peers/clients/manager/api/v1"
)

// rules are what tasks are held to.
type rules struct{}

const (
	defaultSize = 2
	maxSize     = 10
	keep        = "work.example.com/keep" // an annotation that forbids deletion
)

// AddWebhooks makes a manager serve defaulting, validation and conversion of tasks.
func AddWebhooks(m ctrl.Manager) error {
	return ctrl.NewWebhookManagedBy(m, &v1.Task{}).WithDefaulter(rules{}).WithValidator(rules{}).Complete()
}

// Default implements admission.Defaulter.
func (rules) Default(_ context.Context, t *v1.Task) error {
	if t.Spec.Size == 0 {
		t.Spec.Size = defaultSize
	}
	return nil
}

// ValidateCreate implements admission.Validator.
func (rules) ValidateCreate(_ context.Context, t *v1.Task) (admission.Warnings, error) {
	if t.Spec.Size > maxSize {
		return nil, fmt.Errorf("a task has %d config maps at most", maxSize)
	}
	if t.Spec.Message == "" {
		return admission.Warnings{"a task without a message says nothing"}, nil
	}
	return nil, nil
}

// ValidateUpdate implements admission.Validator.
func (r rules) ValidateUpdate(ctx context.Context, before, after *v1.Task) (admission.Warnings, error) {
	if before.Spec.Message != "" && before.Spec.Message != after.Spec.Message {
		return nil, errors.New("the message of a task cannot be changed")
	}
	return r.ValidateCreate(ctx, after)
}

// ValidateDelete implements admission.Validator.
func (rules) ValidateDelete(_ context.Context, t *v1.Task) (admission.Warnings, error) {
	if t.Annotations[keep] != "" {
		return nil, errors.New("the task is to be kept")
	}
	return nil, nil
}
