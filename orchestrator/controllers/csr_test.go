package controllers

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	authorizationv1 "k8s.io/api/authorization/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/utils/ptr"

	"github.com/keelson-io/keelson/internal/clock"
	"github.com/keelson-io/keelson/orchestrator/cluster/pki"
)

func TestCertificates(t *testing.T) {
	authority, err := pki.Open(t.TempDir(), time.Now)
	require.NoError(t, err)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	request := func(name, signer, user string, approved bool, template x509.CertificateRequest, usages ...certificatesv1.KeyUsage) *certificatesv1.CertificateSigningRequest {
		der, err := x509.CreateCertificateRequest(rand.Reader, &template, key)
		require.NoError(t, err)
		r := &certificatesv1.CertificateSigningRequest{
			ObjectMeta: metav1.ObjectMeta{Name: name, ResourceVersion: "1"},
			Spec: certificatesv1.CertificateSigningRequestSpec{
				Request: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}), SignerName: signer, Username: user, Usages: usages,
				ExpirationSeconds: ptr.To(int32(3600)),
			},
		}
		if approved {
			r.Status.Conditions = []certificatesv1.CertificateSigningRequestCondition{{Type: certificatesv1.CertificateApproved, Status: corev1.ConditionTrue}}
		}
		return r
	}
	node := x509.CertificateRequest{Subject: pkix.Name{CommonName: "system:node:n1", Organization: []string{"system:nodes"}}}
	serving := node
	serving.IPAddresses = []net.IP{net.IPv4(10, 0, 0, 1)}
	person := x509.CertificateRequest{Subject: pkix.Name{CommonName: "jane", Organization: []string{"team"}}}
	const client, server = certificatesv1.UsageClientAuth, certificatesv1.UsageServerAuth
	const kubelet, plain, kubeletServing = certificatesv1.KubeAPIServerClientKubeletSignerName, certificatesv1.KubeAPIServerClientSignerName, certificatesv1.KubeletServingSignerName
	foreign, stolen, called := serving, serving, serving
	foreign.IPAddresses = []net.IP{net.IPv4(10, 0, 0, 9)}
	stolen.IPAddresses = []net.IP{net.IPv4(10, 0, 0, 2)}
	called.DNSNames = []string{"kubernetes.default.svc"}
	addresses := func(name string, ips ...string) *corev1.Node {
		n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
		n.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeHostName, Address: name}, {Type: corev1.NodeInternalDNS, Address: "kubernetes.default.svc"}}
		for _, ip := range ips {
			n.Status.Addresses = append(n.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: ip})
		}
		return n
	}
	own := func(r *certificatesv1.CertificateSigningRequest) *certificatesv1.CertificateSigningRequest {
		r.Spec.Groups = []string{"system:nodes", "system:authenticated"}
		return r
	}
	w := newWorld(t, addresses("n1", "10.0.0.1", "10.0.0.2"), addresses("n2", "10.0.0.2"),
		own(request("own-serving", kubeletServing, "system:node:n1", false, serving, server)),
		own(request("foreign-serving", kubeletServing, "system:node:n1", false, foreign, server)),
		own(request("stolen-serving", kubeletServing, "system:node:n1", false, stolen, server)),
		own(request("called-serving", kubeletServing, "system:node:n1", false, called, server)),
		own(request("other-serving", kubeletServing, "system:node:n2", false, serving, server)),
		request("no-node-serving", kubeletServing, "system:node:n1", false, serving, server),
		request("bootstrap", kubelet, "system:bootstrap:x", false, node, client),
		request("renewal", kubelet, "system:node:n1", false, node, client),
		request("thief", kubelet, "system:node:n2", false, node, client),
		request("no-node", kubelet, "system:bootstrap:x", false, person, client),
		request("jane", plain, "jane", true, person, client),
		request("waits", plain, "jane", false, person, client),
		request("serves", kubeletServing, "system:node:n1", true, serving, server),
		request("wrong-usage", plain, "jane", true, person, server),
		request("not-ours", "example.com/signer", "jane", true, person, client),
	)
	w.client.PrependReactor("create", "subjectaccessreviews", func(a clienttesting.Action) (bool, runtime.Object, error) {
		r := a.(clienttesting.CreateAction).GetObject().(*authorizationv1.SubjectAccessReview)
		s := r.Spec.ResourceAttributes.Subresource
		r.Status.Allowed = s == "nodeclient" && r.Spec.User == "system:bootstrap:x" || s == "selfnodeclient" || s == "selfnodeserver"
		return true, r, nil
	})
	w.client.PrependReactor("update", "certificatesigningrequests", func(a clienttesting.Action) (bool, runtime.Object, error) {
		if a.GetSubresource() != "approval" {
			return false, nil, nil
		}
		o := a.(clienttesting.UpdateAction).GetObject()
		return true, o, w.client.Tracker().Update(a.GetResource(), o, "")
	})
	c, err := NewCSR(w.client, w.factory, authority, clock.Real, nil)
	require.NoError(t, err)
	w.run(c)
	get := func(name string) *certificatesv1.CertificateSigningRequest {
		r, err := w.client.CertificatesV1().CertificateSigningRequests().Get(w.ctx, name, metav1.GetOptions{})
		require.NoError(t, err)
		return r
	}
	for _, name := range []string{"bootstrap", "renewal", "jane", "serves", "own-serving"} {
		eventually(t, func() error {
			if len(get(name).Status.Certificate) == 0 {
				return fmt.Errorf("%s: %+v", name, get(name).Status)
			}
			return nil
		})
		block, _ := pem.Decode(get(name).Status.Certificate)
		cert, err := x509.ParseCertificate(block.Bytes)
		require.NoError(t, err)
		_, err = cert.Verify(x509.VerifyOptions{Roots: authority.Pool(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
		require.NoError(t, err)
		require.False(t, cert.IsCA)
		require.WithinDuration(t, time.Now().Add(time.Hour), cert.NotAfter, time.Minute)
		if name == "serves" || name == "own-serving" {
			require.Equal(t, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, cert.ExtKeyUsage)
			require.True(t, cert.IPAddresses[0].Equal(net.IPv4(10, 0, 0, 1)))
		} else {
			require.Equal(t, []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, cert.ExtKeyUsage)
		}
	}
	eventually(t, func() error {
		if !csrCondition(get("wrong-usage"), certificatesv1.CertificateFailed) {
			return errors.New("not refused")
		}
		return nil
	})
	for _, name := range []string{
		"thief", "no-node", "waits", "foreign-serving", "stolen-serving", "called-serving", "other-serving", "no-node-serving", "not-ours",
	} {
		require.Empty(t, get(name).Status.Certificate, name)
		if name != "not-ours" {
			require.Empty(t, get(name).Status.Conditions, name)
		}
	}
}
