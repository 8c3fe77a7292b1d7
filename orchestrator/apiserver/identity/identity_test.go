package identity

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"math/big"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/stretchr/testify/require"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	asn1util "k8s.io/apimachinery/pkg/apis/asn1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/keelson-io/keelson/internal/clock"
	"github.com/keelson-io/keelson/orchestrator/apiserver/request"
)

// fakeClock tells the time it is told.
type fakeClock struct {
	clock.Clock
	mu  sync.Mutex
	now time.Time
}

func newFakeClock() *fakeClock {
	return &fakeClock{Clock: clock.Real, now: time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)}
}

func (c *fakeClock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *fakeClock) Step(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// objects is a Lookup in memory.
type objects struct {
	accounts map[string]*corev1.ServiceAccount
	pods     map[string]*corev1.Pod
	nodes    map[string]*corev1.Node
	secrets  map[string]*corev1.Secret
}

func find[T any](m map[string]*T, resource, key string) (*T, error) {
	if o := m[key]; o != nil {
		return o, nil
	}
	return nil, apierrors.NewNotFound(schema.GroupResource{Resource: resource}, key)
}

func (o *objects) ServiceAccount(_ context.Context, ns, name string) (*corev1.ServiceAccount, error) {
	return find(o.accounts, "serviceaccounts", ns+"/"+name)
}

func (o *objects) Pod(_ context.Context, ns, name string) (*corev1.Pod, error) {
	return find(o.pods, "pods", ns+"/"+name)
}

func (o *objects) Secret(_ context.Context, ns, name string) (*corev1.Secret, error) {
	return find(o.secrets, "secrets", ns+"/"+name)
}

func (o *objects) Node(_ context.Context, name string) (*corev1.Node, error) {
	return find(o.nodes, "nodes", name)
}

func meta(ns, name, uid string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: ns, Name: name, UID: types.UID(uid)}
}

// world is an issuer and an authenticator of the same keys.
type world struct {
	*objects
	clock  *fakeClock
	keys   *Keyring
	issuer *Issuer
	auth   *ServiceAccounts
	notes  map[string]string
}

const server = "https://kubernetes.default.svc"

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	return key
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{clock: newFakeClock(), notes: map[string]string{}, objects: &objects{
		accounts: map[string]*corev1.ServiceAccount{"ns/sa": {ObjectMeta: meta("ns", "sa", "u-sa")}},
		pods: map[string]*corev1.Pod{"ns/p": {ObjectMeta: meta("ns", "p", "u-p"),
			Spec: corev1.PodSpec{ServiceAccountName: "sa", NodeName: "n"}}},
		nodes:   map[string]*corev1.Node{"n": {ObjectMeta: meta("", "n", "u-n")}},
		secrets: map[string]*corev1.Secret{"ns/s": {ObjectMeta: meta("ns", "s", "u-s")}},
	}}
	keys, err := NewKeyring(newKey(t))
	require.NoError(t, err)
	w.keys = keys
	w.issuer = &Issuer{Keys: keys, Name: server, Audiences: []string{server}, Lookup: w, Clock: w.clock, Extend: true}
	w.auth = &ServiceAccounts{Keys: keys, Issuers: []string{server}, Audiences: []string{server}, Lookup: w, Clock: w.clock,
		Annotate: func(_ context.Context, k, v string) { w.notes[k] = v }}
	return w
}

func (w *world) request(t testing.TB, spec authenticationv1.TokenRequestSpec) *Issued {
	t.Helper()
	out, err := w.issuer.Request(context.Background(), "ns", "sa", &authenticationv1.TokenRequest{Spec: spec}, nil)
	require.NoError(t, err)
	return out
}

func (w *world) check(token string, audiences ...string) (*Identity, error) {
	return w.auth.Token(context.Background(), token, audiences)
}

func seconds(n int64) *int64 { return &n }

func boundTo(kind, name string) *authenticationv1.BoundObjectReference {
	return &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: kind, Name: name}
}

