package access

import (
	"bufio"
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"
	"k8s.io/client-go/rest"

	"github.com/keelson-io/keelson/orchestrator/cluster"
	"github.com/keelson-io/keelson/orchestrator/cluster/clustertest"
)

func settings(change func(s *cluster.Settings)) clustertest.Option {
	return func(o *cluster.Options) { change(&o.Settings) }
}

func write(t *testing.T, text string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(name, []byte(text), 0o600))
	return name
}

// stored is the value of a secret in the store.
func stored(t *testing.T, c *clustertest.Cluster, name string) []byte {
	r, err := c.Store(t).Get(t.Context(), "/registry/secrets/default/"+name)
	require.NoError(t, err)
	require.Len(t, r.Kvs, 1)
	return r.Kvs[0].Value
}

// TestEncryption: secrets are not readable in the store, and readable after a restart; a key can be changed for another one, and
// what is written again is written with it.
func TestEncryption(t *testing.T) {
	key := func(name string, b byte) string {
		return "{name: " + name + ", secret: " + base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{b}, 32)) + "}"
	}
	first, second := "aescbc: {keys: ["+key("one", 1)+"]}", "secretbox: {keys: ["+key("two", 2)+"]}"
	dir := t.TempDir()
	start := func(providers ...string) *clustertest.Cluster {
		file := write(t, "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n- resources: [secrets]\n  providers: [{"+
			strings.Join(providers, "}, {")+"}]\n")
		return clustertest.Start(t, clustertest.DataDir(dir), clustertest.HollowNodes(0), settings(func(s *cluster.Settings) { s.EncryptionProviderConfig = file }))
	}
	check := func(c *clustertest.Cluster, prefix string, names ...string) {
		for _, name := range names {
			o, err := c.Client(t, nil).CoreV1().Secrets("default").Get(t.Context(), name, metav1.GetOptions{})
			require.NoError(t, err)
			require.Equal(t, "hidden treasure", string(o.Data["key"]))
			b := stored(t, c, name)
			require.True(t, bytes.HasPrefix(b, []byte(prefix)), "%q", b[:min(40, len(b))])
			require.NotContains(t, string(b), "hidden treasure")
		}
	}
	create := func(c *clustertest.Cluster, name string) {
		_, err := c.Client(t, nil).CoreV1().Secrets("default").Create(t.Context(), &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Name: name}, StringData: map[string]string{"key": "hidden treasure"},
		}, metav1.CreateOptions{})
		require.NoError(t, err)
	}
	c := start(first, "identity: {}")
	create(c, "a")
	check(c, "k8s:enc:aescbc:v1:one:", "a")
	c.Stop()

	c = start(second, first)
	check(c, "k8s:enc:aescbc:v1:one:", "a")
	create(c, "b")
	check(c, "k8s:enc:secretbox:v1:two:", "b")
	o, err := c.Client(t, nil).CoreV1().Secrets("default").Get(t.Context(), "a", metav1.GetOptions{})
	require.NoError(t, err)
	_, err = c.Client(t, nil).CoreV1().Secrets("default").Update(t.Context(), o, metav1.UpdateOptions{}) // nothing but the key changes
	require.NoError(t, err)
	check(c, "k8s:enc:secretbox:v1:two:", "a", "b")
	c.Stop()

	c = start(second)
	check(c, "k8s:enc:secretbox:v1:two:", "a", "b")
	l, err := c.Client(t, nil).CoreV1().Secrets("default").List(t.Context(), metav1.ListOptions{})
	require.NoError(t, err)
	require.Len(t, l.Items, 2)
}

