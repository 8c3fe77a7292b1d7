package identity

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/google/uuid"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/keelson-io/keelson/internal/clock"
)

// Issuer makes tokens for service accounts.
type Issuer struct {
	Keys *Keyring
	// Name is the issuer in tokens, a URL.
	Name string
	// Audiences are those of a token for which none are asked: the API server's.
	Audiences []string
	// Longest is how long a token can live, 0: as long as is asked.
	Longest time.Duration
	// Extend makes tokens of pods that ask for an hour and seven seconds, as those do into which tokens were mounted before
	// they had an end, live for a year, whatever Longest says; they warn when the hour has passed.
	Extend bool
	Lookup Lookup
	Clock  clock.Clock
}

// Seconds.
const (
	defaultExpiry  = 60 * 60
	shortestExpiry = 10 * 60
	extendable     = 60*60 + 7
	extended       = 365 * 24 * 60 * 60
)

// Issued is a token with what is to be said of it.
type Issued struct {
	Request *authenticationv1.TokenRequest
	// Warnings are for the client.
	Warnings []string
	// CredentialID names the token, for the audit annotation authentication.kubernetes.io/issued-credential-id.
	CredentialID string
}

// Request answers the TokenRequest for a service account, which is not changed. Errors are for the client. Check, which may be
// nil, sees the request with its defaults before anything is looked up: it is what admission has to say.
func (i *Issuer) Request(ctx context.Context, namespace, name string, asked *authenticationv1.TokenRequest, check func(*authenticationv1.TokenRequest) error) (*Issued, error) {
	t := asked.DeepCopy()
	if err := sameAccount(t, namespace, name); err != nil {
		return nil, err
	}
	account, err := i.Lookup.ServiceAccount(ctx, namespace, name)
	if err != nil {
		return nil, err
	}
	if t.UID != "" && t.UID != account.UID {
		return nil, conflict("authentication.k8s.io", "TokenRequest", name,
			"the UID in the token request (%s) does not match the UID of the service account (%s)", t.UID, account.UID)
	}
	now := i.Clock.Now()
	t.Name, t.Namespace, t.UID, t.CreationTimestamp = name, namespace, account.UID, metav1.NewTime(now)
	t.Status = authenticationv1.TokenRequestStatus{}
	if len(t.Spec.Audiences) == 0 {
		t.Spec.Audiences = i.Audiences
	}
	if t.Spec.ExpirationSeconds == nil {
		seconds := int64(defaultExpiry)
		t.Spec.ExpirationSeconds = &seconds
	}
	if errs := validate(t); len(errs) > 0 {
		return nil, apierrors.NewInvalid(tokenRequest(), "", errs)
	}
	if check != nil {
		if err := check(t.DeepCopy()); err != nil {
			return nil, err
		}
	}
	c := i.claims(account, t.Spec.Audiences, now)
	if err := i.bind(ctx, c.Bound, t.Spec.BoundObjectRef, namespace, name); err != nil {
		return nil, err
	}
	out := &Issued{Request: t, CredentialID: credentialID(c.ID)}
	seconds := *t.Spec.ExpirationSeconds
	if most := int64(i.Longest / time.Second); most > 0 && seconds > most {
		out.Warnings = append(out.Warnings, fmt.Sprintf("requested expiration of %d seconds shortened to %d seconds", seconds, most))
		seconds = most
		t.Spec.ExpirationSeconds = &seconds
	}
	lives := seconds
	if i.Extend && c.Bound.Pod != nil && seconds == extendable && i.ours(t.Spec.Audiences) {
		c.Bound.WarnAfter = jwt.NewNumericDate(now.Add(time.Duration(seconds) * time.Second))
		lives = extended
	}
	c.Expiry = jwt.NewNumericDate(now.Add(time.Duration(lives) * time.Second))
	token, err := i.Keys.sign(c)
	if err != nil {
		return nil, apierrors.NewInternalError(fmt.Errorf("failed to generate token: %w", err))
	}
	t.Status = authenticationv1.TokenRequestStatus{
		Token: token, ExpirationTimestamp: metav1.NewTime(now.Add(time.Duration(seconds) * time.Second)),
	}
	return out, nil
}

// Secret makes the token without an end that lives in a secret of type kubernetes.io/service-account-token.
func (i *Issuer) Secret(account *corev1.ServiceAccount, secret string) (string, error) {
	return i.Keys.sign(&claims{
		Issuer: secretIssuer, Subject: serviceAccountPrefix + account.Namespace + ":" + account.Name,
		secretClaims: secretClaims{
			Namespace: account.Namespace, Account: account.Name, AccountUID: string(account.UID), Secret: secret,
		},
	})
}

// ours reports whether audiences are all of the API server.
func (i *Issuer) ours(audiences []string) bool {
	return len(intersect(audiences, i.Audiences)) == len(audiences)
}

