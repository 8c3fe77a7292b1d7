package token

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/stretchr/testify/require"

	"github.com/keelson-io/keelson/server/auth"
)

// pair writes a private and a public key to files.
func pair(t testing.TB, key privateKey) (priv, pub string) {
	t.Helper()
	dir := t.TempDir()
	write := func(name, kind string, der []byte, err error) string {
		require.NoError(t, err)
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600))
		return path
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	priv = write("priv", "PRIVATE KEY", der, err)
	der, err = x509.MarshalPKIXPublicKey(key.Public())
	return priv, write("pub", "PUBLIC KEY", der, err)
}

// keys makes a key for each method of signing, beside the HMACs.
func keys(t testing.TB) map[string]privateKey {
	t.Helper()
	r, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	out := map[string]privateKey{"RS256": r, "RS384": r, "RS512": r, "PS256": r, "PS384": r, "PS512": r}
	for method, curve := range map[string]elliptic.Curve{"ES256": elliptic.P256(), "ES384": elliptic.P384(), "ES512": elliptic.P521()} {
		out[method], err = ecdsa.GenerateKey(curve, rand.Reader)
		require.NoError(t, err)
	}
	_, out["EdDSA"], err = ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	return out
}

func TestJWT(t *testing.T) {
	all := keys(t)
	_, otherKey, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	_, other := pair(t, otherKey)
	id := auth.Identity{User: "alice", Revision: 7}
	for method, key := range all {
		priv, pub := pair(t, key)
		full, err := New("jwt,sign-method="+method+",priv-key="+priv+",pub-key="+pub, config())
		require.NoError(t, err, method)
		verifier, err := New("jwt,sign-method="+method+",pub-key="+pub, config())
		require.NoError(t, err, method)
		text, err := full.Issue(id, "")
		require.NoError(t, err, method)
		for _, p := range []Provider{full, verifier, full} {
			got, ok := p.Lookup(text, 99)
			require.True(t, ok, method)
			require.Equal(t, id, got, "%s: the revision is the token's own", method)
		}
		_, ok := full.Lookup(text[:len(text)-6]+"AAAAAA", 99)
		require.False(t, ok, method)
		_, err = verifier.Issue(id, "")
		require.ErrorIs(t, err, ErrVerifyOnly)
		if method != "EdDSA" {
			_, err = New("jwt,sign-method="+method+",priv-key="+priv+",pub-key="+other, config())
			require.Error(t, err, method)
			continue
		}
		_, err = New("jwt,sign-method="+method+",priv-key="+priv+",pub-key="+other, config())
		require.ErrorIs(t, err, ErrKeyMismatch)
	}
}

func TestJWTSecret(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "secret")
	require.NoError(t, os.WriteFile(secret, []byte("a shared secret"), 0o600))
	for _, method := range []string{"HS256", "HS384", "HS512"} {
		p, err := New("jwt,sign-method="+method+",priv-key="+secret, config())
		require.NoError(t, err)
		text, err := p.Issue(auth.Identity{User: "u", Revision: 1}, "")
		require.NoError(t, err)
		_, ok := p.Lookup(text, 1)
		require.True(t, ok)
	}
}

// TestJWTRefused: tokens that say too little, or were made in another way.
func TestJWTRefused(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "secret")
	require.NoError(t, os.WriteFile(secret, []byte("s"), 0o600))
	p, err := New("jwt,sign-method=HS256,priv-key="+secret, config())
	require.NoError(t, err)
	later := time.Now().Add(time.Hour).Unix()
	make := func(m jwt.SigningMethod, key any, c jwt.MapClaims) string {
		text, err := jwt.NewWithClaims(m, c).SignedString(key)
		require.NoError(t, err)
		return text
	}
	good := jwt.MapClaims{claimUser: "u", claimRevision: 3, "exp": later}
	_, ok := p.Lookup(make(jwt.SigningMethodHS256, []byte("s"), good), 1)
	require.True(t, ok)
	for name, text := range map[string]string{
		"method":      make(jwt.SigningMethodHS512, []byte("s"), good),
		"none":        make(jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, good),
		"key":         make(jwt.SigningMethodHS256, []byte("t"), good),
		"no user":     make(jwt.SigningMethodHS256, []byte("s"), jwt.MapClaims{claimRevision: 3, "exp": later}),
		"no revision": make(jwt.SigningMethodHS256, []byte("s"), jwt.MapClaims{claimUser: "u", "exp": later}),
		"text":        make(jwt.SigningMethodHS256, []byte("s"), jwt.MapClaims{claimUser: "u", claimRevision: "3", "exp": later}),
		"below zero":  make(jwt.SigningMethodHS256, []byte("s"), jwt.MapClaims{claimUser: "u", claimRevision: -3, "exp": later}),
		"expired":     make(jwt.SigningMethodHS256, []byte("s"), jwt.MapClaims{claimUser: "u", claimRevision: 3, "exp": 1}),
		"nothing":     "",
	} {
		_, ok := p.Lookup(text, 1)
		require.False(t, ok, name)
	}
}