// TestAudit has a policy of all levels and looks at the stages of requests in the log.
func TestAudit(t *testing.T) {
	log := filepath.Join(t.TempDir(), "audit.log")
	policy := write(t, `
apiVersion: audit.k8s.io/v1
kind: Policy
rules:
- {level: None, users: ["system:keelson"]}
- {level: None, nonResourceURLs: ["/version*"]}
- {level: Request, resources: [{resources: [configmaps]}], verbs: [create], omitStages: [RequestReceived]}
- {level: RequestResponse, resources: [{resources: [configmaps]}]}
- {level: Metadata, omitStages: [RequestReceived]}
`)
	c := clustertest.Start(t, clustertest.HollowNodes(0), settings(func(s *cluster.Settings) {
		s.Audit = cluster.Audit{PolicyFile: policy, LogPath: log, MaxSize: 10, MaxBackups: 1}
	}))
	client := c.Client(t, nil)
	maps := client.CoreV1().ConfigMaps("default")
	_, err := maps.Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "m"}, Data: map[string]string{"a": "b"}}, metav1.CreateOptions{})
	require.NoError(t, err)
	_, err = maps.Get(t.Context(), "m", metav1.GetOptions{})
	require.NoError(t, err)
	_, err = client.CoreV1().Secrets("default").List(t.Context(), metav1.ListOptions{})
	require.NoError(t, err)
	_, err = client.Discovery().ServerVersion()
	require.NoError(t, err)
	w, err := maps.Watch(t.Context(), metav1.ListOptions{})
	require.NoError(t, err)
	w.Stop()

	find := func(resource, verb string, stage auditv1.Stage) *auditv1.Event {
		for _, e := range events(t, log) {
			if e.ObjectRef != nil && e.ObjectRef.Resource == resource && e.Verb == verb && e.Stage == stage && e.User.Username == "kubernetes-admin" {
				return e
			}
		}
		return nil
	}
	await := func(resource, verb string, stage auditv1.Stage) (e *auditv1.Event) {
		require.Eventually(t, func() bool { e = find(resource, verb, stage); return e != nil }, patience, 10*time.Millisecond, "%s %s %s", resource, verb, stage)
		return e
	}
	created := await("configmaps", "create", auditv1.StageResponseComplete)
	require.Equal(t, auditv1.LevelRequest, created.Level)
	require.Contains(t, string(created.RequestObject.Raw), `"a":"b"`)
	require.Nil(t, created.ResponseObject)
	require.EqualValues(t, 201, created.ResponseStatus.Code)
	require.Nil(t, find("configmaps", "create", auditv1.StageRequestReceived))
	got := await("configmaps", "get", auditv1.StageResponseComplete)
	require.Equal(t, auditv1.LevelRequestResponse, got.Level)
	require.Contains(t, string(got.ResponseObject.Raw), `"a":"b"`)
	require.Equal(t, got.AuditID, await("configmaps", "get", auditv1.StageRequestReceived).AuditID)
	await("configmaps", "watch", auditv1.StageResponseStarted)
	await("configmaps", "watch", auditv1.StageResponseComplete)
	_, err = maps.Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "m"}}, metav1.CreateOptions{})
	require.True(t, apierrors.IsAlreadyExists(err))
	require.Eventually(t, func() bool {
		for _, e := range events(t, log) {
			if e.ResponseStatus != nil && e.ResponseStatus.Reason == metav1.StatusReasonAlreadyExists && e.ResponseStatus.Code == 409 {
				return true
			}
		}
		return false
	}, patience, 10*time.Millisecond)
	listed := await("secrets", "list", auditv1.StageResponseComplete)
	require.Equal(t, auditv1.LevelMetadata, listed.Level)
	require.Nil(t, listed.ResponseObject)
	require.NotEmpty(t, listed.SourceIPs)
	for _, e := range events(t, log) {
		require.NotEqual(t, "system:keelson", e.User.Username)
		require.NotContains(t, e.RequestURI, "/version")
	}
}

// events reads the whole lines of an audit log.
func events(t *testing.T, file string) (all []*auditv1.Event) {
	b, err := os.ReadFile(file)
	require.NoError(t, err)
	b = b[:bytes.LastIndexByte(b, '\n')+1]
	s := bufio.NewScanner(bytes.NewReader(b))
	s.Buffer(nil, 10<<20)
	for s.Scan() {
		e := &auditv1.Event{}
		require.NoError(t, json.Unmarshal(s.Bytes(), e))
		require.Equal(t, "audit.k8s.io/v1", e.APIVersion)
		all = append(all, e)
	}
	return all
}

