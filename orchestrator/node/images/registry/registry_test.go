package registry

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	ggcr "github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var quiet = log.New(io.Discard, "", 0)

// quick is a configuration whose pauses do not count.
var quick = Config{Pause: time.Microsecond}

func client(t testing.TB, cfg Config) *Client {
	c := New(cfg)
	t.Cleanup(c.Close)
	return c
}

// serve serves a registry behind a handler that may answer instead of it.
func serve(t testing.TB, before func(w http.ResponseWriter, r *http.Request) bool) (host string) {
	inner := ggcr.New(ggcr.Logger(quiet))
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if before != nil && before(w, r) {
			return
		}
		inner.ServeHTTP(w, r)
	}))
	t.Cleanup(srv.Close)
	return strings.TrimPrefix(srv.URL, "http://")
}

// put writes a random image of one layer.
func put(t testing.TB, host, repo string, size int64) v1.Image {
	img, err := random.Image(size, 1)
	require.NoError(t, err)
	ref, err := name.ParseReference(host + "/" + repo)
	require.NoError(t, err)
	require.NoError(t, remote.Write(ref, img))
	return img
}

func TestManifestAndBlob(t *testing.T) {
	ctx := context.Background()
	host := serve(t, nil)
	img := put(t, host, "a/b:v1", 1<<16)
	r := client(t, quick).Repository(host, "a/b", nil)
	m, err := r.Manifest(ctx, "v1")
	require.NoError(t, err)
	want, err := img.RawManifest()
	require.NoError(t, err)
	require.Equal(t, string(want), string(m.Body))
	again, err := r.Manifest(ctx, m.Digest)
	require.NoError(t, err)
	require.Equal(t, m, again)

	layers, err := img.Layers()
	require.NoError(t, err)
	d, err := layers[0].Digest()
	require.NoError(t, err)
	rc, err := layers[0].Compressed()
	require.NoError(t, err)
	full, err := io.ReadAll(rc)
	require.NoError(t, err)
	for _, offset := range []int64{0, 1, 1000} {
		body, at, from, err := r.Blob(ctx, d.String(), offset, int64(len(full)))
		require.NoError(t, err)
		got, err := io.ReadAll(body)
		require.NoError(t, err)
		require.NoError(t, body.Close())
		require.Equal(t, host, from)
		require.True(t, bytes.Equal(full[at:], got), "from %d", at)
		require.Equal(t, offset, at)
	}
}

// TestNoRanges: registries that cannot send a part of a blob send the whole.
func TestNoRanges(t *testing.T) {
	for name, before := range map[string]func(http.ResponseWriter, *http.Request) bool{
		"ignored": func(_ http.ResponseWriter, r *http.Request) bool { r.Header.Del("Range"); return false },
		"refused": func(w http.ResponseWriter, r *http.Request) bool {
			if r.Header.Get("Range") != "" {
				w.WriteHeader(http.StatusRequestedRangeNotSatisfiable)
			}
			return r.Header.Get("Range") != ""
		},
		"another": func(w http.ResponseWriter, r *http.Request) bool {
			if r.Header.Get("Range") != "" {
				w.Header().Set("Content-Range", "bytes 0-1/2")
				w.WriteHeader(http.StatusPartialContent)
			}
			return r.Header.Get("Range") != ""
		},
	} {
		t.Run(name, func(t *testing.T) {
			host := serve(t, before)
			layers, err := put(t, host, "a/b:v1", 1000).Layers()
			require.NoError(t, err)
			d, err := layers[0].Digest()
			require.NoError(t, err)
			size, err := layers[0].Size()
			require.NoError(t, err)
			body, at, _, err := client(t, quick).Repository(host, "a/b", nil).Blob(context.Background(), d.String(), 100, size)
			require.NoError(t, err)
			require.Zero(t, at)
			got, err := io.ReadAll(body)
			require.NoError(t, err)
			require.NoError(t, body.Close())
			require.Len(t, got, int(size))
		})
	}
}

