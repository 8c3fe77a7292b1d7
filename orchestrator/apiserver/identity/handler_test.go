package identity

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	authenticationv1 "k8s.io/api/authentication/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/keelson-io/keelson/orchestrator/apiserver/request"
	"github.com/keelson-io/keelson/orchestrator/apiserver/rights"
)

// answer is what came of a request: the user and headers that the next handler saw, or the error.
type answer struct {
	*httptest.ResponseRecorder
	user   *request.User
	header http.Header
}

func serve(g *Gate, r *http.Request) *answer {
	a := &answer{ResponseRecorder: httptest.NewRecorder()}
	g.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		a.user, a.header = request.UserFrom(r.Context()), r.Header
	})).ServeHTTP(a, r)
	return a
}

func get(headers ...string) *http.Request {
	r := httptest.NewRequest(http.MethodGet, "/api/v1/namespaces/ns/pods", nil)
	for i := 0; i < len(headers); i += 2 {
		r.Header.Add(headers[i], headers[i+1])
	}
	return r
}

type broken struct{}

func (broken) Authenticate(*http.Request) (*request.User, error) {
	return nil, errors.New("bad certificate")
}

func TestHandler(t *testing.T) {
	w := newWorld(t)
	token := w.request(t, authenticationv1.TokenRequestSpec{}).Request.Status.Token
	static := NewStatic(map[string]request.User{"secret": {Name: "root", Groups: []string{"system:masters"}}})
	g := New(Config{
		Authenticators: []Authenticator{Bearer{Tokens{static, w.auth, NewBootstrap(w, w.clock)}}},
		Anonymous:      &Anonymous{},
	})
	a := serve(g, get("Authorization", "bearer   "+token))
	require.Equal(t, AnonymousUser, a.user.Name, "an empty token is none")
	a = serve(g, get("Authorization", "Bearer "+token, "X-Remote-User", "root", "X-Remote-Extra-A", "b", "Other", "x"))
	require.Equal(t, "system:serviceaccount:ns:sa", a.user.Name)
	require.Equal(t, http.Header{"Other": {"x"}}, a.header, "neither the token nor what a proxy would say goes on")
	require.Equal(t, []string{"system:masters", "system:authenticated"}, serve(g, get("Authorization", "BEARER secret")).user.Groups)
	require.Equal(t, &request.User{Name: "system:anonymous", Groups: []string{"system:unauthenticated"}}, serve(g, get()).user)
	require.Equal(t, "system:anonymous", serve(g, get("Authorization", "Basic YTpi")).user.Name)
	require.Equal(t, "system:anonymous", serve(g, get("Authorization", "Bearer")).user.Name)

	a = serve(g, get("Authorization", "Bearer wrong"))
	require.Nil(t, a.user, "a wrong token is not anonymous")
	require.Equal(t, http.StatusUnauthorized, a.Code)
	require.NotEmpty(t, a.Header().Get("WWW-Authenticate"))
	require.JSONEq(t, `{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"Unauthorized","reason":"Unauthorized","code":401}`, a.Body.String())

	// An error of one authenticator does not count if another one knows the user.
	g = New(Config{Authenticators: []Authenticator{broken{}, Bearer{static}}, Anonymous: &Anonymous{Paths: []string{"/healthz"}}})
	require.Equal(t, "root", serve(g, get("Authorization", "Bearer secret")).user.Name)
	require.Equal(t, http.StatusUnauthorized, serve(g, get()).Code)
	g = New(Config{Authenticators: []Authenticator{Bearer{static}}, Anonymous: &Anonymous{Paths: []string{"/healthz"}}})
	require.Equal(t, http.StatusUnauthorized, serve(g, get()).Code)
	require.Equal(t, "system:anonymous", serve(g, httptest.NewRequest(http.MethodGet, "/healthz", nil)).user.Name)
}