func TestTokenLifeCycle(t *testing.T) {
	w := newWorld(t)
	out := w.request(t, authenticationv1.TokenRequestSpec{})
	require.Equal(t, int64(3600), *out.Request.Spec.ExpirationSeconds)
	require.Equal(t, []string{server}, out.Request.Spec.Audiences)
	require.Equal(t, w.clock.Now().Add(time.Hour), out.Request.Status.ExpirationTimestamp.Time)
	require.Equal(t, types.UID("u-sa"), out.Request.UID)

	id, err := w.check(out.Request.Status.Token)
	require.NoError(t, err)
	require.Equal(t, []string{server}, id.Audiences)
	require.Equal(t, &request.User{
		Name: "system:serviceaccount:ns:sa", UID: "u-sa",
		Groups: []string{"system:serviceaccounts", "system:serviceaccounts:ns", "system:authenticated"},
		Extra:  map[string][]string{"authentication.kubernetes.io/credential-id": {out.CredentialID}},
	}, id.User)
	again, err := w.check(out.Request.Status.Token)
	require.NoError(t, err)
	require.Same(t, id.User, again.User, "the second time it is remembered")

	w.clock.Step(time.Hour + 59*time.Second)
	_, err = w.check(out.Request.Status.Token)
	require.NoError(t, err, "within the leeway")
	w.clock.Step(2 * time.Second)
	_, err = w.check(out.Request.Status.Token)
	require.EqualError(t, err, "service account token has expired", "though it is remembered")
	w.clock.Step(-3 * time.Hour)
	_, err = w.check(out.Request.Status.Token)
	require.EqualError(t, err, "service account token is not valid yet")
}

func TestTokensOfOthers(t *testing.T) {
	w := newWorld(t)
	good := w.request(t, authenticationv1.TokenRequestSpec{}).Request.Status.Token
	for _, other := range []string{"", "x", "a.b.c", "abcdef.0123456789abcdef", "..", good + "=", strings.Replace(good, ".", "..", 1)} {
		id, err := w.check(other)
		require.NoError(t, err, other)
		require.Nil(t, id)
	}
	// Of another issuer: not ours. Of ours, by another key: forged.
	stranger := newWorld(t)
	stranger.issuer.Name = "https://elsewhere"
	id, err := w.check(stranger.request(t, authenticationv1.TokenRequestSpec{}).Request.Status.Token)
	require.NoError(t, err)
	require.Nil(t, id)
	stranger.issuer.Name = server
	_, err = w.check(stranger.request(t, authenticationv1.TokenRequestSpec{}).Request.Status.Token)
	require.ErrorContains(t, err, "no keys found")

	// The payload of another token under a good signature, and a token that needs no signature.
	parts := strings.Split(good, ".")
	elses := strings.Split(w.request(t, authenticationv1.TokenRequestSpec{Audiences: []string{"x"}}).Request.Status.Token, ".")
	_, err = w.check(parts[0] + "." + elses[1] + "." + parts[2])
	require.Error(t, err)
	none := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none"}`))
	id, err = w.check(none + "." + parts[1] + ".")
	require.NoError(t, err)
	require.Nil(t, id)

	// A signature by the text of the public key: HMAC with what everybody knows.
	der, err := x509.MarshalPKIXPublicKey(w.keys.keys.Load().public[0].Key)
	require.NoError(t, err)
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.HS256, Key: der}, nil)
	require.NoError(t, err)
	mac, err := jwt.Signed(signer).Claims(w.issuer.claims(w.accounts["ns/sa"], []string{server}, w.clock.Now())).Serialize()
	require.NoError(t, err)
	id, err = w.check(mac)
	require.NoError(t, err)
	require.Nil(t, id)
}

func TestAudiences(t *testing.T) {
	w := newWorld(t)
	vault := w.request(t, authenticationv1.TokenRequestSpec{Audiences: []string{"vault", "other"}}).Request.Status.Token
	_, err := w.check(vault)
	require.EqualError(t, err, `token audiences ["vault" "other"] is invalid for the target audiences ["https://kubernetes.default.svc"]`)
	id, err := w.check(vault, "vault", "third")
	require.NoError(t, err)
	require.Equal(t, []string{"vault"}, id.Audiences)

	// One audience is a list too.
	payload, err := base64.RawURLEncoding.DecodeString(strings.Split(w.request(t, authenticationv1.TokenRequestSpec{Audiences: []string{"x"}}).Request.Status.Token, ".")[1])
	require.NoError(t, err)
	require.Contains(t, string(payload), `"aud":["x"]`)
	var c claims
	require.NoError(t, json.Unmarshal([]byte(`{"aud":"x"}`), &c))
	require.Equal(t, audience{"x"}, c.Audience)
}

