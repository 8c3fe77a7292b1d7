package rights

import (
	"context"
	"errors"
	"fmt"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/keelson-io/keelson/orchestrator/apiserver/request"
)

// Attributes are what is asked: who wants to do what.
type Attributes struct {
	User *request.User
	// Verb is an API verb, or an HTTP method in lower case if IsResource is false.
	Verb       string
	IsResource bool
	Path       string // matters if IsResource is false

	Group, Version        string
	Resource, Subresource string
	Namespace, Name       string

	// Fields and Labels are the selectors of a list, watch or deletecollection; nil: none, or one that could not be read.
	Fields fields.Requirements
	Labels labels.Requirements
}

// Of returns the attributes of a request. Selectors are left out.
func Of(u *request.User, i *request.Info) Attributes {
	return Attributes{
		User: u, Verb: i.Verb, IsResource: i.IsResource, Path: i.Path,
		Group: i.Group, Version: i.Version, Resource: i.Resource, Subresource: i.Subresource,
		Namespace: i.Namespace, Name: i.Name,
	}
}

// Select adds selectors in their string forms. One that cannot be read is left out: it narrows nothing.
func (a *Attributes) Select(fieldSelector, labelSelector string) {
	if fieldSelector != "" {
		if s, err := fields.ParseSelector(fieldSelector); err == nil {
			a.Fields = s.Requirements()
		}
	}
	if labelSelector != "" {
		if s, err := labels.Parse(labelSelector); err == nil {
			if r, selectable := s.Requirements(); selectable {
				a.Labels = r
			}
		}
	}
}

// Decision is the answer of an Authorizer.
type Decision int

// The decisions. The zero value allows nothing, and leaves it to others.
const (
	NoOpinion Decision = iota
	Allow
	Deny
)

// String returns the decision's name.
func (d Decision) String() string {
	switch d {
	case Allow:
		return "allow"
	case Deny:
		return "deny"
	}
	return "no opinion"
}

// Authorizer decides. The reason is for people, of an allowed request too. An error is told with a decision other than Allow.
type Authorizer interface {
	Authorize(ctx context.Context, a Attributes) (Decision, string, error)
}

// Chain asks one Authorizer after the other until one allows or denies.
type Chain []Authorizer

// Authorize is NoOpinion, with all reasons and errors, if nobody decides.
func (c Chain) Authorize(ctx context.Context, a Attributes) (Decision, string, error) {
	var reasons []string
	var errs []error
	for _, next := range c {
		d, reason, err := next.Authorize(ctx, a)
		if d != NoOpinion {
			return d, reason, err
		}
		if reason != "" {
			reasons = append(reasons, reason)
		}
		if err != nil {
			errs = append(errs, err)
		}
	}
	return NoOpinion, strings.Join(reasons, "\n"), errors.Join(errs...)
}

// Masters is the group whose members may do everything.
const Masters = "system:masters"

// Privileged allows everything to members of Masters.
type Privileged struct{}

// Authorize allows members of Masters everything and has no opinion on others.
func (Privileged) Authorize(_ context.Context, a Attributes) (Decision, string, error) {
	if a.User != nil {
		for _, g := range a.User.Groups {
			if g == Masters {
				return Allow, "", nil
			}
		}
	}
	return NoOpinion, "", nil
}

// Denial says what the user cannot do, in the words that clients know.
func (a *Attributes) Denial() string {
	name := ""
	if a.User != nil {
		name = a.User.Name
	}
	if !a.IsResource {
		return fmt.Sprintf("User %q cannot %s path %q", name, a.Verb, a.Path)
	}
	resource := a.Resource
	if a.Subresource != "" {
		resource += "/" + a.Subresource
	}
	what := fmt.Sprintf("User %q cannot %s resource %q in API group %q", name, a.Verb, resource, a.Group)
	if a.Namespace == "" {
		return what + " at the cluster scope"
	}
	return what + fmt.Sprintf(" in the namespace %q", a.Namespace)
}

// Forbidden is the error for a request that was not allowed.
func Forbidden(a Attributes, reason string) *apierrors.StatusError {
	// Browsers that take the text for HTML find no markup in it.
	msg := strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;").Replace(a.Denial())
	if reason != "" {
		msg += ": " + reason
	}
	return apierrors.NewForbidden(schema.GroupResource{Group: a.Group, Resource: a.Resource}, a.Name, errors.New(msg))
}