func TestWebSocketTokens(t *testing.T) {
	g := New(Config{Authenticators: []Authenticator{Bearer{NewStatic(map[string]request.User{"secret": {Name: "root"}})}}})
	encode := func(s string) string { return protocolPrefix + base64.RawURLEncoding.EncodeToString([]byte(s)) }
	socket := func(protocols string) *answer {
		return serve(g, get("Upgrade", "WebSocket", "Connection", "keep-alive, Upgrade", "Sec-WebSocket-Protocol", protocols))
	}
	a := socket("v4.channel.k8s.io, " + encode("secret") + ",v5.channel.k8s.io")
	require.Equal(t, "root", a.user.Name)
	require.Equal(t, "v4.channel.k8s.io,v5.channel.k8s.io", a.header.Get("Sec-WebSocket-Protocol"))
	for _, protocols := range []string{encode("secret"), "x," + encode("wrong"), "x," + encode("secret") + "," + encode("secret"), "x," + protocolPrefix + "!", "x"} {
		require.Equal(t, http.StatusUnauthorized, socket(protocols).Code, protocols)
	}
	require.Equal(t, http.StatusUnauthorized, serve(g, get("Sec-WebSocket-Protocol", "x,"+encode("secret"))).Code, "no WebSocket")
}

// policy lets users do things: verb, group, resource, name ("" for all).
func policy(grants ...[5]string) *rights.Policy {
	p := rights.NewPolicy()
	for i, g := range grants {
		name := string(rune('a' + i))
		rule := rbacv1.PolicyRule{Verbs: []string{g[1]}, APIGroups: []string{g[2]}, Resources: []string{g[3]}}
		if g[4] != "" {
			rule.ResourceNames = []string{g[4]}
		}
		p.Set(&rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: name}, Rules: []rbacv1.PolicyRule{rule}},
			&rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: name}, RoleRef: rbacv1.RoleRef{Kind: "ClusterRole", Name: name},
				Subjects: []rbacv1.Subject{{Kind: "User", Name: g[0]}}})
	}
	return p
}