func TestReview(t *testing.T) {
	w := newWorld(t)
	tokens := Tokens{NewStatic(map[string]request.User{"secret": {Name: "root", Extra: map[string][]string{"k": {"v"}}}}), w.auth}
	review := func(token string, audiences ...string) authenticationv1.TokenReviewStatus {
		return Review(context.Background(), tokens, []string{server}, &authenticationv1.TokenReviewSpec{Token: token, Audiences: audiences})
	}
	vault := w.request(t, authenticationv1.TokenRequestSpec{Audiences: []string{"vault"}}).Request.Status.Token
	s := review(vault, "vault", "x")
	require.True(t, s.Authenticated)
	require.Equal(t, []string{"vault"}, s.Audiences)
	require.Equal(t, "system:serviceaccount:ns:sa", s.User.Username)
	s = review(vault)
	require.False(t, s.Authenticated)
	require.Contains(t, s.Error, "invalid for the target audiences")
	require.Equal(t, authenticationv1.TokenReviewStatus{Authenticated: true, Audiences: []string{server}, User: authenticationv1.UserInfo{
		Username: "root", Groups: []string{Authenticated}, Extra: map[string]authenticationv1.ExtraValue{"k": {"v"}}}}, review("secret"))
	require.False(t, review("secret", "vault").Authenticated, "it is for the API server only")
	require.Equal(t, "invalid bearer token", review("wrong").Error)
}

func TestBoundTokens(t *testing.T) {
	gone := func(m map[string]*corev1.Pod, key string) { delete(m, key) }
	for _, c := range []struct {
		name   string
		bound  *authenticationv1.BoundObjectReference
		change func(w *world)
		want   string
	}{
		{"account gone", nil, func(w *world) { delete(w.accounts, "ns/sa") }, `serviceaccounts "ns/sa" not found`},
		{"account replaced", nil, func(w *world) { w.accounts["ns/sa"].UID = "other" }, "service account UID (other) does not match claim (u-sa)"},
		{"account deleted", nil, func(w *world) { w.accounts["ns/sa"].DeletionTimestamp = &metav1.Time{Time: w.clock.Now()} }, "service account ns/sa has been deleted"},
		{"pod gone", boundTo("Pod", "p"), func(w *world) { gone(w.pods, "ns/p") }, "service account token has been invalidated"},
		{"pod replaced", boundTo("Pod", "p"), func(w *world) { w.pods["ns/p"].UID = "other" }, "pod UID (other) does not match service account pod ref claim (u-p)"},
		{"pod deleted", boundTo("Pod", "p"), func(w *world) { w.pods["ns/p"].DeletionTimestamp = &metav1.Time{Time: w.clock.Now()} }, "service account token has been invalidated"},
		{"node of the pod gone", boundTo("Pod", "p"), func(w *world) { delete(w.nodes, "n") }, ""},
		{"node gone", boundTo("Node", "n"), func(w *world) { delete(w.nodes, "n") }, "service account token has been invalidated"},
		{"node replaced", boundTo("Node", "n"), func(w *world) { w.nodes["n"].UID = "other" }, "node UID (other) does not match service account node ref claim (u-n)"},
		{"secret gone", boundTo("Secret", "s"), func(w *world) { delete(w.secrets, "ns/s") }, "service account token has been invalidated"},
		{"secret replaced", boundTo("Secret", "s"), func(w *world) { w.secrets["ns/s"].UID = "other" }, "secret UID (other) does not match service account secret ref claim (u-s)"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			token := w.request(t, authenticationv1.TokenRequestSpec{BoundObjectRef: c.bound}).Request.Status.Token
			_, err := w.check(token)
			require.NoError(t, err)
			c.change(w)
			w.clock.Step(2 * time.Minute)
			_, err = w.check(token)
			if c.want == "" {
				require.NoError(t, err)
			} else {
				require.EqualError(t, err, c.want)
			}
		})
	}
}

