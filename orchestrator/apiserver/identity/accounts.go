package identity

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/keelson-io/keelson/internal/clock"
)

// Lookup finds what tokens are bound to. It should look again at the source for what it does not know: a pod may use its
// token before everyone has heard of it.
type Lookup interface {
	Secrets
	ServiceAccount(ctx context.Context, namespace, name string) (*corev1.ServiceAccount, error)
	Pod(ctx context.Context, namespace, name string) (*corev1.Pod, error)
	Node(ctx context.Context, name string) (*corev1.Node, error)
}

// secretIssuer is the issuer of tokens that live in secrets.
const secretIssuer = "kubernetes/serviceaccount"

// leeway is by how much clocks may differ, and how long what was deleted still counts.
const leeway = time.Minute

// ServiceAccounts authenticates service accounts by the tokens that an Issuer made.
type ServiceAccounts struct {
	Keys *Keyring
	// Issuers are known issuers. Their tokens are verified by the same keys.
	Issuers []string
	// Audiences are the API server's names for itself.
	Audiences []string
	Lookup    Lookup
	Clock     clock.Clock
	// Annotate notes something about a request in the audit log. It may be nil.
	Annotate func(ctx context.Context, key, value string)
}

func (s *ServiceAccounts) issuer(name string) bool {
	return name == secretIssuer || slices.Contains(s.Issuers, name)
}

func (s *ServiceAccounts) annotate(ctx context.Context, key, value string) {
	if s.Annotate != nil {
		s.Annotate(ctx, "authentication.k8s.io/"+key, value)
	}
}

// Token verifies a token: its signature, then the audience and the time, then what it is bound to.
func (s *ServiceAccounts) Token(ctx context.Context, token string, audiences []string) (*Identity, error) {
	if strings.Count(token, ".") != 2 {
		return nil, nil
	}
	c, err := s.Keys.verify(token, s.issuer)
	if c == nil || err != nil {
		return nil, err
	}
	if audiences == nil {
		audiences = s.Audiences
	}
	from := []string(c.Audience)
	if len(from) == 0 {
		s.annotate(ctx, "legacy-token", c.Subject)
		from = s.Audiences
	}
	shared := intersect(from, audiences)
	if len(shared) == 0 && len(s.Audiences) > 0 {
		return nil, fmt.Errorf("token audiences %q is invalid for the target audiences %q", from, audiences)
	}
	now := s.Clock.Now()
	if c.Issuer == secretIssuer {
		err = s.checkSecret(ctx, c, token)
	} else if err = c.valid(now); err == nil {
		err = s.checkBound(ctx, c, now)
	}
	if err != nil {
		return nil, err
	}
	return &Identity{User: c.user, Audiences: shared}, nil
}

func intersect(a, b []string) []string {
	var both []string
	for _, s := range a {
		if slices.Contains(b, s) {
			both = append(both, s)
		}
	}
	return both
}

// valid checks the time.
func (c *claims) valid(now time.Time) error {
	switch {
	case c.NotBefore != nil && now.Add(leeway).Before(c.NotBefore.Time()):
		return errors.New("service account token is not valid yet")
	case c.Expiry != nil && now.Add(-leeway).After(c.Expiry.Time()):
		return errors.New("service account token has expired")
	case c.IssuedAt != nil && now.Add(leeway).Before(c.IssuedAt.Time()):
		return errors.New("service account token is issued in the future")
	}
	return nil
}

// deleted reports whether an object has been deleted for a while, though it is still there.
func deleted(o metav1.Object, now time.Time) bool {
	t := o.GetDeletionTimestamp()
	return t != nil && t.Time.Before(now.Add(-leeway))
}

var errInvalidated = errors.New("service account token has been invalidated")

