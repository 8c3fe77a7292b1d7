package rights

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"testing"

	"github.com/stretchr/testify/require"
	certificatesv1 "k8s.io/api/certificates/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/keelson-io/keelson/orchestrator/apiserver/request"
)

// signerRights are a verb and the name of a signer each.
type signerRights map[[2]string]bool

func (r signerRights) Authorize(_ context.Context, a Attributes) (Decision, string, error) {
	if a.Group == "certificates.k8s.io" && a.Resource == "signers" && r[[2]string{a.Verb, a.Name}] {
		return Allow, "", nil
	}
	return NoOpinion, "", nil
}

func TestSigners(t *testing.T) {
	const name = "example.com/s"
	csr := func(certificate string) *certificatesv1.CertificateSigningRequest {
		o := &certificatesv1.CertificateSigningRequest{ObjectMeta: metav1.ObjectMeta{Name: "r"}}
		o.Spec.SignerName, o.Status.Certificate = name, []byte(certificate)
		return o
	}
	pod := func(chain string) *certificatesv1.PodCertificateRequest {
		o := &certificatesv1.PodCertificateRequest{ObjectMeta: metav1.ObjectMeta{Name: "r"}}
		o.Spec.SignerName, o.Status.CertificateChain = name, chain
		return o
	}
	bundle := func(signer, text string, finalizers ...string) *certificatesv1.ClusterTrustBundle {
		return &certificatesv1.ClusterTrustBundle{
			ObjectMeta: metav1.ObjectMeta{Name: "b", Finalizers: finalizers},
			Spec:       certificatesv1.ClusterTrustBundleSpec{SignerName: signer, TrustBundle: text},
		}
	}
	for title, c := range map[string]struct {
		resource, subresource, operation string
		o, old                           runtime.Object
		verb                             string // that is needed
	}{
		"approval":              {"certificatesigningrequests", "approval", "UPDATE", csr(""), csr(""), "approve"},
		"signature":             {"certificatesigningrequests", "status", "UPDATE", csr("x"), csr(""), "sign"},
		"status as it was":      {"certificatesigningrequests", "status", "UPDATE", csr("x"), csr("x"), ""},
		"metadata":              {"certificatesigningrequests", "", "UPDATE", csr("x"), csr("x"), ""},
		"pod's certificate":     {"podcertificaterequests", "status", "UPDATE", pod("x"), pod(""), "sign"},
		"pod's request":         {"podcertificaterequests", "", "CREATE", pod(""), nil, ""},
		"bundle":                {"clustertrustbundles", "", "CREATE", bundle(name, "x"), nil, "attest"},
		"changed bundle":        {"clustertrustbundles", "", "UPDATE", bundle(name, "y"), bundle(name, "x"), "attest"},
		"finalizer of a bundle": {"clustertrustbundles", "", "UPDATE", bundle(name, "x", "f"), bundle(name, "x"), ""},
		"bundle of nobody":      {"clustertrustbundles", "", "CREATE", bundle("", "x"), nil, ""},
		"deletion":              {"clustertrustbundles", "", "DELETE", nil, bundle(name, "x"), ""},
	} {
		w := &Write{
			User: &request.User{Name: "u"}, Operation: c.operation, Resource: certificatesv1.SchemeGroupVersion.WithResource(c.resource),
			Subresource: c.subresource, Object: c.o, Old: c.old,
		}
		err := (&Signers{signerRights{}}).Check(t.Context(), w)
		if c.verb == "" {
			require.NoError(t, err, title)
			continue
		}
		require.Error(t, err, title)
		require.True(t, apierrors.IsForbidden(err) || apierrors.IsInvalid(err) && c.resource == "podcertificaterequests", "%s: %v", title, err)
		for _, n := range []string{name, "example.com/*"} {
			require.NoError(t, (&Signers{signerRights{{c.verb, n}: true}}).Check(t.Context(), w), title)
		}
		require.Error(t, (&Signers{signerRights{{c.verb, "*"}: true, {"get", name}: true}}).Check(t.Context(), w), title)
	}
}

func TestMastersGetNoCertificate(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	for signer, want := range map[string]bool{certificatesv1.KubeAPIServerClientSignerName: true, "example.com/s": false} {
		der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{Organization: []string{"a", Masters}}}, key)
		require.NoError(t, err)
		o := &certificatesv1.CertificateSigningRequest{Spec: certificatesv1.CertificateSigningRequestSpec{
			SignerName: signer, Request: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}),
		}}
		err = (&Signers{signerRights{}}).Check(t.Context(), &Write{
			User: &request.User{Name: "u"}, Operation: "CREATE", Resource: certificatesv1.SchemeGroupVersion.WithResource("certificatesigningrequests"), Object: o,
		})
		require.Equal(t, want, apierrors.IsForbidden(err), "%v", err)
	}
}
