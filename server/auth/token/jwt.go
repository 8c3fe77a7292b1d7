package token

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"fmt"
	"maps"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"go.uber.org/zap"

	"github.com/keelson-io/keelson/server/auth"
)

// Names of the options of JSON Web Tokens.
const (
	optSignMethod = "sign-method"
	optPublicKey  = "pub-key"
	optPrivateKey = "priv-key"
	optTTL        = "ttl"
)

// Names of the claims, beside exp.
const (
	claimUser     = "username"
	claimRevision = "revision"
)

// maxKnown bounds how many tokens are known to be good without verifying them again.
const maxKnown = 4096

// webTokens are JSON Web Tokens (RFC 7519). A token says by itself who has it and at which revision that was found out, so it
// is of no use any more when users, roles or permissions have changed.
type webTokens struct {
	cfg    Config
	method jwt.SigningMethod
	sign   any // nil: this member only verifies
	verify any
	ttl    time.Duration
	parser *jwt.Parser

	mu    sync.RWMutex
	known map[[sha256.Size]byte]knownToken
}

// knownToken is what a verified token says. ends is zero if it never ends.
type knownToken struct {
	id   auth.Identity
	ends time.Time
}

func newWebTokens(options map[string]string, cfg Config) (*webTokens, error) {
	t := &webTokens{cfg: cfg, ttl: DefaultTTL, known: make(map[[sha256.Size]byte]knownToken)}
	if text := options[optTTL]; text != "" {
		var err error
		if t.ttl, err = time.ParseDuration(text); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrInvalidOptions, err)
		}
	}
	var pub, priv []byte
	for _, f := range []struct {
		option string
		data   *[]byte
	}{{optPublicKey, &pub}, {optPrivateKey, &priv}} {
		if path := options[f.option]; path != "" {
			var err error
			if *f.data, err = os.ReadFile(path); err != nil {
				return nil, fmt.Errorf("%w: %s: %w", ErrInvalidOptions, f.option, err)
			}
		}
	}
	if t.method = jwt.GetSigningMethod(options[optSignMethod]); t.method == nil {
		return nil, fmt.Errorf("%w: %s=%q: %w", ErrInvalidOptions, optSignMethod, options[optSignMethod], ErrInvalidMethod)
	}
	if err := t.readKeys(pub, priv); err != nil {
		return nil, err
	}
	for name := range maps.Keys(options) {
		if !slices.Contains([]string{optSignMethod, optPublicKey, optPrivateKey, optTTL}, name) {
			cfg.Logger.Warn("unknown JWT option", zap.String("option", name))
		}
	}
	t.parser = jwt.NewParser(jwt.WithValidMethods([]string{t.method.Alg()}), jwt.WithTimeFunc(cfg.Clock.Now))
	return t, t.tryKey()
}

// readKeys reads PEM files, or the shared secret of an HMAC. Without a private key, this member only verifies.
func (t *webTokens) readKeys(pub, priv []byte) (err error) {
	switch t.method.(type) {
	case *jwt.SigningMethodRSA, *jwt.SigningMethodRSAPSS:
		err = readPair(t, pub, priv, jwt.ParseRSAPublicKeyFromPEM, jwt.ParseRSAPrivateKeyFromPEM)
	case *jwt.SigningMethodECDSA:
		err = readPair(t, pub, priv, jwt.ParseECPublicKeyFromPEM, jwt.ParseECPrivateKeyFromPEM)
	case *jwt.SigningMethodEd25519:
		err = readPair(t, pub, priv, edPublic, edPrivate)
	case *jwt.SigningMethodHMAC:
		if len(priv) == 0 {
			return ErrMissingKey
		}
		t.sign, t.verify = priv, priv
	default:
		err = fmt.Errorf("%w: %s", ErrInvalidMethod, t.method.Alg())
	}
	return err
}

// publicKey is *rsa.PublicKey, *ecdsa.PublicKey or ed25519.PublicKey.
type publicKey interface{ Equal(crypto.PublicKey) bool }

// privateKey is *rsa.PrivateKey, *ecdsa.PrivateKey or ed25519.PrivateKey.
type privateKey interface{ Public() crypto.PublicKey }

var (
	_ = []publicKey{(*rsa.PublicKey)(nil), (*ecdsa.PublicKey)(nil), ed25519.PublicKey(nil)}
	_ = []privateKey{(*rsa.PrivateKey)(nil), (*ecdsa.PrivateKey)(nil), ed25519.PrivateKey(nil)}
)