func TestImpersonation(t *testing.T) {
	const auth = "authentication.k8s.io"
	account := "system:serviceaccount:ns:agent"
	table := map[string]request.User{
		"bob": {Name: "bob"}, "root": {Name: "root", Groups: []string{rights.Masters}},
		"agent": {Name: account, Extra: map[string][]string{nodeNameKey: {"n1"}}},
	}
	for _, c := range []struct {
		name       string
		who        string
		grants     [][5]string
		headers    []string
		want       *request.User
		constraint string
		err        string
	}{
		{"not allowed", "bob", nil, []string{"Impersonate-User", "eve"}, nil, "",
			`pods is forbidden: User "bob" cannot impersonate-on:user-info:list resource "pods" in API group "" in the namespace "ns"`},
		{"user", "bob", [][5]string{{"bob", "impersonate", "", "users", "eve"}}, []string{"Impersonate-User", "eve"},
			&request.User{Name: "eve", Groups: []string{Authenticated}}, "", ""},
		{"another user", "bob", [][5]string{{"bob", "impersonate", "", "users", "eve"}}, []string{"Impersonate-User", "ann"}, nil, "", "forbidden"},
		{"groups", "bob", [][5]string{{"bob", "impersonate", "", "users", ""}, {"bob", "impersonate", "", "groups", "g"}},
			[]string{"Impersonate-User", "eve", "Impersonate-Group", "g"}, &request.User{Name: "eve", Groups: []string{"g", Authenticated}}, "", ""},
		{"a group too many", "bob", [][5]string{{"bob", "impersonate", "", "users", ""}, {"bob", "impersonate", "", "groups", "g"}},
			[]string{"Impersonate-User", "eve", "Impersonate-Group", "g", "Impersonate-Group", "system:masters"}, nil, "", "forbidden"},
		{"UID and extra", "bob", [][5]string{{"bob", "impersonate", "", "users", ""}, {"bob", "impersonate", auth, "uids", "7"}, {"bob", "impersonate", auth, "userextras/a.io/scopes", "view"}},
			[]string{"Impersonate-User", "eve", "Impersonate-Uid", "7", "Impersonate-Extra-A.io%2fScopes", "view"},
			&request.User{Name: "eve", UID: "7", Groups: []string{Authenticated}, Extra: map[string][]string{"a.io/scopes": {"view"}}}, "", ""},
		{"extra not allowed", "bob", [][5]string{{"bob", "impersonate", "", "users", ""}}, []string{"Impersonate-User", "eve", "Impersonate-Extra-A", "b"}, nil, "", "forbidden"},
		{"root may all", "root", nil, []string{"Impersonate-User", "eve", "Impersonate-Group", rights.Masters},
			&request.User{Name: "eve", Groups: []string{rights.Masters, Authenticated}}, "", ""},
		{"root acts in the narrow mode", "root", nil, []string{"Impersonate-User", "eve"}, &request.User{Name: "eve", Groups: []string{Authenticated}}, "impersonate:user-info", ""},
		{"anonymous", "root", nil, []string{"Impersonate-User", AnonymousUser}, &request.User{Name: AnonymousUser, Groups: []string{Unauthenticated}}, "impersonate:user-info", ""},
		{"unauthenticated", "root", nil, []string{"Impersonate-User", "eve", "Impersonate-Group", Unauthenticated}, &request.User{Name: "eve", Groups: []string{Unauthenticated}}, "impersonate:user-info", ""},
		{"service account", "bob", [][5]string{{"bob", "impersonate", "", "serviceaccounts", "sa"}}, []string{"Impersonate-User", "system:serviceaccount:ns:sa"},
			&request.User{Name: "system:serviceaccount:ns:sa", Groups: []string{serviceAccounts, serviceAccounts + ":ns", Authenticated}}, "", ""},
		{"service account, narrow", "bob", [][5]string{{"bob", "impersonate:serviceaccount", auth, "serviceaccounts", "sa"}, {"bob", "impersonate-on:serviceaccount:list", "", "pods", ""}},
			[]string{"Impersonate-User", "system:serviceaccount:ns:sa"},
			&request.User{Name: "system:serviceaccount:ns:sa", Groups: []string{serviceAccounts, serviceAccounts + ":ns", Authenticated}}, "impersonate:serviceaccount", ""},
		{"narrow, another verb", "bob", [][5]string{{"bob", "impersonate:user-info", auth, "users", ""}, {"bob", "impersonate-on:user-info:get", "", "pods", ""}}, []string{"Impersonate-User", "eve"}, nil, "", "forbidden"},
		{"narrow masters", "bob", [][5]string{{"bob", "*", auth, "*", ""}, {"bob", "impersonate-on:user-info:list", "", "pods", ""}},
			[]string{"Impersonate-User", "eve", "Impersonate-Group", rights.Masters}, nil, "", "impersonating the system:masters group is not allowed"},
		{"own node", "agent", [][5]string{{account, "impersonate:associated-node", auth, "nodes", ""}, {account, "impersonate-on:associated-node:list", "", "pods", ""}},
			[]string{"Impersonate-User", "system:node:n1"}, &request.User{Name: "system:node:n1", Groups: []string{rights.NodesGroup, Authenticated}}, "impersonate:associated-node", ""},
		{"another's node", "agent", [][5]string{{account, "impersonate:associated-node", auth, "nodes", ""}, {account, "impersonate-on:associated-node:list", "", "pods", ""}},
			[]string{"Impersonate-User", "system:node:n2"}, nil, "", "impersonate-on:arbitrary-node:list"},
		{"no user", "bob", nil, []string{"Impersonate-Group", "g"}, nil, "", "without impersonating a user name"},
		{"no user, empty extra", "root", nil, []string{"Impersonate-Extra-X", ""}, nil, "", "without impersonating a user name"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var told *request.User
			constraint := ""
			g := New(Config{
				Authenticators: []Authenticator{Bearer{NewStatic(table)}},
				Authorizer:     rights.Chain{rights.Privileged{}, policy(c.grants...)},
				Impersonated:   func(_ *http.Request, u *request.User, by string) { told, constraint = u, by },
			})
			a := serve(g, get(append(c.headers, "Authorization", "Bearer "+c.who)...))
			if c.want == nil {
				require.Nil(t, a.user)
				require.Nil(t, told)
				var s metav1.Status
				require.NoError(t, json.Unmarshal(a.Body.Bytes(), &s))
				require.Contains(t, s.Message, c.err)
				require.Contains(t, []int{http.StatusForbidden, http.StatusBadRequest}, a.Code)
				return
			}
			require.Equal(t, http.StatusOK, a.Code, a.Body.String())
			require.Equal(t, c.want, a.user)
			require.Equal(t, c.want, told)
			require.Equal(t, c.constraint, constraint)
			for name := range a.header {
				require.False(t, strings.HasPrefix(name, "Impersonate-"), name)
			}
		})
	}
}

func TestNobodyImpersonatesWithoutAuthorizer(t *testing.T) {
	g := New(Config{Authenticators: []Authenticator{Bearer{NewStatic(map[string]request.User{"root": {Name: "root", Groups: []string{rights.Masters}}})}}})
	a := serve(g, get("Authorization", "Bearer root", "Impersonate-User", "eve"))
	require.Equal(t, http.StatusInternalServerError, a.Code)
	require.Nil(t, a.user)
}