func (i *Issuer) claims(a *corev1.ServiceAccount, audiences []string, now time.Time) *claims {
	return &claims{
		Issuer: i.Name, Subject: serviceAccountPrefix + a.Namespace + ":" + a.Name, Audience: audiences,
		IssuedAt: jwt.NewNumericDate(now), NotBefore: jwt.NewNumericDate(now), ID: uuid.NewString(),
		Bound: &bound{Namespace: a.Namespace, Account: ref{a.Name, string(a.UID)}},
	}
}

func sameAccount(t *authenticationv1.TokenRequest, namespace, name string) error {
	meta := field.NewPath("metadata")
	switch {
	case t.Name != "" && t.Name != name:
		return apierrors.NewInvalid(tokenRequest(), name, field.ErrorList{
			field.Invalid(meta.Child("name"), t.Name, "must match the service account name if specified")})
	case t.Namespace != "" && t.Namespace != namespace:
		return apierrors.NewInvalid(tokenRequest(), name, field.ErrorList{
			field.Invalid(meta.Child("namespace"), t.Namespace, "must match the service account namespace if specified")})
	}
	return nil
}

func validate(t *authenticationv1.TokenRequest) field.ErrorList {
	spec := field.NewPath("spec")
	var errs field.ErrorList
	switch n := *t.Spec.ExpirationSeconds; {
	case n < shortestExpiry:
		errs = append(errs, field.Invalid(spec.Child("expirationSeconds"), n, "may not specify a duration less than 10 minutes"))
	case n > 1<<32:
		errs = append(errs, field.Invalid(spec.Child("expirationSeconds"), n, "may not specify a duration larger than 2^32 seconds"))
	}
	if len(t.Spec.Attestations) > 0 {
		errs = append(errs, field.Invalid(spec.Child("attestations"), t.Spec.Attestations,
			"attestations may only be specified with a webhook bound object reference"))
	}
	return errs
}

// bind looks up what a token is to be bound to.
func (i *Issuer) bind(ctx context.Context, b *bound, to *authenticationv1.BoundObjectReference, namespace, account string) error {
	if to == nil {
		return nil
	}
	var uid types.UID
	gvk := schema.FromAPIVersionAndKind(to.APIVersion, to.Kind)
	switch (schema.GroupKind{Group: gvk.Group, Kind: gvk.Kind}) {
	case schema.GroupKind{Kind: "Pod"}:
		p, err := i.Lookup.Pod(ctx, namespace, to.Name)
		if err != nil {
			return err
		}
		if cmp.Or(p.Spec.ServiceAccountName, p.Spec.DeprecatedServiceAccount) != account {
			return apierrors.NewBadRequest(fmt.Sprintf("cannot bind token for serviceaccount %q to pod running with different serviceaccount name.", account))
		}
		uid, b.Pod = p.UID, &ref{p.Name, string(p.UID)}
		if b.Node, err = i.nodeOf(ctx, p); err != nil {
			return err
		}
	case schema.GroupKind{Kind: "Node"}:
		n, err := i.Lookup.Node(ctx, to.Name)
		if err != nil {
			return err
		}
		uid, b.Node = n.UID, &ref{n.Name, string(n.UID)}
	case schema.GroupKind{Kind: "Secret"}:
		s, err := i.Lookup.Secret(ctx, namespace, to.Name)
		if err != nil {
			return err
		}
		uid, b.Secret = s.UID, &ref{s.Name, string(s.UID)}
	default:
		return apierrors.NewBadRequest(fmt.Sprintf("cannot bind token to object of type %s", gvk.String()))
	}
	if to.UID != "" && to.UID != uid {
		return conflict(gvk.Group, gvk.Kind, to.Name,
			"the UID in the bound object reference (%s) does not match the UID in record. The object might have been deleted and then recreated", to.UID)
	}
	return nil
}

// nodeOf returns the node of a pod. One that is not there is named nevertheless, for those who read the token.
func (i *Issuer) nodeOf(ctx context.Context, p *corev1.Pod) (*ref, error) {
	name := p.Spec.NodeName
	if name == "" {
		return nil, nil
	}
	n, err := i.Lookup.Node(ctx, name)
	switch {
	case apierrors.IsNotFound(err):
		return &ref{Name: name}, nil
	case err != nil:
		return nil, apierrors.NewInternalError(err)
	}
	return &ref{n.Name, string(n.UID)}, nil
}

func conflict(group, kind, name, format string, args ...any) error {
	return apierrors.NewConflict(schema.GroupResource{Group: group, Resource: kind}, name, fmt.Errorf(format, args...))
}

func tokenRequest() schema.GroupKind {
	return schema.GroupKind{Group: authenticationv1.GroupName, Kind: "TokenRequest"}
}