func TestErrors(t *testing.T) {
	status := func(code int, text string) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, r *http.Request) bool {
			w.WriteHeader(code)
			fmt.Fprintf(w, `{"errors":[{"code":%q,"message":"said so"}]}`, text)
			return true
		}
	}
	closed := httptest.NewServer(http.NotFoundHandler())
	closed.Close()
	for _, tc := range []struct {
		name   string
		before func(http.ResponseWriter, *http.Request) bool
		host   string
		want   error
		text   string
	}{
		{"no such image", nil, "", ErrNotFound, "not found in the registry"},
		{"unauthorized", status(401, "UNAUTHORIZED"), "", ErrUnauthorized, "it wants credentials"},
		{"denied", status(403, "DENIED"), "", ErrUnauthorized, "DENIED: said so"},
		{"fault", status(500, "UNKNOWN"), "", ErrUnavailable, "has a fault (status 500)"},
		{"too many", status(429, "TOOMANYREQUESTS"), "", ErrUnavailable, "too many requests"},
		{"odd", status(418, "TEAPOT"), "", ErrUnavailable, "status 418"},
		{"nobody listens", nil, strings.TrimPrefix(closed.URL, "http://"), ErrUnavailable, "connection refused"},
		{"no registry", nil, "a b", ErrInvalid, "is no registry"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			host := tc.host
			if host == "" {
				host = serve(t, tc.before)
			}
			_, err := client(t, quick).Repository(host, "a/b", nil).Manifest(context.Background(), "v1")
			require.ErrorIs(t, err, tc.want)
			require.ErrorContains(t, err, tc.text)
			require.ErrorContains(t, err, host, "the error names the registry")
			require.NotContains(t, err.Error(), "context canceled")
		})
	}
}

func TestPassingFaultsAreTriedAgain(t *testing.T) {
	var n atomic.Int32
	host := serve(t, func(w http.ResponseWriter, r *http.Request) bool {
		if strings.Contains(r.URL.Path, "/manifests/") && r.Method == http.MethodGet && n.Add(1) <= 2 {
			w.WriteHeader(http.StatusBadGateway)
			return true
		}
		return false
	})
	put(t, host, "a/b:v1", 10)
	n.Store(0)
	_, err := client(t, quick).Repository(host, "a/b", nil).Manifest(context.Background(), "v1")
	require.NoError(t, err)
	require.Equal(t, int32(3), n.Load())

	n.Store(0)
	none := quick
	none.Retries = -1
	_, err = client(t, none).Repository(host, "a/b", nil).Manifest(context.Background(), "v1")
	require.ErrorIs(t, err, ErrUnavailable)
	require.Equal(t, int32(1), n.Load())
}

// TestStall: a registry that takes the connection and then says nothing, at every step.
func TestStall(t *testing.T) {
	for _, step := range []string{"ping", "manifest", "body"} {
		t.Run(step, func(t *testing.T) {
			var asked atomic.Int32
			host := serve(t, func(w http.ResponseWriter, r *http.Request) bool {
				last := strings.Contains(r.URL.Path, "/manifests/")
				if r.Method != http.MethodGet || last != (step != "ping") {
					return false
				}
				asked.Add(1)
				if step == "body" {
					_, _ = w.Write([]byte("{"))
					w.(http.Flusher).Flush()
				}
				<-r.Context().Done()
				return true
			})
			cfg := quick
			cfg.Stall = 50 * time.Millisecond
			_, err := client(t, cfg).Repository(host, "a/b", nil).Manifest(context.Background(), "v1")
			require.ErrorIs(t, err, ErrUnavailable)
			require.ErrorContains(t, err, "the registry "+host+" has sent nothing for 50ms")
			require.Equal(t, int32(1), asked.Load(), "it is not asked again")
		})
	}
}

func TestContext(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	host := serve(t, func(_ http.ResponseWriter, r *http.Request) bool {
		cancel()
		<-r.Context().Done()
		return true
	})
	_, err := client(t, quick).Repository(host, "a/b", nil).Manifest(ctx, "v1")
	require.ErrorIs(t, err, context.Canceled)
	require.NotErrorIs(t, err, ErrUnavailable)
}

// basicAuth wants a user and a password, or a token.
func basicAuth(w http.ResponseWriter, r *http.Request) bool {
	user, password, _ := r.BasicAuth()
	if user == "me" && password == "secret" {
		return false
	}
	w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
	w.WriteHeader(http.StatusUnauthorized)
	return true
}

