package rights

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"

	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/keelson-io/keelson/orchestrator/apiserver/request"
)

// Answer answers a SubjectAccessReview. The spec has to be valid: see ValidateReview. For a SelfSubjectAccessReview it has the
// user's name, groups, UID and extra.
func Answer(ctx context.Context, by Authorizer, spec *authorizationv1.SubjectAccessReviewSpec) authorizationv1.SubjectAccessReviewStatus {
	a, problems := asked(spec)
	d, reason, err := by.Authorize(ctx, a)
	if err != nil {
		problems = append([]string{err.Error()}, problems...)
	}
	return authorizationv1.SubjectAccessReviewStatus{
		Allowed: d == Allow, Denied: d == Deny, Reason: reason, EvaluationError: strings.Join(problems, "; "),
	}
}

// ReviewOf returns the spec by which a user asks about himself.
func ReviewOf(u *request.User, self *authorizationv1.SelfSubjectAccessReviewSpec) *authorizationv1.SubjectAccessReviewSpec {
	s := &authorizationv1.SubjectAccessReviewSpec{
		ResourceAttributes: self.ResourceAttributes, NonResourceAttributes: self.NonResourceAttributes,
		User: u.Name, Groups: u.Groups, UID: u.UID,
	}
	for k, v := range u.Extra {
		if s.Extra == nil {
			s.Extra = map[string]authorizationv1.ExtraValue{}
		}
		s.Extra[k] = v
	}
	return s
}

// ValidateReview says what is wrong with a review's spec.
func ValidateReview(s *authorizationv1.SubjectAccessReviewSpec) field.ErrorList {
	var errs field.ErrorList
	at := field.NewPath("spec")
	if (s.ResourceAttributes == nil) == (s.NonResourceAttributes == nil) {
		errs = append(errs, field.Invalid(at, s.NonResourceAttributes, "exactly one of nonResourceAttributes or resourceAttributes must be specified"))
	}
	if s.User == "" && len(s.Groups) == 0 {
		errs = append(errs, field.Invalid(at.Child("user"), s.User, "at least one of user or group must be specified"))
	}
	if r := s.ResourceAttributes; r != nil {
		check := func(name, raw string, requirements int) {
			at := at.Child("resourceAttributes", name)
			switch {
			case raw != "" && requirements > 0:
				errs = append(errs, field.Invalid(at.Child("rawSelector"), raw, "may not specified at the same time as requirements"))
			case raw == "" && requirements == 0:
				errs = append(errs, field.Required(at.Child("requirements"), fmt.Sprintf("when %s is specified, requirements or rawSelector is required", at)))
			}
		}
		if f := r.FieldSelector; f != nil {
			check("fieldSelector", f.RawSelector, len(f.Requirements))
		}
		if l := r.LabelSelector; l != nil {
			check("labelSelector", l.RawSelector, len(l.Requirements))
		}
	}
	return errs
}

// asked returns what a review asks, and what of its selectors was not understood. A selector without a part of it selects
// more, so nothing is allowed that should not be.
func asked(s *authorizationv1.SubjectAccessReviewSpec) (Attributes, []string) {
	u := &request.User{Name: s.User, UID: s.UID, Groups: s.Groups}
	for k, v := range s.Extra {
		if u.Extra == nil {
			u.Extra = map[string][]string{}
		}
		u.Extra[k] = v
	}
	if n := s.NonResourceAttributes; n != nil {
		return Attributes{User: u, Path: n.Path, Verb: n.Verb}, nil
	}
	r := s.ResourceAttributes
	a := Attributes{
		User: u, IsResource: true, Verb: r.Verb, Group: r.Group, Version: cmp.Or(r.Version, "*"),
		Resource: r.Resource, Subresource: r.Subresource, Namespace: r.Namespace, Name: r.Name,
	}
	var problems []string
	note := func(name string, understood int, err error) {
		if err == nil {
			return
		}
		how := "ignored"
		if understood > 0 {
			how = "partially ignored"
		}
		problems = append(problems, fmt.Sprintf("spec.resourceAttributes.%s %s due to parse error", name, how))
	}
	if f := r.FieldSelector; f != nil {
		var err error
		a.Fields, err = fieldRequirements(f)
		note("fieldSelector", len(a.Fields), err)
	}
	if l := r.LabelSelector; l != nil {
		var err error
		a.Labels, err = labelRequirements(l)
		note("labelSelector", len(a.Labels), err)
	}
	return a, problems
}

func fieldRequirements(f *authorizationv1.FieldSelectorAttributes) (fields.Requirements, error) {
	if len(f.Requirements) == 0 {
		s, err := fields.ParseSelector(f.RawSelector)
		if err != nil {
			return nil, err
		}
		return s.Requirements(), nil
	}
	operators := map[metav1.FieldSelectorOperator]selection.Operator{
		metav1.FieldSelectorOpIn: selection.Equals, metav1.FieldSelectorOpNotIn: selection.NotEquals,
	}
	var reqs fields.Requirements
	var errs []error
	for _, r := range f.Requirements {
		if op, ok := operators[r.Operator]; ok && len(r.Values) == 1 {
			reqs = append(reqs, fields.Requirement{Field: r.Key, Operator: op, Value: r.Values[0]})
		} else {
			errs = append(errs, errors.New("a field selector of an unknown form"))
		}
	}
	return reqs, utilerrors.NewAggregate(errs)
}

func labelRequirements(l *authorizationv1.LabelSelectorAttributes) (labels.Requirements, error) {
	if len(l.Requirements) == 0 {
		s, err := labels.Parse(l.RawSelector)
		if err != nil {
			return nil, err
		}
		reqs, _ := s.Requirements()
		return reqs, nil
	}
	operators := map[metav1.LabelSelectorOperator]selection.Operator{
		metav1.LabelSelectorOpIn: selection.In, metav1.LabelSelectorOpNotIn: selection.NotIn,
		metav1.LabelSelectorOpExists: selection.Exists, metav1.LabelSelectorOpDoesNotExist: selection.DoesNotExist,
	}
	var reqs labels.Requirements
	var errs []error
	for _, r := range l.Requirements {
		op, ok := operators[r.Operator]
		if !ok {
			errs = append(errs, fmt.Errorf("%q is not a valid label selector operator", r.Operator))
			continue
		}
		req, err := labels.NewRequirement(r.Key, op, r.Values)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		reqs = append(reqs, *req)
	}
	return reqs, utilerrors.NewAggregate(errs)
}
