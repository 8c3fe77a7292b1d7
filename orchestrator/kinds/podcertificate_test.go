package kinds

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

// certificate is one in PEM that is signed with the key that it is for.
func certificate(t *testing.T, key *ecdsa.PrivateKey, c x509.Certificate) string {
	c.SerialNumber = big.NewInt(1)
	der, err := x509.CreateCertificate(rand.Reader, &c, &c, &key.PublicKey, key)
	require.NoError(t, err)
	return string(pem.EncodeToMemory(&pem.Block{Type: certificateBlock, Bytes: der}))
}

func newKey(t *testing.T, c elliptic.Curve) *ecdsa.PrivateKey {
	key, err := ecdsa.GenerateKey(c, rand.Reader)
	require.NoError(t, err)
	return key
}

func TestTrustBundle(t *testing.T) {
	key := newKey(t, elliptic.P256())
	ca := certificate(t, key, x509.Certificate{IsCA: true, BasicConstraintsValid: true})
	leaf := certificate(t, key, x509.Certificate{})
	for _, c := range []struct {
		name, signer, bundle string
		want                 []string
	}{
		{"example.com:s:b", "example.com/s", ca, nil},
		{"b", "", "some text\n" + ca, nil},
		{"b", "example.com/s", ca, []string{`metadata.name: Invalid value: "b": ClusterTrustBundle for signerName example.com/s must be named with prefix example.com:s:`}},
		{"a:b", "", ca, []string{`metadata.name: Invalid value: "a:b": ClusterTrustBundle without signer name must not have ":" in its name`}},
		{"b", "", "", []string{`spec.trustBundle: Invalid value: "<value omitted>": at least one trust anchor must be provided`}},
		{"b", "", ca + ca, []string{`spec.trustBundle: Invalid value: "<value omitted>": duplicate trust anchor (indices [0 1])`}},
		{"b", "", ca + leaf, []string{`spec.trustBundle: Invalid value: "<value omitted>": entry 1 does not have the CA bit set`}},
		{"b", "", "-----BEGIN A-----\n-----END A-----\n", []string{`spec.trustBundle: Invalid value: "<value omitted>": entry 0 has bad block type: A`}},
	} {
		o := &certificatesv1.ClusterTrustBundle{
			ObjectMeta: metav1.ObjectMeta{Name: c.name}, Spec: certificatesv1.ClusterTrustBundleSpec{SignerName: c.signer, TrustBundle: c.bundle},
		}
		require.Equal(t, c.want, messages(validateTrustBundle(o, nil)), "%v", c)
		for _, m := range messages(validateTrustBundle(o, o)) {
			require.NotContains(t, m, "trustBundle", "what is there already is not parsed again")
		}
	}
}

func podRequest(t *testing.T, key *ecdsa.PrivateKey) *certificatesv1.PodCertificateRequest {
	stub, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	require.NoError(t, err)
	return &certificatesv1.PodCertificateRequest{
		ObjectMeta: metav1.ObjectMeta{Name: "r", Namespace: "n"},
		Spec: certificatesv1.PodCertificateRequestSpec{
			SignerName: "example.com/s", PodName: "p", PodUID: "1", ServiceAccountName: "a", ServiceAccountUID: "2", NodeName: "x", NodeUID: "3",
			MaxExpirationSeconds: ptr.To[int32](86400), StubPKCS10Request: stub,
		},
	}
}

func TestPodCertificateRequest(t *testing.T) {
	for _, c := range []struct {
		change func(s *certificatesv1.PodCertificateRequestSpec)
		want   []string
	}{
		{func(*certificatesv1.PodCertificateRequestSpec) {}, nil},
		{func(s *certificatesv1.PodCertificateRequestSpec) { s.MaxExpirationSeconds = nil }, []string{"spec.maxExpirationSeconds: Required value: must be set"}},
		{func(s *certificatesv1.PodCertificateRequestSpec) { s.MaxExpirationSeconds = ptr.To[int32](3599) },
			[]string{"spec.maxExpirationSeconds: Invalid value: 3599: must be in the range [3600, 7862400]"}},
		{func(s *certificatesv1.PodCertificateRequestSpec) {
			s.SignerName, s.MaxExpirationSeconds = "kubernetes.io/s", ptr.To[int32](86401)
		}, []string{"spec.maxExpirationSeconds: Invalid value: 86401: must be in the range [3600, 86400]"}},
		{func(s *certificatesv1.PodCertificateRequestSpec) { s.PodUID, s.NodeUID = "", "" },
			[]string{`spec.podUID: Invalid value: "": must not be empty`, `spec.nodeUID: Invalid value: "": must not be empty`}},
		{func(s *certificatesv1.PodCertificateRequestSpec) { s.StubPKCS10Request = nil },
			[]string{"spec: Invalid value: exactly one of (stubPKCS10Request) or (pkixPublicKey, proofOfPossession) must be set"}},
		{func(s *certificatesv1.PodCertificateRequestSpec) { s.StubPKCS10Request = []byte("x") },
			[]string{"spec.stubPKCS10Request: Invalid value: must be a valid PKCS#10 CSR"}},
		{func(s *certificatesv1.PodCertificateRequestSpec) {
			s.StubPKCS10Request[len(s.StubPKCS10Request)-1] ^= 1
		}, []string{"spec.stubPKCS10Request: Invalid value: invalid signature"}},
		{func(s *certificatesv1.PodCertificateRequestSpec) {
			s.StubPKCS10Request, _ = x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, newKey(t, elliptic.P224()))
		}, []string{`spec.stubPKCS10Request: Invalid value: "curve P-224": elliptic public keys must use curve P256, P384, or P521`}},
	} {
		o := podRequest(t, newKey(t, elliptic.P256()))
		c.change(&o.Spec)
		require.Equal(t, c.want, messages(validatePodCertificateRequest(o)))
	}
}