func TestBasicAuth(t *testing.T) {
	host := serve(t, func(w http.ResponseWriter, r *http.Request) bool {
		return r.Method == http.MethodGet && basicAuth(w, r)
	})
	encoded := base64.StdEncoding.EncodeToString([]byte("me:secret"))
	for _, tc := range []struct {
		name string
		auth *Auth
		cfg  Config
		want error
		text string
	}{
		{"anonymous", nil, quick, ErrUnauthorized, "it wants credentials"},
		{"password", &Auth{Username: "me", Password: "secret"}, quick, ErrNotFound, ""},
		{"wrong password", &Auth{Username: "me", Password: "x"}, quick, ErrUnauthorized, "the credentials do not give access"},
		{"auth", &Auth{Auth: encoded}, quick, ErrNotFound, ""},
		{"auth without padding", &Auth{Auth: strings.TrimRight(encoded, "=")}, quick, ErrNotFound, ""},
		{"auth that is none", &Auth{Auth: "%%%"}, quick, ErrInvalid, "base64"},
		{"for this server", &Auth{Username: "me", Password: "secret", ServerAddress: "https://" + host + "/v1/"}, quick, ErrNotFound, ""},
		{"for another server", &Auth{Username: "me", Password: "secret", ServerAddress: "elsewhere.example"}, quick, ErrUnauthorized, ""},
		{"from the configuration", nil, Config{Pause: 1, Hosts: map[string]Host{host: {Username: "me", Password: "secret"}}}, ErrNotFound, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := client(t, tc.cfg).Repository(host, "a/b", tc.auth).Manifest(context.Background(), "v1")
			require.ErrorIs(t, err, tc.want)
			require.ErrorContains(t, err, tc.text)
			require.NotContains(t, err.Error(), "secret")
		})
	}
}

