package verbs

import (
	"crypto/ed25519"
	"crypto/x509"
	"encoding/pem"
	"testing"

	"github.com/stretchr/testify/require"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/keelson-io/keelson/orchestrator/apiserver/request"
	"github.com/keelson-io/keelson/orchestrator/kinds"
)

func certificateRequest(t *testing.T) *certificatesv1.CertificateSigningRequest {
	_, key, err := ed25519.GenerateKey(nil)
	require.NoError(t, err)
	der, err := x509.CreateCertificateRequest(nil, &x509.CertificateRequest{}, key)
	require.NoError(t, err)
	return &certificatesv1.CertificateSigningRequest{
		ObjectMeta: metav1.ObjectMeta{Name: "r"},
		Spec: certificatesv1.CertificateSigningRequestSpec{
			Request:    pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}),
			SignerName: certificatesv1.KubeAPIServerClientSignerName, Usages: []certificatesv1.KeyUsage{certificatesv1.UsageClientAuth},
			Username: "admin", UID: "0", Groups: []string{"system:masters"}, Extra: map[string]certificatesv1.ExtraValue{"a": {"b"}},
		},
	}
}

// TestRequester says who asks for a certificate, who lies about it.
func TestRequester(t *testing.T) {
	s, err := kinds.NewSet(kinds.Builtin()...)
	require.NoError(t, err)
	r := start(t, s.ByKind(certificatesv1.SchemeGroupVersion.WithKind("CertificateSigningRequest")))
	item, err := r.Create(t.Context(), &Target{User: &request.User{Name: "eve", UID: "7", Groups: []string{"g"}, Extra: map[string][]string{"x": {"y"}}}}, certificateRequest(t))
	require.NoError(t, err)
	got := item.Object.(*certificatesv1.CertificateSigningRequest)
	require.Equal(t, "eve", got.Spec.Username)
	require.Equal(t, "7", got.Spec.UID)
	require.Equal(t, []string{"g"}, got.Spec.Groups)
	require.Equal(t, map[string]certificatesv1.ExtraValue{"x": {"y"}}, got.Spec.Extra)

	change := got.DeepCopy()
	change.Spec.Username, change.Labels = "admin", map[string]string{"a": "b"}
	change.Status.Conditions = []certificatesv1.CertificateSigningRequestCondition{{Type: certificatesv1.CertificateApproved, Status: corev1.ConditionTrue}}
	item, _, err = r.Update(t.Context(), &Target{Name: "r"}, change)
	require.NoError(t, err)
	got = item.Object.(*certificatesv1.CertificateSigningRequest)
	require.Equal(t, "eve", got.Spec.Username)
	require.Empty(t, got.Status.Conditions)
	require.Equal(t, "b", got.Labels["a"])

	change = got.DeepCopy()
	change.Status.Certificate = []byte("x")
	change.Status.Conditions = []certificatesv1.CertificateSigningRequestCondition{{Type: certificatesv1.CertificateApproved, Status: corev1.ConditionTrue}}
	_, _, err = r.Update(t.Context(), &Target{Name: "r", Subresource: "status"}, change)
	require.ErrorContains(t, err, `updates may not add a condition of type "Approved"`)
	item, _, err = r.Update(t.Context(), &Target{Name: "r", Subresource: "approval"}, change)
	require.NoError(t, err)
	got = item.Object.(*certificatesv1.CertificateSigningRequest)
	require.Empty(t, got.Status.Certificate)
	require.Len(t, got.Status.Conditions, 1)
	require.False(t, got.Status.Conditions[0].LastUpdateTime.IsZero())
	require.False(t, got.Status.Conditions[0].LastTransitionTime.IsZero())

	change = got.DeepCopy()
	change.Status.Conditions = append(change.Status.Conditions,
		certificatesv1.CertificateSigningRequestCondition{Type: certificatesv1.CertificateDenied, Status: corev1.ConditionTrue})
	_, _, err = r.Update(t.Context(), &Target{Name: "r", Subresource: "approval"}, change)
	require.ErrorContains(t, err, "must specify at most one of")
	change.Status.Conditions = nil
	_, _, err = r.Update(t.Context(), &Target{Name: "r", Subresource: "approval"}, change)
	require.ErrorContains(t, err, `updates may not remove a condition of type "Approved"`)

	change = got.DeepCopy()
	change.Status.Certificate = []byte("x")
	_, _, err = r.Update(t.Context(), &Target{Name: "r", Subresource: "status"}, change)
	require.ErrorContains(t, err, "must contain at least one CERTIFICATE PEM block")
}