func TestBoundExtra(t *testing.T) {
	w := newWorld(t)
	key := func(s string) string { return "authentication.kubernetes.io/" + s }
	out := w.request(t, authenticationv1.TokenRequestSpec{BoundObjectRef: boundTo("Pod", "p")})
	id, err := w.check(out.Request.Status.Token)
	require.NoError(t, err)
	require.Equal(t, map[string][]string{
		key("pod-name"): {"p"}, key("pod-uid"): {"u-p"}, key("node-name"): {"n"}, key("node-uid"): {"u-n"}, key("credential-id"): {out.CredentialID},
	}, id.User.Extra)
	delete(w.nodes, "n")
	id, err = w.check(w.request(t, authenticationv1.TokenRequestSpec{BoundObjectRef: boundTo("Pod", "p")}).Request.Status.Token)
	require.NoError(t, err)
	require.Equal(t, []string{"n"}, id.User.Extra[key("node-name")])
	require.NotContains(t, id.User.Extra, key("node-uid"))
}

func TestTokenRequests(t *testing.T) {
	w := newWorld(t)
	w.issuer.Longest = 2 * time.Hour
	ask := func(change func(*authenticationv1.TokenRequest)) (*Issued, error) {
		r := &authenticationv1.TokenRequest{}
		change(r)
		return w.issuer.Request(context.Background(), "ns", "sa", r, nil)
	}
	for _, c := range []struct {
		name   string
		change func(*authenticationv1.TokenRequest)
		want   string
	}{
		{"too short", func(r *authenticationv1.TokenRequest) { r.Spec.ExpirationSeconds = seconds(599) }, "may not specify a duration less than 10 minutes"},
		{"too long", func(r *authenticationv1.TokenRequest) { r.Spec.ExpirationSeconds = seconds(1<<32 + 1) }, "may not specify a duration larger than 2^32 seconds"},
		{"other name", func(r *authenticationv1.TokenRequest) { r.Name = "x" }, "must match the service account name if specified"},
		{"other namespace", func(r *authenticationv1.TokenRequest) { r.Namespace = "x" }, "must match the service account namespace if specified"},
		{"other account", func(r *authenticationv1.TokenRequest) { r.UID = "x" }, "the UID in the token request (x) does not match the UID of the service account (u-sa)"},
		{"other pod", func(r *authenticationv1.TokenRequest) {
			r.Spec.BoundObjectRef = boundTo("Pod", "p")
			r.Spec.BoundObjectRef.UID = "x"
		}, "the UID in the bound object reference (x) does not match the UID in record"},
		{"no pod", func(r *authenticationv1.TokenRequest) { r.Spec.BoundObjectRef = boundTo("Pod", "q") }, `pods "ns/q" not found`},
		{"no kind", func(r *authenticationv1.TokenRequest) { r.Spec.BoundObjectRef = boundTo("Thing", "q") }, "cannot bind token to object of type /v1, Kind=Thing"},
		{"attestation", func(r *authenticationv1.TokenRequest) {
			r.Spec.Attestations = map[string]authenticationv1.AttestationValue{"a": {"b"}}
		}, "attestations may only be specified with a webhook bound object reference"},
	} {
		_, err := ask(c.change)
		require.ErrorContains(t, err, c.want, c.name)
		var status apierrors.APIStatus
		require.ErrorAs(t, err, &status, c.name)
	}
	w.pods["ns/p"].Spec.ServiceAccountName = "another"
	_, err := ask(func(r *authenticationv1.TokenRequest) { r.Spec.BoundObjectRef = boundTo("Pod", "p") })
	require.True(t, apierrors.IsBadRequest(err))

	out, err := ask(func(r *authenticationv1.TokenRequest) { r.Spec.ExpirationSeconds = seconds(10000) })
	require.NoError(t, err)
	require.Equal(t, []string{"requested expiration of 10000 seconds shortened to 7200 seconds"}, out.Warnings)
	require.Equal(t, int64(7200), *out.Request.Spec.ExpirationSeconds)
	require.Equal(t, w.clock.Now().Add(2*time.Hour), out.Request.Status.ExpirationTimestamp.Time)

	refused := apierrors.NewForbidden(schema.GroupResource{Resource: "serviceaccounts"}, "sa", nil)
	_, err = w.issuer.Request(context.Background(), "ns", "sa", &authenticationv1.TokenRequest{}, func(r *authenticationv1.TokenRequest) error {
		require.Equal(t, []string{server}, r.Spec.Audiences)
		return refused
	})
	require.ErrorIs(t, err, refused)
}