// TestTokens: a registry that wants a token, which is had for a password, for an identity token, or is there already.
func TestTokens(t *testing.T) {
	var host string
	host = serve(t, func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path == "/token" {
			user, password, _ := r.BasicAuth()
			ok := user == "me" && password == "secret"
			if r.Method == http.MethodPost {
				ok = r.FormValue("refresh_token") == "identity"
			}
			if !ok {
				w.WriteHeader(http.StatusUnauthorized)
				return true
			}
			fmt.Fprint(w, `{"token":"good"}`)
			return true
		}
		if r.Header.Get("Authorization") == "Bearer good" {
			return false
		}
		w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="http://%s/token",service="test"`, host))
		w.WriteHeader(http.StatusUnauthorized)
		return true
	})
	for _, tc := range []struct {
		name string
		auth *Auth
		want error
	}{
		{"anonymous", nil, ErrUnauthorized},
		{"password", &Auth{Username: "me", Password: "secret"}, ErrNotFound},
		{"wrong password", &Auth{Username: "me", Password: "x"}, ErrUnauthorized},
		{"identity token", &Auth{IdentityToken: "identity"}, ErrNotFound},
		{"registry token", &Auth{RegistryToken: "good"}, ErrNotFound},
		{"wrong registry token", &Auth{RegistryToken: "bad"}, ErrUnauthorized},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := client(t, quick).Repository(host, "a/b", tc.auth).Manifest(context.Background(), "v1")
			require.ErrorIs(t, err, tc.want)
		})
	}
}

func TestMirrors(t *testing.T) {
	ctx := context.Background()
	closed := httptest.NewServer(http.NotFoundHandler())
	dead := strings.TrimPrefix(closed.URL, "http://")
	closed.Close()
	var told atomic.Value
	told.Store("")
	mirror := serve(t, func(_ http.ResponseWriter, r *http.Request) bool {
		if h := r.Header.Get("Authorization"); h != "" {
			told.Store(h)
		}
		return false
	})
	origin := serve(t, nil)
	put(t, mirror, "proxy/a/b:v1", 10)
	put(t, origin, "a/b:v2", 10)
	cfg := quick
	cfg.Hosts = map[string]Host{origin: {Mirrors: []string{dead, mirror + "/proxy"}}}
	r := client(t, cfg).Repository(origin, "a/b", &Auth{Username: "me", Password: "secret"})
	_, err := r.Manifest(ctx, "v1")
	require.NoError(t, err, "only the mirror has it")
	require.True(t, r.endpoints[0].down.Load(), "a dead mirror is asked once")
	_, err = r.Manifest(ctx, "v2")
	require.NoError(t, err, "only the registry has it")
	_, err = r.Manifest(ctx, "v3")
	require.ErrorIs(t, err, ErrNotFound)
	require.ErrorContains(t, err, "not found in the registry "+origin)
	require.ErrorContains(t, err, "mirrors before it: not found in the registry "+mirror)
	require.Empty(t, told.Load(), "the registry's credentials are not the mirror's business")
}

func TestCertificates(t *testing.T) {
	srv := httptest.NewUnstartedServer(ggcr.New(ggcr.Logger(quiet)))
	srv.Config.ErrorLog = quiet
	srv.StartTLS()
	defer srv.Close()
	host := strings.TrimPrefix(srv.URL, "https://")
	ca := filepath.Join(t.TempDir(), "ca.pem")
	require.NoError(t, os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw}), 0o600))
	for _, tc := range []struct {
		name string
		host Host
		want error
		text string
	}{
		{"unknown", Host{}, ErrUnavailable, "is not trusted"},
		{"by file", Host{CA: ca}, ErrNotFound, ""},
		{"no file", Host{CA: ca + "x"}, ErrUnavailable, "no such file"},
		{"any", Host{SkipVerify: true}, ErrNotFound, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			cfg := quick
			cfg.Hosts = map[string]Host{"*": tc.host}
			_, err := client(t, cfg).Repository(host, "a/b", nil).Manifest(context.Background(), "v1")
			require.ErrorIs(t, err, tc.want)
			require.ErrorContains(t, err, tc.text)
		})
	}
}

// refuse is a transport that notes what it is asked and fails.
type refuse struct{ asked []string }

var errRefused = errors.New("refused")

func (r *refuse) RoundTrip(req *http.Request) (*http.Response, error) {
	r.asked = append(r.asked, req.URL.Scheme)
	return nil, errRefused
}

func TestPlainHTTP(t *testing.T) {
	for _, tc := range []struct {
		host string
		conf Host
		http bool
	}{
		{"registry.example", Host{}, false},
		{"10.1.2.3:5000", Host{}, false},
		{"10.1.2.3:5000", Host{PlainHTTP: true}, true},
		{"localhost", Host{}, true},
		{"localhost:5000", Host{}, true},
		{"127.0.0.9:5000", Host{}, true},
		{"[::1]:5000", Host{}, true},
		{"localhost.example", Host{}, false},
	} {
		c := client(t, Config{Hosts: map[string]Host{tc.host: tc.conf}})
		g, err := c.transport(tc.host)
		require.NoError(t, err)
		inner := &refuse{}
		g.inner = inner
		req, err := http.NewRequestWithContext(context.Background(), http.MethodGet, "http://"+tc.host+"/v2/", nil)
		require.NoError(t, err)
		_, err = g.RoundTrip(req)
		require.Equal(t, tc.http, errors.Is(err, errRefused), tc.host)
		require.Equal(t, tc.http, len(inner.asked) == 1, tc.host)
	}
}

func TestPush(t *testing.T) {
	ctx := context.Background()
	host := serve(t, basicAuth)
	img, err := random.Image(1000, 2)
	require.NoError(t, err)
	c := client(t, quick)
	me := &Auth{Username: "me", Password: "secret"}
	require.ErrorIs(t, c.Push(ctx, host, "a/b", "v1", nil, img), ErrUnauthorized)
	require.NoError(t, c.Push(ctx, host, "a/b", "v1", me, img))
	m, err := c.Repository(host, "a/b", me).Manifest(ctx, "v1")
	require.NoError(t, err)
	d, err := img.Digest()
	require.NoError(t, err)
	require.Equal(t, d.String(), m.Digest)
}

func TestParseHosts(t *testing.T) {
	hosts, err := ParseHosts([]byte("docker.io:\n  mirrors: [mirror.example:5000/hub]\nmirror.example:5000: {plainHTTP: true}\n"))
	require.NoError(t, err)
	require.Equal(t, map[string]Host{"docker.io": {Mirrors: []string{"mirror.example:5000/hub"}}, "mirror.example:5000": {PlainHTTP: true}}, hosts)
	for _, bad := range []string{"docker.io: {mirror: x}", "a/b: {}", "a: {mirrors: [\"http://x\"]}", "a: {mirrors: [\"/x\"]}", "- a"} {
		_, err := ParseHosts([]byte(bad))
		require.Error(t, err, bad)
	}
}

func FuzzParseHosts(f *testing.F) {
	f.Add([]byte("docker.io:\n  mirrors: [mirror.example:5000/hub]\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		hosts, err := ParseHosts(b)
		if err != nil {
			return
		}
		for name := range hosts {
			if strings.Contains(name, "/") {
				t.Errorf("%q", name)
			}
		}
	})
}
