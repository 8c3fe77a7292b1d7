package jointoken

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
)

// TestSign: signatures are those that kubeadm's clients expect.
func TestSign(t *testing.T) {
	token := Token{"joshua", "my voice is my passcode"}
	const content = "Hello from the other side. I must have called a thousand times."
	want := "eyJhbGciOiJIUzI1NiIsImtpZCI6Impvc2h1YSJ9..VShe2taLd-YTrmWuRkcL_8QTNDHYxQIEBsAYYiIj1_8"
	require.Equal(t, want, token.Sign(content))
	require.True(t, token.Signed(content, want))
	require.False(t, token.Signed(content+".", want))
	require.False(t, Token{"joshua", "other"}.Signed(content, want))
}

func TestTokens(t *testing.T) {
	seen := map[Token]bool{}
	for range 100 {
		x := New()
		back, err := Parse(x.String())
		require.NoError(t, err)
		require.Equal(t, x, back)
		require.False(t, seen[x])
		seen[x] = true
	}
	for _, bad := range []string{"", "abcdef", "abcdef.", "abcdef.0123456789abcde", "abcdef.0123456789abcdefg", "Abcdef.0123456789abcdef", "abcdef.0123456789abcdef\n", "abcde.0123456789abcdef0"} {
		_, err := Parse(bad)
		require.Error(t, err, "%q", bad)
	}
}

// TestSecrets: a secret tells everything that was put into it.
func TestSecrets(t *testing.T) {
	at := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	e := &Entry{Token: Token{"abcdef", "0123456789abcdef"}, Description: "for a rack", Expires: at, Usages: []string{Authentication, Signing}, Groups: []string{"system:bootstrappers:rack-1"}}
	s := e.ToSecret()
	require.Equal(t, "bootstrap-token-abcdef", s.Name)
	back, err := FromSecret(s)
	require.NoError(t, err)
	require.Equal(t, e, back)
	require.False(t, e.Expired(at.Add(-time.Second)))
	require.True(t, e.Expired(at))
	lasting := &Entry{Token: e.Token}
	require.False(t, lasting.Expired(at))
	require.False(t, lasting.May(Signing))
	for name, change := range map[string]func(s *corev1.Secret){
		"its type is":            func(s *corev1.Secret) { s.Type = "Opaque" },
		"the token's id is":      func(s *corev1.Secret) { s.Name = "bootstrap-token-fedcba" },
		"expiration":             func(s *corev1.Secret) { s.Data["expiration"] = []byte("tomorrow") },
		"a token has the form":   func(s *corev1.Secret) { s.Data["token-secret"] = []byte("short") },
		"the group \"system:m\"": func(s *corev1.Secret) { s.Data["auth-extra-groups"] = []byte("system:m") },
	} {
		x := s.DeepCopy()
		change(x)
		_, err := FromSecret(x)
		require.ErrorContains(t, err, name)
	}
	require.ErrorContains(t, (&Entry{Token: e.Token, Usages: []string{"all"}}).Check(), `no usage "all"`)
}

func authority(t *testing.T) (text []byte, pin Pin) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	require.NoError(t, err)
	c, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), PinOf(c)
}

// TestPins: only authorities that were asked for are believed.
func TestPins(t *testing.T) {
	one, pin := authority(t)
	two, other := authority(t)
	parsed, err := ParsePin(string(pin))
	require.NoError(t, err)
	require.Equal(t, pin, parsed)
	got, err := Pinned(append(one, two...), pin)
	require.NoError(t, err)
	require.Equal(t, one, got)
	_, err = Pinned(two, pin)
	require.ErrorContains(t, err, "it has "+string(other))
	_, err = Pinned(nil, pin)
	require.ErrorContains(t, err, "no authority in PEM")
	for _, bad := range []string{"", "sha256:", "sha256:12", "sha1:" + string(pin[7:]), string(pin) + "0"} {
		_, err := ParsePin(bad)
		require.Error(t, err, bad)
	}
}