func TestExtendedTokens(t *testing.T) {
	w := newWorld(t)
	out := w.request(t, authenticationv1.TokenRequestSpec{BoundObjectRef: boundTo("Pod", "p"), ExpirationSeconds: seconds(3607)})
	require.Equal(t, w.clock.Now().Add(3607*time.Second), out.Request.Status.ExpirationTimestamp.Time, "the client renews as if it ended then")
	_, err := w.check(out.Request.Status.Token)
	require.NoError(t, err)
	require.Empty(t, w.notes)
	w.clock.Step(2 * time.Hour)
	_, err = w.check(out.Request.Status.Token)
	require.NoError(t, err)
	require.Equal(t, "subject: system:serviceaccount:ns:sa, seconds after warning threshold: 3593", w.notes["authentication.k8s.io/stale-token"])
	w.clock.Step(366 * 24 * time.Hour)
	_, err = w.check(out.Request.Status.Token)
	require.EqualError(t, err, "service account token has expired")
}

func TestSecretTokens(t *testing.T) {
	w := newWorld(t)
	token, err := w.issuer.Secret(w.accounts["ns/sa"], "s")
	require.NoError(t, err)
	_, err = w.check(token)
	require.EqualError(t, err, "Token does not match server's copy")
	w.secrets["ns/s"].Data = map[string][]byte{"token": []byte(token)}
	w.clock.Step(10 * 365 * 24 * time.Hour)
	id, err := w.check(token)
	require.NoError(t, err)
	require.Equal(t, "system:serviceaccount:ns:sa", id.User.Name)
	require.Equal(t, "s", w.notes["authentication.k8s.io/legacy-token-manual-secret"])
	w.secrets["ns/s"].Labels = map[string]string{"kubernetes.io/legacy-token-invalid-since": "2026-01-01"}
	_, err = w.check(token)
	require.ErrorContains(t, err, "has been marked invalid")
	delete(w.secrets, "ns/s")
	_, err = w.check(token)
	require.EqualError(t, err, "Token has been invalidated")
}

func TestRotation(t *testing.T) {
	w := newWorld(t)
	first, second := newKey(t), newKey(t)
	old, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	require.NoError(t, w.keys.Rotate(old))
	before := w.request(t, authenticationv1.TokenRequestSpec{}).Request.Status.Token
	require.NoError(t, w.keys.Rotate(first, &old.PublicKey, second))
	after := w.request(t, authenticationv1.TokenRequestSpec{}).Request.Status.Token
	for _, token := range []string{before, after} {
		_, err := w.check(token)
		require.NoError(t, err)
	}
	require.NoError(t, w.keys.Rotate(first))
	_, err = w.check(before)
	require.ErrorContains(t, err, "no keys found", "though it was remembered")
	_, err = w.check(after)
	require.NoError(t, err)

	require.Error(t, w.keys.Rotate(nil))
	require.NoError(t, w.keys.Rotate(nil, first))
	_, err = w.check(after)
	require.NoError(t, err)
	_, err = w.issuer.Request(context.Background(), "ns", "sa", &authenticationv1.TokenRequest{}, nil)
	require.True(t, apierrors.IsInternalError(err))
	require.Error(t, w.keys.Rotate(nil, "no key"))
}

// TestDiscovery verifies a token with nothing but what is published.
func TestDiscovery(t *testing.T) {
	w := newWorld(t)
	other, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	require.NoError(t, w.keys.Rotate(newKey(t), other))
	d, err := NewDiscovery(server, "", "10.0.0.1:6443", w.keys)
	require.NoError(t, err)
	get := func(path string) *httptest.ResponseRecorder {
		rec := httptest.NewRecorder()
		d.ServeHTTP(rec, httptest.NewRequest(http.MethodGet, path, nil))
		return rec
	}
	rec := get(ConfigurationPath)
	require.JSONEq(t, `{"issuer":"https://kubernetes.default.svc","jwks_uri":"https://10.0.0.1:6443/openid/v1/jwks","response_types_supported":["id_token"],"subject_types_supported":["public"],"id_token_signing_alg_values_supported":["ES256","RS256"]}`, rec.Body.String())
	require.Equal(t, "application/json", rec.Header().Get("Content-Type"))
	rec = get(KeysPath)
	require.Equal(t, "application/jwk-set+json", rec.Header().Get("Content-Type"))
	require.NotContains(t, rec.Body.String(), `"d":`, "no private key")
	var set jose.JSONWebKeySet
	require.NoError(t, json.Unmarshal(rec.Body.Bytes(), &set))
	require.Len(t, set.Keys, 2)
	parsed, err := jwt.ParseSigned(w.request(t, authenticationv1.TokenRequestSpec{}).Request.Status.Token, []jose.SignatureAlgorithm{jose.ES256})
	require.NoError(t, err)
	var c jwt.Claims
	require.NoError(t, parsed.Claims(set, &c))
	require.Equal(t, "system:serviceaccount:ns:sa", c.Subject)
	require.Equal(t, http.StatusNotFound, get("/x").Code)

	for _, issuer := range []string{"http://x", "https://x?y", "https://x#y", "x", "%"} {
		_, err := NewDiscovery(issuer, "", "a", w.keys)
		require.Error(t, err, issuer)
	}
	_, err = NewDiscovery(server, "http://x", "", w.keys)
	require.Error(t, err)
}

