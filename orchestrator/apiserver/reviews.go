package apiserver

import (
	"errors"
	"net/http"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/keelson-io/keelson/orchestrator/apiserver/audit"
	"github.com/keelson-io/keelson/orchestrator/apiserver/identity"
	"github.com/keelson-io/keelson/orchestrator/apiserver/request"
	"github.com/keelson-io/keelson/orchestrator/apiserver/rights"
)

// reviews answers questions about users and their rights: virtual resources, which can be created and are never stored.
type reviews struct {
	tokens     identity.TokenAuthenticator
	audiences  []string
	authorizer rights.Authorizer
	policy     *rights.Policy
	issuer     *identity.Issuer
}

// parts are the calls that reviews serves.
func (r *reviews) parts() map[part]func(*call) error {
	authentication := func(resource string) part { return part{authenticationv1.GroupName, resource, ""} }
	authorization := func(resource string) part { return part{authorizationv1.GroupName, resource, ""} }
	return map[part]func(*call) error{
		authentication("tokenreviews"):             r.token,
		authentication("selfsubjectreviews"):       r.self,
		authorization("subjectaccessreviews"):      r.access,
		authorization("localsubjectaccessreviews"): r.localAccess,
		authorization("selfsubjectaccessreviews"):  r.selfAccess,
		authorization("selfsubjectrulesreviews"):   r.selfRules,
		{"", "serviceaccounts", "token"}:           r.issue,
	}
}

// question reads what was posted.
func question[T runtime.Object](c *call, kind string, into T) error {
	if c.info.Verb != "create" {
		return apierrors.NewMethodNotSupported(schema.GroupResource{Group: c.info.Group, Resource: c.info.Resource}, c.info.Verb)
	}
	_, err := c.posted(schema.GroupVersionKind{Group: c.info.Group, Version: c.info.Version, Kind: kind}, into)
	return err
}

func (r *reviews) token(c *call) error {
	q := &authenticationv1.TokenReview{}
	if err := question(c, "TokenReview", q); err != nil {
		return err
	}
	if q.Spec.Token == "" {
		return apierrors.NewBadRequest("token is required for TokenReview in authentication")
	}
	q.Status = identity.Review(c.ctx(), r.tokens, r.audiences, &q.Spec)
	return c.any(http.StatusCreated, q)
}

func (r *reviews) self(c *call) error {
	q := &authenticationv1.SelfSubjectReview{}
	if err := question(c, "SelfSubjectReview", q); err != nil {
		return err
	}
	q.CreationTimestamp = metav1.Time{Time: c.shown.Now}
	q.Status.UserInfo = identity.UserInfo(request.UserFrom(c.ctx()))
	return c.any(http.StatusCreated, q)
}

// answer answers about a spec, or says what is wrong with it.
func (r *reviews) answer(c *call, kind string, spec *authorizationv1.SubjectAccessReviewSpec) (authorizationv1.SubjectAccessReviewStatus, error) {
	if errs := rights.ValidateReview(spec); len(errs) > 0 {
		return authorizationv1.SubjectAccessReviewStatus{}, apierrors.NewInvalid(schema.GroupKind{Group: authorizationv1.GroupName, Kind: kind}, "", errs)
	}
	return rights.Answer(c.ctx(), r.authorizer, spec), nil
}

func (r *reviews) access(c *call) (err error) {
	q := &authorizationv1.SubjectAccessReview{}
	if err := question(c, "SubjectAccessReview", q); err != nil {
		return err
	}
	if q.Status, err = r.answer(c, "SubjectAccessReview", &q.Spec); err != nil {
		return err
	}
	return c.any(http.StatusCreated, q)
}

func (r *reviews) localAccess(c *call) (err error) {
	q := &authorizationv1.LocalSubjectAccessReview{}
	if err := question(c, "LocalSubjectAccessReview", q); err != nil {
		return err
	}
	kind := schema.GroupKind{Group: authorizationv1.GroupName, Kind: "LocalSubjectAccessReview"}
	at := field.NewPath("spec", "resourceAttributes")
	switch a := q.Spec.ResourceAttributes; {
	case q.Spec.NonResourceAttributes != nil:
		return apierrors.NewInvalid(kind, "", field.ErrorList{field.Invalid(field.NewPath("spec", "nonResourceAttributes"), q.Spec.NonResourceAttributes, "disallowed on this kind of request")})
	case a != nil && a.Namespace != c.info.Namespace:
		return apierrors.NewInvalid(kind, "", field.ErrorList{field.Invalid(at.Child("namespace"), a.Namespace, "must match metadata.namespace")})
	}
	if q.Status, err = r.answer(c, "LocalSubjectAccessReview", &q.Spec); err != nil {
		return err
	}
	return c.any(http.StatusCreated, q)
}

func (r *reviews) selfAccess(c *call) (err error) {
	q := &authorizationv1.SelfSubjectAccessReview{}
	if err := question(c, "SelfSubjectAccessReview", q); err != nil {
		return err
	}
	if q.Status, err = r.answer(c, "SelfSubjectAccessReview", rights.ReviewOf(request.UserFrom(c.ctx()), &q.Spec)); err != nil {
		return err
	}
	return c.any(http.StatusCreated, q)
}

func (r *reviews) selfRules(c *call) error {
	q := &authorizationv1.SelfSubjectRulesReview{}
	if err := question(c, "SelfSubjectRulesReview", q); err != nil {
		return err
	}
	if q.Spec.Namespace == "" {
		return apierrors.NewBadRequest("no namespace on request")
	}
	q.Status = r.policy.Review(request.UserFrom(c.ctx()), q.Spec.Namespace)
	return c.any(http.StatusCreated, q)
}

// issue makes a token for a service account.
func (r *reviews) issue(c *call) error {
	if c.info.Verb != "create" {
		return apierrors.NewMethodNotSupported(serviceAccountResource, c.info.Verb)
	}
	gvk := authenticationv1.SchemeGroupVersion.WithKind("TokenRequest")
	q := &authenticationv1.TokenRequest{}
	t, err := c.posted(gvk, q)
	if err != nil {
		return err
	}
	a := c.asking(t, gvk, q)
	if err := c.res.Admission.Mutate(c.ctx(), a); err != nil { // before audiences are filled in
		return err
	}
	if q, _ = a.Object.(*authenticationv1.TokenRequest); q == nil {
		return apierrors.NewInternalError(errors.New("admission has made something else of a TokenRequest"))
	}
	out, err := r.issuer.Request(c.ctx(), c.info.Namespace, c.info.Name, q, func(asked *authenticationv1.TokenRequest) error {
		return c.res.Admission.Validate(c.ctx(), c.asking(t, gvk, asked))
	})
	if err != nil {
		return err
	}
	c.warnAll(out.Warnings)
	audit.Annotate(c.ctx(), "authentication.kubernetes.io/issued-credential-id", out.CredentialID)
	out.Request.SetGroupVersionKind(gvk)
	return c.any(http.StatusCreated, out.Request)
}