// TestJWTEnds: a token that was found good once ends nevertheless.
func TestJWTEnds(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "secret")
	require.NoError(t, os.WriteFile(secret, []byte("s"), 0o600))
	synctest.Test(t, func(t *testing.T) {
		p, err := New("jwt,sign-method=HS256,ttl=10s,priv-key="+secret, config())
		require.NoError(t, err)
		text, err := p.Issue(auth.Identity{User: "u", Revision: 1}, "")
		require.NoError(t, err)
		_, ok := p.Lookup(text, 1)
		require.True(t, ok)
		time.Sleep(9 * time.Second)
		_, ok = p.Lookup(text, 1)
		require.True(t, ok, "use does not lengthen it, but it is still good")
		time.Sleep(time.Second)
		_, ok = p.Lookup(text, 1)
		require.False(t, ok)
		for i := range maxKnown + 10 {
			text, _ := p.Issue(auth.Identity{User: "u", Revision: uint64(i)}, "")
			_, ok := p.Lookup(text, 1)
			require.True(t, ok)
		}
		require.Len(t, p.(*webTokens).known, maxKnown)
	})
}

func TestJWTOptions(t *testing.T) {
	all := keys(t)
	rsaKey, _ := pair(t, all["RS256"])
	p256, p256pub := pair(t, all["ES256"])
	for spec, want := range map[string]error{
		"jwt":                                      ErrInvalidMethod,
		"jwt,sign-method=XX":                       ErrInvalidMethod,
		"jwt,sign-method=none":                     ErrInvalidMethod,
		"jwt,sign-method=RS256":                    ErrMissingKey,
		"jwt,sign-method=HS256":                    ErrMissingKey,
		"jwt,sign-method=RS256,priv-key=absent":    ErrInvalidOptions,
		"jwt,sign-method=RS256,ttl=x":              ErrInvalidOptions,
		"jwt,sign-method=RS256,priv-key=" + p256:   nil,
		"jwt,sign-method=ES256,priv-key=" + rsaKey: nil,
		"jwt,sign-method=ES384,priv-key=" + p256:   nil, // the curve is another one
		"jwt,sign-method=ES256,priv-key=" + p256pub + ",pub-key=" + p256: nil,
	} {
		_, err := New(spec, config())
		require.Error(t, err, spec)
		if want != nil {
			require.ErrorIs(t, err, want, spec)
		}
	}
	_, err := New("jwt,sign-method=ES256,new-option=1,priv-key="+p256, config())
	require.NoError(t, err, "what is unknown is only told of")
}

// FuzzJWT reads tokens that may be anything.
func FuzzJWT(f *testing.F) {
	secret := filepath.Join(f.TempDir(), "secret")
	require.NoError(f, os.WriteFile(secret, []byte("s"), 0o600))
	p, err := New("jwt,sign-method=HS256,priv-key="+secret, config())
	require.NoError(f, err)
	good, err := p.Issue(auth.Identity{User: "u", Revision: 1}, "")
	require.NoError(f, err)
	f.Add(good)
	f.Add("a.b.c")
	f.Fuzz(func(t *testing.T, text string) {
		if _, ok := p.Lookup(text, 1); ok && strings.Count(text, ".") != 2 {
			t.Errorf("%q is good", text)
		}
	})
}