func TestBootstrapTokens(t *testing.T) {
	w := newWorld(t)
	b := NewBootstrap(w, w.clock)
	fresh := func() *corev1.Secret {
		return &corev1.Secret{ObjectMeta: meta("kube-system", "bootstrap-token-abcdef", "x"), Type: "bootstrap.kubernetes.io/token", Data: map[string][]byte{
			"token-id": []byte("abcdef"), "token-secret": []byte("0123456789abcdef"), "usage-bootstrap-authentication": []byte("true"),
			"expiration": []byte("2026-11-23T13:00:00Z"), "auth-extra-groups": []byte("system:bootstrappers:workers"),
		}}
	}
	try := func(token string) *Identity {
		id, err := b.Token(context.Background(), token, nil)
		require.NoError(t, err)
		return id
	}
	const token = "abcdef.0123456789abcdef"
	require.Nil(t, try(token))
	w.secrets["kube-system/bootstrap-token-abcdef"] = fresh()
	require.Equal(t, &request.User{Name: "system:bootstrap:abcdef",
		Groups: []string{"system:bootstrappers", "system:bootstrappers:workers", "system:authenticated"}}, try(token).User)
	require.Nil(t, try("abcdef.0123456789abcdee"))
	require.Nil(t, try("abcdef.0123456789abcdef\n"))
	for name, change := range map[string]func(s *corev1.Secret){
		"type":    func(s *corev1.Secret) { s.Type = "Opaque" },
		"deleted": func(s *corev1.Secret) { s.DeletionTimestamp = &metav1.Time{Time: w.clock.Now()} },
		"id":      func(s *corev1.Secret) { s.Data["token-id"] = []byte("aaaaaa") },
		"usage":   func(s *corev1.Secret) { s.Data["usage-bootstrap-authentication"] = []byte("yes") },
		"group":   func(s *corev1.Secret) { s.Data["auth-extra-groups"] = []byte("system:masters") },
		"expired": func(s *corev1.Secret) { s.Data["expiration"] = []byte("2026-11-23T12:00:00Z") },
		"date":    func(s *corev1.Secret) { s.Data["expiration"] = []byte("soon") },
	} {
		s := fresh()
		change(s)
		w.secrets["kube-system/bootstrap-token-abcdef"] = s
		require.Nil(t, try(token), name)
	}
}

// issue makes a client certificate.
func issue(t testing.TB, ca *x509.Certificate, key *ecdsa.PrivateKey, subject pkix.Name, usage x509.ExtKeyUsage, until time.Time) *x509.Certificate {
	t.Helper()
	template := &x509.Certificate{SerialNumber: big.NewInt(7), Subject: subject, NotBefore: until.Add(-48 * time.Hour), NotAfter: until,
		ExtKeyUsage: []x509.ExtKeyUsage{usage}, KeyUsage: x509.KeyUsageDigitalSignature}
	parent := ca
	if ca == nil {
		template.IsCA, template.BasicConstraintsValid, template.KeyUsage, template.ExtKeyUsage = true, true, x509.KeyUsageCertSign, nil
		parent = template
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, key)
	require.NoError(t, err)
	c, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	return c
}

