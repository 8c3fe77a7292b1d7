// Package informers runs a program with shared informers, on unmodified client-go, while the API server that it follows is
// stopped and killed, again and again, and others go on writing: the program sees every change, in order, once.
package informers

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/keelson-io/keelson/peers/platform"
)

// limit is for what must come about. It is generous: machines that run tests are busy.
const limit = 2 * time.Minute

func TestMain(m *testing.M) {
	_, err := platform.Find("keelson", "make build")
	if errors.Is(err, platform.ErrMissing) && os.Getenv("KEELSON_REQUIRE_BINARIES") == "" {
		fmt.Println("skipped:", err)
		return
	}
	os.Exit(m.Run())
}

// TestPlatformRestarts restarts the whole platform.
func TestPlatformRestarts(t *testing.T) {
	t.Parallel()
	o := platform.Options{Dir: t.TempDir(), Port: freePort(t), HollowNodes: 1}
	var p *platform.Platform
	start := func() {
		var err error
		p, err = platform.Start(o)
		require.NoError(t, err)
	}
	start()
	t.Cleanup(func() { require.NoError(t, p.Stop()) })
	follow(t, p.Kubeconfig, func(inOrder bool) {
		if inOrder {
			require.NoError(t, p.Stop())
		} else {
			require.NoError(t, p.Kill())
		}
		start()
	})
}

// TestAPIServerRestarts restarts the API server alone: store and controllers go on.
func TestAPIServerRestarts(t *testing.T) {
	t.Parallel()
	restartAPIServer(t, func(r *roles, args ...string) { r.exec(append([]string{"server"}, args...)...) })
}

// TestAPIServerRestartsOnEtcd does so with the real etcd as the store.
func TestAPIServerRestartsOnEtcd(t *testing.T) {
	t.Parallel()
	restartAPIServer(t, func(r *roles, args ...string) {
		p, err := platform.ExecPeer("etcd", r.file("etcd.log"), args...)
		if errors.Is(err, platform.ErrMissing) && os.Getenv("KEELSON_REQUIRE_BINARIES") == "" {
			t.Skip(err)
		}
		require.NoError(t, err)
		r.endWithTest(p)
	})
}

func restartAPIServer(t *testing.T, store func(r *roles, args ...string)) {
	r := &roles{t: t, dir: t.TempDir(), port: freePort(t)}
	client, peer := "http://127.0.0.1:"+strconv.Itoa(freePort(t)), "http://127.0.0.1:"+strconv.Itoa(freePort(t))
	store(r, "--name", "store", "--data-dir", r.file("store"), "--listen-client-urls", client, "--advertise-client-urls", client,
		"--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", "store="+peer)
	api := []string{"apiserver", "--data-dir", r.file("data"), "--kubeconfig", r.file("kubeconfig"), "--secure-port", strconv.Itoa(r.port), "--store-endpoints", client}
	p := r.exec(api...)
	r.ready()
	r.exec("controllers", "--kubeconfig", r.file("kubeconfig"), "--pki-dir", r.file("data/pki"), "--metrics-address", "")
	follow(t, r.file("kubeconfig"), func(inOrder bool) {
		if inOrder {
			require.NoError(t, p.Stop())
		} else {
			require.NoError(t, p.Kill())
		}
		p = r.exec(api...)
		r.ready()
	})
}

// roles are parts of the platform as processes of their own.
type roles struct {
	t    *testing.T
	dir  string
	port int // of the API server
}

func (r *roles) file(name string) string { return filepath.Join(r.dir, name) }

// exec starts a process that ends with the test.
func (r *roles) exec(args ...string) *platform.Process {
	r.t.Helper()
	p, err := platform.Exec(r.file(args[0]+".log"), nil, args...)
	require.NoError(r.t, err)
	r.endWithTest(p)
	return p
}

func (r *roles) endWithTest(p *platform.Process) {
	r.t.Cleanup(func() {
		_ = p.Kill() // it may have ended
		if b, _ := os.ReadFile(p.Log); r.t.Failed() {
			r.t.Logf("%s:\n%s", filepath.Base(p.Log), b[max(0, len(b)-4000):])
		}
	})
}

// ready waits until the API server is.
func (r *roles) ready() {
	r.t.Helper()
	c := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true}} // only whether it answers
	require.Eventually(r.t, func() bool {
		a, err := c.Get("https://127.0.0.1:" + strconv.Itoa(r.port) + "/readyz")
		return err == nil && a.Body.Close() == nil && a.StatusCode == http.StatusOK
	}, limit, 20*time.Millisecond)
}

func freePort(t *testing.T) int {
	t.Helper()
	port, err := platform.FreePort()
	require.NoError(t, err)
	return port
}
