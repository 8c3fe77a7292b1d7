package serve_test

import (
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/httpstream"

	"github.com/keelson-io/keelson/orchestrator/cluster/pki"
)

type portforwardConnection = httpstream.Connection

// say connects to a port of the loopback interface, and returns what comes back for a text.
func say(t *testing.T, port uint16, text string) string {
	t.Helper()
	c, err := net.Dial("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(int(port))))
	require.NoError(t, err)
	defer c.Close()
	_, err = io.WriteString(c, text)
	require.NoError(t, err)
	require.NoError(t, c.(*net.TCPConn).CloseWrite())
	b, err := io.ReadAll(c)
	require.NoError(t, err)
	return string(b)
}

// TestGate asks as different people for different things.
func TestGate(t *testing.T) {
	w := start(t, "gate")
	ctx, rbac := t.Context(), w.client.RbacV1()
	token := func(account string, rules ...rbacv1.PolicyRule) string {
		_, err := w.client.CoreV1().ServiceAccounts(w.namespace).Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: account}}, metav1.CreateOptions{})
		require.NoError(t, err)
		name := w.namespace + "-" + account
		_, err = rbac.ClusterRoles().Create(ctx, &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: name}, Rules: rules}, metav1.CreateOptions{})
		require.NoError(t, err)
		_, err = rbac.ClusterRoleBindings().Create(ctx, &rbacv1.ClusterRoleBinding{
			ObjectMeta: metav1.ObjectMeta{Name: name}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: name},
			Subjects: []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: w.namespace, Name: account}},
		}, metav1.CreateOptions{})
		require.NoError(t, err)
		r, err := w.client.CoreV1().ServiceAccounts(w.namespace).CreateToken(ctx, account, &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
		require.NoError(t, err)
		return r.Status.Token
	}
	rule := func(verb string, subresources ...string) rbacv1.PolicyRule {
		r := rbacv1.PolicyRule{Verbs: []string{verb}, APIGroups: []string{""}}
		for _, s := range subresources {
			r.Resources = append(r.Resources, "nodes/"+s)
		}
		return r
	}
	nobody, scraper := token("nobody"), token("scraper", rule("get", "metrics", "stats"))
	looker, fine := token("looker", rule("get", "proxy")), token("fine", rule("get", "pods", "healthz", "configz", "log"))
	actor := token("actor", rule("create", "proxy"))
	admin, err := w.authority.Client("admin", "kubernetes-admin", "system:masters")
	require.NoError(t, err)
	foreign, err := pki.Open(t.TempDir(), time.Now)
	require.NoError(t, err)
	stranger, err := foreign.Client("x", "kubernetes-admin", "system:masters")
	require.NoError(t, err)
	server, err := w.authority.Server("node-gate", "127.0.0.1")
	require.NoError(t, err)

	ask := func(method, path, token string, cert *tls.Certificate) int {
		tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots(t), MinVersion: tls.VersionTLS12}, DisableKeepAlives: true}
		if cert != nil {
			tr.TLSClientConfig.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert, nil }
		}
		r, err := http.NewRequestWithContext(ctx, method, "https://"+w.server.Addr().String()+path, nil)
		require.NoError(t, err)
		if token != "" {
			r.Header.Set("Authorization", "Bearer "+token)
		}
		resp, err := tr.RoundTrip(r)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		return resp.StatusCode
	}
	exec := "/exec/" + w.namespace + "/p/a?command=echo&output=1"
	logs := "/containerLogs/" + w.namespace + "/p/a"
	run := "/run/" + w.namespace + "/p/a?cmd=ls"
	const yes, no, who = 200, 403, 401
	for _, c := range []struct {
		method, path                               string
		nobody, scraper, looker, fine, actor, self int
	}{
		{"GET", "/healthz", no, no, yes, yes, no, yes},
		{"GET", "/pods", no, no, yes, yes, no, yes},
		{"GET", "/runningpods/", no, no, yes, yes, no, yes},
		{"GET", "/configz", no, no, yes, yes, no, yes},
		{"GET", "/metrics", no, yes, no, no, no, yes},
		{"GET", "/metrics/resource", no, yes, no, no, no, yes},
		{"GET", "/stats/summary", no, 404, no, no, no, 404},
		{"GET", "/logs/syslog", no, no, no, 404, no, 404},
		{"GET", "/metricsx", no, no, 404, no, no, 404},
		{"GET", logs, no, no, yes, no, no, yes},
		{"GET", exec, no, no, no, no, 400, 400}, // a GET that may become a WebSocket: it is no upgrade
		{"POST", exec, no, no, no, no, 400, 400},
		{"POST", run, no, no, no, no, yes, yes},
		{"PUT", "/pods", no, no, no, no, no, 405},
		{"OPTIONS", "/pods", no, no, no, no, no, no},
	} {
		require.Equal(t, who, ask(c.method, c.path, "", nil), "%s %s: nobody is anonymous", c.method, c.path)
		require.Equal(t, who, ask(c.method, c.path, "nonsense", nil), "%s %s: an unknown token", c.method, c.path)
		require.Equal(t, who, ask(c.method, c.path, "", &stranger), "%s %s: another authority", c.method, c.path)
		require.Equal(t, who, ask(c.method, c.path, "", &server), "%s %s: a server's certificate", c.method, c.path)
		require.Equal(t, c.nobody, ask(c.method, c.path, nobody, nil), "%s %s: nobody", c.method, c.path)
		require.Equal(t, c.scraper, ask(c.method, c.path, scraper, nil), "%s %s: scraper", c.method, c.path)
		require.Equal(t, c.looker, ask(c.method, c.path, looker, nil), "%s %s: looker", c.method, c.path)
		require.Equal(t, c.fine, ask(c.method, c.path, fine, nil), "%s %s: fine", c.method, c.path)
		require.Equal(t, c.actor, ask(c.method, c.path, actor, nil), "%s %s: actor", c.method, c.path)
		require.Equal(t, c.self, ask(c.method, c.path, "", &admin), "%s %s: admin", c.method, c.path)
	}
}