func TestCertificates(t *testing.T) {
	clk, key := newFakeClock(), newKey(t)
	end := clk.Now().Add(24 * time.Hour)
	ca := issue(t, nil, key, pkix.Name{CommonName: "ca"}, 0, end)
	pool := x509.NewCertPool()
	pool.AddCert(ca)
	a := NewCertificates(pool, clk)
	try := func(c *x509.Certificate) (*request.User, error) {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		if c != nil {
			r.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{c}}
		}
		return a.Authenticate(r)
	}
	u, err := try(nil)
	require.NoError(t, err)
	require.Nil(t, u)

	uid := pkix.AttributeTypeAndValue{Type: asn1.ObjectIdentifier(asn1util.X509UID()), Value: "the-uid"}
	admin := issue(t, ca, key, pkix.Name{CommonName: "admin", Organization: []string{"system:masters", "ops"}, ExtraNames: []pkix.AttributeTypeAndValue{uid}}, x509.ExtKeyUsageClientAuth, end.Add(-time.Hour))
	for range 2 {
		u, err = try(admin)
		require.NoError(t, err)
		require.Equal(t, "admin", u.Name)
		require.Equal(t, "the-uid", u.UID)
		require.ElementsMatch(t, []string{"system:masters", "ops", "system:authenticated"}, u.Groups)
		require.Regexp(t, "^X509SHA256=[0-9a-f]{64}$", u.Extra["authentication.kubernetes.io/credential-id"][0])
	}
	_, err = try(issue(t, ca, key, pkix.Name{CommonName: "web"}, x509.ExtKeyUsageServerAuth, end))
	require.ErrorContains(t, err, "verifying certificate SN=7")
	stranger := newKey(t)
	_, err = try(issue(t, issue(t, nil, stranger, pkix.Name{CommonName: "ca"}, 0, end), stranger, pkix.Name{CommonName: "admin"}, x509.ExtKeyUsageClientAuth, end))
	require.ErrorContains(t, err, "verifying certificate")
	_, err = try(issue(t, ca, key, pkix.Name{CommonName: "twice", ExtraNames: []pkix.AttributeTypeAndValue{uid, uid}}, x509.ExtKeyUsageClientAuth, end))
	require.ErrorContains(t, err, "expected 1 UID")
	u, err = try(issue(t, ca, key, pkix.Name{Organization: []string{"system:masters"}}, x509.ExtKeyUsageClientAuth, end))
	require.NoError(t, err)
	require.Nil(t, u, "no name")

	clk.Step(23*time.Hour + time.Minute)
	_, err = try(admin)
	require.ErrorContains(t, err, "expired", "though it is remembered")
	clk.Step(-time.Hour)
	_, err = try(admin)
	require.NoError(t, err)
	a.SetAuthorities(x509.NewCertPool())
	_, err = try(admin)
	require.Error(t, err, "though it is remembered")
	a.SetAuthorities(nil)
	u, err = try(admin)
	require.NoError(t, err)
	require.Nil(t, u)
}

func TestCacheIsBounded(t *testing.T) {
	c := newCache[int](10)
	for i := range 1000 {
		c.put(digest{byte(i), byte(i >> 8)}, &i)
		require.LessOrEqual(t, len(c.young)+len(c.old), 20)
		require.NotNil(t, c.get(digest{}), "what is used stays")
	}
	require.Nil(t, c.get(digest{1}))
	require.NotNil(t, c.get(digest{byte(999 & 255), 999 >> 8}))
}

func TestConcurrentTokens(t *testing.T) {
	w := newWorld(t)
	w.keys.memory = 4
	key := newKey(t)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 20 {
				require.NoError(t, w.keys.Rotate(key))
				_, err := w.auth.Token(context.Background(), w.request(t, authenticationv1.TokenRequestSpec{}).Request.Status.Token, nil)
				require.NoError(t, err)
			}
		})
	}
	wg.Wait()
}

func FuzzToken(f *testing.F) {
	w := newWorld(f)
	good := w.request(f, authenticationv1.TokenRequestSpec{}).Request.Status.Token
	f.Add(good)
	f.Add("a.b.c")
	f.Fuzz(func(t *testing.T, token string) {
		id, err := w.check(token)
		// The last letter of a signature has bits that mean nothing.
		if err == nil && id != nil && !strings.HasPrefix(token, good[:strings.LastIndex(good, ".")+1]) {
			t.Fatalf("a token that nobody made is good: %q", token)
		}
	})
}

func BenchmarkToken(b *testing.B) {
	w := newWorld(b)
	token := w.request(b, authenticationv1.TokenRequestSpec{BoundObjectRef: boundTo("Pod", "p")}).Request.Status.Token
	b.ReportAllocs()
	for b.Loop() {
		if _, err := w.check(token); err != nil {
			b.Fatal(err)
		}
	}
}