// checkBound looks up everything that a token names.
func (s *ServiceAccounts) checkBound(ctx context.Context, c *claims, now time.Time) error {
	b := c.Bound
	if b == nil {
		return errors.New("service account token names no service account")
	}
	account, err := s.Lookup.ServiceAccount(ctx, b.Namespace, b.Account.Name)
	switch {
	case err != nil:
		return err
	case string(account.UID) != b.Account.UID:
		return fmt.Errorf("service account UID (%s) does not match claim (%s)", account.UID, b.Account.UID)
	case deleted(account, now):
		return fmt.Errorf("service account %s/%s has been deleted", b.Namespace, b.Account.Name)
	}
	if b.Secret != nil {
		o, err := s.Lookup.Secret(ctx, b.Namespace, b.Secret.Name)
		if err := same("secret", "service account secret ref claim", b.Secret, o, err, now); err != nil {
			return err
		}
	}
	switch {
	case b.Pod != nil:
		o, err := s.Lookup.Pod(ctx, b.Namespace, b.Pod.Name)
		if err := same("pod", "service account pod ref claim", b.Pod, o, err, now); err != nil {
			return err
		}
	case b.Node != nil: // beside a pod it only tells where that is
		o, err := s.Lookup.Node(ctx, b.Node.Name)
		if err := same("node", "service account node ref claim", b.Node, o, err, now); err != nil {
			return err
		}
	}
	if w := b.WarnAfter; w != nil && *w != 0 && now.After(w.Time()) {
		s.annotate(ctx, "stale-token", fmt.Sprintf("subject: %s, seconds after warning threshold: %d", c.Subject, now.Unix()-w.Time().Unix()))
	}
	return nil
}

// same compares what a token names with what there is.
func same(what, claim string, r *ref, o metav1.Object, err error, now time.Time) error {
	switch {
	case err != nil:
		return errInvalidated
	case r.UID != string(o.GetUID()):
		return fmt.Errorf("%s UID (%s) does not match %s (%s)", what, o.GetUID(), claim, r.UID)
	case deleted(o, now):
		return errInvalidated
	}
	return nil
}

// checkSecret checks a token that lives in a secret.
func (s *ServiceAccounts) checkSecret(ctx context.Context, c *claims, token string) error {
	switch {
	case c.Subject == "":
		return errors.New("sub claim is missing")
	case c.Namespace == "":
		return errors.New("namespace claim is missing")
	case c.Secret == "":
		return errors.New("secretName claim is missing")
	case c.Account == "":
		return errors.New("serviceAccountName claim is missing")
	case c.AccountUID == "":
		return errors.New("serviceAccountUID claim is missing")
	case c.Subject != serviceAccountPrefix+c.Namespace+":"+c.Account:
		return errors.New("sub claim is invalid")
	}
	secret, err := s.Lookup.Secret(ctx, c.Namespace, c.Secret)
	if err != nil || secret.DeletionTimestamp != nil {
		return errors.New("Token has been invalidated")
	}
	if subtle.ConstantTimeCompare(secret.Data[corev1.ServiceAccountTokenKey], []byte(token)) == 0 {
		return errors.New("Token does not match server's copy")
	}
	account, err := s.Lookup.ServiceAccount(ctx, c.Namespace, c.Account)
	switch {
	case err != nil:
		return err
	case account.DeletionTimestamp != nil:
		return fmt.Errorf("ServiceAccount %s/%s has been deleted", c.Namespace, c.Account)
	case string(account.UID) != c.AccountUID:
		return fmt.Errorf("ServiceAccount UID (%s) does not match claim (%s)", account.UID, c.AccountUID)
	}
	const invalid = "kubernetes.io/legacy-token-invalid-since"
	if secret.Labels[invalid] != "" {
		s.annotate(ctx, "legacy-token-invalidated", secret.Name+"/"+secret.Namespace)
		return fmt.Errorf("the token in secret %s/%s for service account %s/%s has been marked invalid. Use tokens from the TokenRequest API or manually created secret-based tokens, or remove the '%s' label from the secret to temporarily allow use of this token", c.Namespace, c.Secret, c.Namespace, c.Account, invalid)
	}
	kind := "legacy-token-manual-secret"
	if slices.ContainsFunc(account.Secrets, func(r corev1.ObjectReference) bool { return r.Name == secret.Name }) {
		kind = "legacy-token-autogenerated-secret"
	}
	s.annotate(ctx, kind, secret.Name)
	return nil
}
