package access

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	authenticationv1 "k8s.io/api/authentication/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/utils/ptr"

	"github.com/keelson-io/keelson/orchestrator/cluster/clustertest"
)

func anonymous(t *testing.T, c *clustertest.Cluster) {
	nobody := func(*rest.Config) {}
	client := as(t, c, nobody)
	for _, path := range []string{"/livez", "/readyz", "/healthz", "/version"} {
		require.NoError(t, client.RESTClient().Get().AbsPath(path).Do(t.Context()).Error(), path)
	}
	_, err := client.CoreV1().Pods("default").List(t.Context(), metav1.ListOptions{})
	require.True(t, apierrors.IsForbidden(err), "%v", err)
	require.ErrorContains(t, err, `User "system:anonymous" cannot list resource "pods" in API group "" in the namespace "default"`)
	_, err = whoamiErr(t, c, bearer("nonsense"))
	require.True(t, apierrors.IsUnauthorized(err), "%v", err)
}

// request makes a request for a certificate, and its key, in PEM.
func request(t *testing.T, subject pkix.Name) (request, key []byte) {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: subject}, k)
	require.NoError(t, err)
	b, err := x509.MarshalPKCS8PrivateKey(k)
	require.NoError(t, err)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: b})
}

// certified is who has a certificate that the cluster signed.
func certified(t *testing.T, c *clustertest.Cluster, signer string, subject pkix.Name) func(r *rest.Config) {
	csrs := c.Client(t, nil).CertificatesV1().CertificateSigningRequests()
	text, key := request(t, subject)
	o, err := csrs.Create(t.Context(), &certificatesv1.CertificateSigningRequest{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "access-"},
		Spec: certificatesv1.CertificateSigningRequestSpec{
			Request: text, SignerName: signer, Usages: []certificatesv1.KeyUsage{certificatesv1.UsageClientAuth, certificatesv1.UsageDigitalSignature},
		},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	name := o.Name
	require.Eventually(t, func() bool { // the controller may approve it at the same time
		o, err = csrs.Get(t.Context(), name, metav1.GetOptions{})
		require.NoError(t, err)
		o.Status.Conditions = []certificatesv1.CertificateSigningRequestCondition{{Type: certificatesv1.CertificateApproved, Status: corev1.ConditionTrue, Reason: "Test"}}
		_, err = csrs.UpdateApproval(t.Context(), name, o, metav1.UpdateOptions{})
		return err == nil
	}, patience, 10*time.Millisecond)
	require.Eventually(t, func() bool {
		o, err = csrs.Get(t.Context(), name, metav1.GetOptions{})
		return err == nil && len(o.Status.Certificate) > 0
	}, patience, 10*time.Millisecond, "%+v", o.Status)
	return func(r *rest.Config) { r.CertData, r.KeyData = o.Status.Certificate, key }
}

func clientCertificates(t *testing.T, c *clustertest.Cluster) {
	jane := certified(t, c, certificatesv1.KubeAPIServerClientSignerName, pkix.Name{CommonName: "jane", Organization: []string{"dev"}})
	u := whoami(t, c, jane)
	require.Equal(t, "jane", u.Username)
	require.ElementsMatch(t, []string{"dev", "system:authenticated"}, u.Groups)
	_, err := as(t, c, jane).CoreV1().Secrets("default").List(t.Context(), metav1.ListOptions{})
	require.True(t, apierrors.IsForbidden(err), "%v", err)

	// Others sign for nobody here, and nobody gets all rights by a request.
	cert, key := newAuthority(t).issue(t, x509.Certificate{Subject: pkix.Name{CommonName: "joe", Organization: []string{"system:masters"}}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	_, err = whoamiErr(t, c, func(r *rest.Config) { r.CertData, r.KeyData = cert, key })
	require.True(t, apierrors.IsUnauthorized(err), "%v", err)
	text, _ := request(t, pkix.Name{CommonName: "joe", Organization: []string{"system:masters"}})
	_, err = c.Client(t, nil).CertificatesV1().CertificateSigningRequests().Create(t.Context(), &certificatesv1.CertificateSigningRequest{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "access-"},
		Spec: certificatesv1.CertificateSigningRequestSpec{
			Request: text, SignerName: certificatesv1.KubeAPIServerClientSignerName, Usages: []certificatesv1.KeyUsage{certificatesv1.UsageClientAuth},
		},
	}, metav1.CreateOptions{})
	require.True(t, apierrors.IsForbidden(err), "%v", err)
	require.ErrorContains(t, err, "system:masters group is not allowed")
}

func bootstrapTokens(t *testing.T, c *clustertest.Cluster) {
	secrets := c.Client(t, nil).CoreV1().Secrets("kube-system")
	create := func(id string, change map[string]string) {
		data := map[string]string{
			"token-id": id, "token-secret": "0123456789abcdef", "usage-bootstrap-authentication": "true",
			"auth-extra-groups": "system:bootstrappers:workers", "expiration": time.Now().Add(time.Hour).UTC().Format(time.RFC3339),
		}
		for k, v := range change {
			data[k] = v
		}
		_, err := secrets.Create(t.Context(), &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Name: "bootstrap-token-" + id}, Type: corev1.SecretTypeBootstrapToken, StringData: data,
		}, metav1.CreateOptions{})
		require.NoError(t, err)
	}
	create("aaaaaa", nil)
	create("bbbbbb", map[string]string{"expiration": time.Now().Add(-time.Hour).UTC().Format(time.RFC3339)})
	create("cccccc", map[string]string{"usage-bootstrap-authentication": "false"})
	u := whoami(t, c, bearer("aaaaaa.0123456789abcdef"))
	require.Equal(t, "system:bootstrap:aaaaaa", u.Username)
	require.ElementsMatch(t, []string{"system:bootstrappers", "system:bootstrappers:workers", "system:authenticated"}, u.Groups)
	for _, bad := range []string{"aaaaaa.0123456789abcdeg", "bbbbbb.0123456789abcdef", "cccccc.0123456789abcdef", "dddddd.0123456789abcdef"} {
		_, err := whoamiErr(t, c, bearer(bad))
		require.True(t, apierrors.IsUnauthorized(err), "%s: %v", bad, err)
	}
	require.NoError(t, secrets.Delete(t.Context(), "bootstrap-token-aaaaaa", metav1.DeleteOptions{}))
	refusedSoon(t, c, "aaaaaa.0123456789abcdef")
}

