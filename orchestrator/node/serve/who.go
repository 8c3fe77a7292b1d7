package serve

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/cache"
	"k8s.io/client-go/kubernetes"

	"github.com/keelson-io/keelson/internal/clock"
)

const (
	authenticated = "system:authenticated"
	masters       = "system:masters"

	// cacheSize is how many answers of each kind are kept.
	cacheSize = 4096
	// How long it is believed that a token is good, and that it is not.
	tokenTime   = 2 * time.Minute
	noTokenTime = 10 * time.Second
	// maxToken is how long a token may be, in bytes.
	maxToken = 16 << 10
	// reviewTimeout bounds a question to the API server.
	reviewTimeout = 10 * time.Second
)

// user is who asks; nil is nobody.
type user = authenticationv1.UserInfo

// authenticator finds out who asks.
type authenticator struct {
	roots  *x509.CertPool
	client kubernetes.Interface
	clock  clock.Clock
	tokens *cache.LRUExpireCache // *user by the hash of a token; nil: it is not good
}

func newAuthenticator(cfg *Config) *authenticator {
	return &authenticator{roots: cfg.ClientCAs, client: cfg.Client, clock: cfg.Clock, tokens: cache.NewLRUExpireCacheWithClock(cacheSize, cfg.Clock)}
}

// user is who sent a request; nil: it is not known. It is an error if the API server could not be asked.
func (a *authenticator) user(r *http.Request) (*user, error) {
	if u := a.byCertificate(r); u != nil {
		return u, nil
	}
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	token = strings.TrimSpace(token)
	if !strings.EqualFold(scheme, "bearer") || token == "" || len(token) > maxToken {
		return nil, nil
	}
	return a.byToken(r.Context(), token)
}

func (a *authenticator) byCertificate(r *http.Request) *user {
	if a.roots == nil || r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		return nil
	}
	between := x509.NewCertPool()
	for _, c := range r.TLS.PeerCertificates[1:] {
		between.AddCert(c)
	}
	cert := r.TLS.PeerCertificates[0]
	_, err := cert.Verify(x509.VerifyOptions{
		Roots: a.roots, Intermediates: between, CurrentTime: a.clock.Now(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	if err != nil || cert.Subject.CommonName == "" {
		return nil
	}
	return &user{Username: cert.Subject.CommonName, Groups: append(slices.Clone(cert.Subject.Organization), authenticated)}
}

func (a *authenticator) byToken(ctx context.Context, token string) (*user, error) {
	key := sha256.Sum256([]byte(token))
	if u, ok := a.tokens.Get(key); ok {
		return u.(*user), nil
	}
	ctx, cancel := context.WithTimeout(ctx, reviewTimeout)
	defer cancel()
	review, err := a.client.AuthenticationV1().TokenReviews().Create(ctx, &authenticationv1.TokenReview{
		Spec: authenticationv1.TokenReviewSpec{Token: token},
	}, metav1.CreateOptions{})
	if err != nil {
		return nil, fmt.Errorf("the API server does not say whose token it is: %w", err)
	}
	if !review.Status.Authenticated {
		a.tokens.Add(key, (*user)(nil), noTokenTime)
		return nil, nil
	}
	u := review.Status.User.DeepCopy()
	a.tokens.Add(key, u, tokenTime)
	return u, nil
}
