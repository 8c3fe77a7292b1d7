// Package admission is what stands between a valid request that may be made and the store: plugins that change objects, and
// plugins that refuse them.
//
// A plugin is a value with a Mutate or a Validate method, or both. A Chain calls all mutating plugins in order, then,
// when the object was defaulted and validated, all validating ones. Plugins hold what they need; there is no registry.
//
// A mutating plugin that changes what earlier ones have seen may ask for a second round (Reinvoke). There is no third one.
//
// # Concurrency
//
// A Chain and its plugins are used by many requests at once. Attributes belong to one request.
package admission

import (
	"context"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/keelson-io/keelson/orchestrator/apiserver/request"
	"github.com/keelson-io/keelson/orchestrator/kinds"
)

// Operation is what is done to an object.
type Operation string

// The operations, in the words of admissionregistration.k8s.io.
const (
	Create  Operation = "CREATE"
	Update  Operation = "UPDATE"
	Delete  Operation = "DELETE"
	Connect Operation = "CONNECT"
)

// Attributes is what a plugin is asked about.
type Attributes struct {
	Operation   Operation
	Kind        *kinds.Kind             // of the resource
	ObjectKind  schema.GroupVersionKind // of Object: another one for subresources such as scale and binding
	Subresource string
	Namespace   string
	Name        string         // "" for an object whose name is generated, and for a collection
	Object      runtime.Object // nil for a deletion; a mutating plugin may change or replace it
	Old         runtime.Object // nil for a creation; never changed
	Options     runtime.Object // CreateOptions, UpdateOptions, PatchOptions, DeleteOptions
	DryRun      bool
	User        *request.User
	Warn        func(text string)       // tells the client
	Annotate    func(key, value string) // tells the audit log

	course *course
}

// Mutator changes objects.
type Mutator interface {
	// Mutate may change a.Object. Its errors are *errors.StatusError of apimachinery.
	Mutate(ctx context.Context, a *Attributes) error
}

// Validator refuses requests.
type Validator interface {
	// Validate changes nothing. Its errors are *errors.StatusError of apimachinery.
	Validate(ctx context.Context, a *Attributes) error
}

// Plugin is a Mutator, a Validator, or both.
type Plugin any

// Chain is plugins in the order in which they are asked.
type Chain struct {
	mutators   []Mutator
	validators []Validator
}

// NewChain makes a Chain. Every plugin is asked in each of its roles.
func NewChain(plugins ...Plugin) *Chain {
	c := &Chain{}
	for _, p := range plugins {
		if m, ok := p.(Mutator); ok {
			c.mutators = append(c.mutators, m)
		}
		if v, ok := p.(Validator); ok {
			c.validators = append(c.validators, v)
		}
	}
	return c
}

// Mutate asks the mutating plugins until one fails, and all of them once more if one wants that.
func (c *Chain) Mutate(ctx context.Context, a *Attributes) error {
	a.course = &course{}
	if err := c.mutate(ctx, a); err != nil || !a.course.again {
		return err
	}
	a.course.second = true
	return c.mutate(ctx, a)
}

func (c *Chain) mutate(ctx context.Context, a *Attributes) error {
	for _, m := range c.mutators {
		if err := m.Mutate(ctx, a); err != nil {
			return err
		}
	}
	return nil
}

// Validate asks the validating plugins until one refuses.
func (c *Chain) Validate(ctx context.Context, a *Attributes) error {
	for _, v := range c.validators {
		if err := v.Validate(ctx, a); err != nil {
			return err
		}
	}
	return nil
}