// refusedSoon waits until a token is not known any more.
func refusedSoon(t *testing.T, c *clustertest.Cluster, token string) {
	t.Helper()
	require.Eventually(t, func() bool {
		_, err := whoamiErr(t, c, bearer(token))
		return apierrors.IsUnauthorized(err)
	}, patience, 20*time.Millisecond)
}

func newAccount(t *testing.T, client kubernetes.Interface, ns, name string) *corev1.ServiceAccount {
	o, err := client.CoreV1().ServiceAccounts(ns).Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	require.NoError(t, err)
	return o
}

func accountTokens(t *testing.T, c *clustertest.Cluster) {
	client, ns := c.Client(t, nil), c.Namespace(t)
	account := newAccount(t, client, ns, "robot")
	tok := token(t, client, ns, "robot", nil)
	u := whoami(t, c, bearer(tok))
	require.Equal(t, "system:serviceaccount:"+ns+":robot", u.Username)
	require.Equal(t, string(account.UID), u.UID)
	require.ElementsMatch(t, []string{"system:serviceaccounts", "system:serviceaccounts:" + ns, "system:authenticated"}, u.Groups)
	require.Len(t, u.Extra["authentication.kubernetes.io/credential-id"], 1)

	// It says when it ends, and for whom it is.
	accounts := client.CoreV1().ServiceAccounts(ns)
	r, err := accounts.CreateToken(t.Context(), "robot", &authenticationv1.TokenRequest{
		Spec: authenticationv1.TokenRequestSpec{Audiences: []string{"vault"}, ExpirationSeconds: ptr.To[int64](600)},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	claims := claimsOf(t, r.Status.Token)
	require.Equal(t, 600*time.Second, claims.Expiry.Time().Sub(claims.IssuedAt.Time()))
	require.WithinDuration(t, claims.Expiry.Time(), r.Status.ExpirationTimestamp.Time, time.Second)
	_, err = whoamiErr(t, c, bearer(r.Status.Token))
	require.True(t, apierrors.IsUnauthorized(err), "it is for somebody else: %v", err)
	review, err := client.AuthenticationV1().TokenReviews().Create(t.Context(), &authenticationv1.TokenReview{
		Spec: authenticationv1.TokenReviewSpec{Token: r.Status.Token, Audiences: []string{"vault", "safe"}},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	require.True(t, review.Status.Authenticated, review.Status.Error)
	require.Equal(t, []string{"vault"}, review.Status.Audiences)
	_, err = accounts.CreateToken(t.Context(), "robot", &authenticationv1.TokenRequest{
		Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: ptr.To[int64](599)},
	}, metav1.CreateOptions{})
	require.True(t, apierrors.IsInvalid(err), "%v", err)

	// Another account of the name is another account.
	require.NoError(t, accounts.Delete(t.Context(), "robot", metav1.DeleteOptions{}))
	refusedSoon(t, c, tok)
	newAccount(t, client, ns, "robot")
	_, err = whoamiErr(t, c, bearer(tok))
	require.True(t, apierrors.IsUnauthorized(err), "%v", err)
}

// boundTokens end with what they are bound to.
func boundTokens(t *testing.T, c *clustertest.Cluster) {
	client, ns := c.Client(t, nil), c.Namespace(t)
	pod, err := client.CoreV1().Pods(ns).Create(t.Context(), &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: corev1.PodSpec{NodeName: "hollow-0", Containers: []corev1.Container{{Name: "c", Image: "i"}}},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	secret, err := client.CoreV1().Secrets(ns).Create(t.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "s"}}, metav1.CreateOptions{})
	require.NoError(t, err)
	node, err := client.CoreV1().Nodes().Create(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: ns + "-node"}}, metav1.CreateOptions{})
	require.NoError(t, err)
	now := metav1.DeleteOptions{GracePeriodSeconds: ptr.To[int64](0)}
	for _, b := range []struct {
		kind   string
		object metav1.Object
		delete func() error
		extra  map[string]authenticationv1.ExtraValue
	}{
		{"Pod", pod, func() error { return client.CoreV1().Pods(ns).Delete(t.Context(), "p", now) }, map[string]authenticationv1.ExtraValue{
			"authentication.kubernetes.io/pod-name": {"p"}, "authentication.kubernetes.io/pod-uid": {string(pod.UID)}, "authentication.kubernetes.io/node-name": {"hollow-0"},
		}},
		{"Secret", secret, func() error { return client.CoreV1().Secrets(ns).Delete(t.Context(), "s", now) }, nil},
		{"Node", node, func() error { return client.CoreV1().Nodes().Delete(t.Context(), node.Name, now) }, map[string]authenticationv1.ExtraValue{
			"authentication.kubernetes.io/node-name": {node.Name}, "authentication.kubernetes.io/node-uid": {string(node.UID)},
		}},
	} {
		to := &authenticationv1.BoundObjectReference{Kind: b.kind, APIVersion: "v1", Name: b.object.GetName(), UID: b.object.GetUID()}
		tok := token(t, client, ns, "default", to)
		u := whoami(t, c, bearer(tok))
		for k, v := range b.extra {
			require.Equal(t, v, u.Extra[k], "%s: %s", b.kind, k)
		}
		to.UID = "other"
		_, err := client.CoreV1().ServiceAccounts(ns).CreateToken(t.Context(), "default",
			&authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{BoundObjectRef: to}}, metav1.CreateOptions{})
		require.True(t, apierrors.IsConflict(err), "%v", err)
		require.NoError(t, b.delete(), b.kind)
		refusedSoon(t, c, tok)
	}
}