func readPair[P publicKey, S privateKey](t *webTokens, pub, priv []byte, parsePublic func([]byte) (P, error), parsePrivate func([]byte) (S, error)) error {
	if len(pub) == 0 && len(priv) == 0 {
		return ErrMissingKey
	}
	if len(priv) > 0 {
		key, err := parsePrivate(priv)
		if err != nil {
			return fmt.Errorf("auth: %s: %w", optPrivateKey, err)
		}
		t.sign, t.verify = key, key.Public()
	}
	if len(pub) > 0 {
		key, err := parsePublic(pub)
		if err != nil {
			return fmt.Errorf("auth: %s: %w", optPublicKey, err)
		}
		if t.verify != nil && !key.Equal(t.verify) {
			return ErrKeyMismatch
		}
		t.verify = key
	}
	return nil
}

func edPublic(pem []byte) (ed25519.PublicKey, error) {
	key, err := jwt.ParseEdPublicKeyFromPEM(pem)
	if err != nil {
		return nil, err
	}
	return key.(ed25519.PublicKey), nil
}

func edPrivate(pem []byte) (ed25519.PrivateKey, error) {
	key, err := jwt.ParseEdPrivateKeyFromPEM(pem)
	if err != nil {
		return nil, err
	}
	return key.(ed25519.PrivateKey), nil
}

// tryKey signs something: better to learn at the start that the key does not fit the method.
func (t *webTokens) tryKey() error {
	if t.sign == nil {
		return nil
	}
	if _, err := t.method.Sign("x", t.sign); err != nil {
		return fmt.Errorf("auth: the key does not fit %s: %w", t.method.Alg(), err)
	}
	return nil
}

// TTL is Provider.
func (t *webTokens) TTL() time.Duration { return t.ttl }

// Prefix is Provider.
func (t *webTokens) Prefix() string { return "" }

// Assign is Provider: nothing is noted.
func (t *webTokens) Assign(string, string, uint64) (string, error) { return "", nil }

// Issue is Provider. ErrVerifyOnly.
func (t *webTokens) Issue(id auth.Identity, _ string) (string, error) {
	if t.sign == nil {
		return "", ErrVerifyOnly
	}
	return jwt.NewWithClaims(t.method, jwt.MapClaims{
		claimUser: id.User, claimRevision: id.Revision, "exp": t.cfg.Clock.Now().Add(t.ttl).Unix(),
	}).SignedString(t.sign)
}

// Lookup is Provider.
func (t *webTokens) Lookup(token string, _ uint64) (auth.Identity, bool) {
	sum := sha256.Sum256([]byte(token))
	t.mu.RLock()
	k, ok := t.known[sum]
	t.mu.RUnlock()
	if !ok {
		if k, ok = t.read(token); !ok {
			return auth.Identity{}, false
		}
		t.keep(sum, k)
	}
	if !k.ends.IsZero() && !t.cfg.Clock.Now().Before(k.ends) {
		return auth.Identity{}, false
	}
	return k.id, true
}

// read verifies a token.
func (t *webTokens) read(token string) (k knownToken, ok bool) {
	claims := jwt.MapClaims{}
	if _, err := t.parser.ParseWithClaims(token, claims, func(*jwt.Token) (any, error) { return t.verify, nil }); err != nil {
		return k, false
	}
	user, ok := claims[claimUser].(string)
	revision, isNumber := claims[claimRevision].(float64)
	if !ok || !isNumber || revision < 0 {
		return k, false
	}
	k.id = auth.Identity{User: user, Revision: uint64(revision)}
	if ends, err := claims.GetExpirationTime(); err == nil && ends != nil {
		k.ends = ends.Time
	}
	return k, true
}

func (t *webTokens) keep(sum [sha256.Size]byte, k knownToken) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for old := range t.known { // any one
		if len(t.known) < maxKnown {
			break
		}
		delete(t.known, old)
	}
	t.known[sum] = k
}

// Await is Provider: a token says everything by itself.
func (t *webTokens) Await(context.Context, string) bool { return false }

// Forget is Provider: the revision in a token ends it.
func (t *webTokens) Forget(string) {}

// Clear is Provider.
func (t *webTokens) Clear() {}

// Run is Provider.
func (t *webTokens) Run(context.Context) {}
