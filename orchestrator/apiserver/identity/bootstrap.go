package identity

import (
	"context"
	"crypto/subtle"
	"regexp"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/keelson-io/keelson/internal/clock"
	"github.com/keelson-io/keelson/orchestrator/apiserver/request"
)

// Secrets finds secrets.
type Secrets interface {
	Secret(ctx context.Context, namespace, name string) (*corev1.Secret, error)
}

// Bootstrap authenticates machines that join by tokens "<id>.<secret>", which are in secrets of the namespace kube-system
// with the name bootstrap-token-<id>.
type Bootstrap struct {
	secrets      Secrets
	clock        clock.Clock
	token, group *regexp.Regexp
}

// Bootstrappers is the group of all users with bootstrap tokens.
const Bootstrappers = "system:bootstrappers"

// NewBootstrap returns an authenticator of the tokens in secrets.
func NewBootstrap(s Secrets, c clock.Clock) *Bootstrap {
	return &Bootstrap{
		secrets: s, clock: c,
		token: regexp.MustCompile(`\A([a-z0-9]{6})\.([a-z0-9]{16})\z`),
		group: regexp.MustCompile(`\Asystem:bootstrappers:[a-z0-9:-]{0,255}[a-z0-9]\z`),
	}
}

// Token knows tokens that are good; all others are not its own. What is wrong with a secret is not told to a stranger.
func (b *Bootstrap) Token(ctx context.Context, token string, _ []string) (*Identity, error) {
	m := b.token.FindStringSubmatch(token)
	if m == nil {
		return nil, nil
	}
	s, err := b.secrets.Secret(ctx, "kube-system", "bootstrap-token-"+m[1])
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	get := func(key string) string { return string(s.Data[key]) }
	switch {
	case s.DeletionTimestamp != nil, s.Type != "bootstrap.kubernetes.io/token",
		subtle.ConstantTimeCompare(s.Data["token-secret"], []byte(m[2])) != 1,
		get("token-id") != m[1],
		b.expired(get("expiration")),
		get("usage-bootstrap-authentication") != "true":
		return nil, nil
	}
	groups := []string{Bootstrappers}
	if extra := get("auth-extra-groups"); extra != "" {
		for g := range strings.SplitSeq(extra, ",") {
			if !b.group.MatchString(g) {
				return nil, nil
			}
			groups = append(groups, g)
		}
	}
	slices.Sort(groups)
	return &Identity{User: authenticated(&request.User{Name: "system:bootstrap:" + m[1], Groups: slices.Compact(groups)})}, nil
}

// expired holds what cannot be read for the past.
func (b *Bootstrap) expired(when string) bool {
	if when == "" {
		return false
	}
	t, err := time.Parse(time.RFC3339, when)
	return err != nil || !b.clock.Now().Before(t)
}
