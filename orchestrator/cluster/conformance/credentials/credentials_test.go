//go:build linux

package credentials

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/stretchr/testify/require"

	"github.com/keelson-io/keelson/orchestrator/cluster/nodetest"
)

var cluster *nodetest.Cluster

func TestMain(m *testing.M) {
	os.Exit(nodetest.Main(m, nodetest.Options{}, func(c *nodetest.Cluster) { cluster = c }))
}

// behaviours are functions that show that behaviours are held, by the names of these. Each has a namespace of its own.
type behaviours map[string]func(t *testing.T, ns string)

func TestBehaviours(t *testing.T) {
	for _, part := range []behaviours{tokens(), bundles(), certificates(), aggregation()} {
		for name, run := range part {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				run(t, cluster.Namespace(t))
			})
		}
	}
}

// projecting is a pod with sources in /credentials, all in one volume.
func projecting(sources []corev1.VolumeProjection, command ...string) *corev1.Pod {
	pod := nodetest.Pod("app", command...)
	pod.Spec.Volumes = []corev1.Volume{{Name: "credentials", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: sources}}}}
	pod.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "credentials", MountPath: "/credentials"}}
	return pod
}

// authority is a key with a certificate that it has signed itself.
type authority struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

func newAuthority(t *testing.T, name string) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}, &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}}, key.Public(), key)
	require.NoError(t, err)
	cert, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	return &authority{key, cert}
}

// server makes a certificate for a server's name, with its key, in PEM.
func (a *authority) server(t *testing.T, name string) (cert, key []byte) {
	t.Helper()
	own, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(2), DNSNames: []string{name}, NotBefore: a.cert.NotBefore, NotAfter: a.cert.NotAfter,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, a.cert, own.Public(), a.key)
	require.NoError(t, err)
	secret, err := x509.MarshalECPrivateKey(own)
	require.NoError(t, err)
	return []byte(encoded(der)), pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: secret})
}

func (a *authority) pem() string { return encoded(a.cert.Raw) }

func encoded(der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

// chain reads the certificates of a text, each as it is encoded.
func chain(text string) (all []string) {
	for b, rest := pem.Decode([]byte(text)); b != nil; b, rest = pem.Decode(rest) {
		if b.Type == "CERTIFICATE" {
			all = append(all, encoded(b.Bytes))
		}
	}
	return all
}

func tokens() behaviours {
	return behaviours{
		"ServiceAccounts should mount an API token into pods":          mountedToken,
		"ServiceAccounts should mount projected service account token": projectedToken,
	}
}

// reviewed asks whose a token is.
func reviewed(t *testing.T, token string, audiences ...string) authenticationv1.TokenReviewStatus {
	t.Helper()
	r, err := cluster.Client.AuthenticationV1().TokenReviews().Create(t.Context(), &authenticationv1.TokenReview{
		Spec: authenticationv1.TokenReviewSpec{Token: token, Audiences: audiences},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	return r.Status
}

func mountedToken(t *testing.T, ns string) {
	_, err := cluster.Client.CoreV1().ServiceAccounts(ns).Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "mount-test"}}, metav1.CreateOptions{})
	require.NoError(t, err)
	pod := nodetest.Pod("app", "sleep")
	pod.Spec.ServiceAccountName = "mount-test"
	cluster.Started(t, ns, pod)
	file := func(name string) string {
		return cluster.Exec(t, ns, "app", "main", "cat", "/var/run/secrets/kubernetes.io/serviceaccount/"+name)
	}
	require.Equal(t, ns, file("namespace"))
	root, err := cluster.Client.CoreV1().ConfigMaps(ns).Get(t.Context(), "kube-root-ca.crt", metav1.GetOptions{})
	require.NoError(t, err)
	require.Equal(t, root.Data["ca.crt"], file("ca.crt"))
	status := reviewed(t, file("token"))
	require.True(t, status.Authenticated, status.Error)
	require.Equal(t, "system:serviceaccount:"+ns+":mount-test", status.User.Username)
	require.Equal(t, authenticationv1.ExtraValue{"app"}, status.User.Extra["authentication.kubernetes.io/pod-name"])
}

func projectedToken(t *testing.T, ns string) {
	pod := projecting([]corev1.VolumeProjection{{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{
		Path: "test-token", Audience: "somebody", ExpirationSeconds: ptr.To[int64](3600),
	}}}, "cat", "/credentials/test-token")
	token := cluster.Run(t, ns, pod)
	status := reviewed(t, token, "somebody")
	require.True(t, status.Authenticated, status.Error)
	require.Equal(t, "system:serviceaccount:"+ns+":default", status.User.Username)
	require.False(t, reviewed(t, token, "somebody else").Authenticated)
}