// TestPodCertificateSeconds: a request that does not say how long is for a day.
func TestPodCertificateSeconds(t *testing.T) {
	k := podCertificateRequestKind()
	for _, given := range []*int32{nil, ptr.To[int32](3600)} {
		o := podRequest(t, newKey(t, elliptic.P256()))
		o.Spec.MaxExpirationSeconds = given
		k.Default(o)
		require.Equal(t, ptr.To(ptr.Deref(given, 86400)), o.Spec.MaxExpirationSeconds)
	}
}

func TestPodCertificateStatus(t *testing.T) {
	key, now := newKey(t, elliptic.P256()), time.Date(2026, 1, 2, 3, 4, 0, 0, time.UTC)
	leaf := x509.Certificate{Subject: pkix.Name{CommonName: "p"}, NotBefore: now, NotAfter: now.Add(24 * time.Hour)}
	end := func(kind string) []metav1.Condition {
		return []metav1.Condition{{Type: kind, Status: metav1.ConditionTrue, Reason: "R", LastTransitionTime: metav1.NewTime(now)}}
	}
	good := certificatesv1.PodCertificateRequestStatus{
		Conditions: end("Issued"), CertificateChain: certificate(t, key, leaf),
		NotBefore: &metav1.Time{Time: now}, NotAfter: &metav1.Time{Time: leaf.NotAfter}, BeginRefreshAt: &metav1.Time{Time: now.Add(time.Hour)},
	}
	long := leaf
	long.NotAfter = now.Add(25 * time.Hour)
	for name, c := range map[string]struct {
		old    certificatesv1.PodCertificateRequestStatus
		change func(s *certificatesv1.PodCertificateRequestStatus)
		want   string // a part of the first message
	}{
		"issued": {change: func(*certificatesv1.PodCertificateRequestStatus) {}},
		"no condition": {change: func(s *certificatesv1.PodCertificateRequestStatus) { s.Conditions = nil },
			want: `status is immutable unless transitioning to "Issued"`},
		"denied with a certificate": {change: func(s *certificatesv1.PodCertificateRequestStatus) { s.Conditions = end("Denied") },
			want: "non-condition status fields must be empty"},
		"denied": {change: func(s *certificatesv1.PodCertificateRequestStatus) {
			*s = certificatesv1.PodCertificateRequestStatus{Conditions: end("Denied")}
		}},
		"twice": {old: good, change: func(s *certificatesv1.PodCertificateRequestStatus) { s.Conditions = end("Failed") },
			want: "immutable after PodCertificateRequest is issued"},
		"unknown condition": {change: func(s *certificatesv1.PodCertificateRequestStatus) { s.Conditions = end("Lost") },
			want: `status.conditions.[0].type: Unsupported value: "Lost"`},
		"another key": {change: func(s *certificatesv1.PodCertificateRequestStatus) {
			s.CertificateChain = certificate(t, newKey(t, elliptic.P256()), leaf)
		}, want: "status.certificateChain"},
		"no time": {change: func(s *certificatesv1.PodCertificateRequestStatus) { s.NotAfter = nil }, want: "status.notAfter: Required value"},
		"other time": {change: func(s *certificatesv1.PodCertificateRequestStatus) { s.NotAfter = s.NotBefore },
			want: "must be set to the NotAfter time encoded in the leaf certificate"},
		"too long": {change: func(s *certificatesv1.PodCertificateRequestStatus) {
			s.CertificateChain, s.NotAfter = certificate(t, key, long), &metav1.Time{Time: long.NotAfter}
		}, want: "leaf certificate lifetime must be <= spec.maxExpirationSeconds (86400)"},
		"early refresh": {change: func(s *certificatesv1.PodCertificateRequestStatus) { s.BeginRefreshAt = s.NotBefore },
			want: "must be at least 10 minutes after status.notBefore"},
		"no chain": {change: func(s *certificatesv1.PodCertificateRequestStatus) { s.CertificateChain = "" },
			want: "issued certificate chain must contain at least one certificate"},
		"broken chain": {change: func(s *certificatesv1.PodCertificateRequestStatus) {
			s.CertificateChain += "-----BEGIN CERTIFICATE-----\nQQ==\n-----END CERTIFICATE-----\n"
		}, want: "intermediate certificate does not parse"},
	} {
		t.Run(name, func(t *testing.T) {
			old := podRequest(t, key)
			o := old.DeepCopy()
			old.Status = c.old
			good.DeepCopyInto(&o.Status)
			c.change(&o.Status)
			errs := messages(validatePodCertificate(o, old, now.Add(time.Minute)))
			if c.want == "" {
				require.Empty(t, errs)
				return
			}
			require.NotEmpty(t, errs)
			require.Contains(t, errs[0], c.want)
		})
	}
	o := podRequest(t, key)
	old := o.DeepCopy()
	o.Status = good
	require.Contains(t, messages(validatePodCertificate(o, old, now.Add(issuedNear)))[0], "within 5 minutes")
}
