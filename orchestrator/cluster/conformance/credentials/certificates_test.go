//go:build linux

package credentials

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/url"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/keelson-io/keelson/orchestrator/cluster/nodetest"
)

func certificates() behaviours {
	return behaviours{
		"Projected PodCertificate MaxExpirationSeconds validations should issue certificate with default life time (24h) when MaxExpirationSeconds is not set": lasting(nil, 24*time.Hour),
		"Projected PodCertificate MaxExpirationSeconds validations should issue certificate with specified duration (1h) when MaxExpirationSeconds is set":     lasting(ptr.To[int32](3600), time.Hour),
		"Projected PodCertificate should honor UserAnnotations for SPIFFE URI path":                                                                            annotated,
		"Projected PodCertificate should allow server and client pods to establish an mTLS connection":                                                         mutual,
	}
}

// pathKey is the annotation of a request that the signer takes the path of a name from.
const pathKey = "spiffe/path-overriding"

// signing answers the requests for certificates of the test's signer until the test ends.
func signing(t *testing.T, ns string) *authority {
	t.Helper()
	ca := newAuthority(t, "signer")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-done)
	})
	go func() { done <- ca.answer(ctx, ns) }()
	return ca
}

func (a *authority) answer(ctx context.Context, ns string) error {
	all := cluster.Client.CertificatesV1().PodCertificateRequests(ns)
	w, err := all.Watch(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	defer w.Stop()
	for e := range w.ResultChan() {
		r, is := e.Object.(*certificatesv1.PodCertificateRequest)
		if !is || r.Spec.SignerName != signer(ns) || len(r.Status.Conditions) > 0 {
			continue
		}
		if err := a.sign(r); err != nil {
			return err
		}
		if _, err := all.UpdateStatus(ctx, r, metav1.UpdateOptions{}); err != nil && ctx.Err() == nil {
			return err
		}
	}
	return nil
}

// sign puts a certificate into the status of a request, which lasts as long as it may.
func (a *authority) sign(r *certificatesv1.PodCertificateRequest) error {
	stub, err := x509.ParseCertificateRequest(r.Spec.StubPKCS10Request)
	if err != nil {
		return err
	}
	name := &url.URL{Scheme: "spiffe", Host: "cluster.local", Path: "/ns/" + r.Namespace + "/sa/" + r.Spec.ServiceAccountName}
	if path := r.Spec.UnverifiedUserAnnotations[pathKey]; path != "" {
		name.Path = path
	}
	now := time.Now().Truncate(time.Second)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(now.UnixNano()), NotBefore: now, NotAfter: now.Add(time.Duration(*r.Spec.MaxExpirationSeconds) * time.Second),
		URIs: []*url.URL{name}, DNSNames: []string{r.Spec.PodName + "." + r.Namespace},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, stub.PublicKey, a.key)
	if err != nil {
		return err
	}
	r.Status = certificatesv1.PodCertificateRequestStatus{
		CertificateChain: encoded(der), NotBefore: &metav1.Time{Time: now}, NotAfter: &metav1.Time{Time: template.NotAfter},
		BeginRefreshAt: &metav1.Time{Time: template.NotAfter.Add(-10 * time.Minute)},
		Conditions: []metav1.Condition{{
			Type: certificatesv1.PodCertificateRequestConditionTypeIssued, Status: metav1.ConditionTrue, Reason: "Issued", LastTransitionTime: metav1.Now(),
		}},
	}
	return nil
}

// issued is the certificate that a pod gets, which has the key in the same file.
func issued(t *testing.T, ns string, p corev1.PodCertificateProjection) *x509.Certificate {
	t.Helper()
	ca := signing(t, ns)
	p.SignerName, p.KeyType, p.CredentialBundlePath = signer(ns), "ECDSAP256", "bundle.pem"
	log := cluster.Run(t, ns, projecting([]corev1.VolumeProjection{{PodCertificate: &p}}, "cat", "/credentials/bundle.pem"))
	key, rest := pem.Decode([]byte(log))
	require.NotNil(t, key)
	require.Equal(t, "PRIVATE KEY", key.Type)
	b, _ := pem.Decode(rest)
	require.NotNil(t, b)
	cert, err := x509.ParseCertificate(b.Bytes)
	require.NoError(t, err)
	require.NoError(t, cert.CheckSignatureFrom(ca.cert))
	return cert
}

func lasting(most *int32, want time.Duration) func(t *testing.T, ns string) {
	return func(t *testing.T, ns string) {
		cert := issued(t, ns, corev1.PodCertificateProjection{MaxExpirationSeconds: most})
		require.Equal(t, want, cert.NotAfter.Sub(cert.NotBefore))
	}
}

func annotated(t *testing.T, ns string) {
	cert := issued(t, ns, corev1.PodCertificateProjection{UserAnnotations: map[string]string{pathKey: "/custom-workload"}})
	require.Len(t, cert.URIs, 1)
	require.Equal(t, "/custom-workload", cert.URIs[0].Path)
}

// mutual connects two pods whose certificates are of the same signer, whom both know by its trust bundle.
func mutual(t *testing.T, ns string) {
	publish(t, "authority", signer(ns), signing(t, ns).pem(), nil)
	pod := func(name string, command ...string) *corev1.Pod {
		pod := projecting([]corev1.VolumeProjection{
			{PodCertificate: &corev1.PodCertificateProjection{SignerName: signer(ns), KeyType: "ECDSAP256", CredentialBundlePath: "bundle.pem"}},
			projected(corev1.ClusterTrustBundleProjection{SignerName: ptr.To(signer(ns)), LabelSelector: &metav1.LabelSelector{}}, "ca.pem"),
		}, command...)
		pod.Name, pod.Labels = name, map[string]string{"app": name}
		return pod
	}
	_, err := cluster.Client.CoreV1().Services(ns).Create(t.Context(), &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "server"},
		Spec:       corev1.ServiceSpec{Selector: map[string]string{"app": "server"}, Ports: []corev1.ServicePort{{Port: 443}}},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	cluster.Started(t, ns, pod("server", "serve", "-https", ":443", "-cert", "/credentials/bundle.pem", "-ca", "/credentials/ca.pem"))
	cluster.Started(t, ns, pod("client", "sleep"))

	get := func(flags ...string) (string, error) {
		return cluster.TryExec(t.Context(), ns, "client", "main", append(append([]string{"get"}, flags...), "https://server."+ns+"/identity")...)
	}
	cert, ca := []string{"-cert", "/credentials/bundle.pem"}, []string{"-ca", "/credentials/ca.pem"}
	nodetest.Until(t, "the client is known by its certificate", func() (bool, any) {
		out, err := get(append(cert, ca...)...)
		return out == "spiffe://cluster.local/ns/"+ns+"/sa/default\n", fmt.Sprint(out, err)
	})
	_, err = get(ca...)
	require.ErrorContains(t, err, "certificate required", "the server lets in whoever has a certificate")
	_, err = get(cert...)
	require.ErrorContains(t, err, "certificate signed by unknown authority", "the client trusts only the signer")
}
