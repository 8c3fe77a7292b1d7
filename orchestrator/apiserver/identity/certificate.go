package identity

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"sync/atomic"
	"time"

	asn1util "k8s.io/apimachinery/pkg/apis/asn1"

	"github.com/keelson-io/keelson/internal/clock"
	"github.com/keelson-io/keelson/orchestrator/apiserver/request"
)

// Certificates authenticates by client certificates. The TLS configuration must ask for them and need not verify them
// (tls.RequestClientCert): a certificate of a stranger is no reason to refuse a request with a good token.
type Certificates struct {
	trust  atomic.Pointer[trust]
	clock  clock.Clock
	uidOID asn1.ObjectIdentifier
}

// trust is the authorities at one time, with the certificates that were found to be theirs.
type trust struct {
	pool     *x509.CertPool
	verified *cache[certificate]
}

// certificate is a verified one.
type certificate struct {
	user            *request.User
	notBefore, ends time.Time // of all in the chain
}

// verifiedCertificates is how many certificates are remembered, at least.
const verifiedCertificates = 8192

// NewCertificates returns an authenticator of certificates that one of the authorities issued.
func NewCertificates(authorities *x509.CertPool, c clock.Clock) *Certificates {
	a := &Certificates{clock: c, uidOID: asn1util.X509UID()}
	a.SetAuthorities(authorities)
	return a
}

// SetAuthorities changes the authorities, from the next request on; nil: no certificate is looked at.
func (a *Certificates) SetAuthorities(pool *x509.CertPool) {
	a.trust.Store(&trust{pool, newCache[certificate](verifiedCertificates)})
}

// Authenticate takes the user's name from the common name of a certificate, and groups from the organizations.
func (a *Certificates) Authenticate(r *http.Request) (*request.User, error) {
	t := a.trust.Load()
	if t.pool == nil || r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		return nil, nil
	}
	leaf, now := r.TLS.PeerCertificates[0], a.clock.Now()
	sum := sha256.Sum256(leaf.Raw)
	if c := t.verified.get(sum); c != nil && !now.Before(c.notBefore) && !now.After(c.ends) {
		return c.user, nil
	}
	opts := x509.VerifyOptions{Roots: t.pool, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	if len(r.TLS.PeerCertificates) > 1 {
		opts.Intermediates = x509.NewCertPool()
		for _, c := range r.TLS.PeerCertificates[1:] {
			opts.Intermediates.AddCert(c)
		}
	}
	chains, err := leaf.Verify(opts)
	if err != nil {
		return nil, fmt.Errorf("verifying certificate SN=%d, SKID=%X, AKID=%X failed: %w",
			leaf.SerialNumber, leaf.SubjectKeyId, leaf.AuthorityKeyId, err)
	}
	user, err := a.user(leaf, sum)
	if user == nil {
		return nil, err
	}
	c := &certificate{user: user, notBefore: leaf.NotBefore, ends: leaf.NotAfter}
	for _, in := range chains[0] {
		if in.NotBefore.After(c.notBefore) {
			c.notBefore = in.NotBefore
		}
		if in.NotAfter.Before(c.ends) {
			c.ends = in.NotAfter
		}
	}
	t.verified.put(sum, c)
	return user, nil
}

func (a *Certificates) user(c *x509.Certificate, sum digest) (*request.User, error) {
	if c.Subject.CommonName == "" {
		return nil, nil
	}
	uid, err := a.uid(c)
	if err != nil {
		return nil, err
	}
	return authenticated(&request.User{
		Name: c.Subject.CommonName, UID: uid, Groups: c.Subject.Organization,
		Extra: map[string][]string{credentialKey: {"X509SHA256=" + hex.EncodeToString(sum[:])}},
	}), nil
}

// uid reads the UID, which is an attribute of the subject of its own.
func (a *Certificates) uid(c *x509.Certificate) (string, error) {
	uid, found := "", false
	for _, n := range c.Subject.Names {
		if !n.Type.Equal(a.uidOID) {
			continue
		}
		s, ok := n.Value.(string)
		switch {
		case !ok:
			return "", errors.New("unable to parse UID into a string")
		case found:
			return "", fmt.Errorf("expected 1 UID, but found multiple: %v", []string{uid, s})
		case s == "":
			return "", errors.New("UID cannot be an empty string")
		}
		uid, found = s, true
	}
	return uid, nil
}