// authority is a certificate authority of others.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

func newAuthority(t *testing.T) *authority {
	a := &authority{}
	var err error
	a.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "others"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &a.key.PublicKey, a.key)
	require.NoError(t, err)
	a.cert, err = x509.ParseCertificate(der)
	require.NoError(t, err)
	a.pem = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	return a
}

// issue makes a certificate and its key, in PEM.
func (a *authority) issue(t *testing.T, c x509.Certificate) (cert, key []byte) {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	c.SerialNumber = big.NewInt(2)
	if c.NotAfter.IsZero() {
		c.NotAfter = time.Now().Add(time.Hour)
	}
	der, err := x509.CreateCertificate(rand.Reader, &c, a.cert, &k.PublicKey, a.key)
	require.NoError(t, err)
	b, err := x509.MarshalPKCS8PrivateKey(k)
	require.NoError(t, err)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: b})
}

// TestSettings starts one cluster with the other settings.
func TestSettings(t *testing.T) {
	others := newAuthority(t)
	cert, key := others.issue(t, x509.Certificate{
		Subject: pkix.Name{CommonName: "api"}, DNSNames: []string{"api.example.com"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	})
	c := clustertest.Start(t, clustertest.HollowNodes(0), settings(func(s *cluster.Settings) {
		s.TokenAuthFile = write(t, "0123456789,jane,7,\"dev,ops\"\n")
		s.ServiceAccountIssuer = "https://issuer.example.com"
		s.ServiceClusterIPRange, s.ServiceNodePortRange = "10.7.0.0/24", "31000-31009"
		s.TLSCertFile, s.TLSPrivateKeyFile = write(t, string(cert)), write(t, string(key))
		s.ClientCAFile = write(t, string(others.pem))
	}))
	client := c.Client(t, nil)

	service, err := client.CoreV1().Services("default").Get(t.Context(), "kubernetes", metav1.GetOptions{})
	require.NoError(t, err)
	require.Equal(t, "10.7.0.1", service.Spec.ClusterIP)
	made, err := client.CoreV1().Services("default").Create(t.Context(), &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "s"}, Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeNodePort, Ports: []corev1.ServicePort{{Port: 80}}},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	require.True(t, strings.HasPrefix(made.Spec.ClusterIP, "10.7.0."), made.Spec.ClusterIP)
	require.True(t, made.Spec.Ports[0].NodePort >= 31000 && made.Spec.Ports[0].NodePort <= 31009, "%d", made.Spec.Ports[0].NodePort)

	require.Equal(t, "jane", whoami(t, c, func(r *rest.Config) { r.BearerToken = "0123456789" }).Username)
	require.Subset(t, whoami(t, c, func(r *rest.Config) { r.BearerToken = "0123456789" }).Groups, []string{"dev", "ops", "system:authenticated"})
	_, err = whoamiErr(t, c, func(r *rest.Config) { r.BearerToken = "012345678" })
	require.True(t, apierrors.IsUnauthorized(err), "%v", err)

	cert, key = others.issue(t, x509.Certificate{
		Subject: pkix.Name{CommonName: "joe", Organization: []string{"sales"}}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	joe := whoami(t, c, func(r *rest.Config) { r.CertData, r.KeyData = cert, key })
	require.Equal(t, "joe", joe.Username)
	require.Contains(t, joe.Groups, "sales")

	conn, err := tls.Dial("tcp", strings.TrimPrefix(c.URL, "https://"), &tls.Config{InsecureSkipVerify: true}) //nolint:gosec // it is looked at
	require.NoError(t, err)
	defer func() { _ = conn.Close() }()
	require.Equal(t, "api", conn.ConnectionState().PeerCertificates[0].Subject.CommonName)

	claims := claimsOf(t, token(t, client, c.Namespace(t), "default", nil))
	require.Equal(t, "https://issuer.example.com", claims.Issuer)
}
