package identity

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
)

// Keyring signs tokens with one key and verifies them with several.
type Keyring struct {
	keys   atomic.Pointer[keyset]
	memory int
}

// keyset is the keys at one time, with what was verified by them.
type keyset struct {
	signer   jose.Signer // nil: nothing can be signed
	public   []jose.JSONWebKey
	verified *cache[claims]
}

// verifiedTokens is how many tokens a Keyring remembers, at least: some for every node, and one for every pod of a busy cluster.
const verifiedTokens = 16384

// NewKeyring makes a Keyring that signs with a key, nil for none, and verifies with it and with the others. Keys are RSA, or
// ECDSA on the curves P-256, P-384 and P-521; those to verify with may be public or private.
func NewKeyring(signing crypto.Signer, verifying ...any) (*Keyring, error) {
	k := &Keyring{memory: verifiedTokens}
	return k, k.Rotate(signing, verifying...)
}

// Rotate changes the keys.
func (k *Keyring) Rotate(signing crypto.Signer, verifying ...any) error {
	s := &keyset{verified: newCache[claims](k.memory)}
	if signing != nil {
		key, err := jwk(signing.Public())
		if err != nil {
			return err
		}
		s.public = append(s.public, key)
		private := key
		private.Key = signing
		s.signer, err = jose.NewSigner(jose.SigningKey{Algorithm: jose.SignatureAlgorithm(key.Algorithm), Key: private}, nil)
		if err != nil {
			return fmt.Errorf("identity: a signing key: %w", err)
		}
	}
	for _, v := range verifying {
		if p, ok := v.(crypto.Signer); ok {
			v = p.Public()
		}
		key, err := jwk(v)
		if err != nil {
			return err
		}
		if len(s.find(key.KeyID)) == 0 {
			s.public = append(s.public, key)
		}
	}
	if len(s.public) == 0 {
		return errors.New("identity: a keyring without keys")
	}
	k.keys.Store(s)
	return nil
}

// jwk describes a public key. Its ID is a hash of it, so that nobody can take the ID for the key.
func jwk(public crypto.PublicKey) (jose.JSONWebKey, error) {
	key := jose.JSONWebKey{Key: public, Use: "sig"}
	switch p := public.(type) {
	case *rsa.PublicKey:
		key.Algorithm = string(jose.RS256)
	case *ecdsa.PublicKey:
		switch p.Curve {
		case elliptic.P256():
			key.Algorithm = string(jose.ES256)
		case elliptic.P384():
			key.Algorithm = string(jose.ES384)
		case elliptic.P521():
			key.Algorithm = string(jose.ES512)
		default:
			return key, errors.New("identity: unknown key curve, must be 256, 384, or 521")
		}
	default:
		return key, fmt.Errorf("identity: unknown key type %T, must be RSA or ECDSA", public)
	}
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return key, fmt.Errorf("identity: a public key: %w", err)
	}
	sum := sha256.Sum256(der)
	key.KeyID = base64.RawURLEncoding.EncodeToString(sum[:])
	return key, nil
}

// find returns the keys with an ID, all for "".
func (s *keyset) find(id string) []jose.JSONWebKey {
	if id == "" {
		return s.public
	}
	for i := range s.public {
		if s.public[i].KeyID == id {
			return s.public[i : i+1]
		}
	}
	return nil
}

// sign makes a token.
func (k *Keyring) sign(c *claims) (string, error) {
	s := k.keys.Load()
	if s.signer == nil {
		return "", errors.New("identity: there is no key to sign with")
	}
	return jwt.Signed(s.signer).Claims(c).Serialize()
}

// verify returns the claims of a token that one of the keys signed and whose issuer is known, nil for tokens of other kinds.
func (k *Keyring) verify(token string, issuer func(string) bool) (*claims, error) {
	s, sum := k.keys.Load(), sha256.Sum256([]byte(token))
	if c := s.verified.get(sum); c != nil {
		return c, nil
	}
	parsed, err := jwt.ParseSigned(token, []jose.SignatureAlgorithm{jose.RS256, jose.ES256, jose.ES384, jose.ES512})
	if err != nil {
		return nil, nil
	}
	c := &claims{}
	if err := parsed.UnsafeClaimsWithoutVerification(c); err != nil || !issuer(c.Issuer) {
		return nil, nil
	}
	id := ""
	if len(parsed.Headers) > 0 {
		id = parsed.Headers[0].KeyID
	}
	keys := s.find(id)
	if len(keys) == 0 {
		return nil, errors.New("invalid signature, no keys found")
	}
	var errs []error
	for i := range keys {
		c := &claims{}
		// The algorithm is the key's, never what the token says of itself.
		if len(parsed.Headers) != 1 || parsed.Headers[0].Algorithm != keys[i].Algorithm {
			errs = append(errs, errors.New("invalid signature, another algorithm than the key's"))
			continue
		}
		if err := parsed.Claims(keys[i].Key, c); err != nil {
			errs = append(errs, err)
			continue
		}
		if !issuer(c.Issuer) {
			return nil, fmt.Errorf("token issuer %q is invalid", c.Issuer)
		}
		s.verified.put(sum, c.prepared())
		return c, nil
	}
	return nil, utilerrors.NewAggregate(errs)
}
