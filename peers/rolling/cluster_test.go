package rolling

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/keelson-io/keelson/peers/platform"
)

// program is what a member runs.
type program struct {
	name string
	argv []string
}

// member is one member, whatever it runs.
type member struct {
	name, dir, client, peer string
	program                 string
	cmd                     *exec.Cmd
	done                    chan struct{}
}

// cluster is three members with TLS on all ports; clients must show certificates.
type cluster struct {
	t       *testing.T
	pki     string
	members []*member
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newCluster(t *testing.T) *cluster {
	c := &cluster{t: t, pki: filepath.Join(t.TempDir(), "pki")}
	out, err := exec.Command("../../packaging/certificates.sh", c.pki, "a=127.0.0.1", "b=127.0.0.1", "c=127.0.0.1").CombinedOutput()
	if err != nil {
		t.Skipf("no certificates: %v %s", err, out)
	}
	for _, args := range [][]string{ // tokens that every member can check by itself
		{"genpkey", "-algorithm", "RSA", "-out", c.pki + "/token.key"}, {"pkey", "-in", c.pki + "/token.key", "-pubout", "-out", c.pki + "/token.pub"},
	} {
		out, err := exec.Command("openssl", args...).CombinedOutput()
		if err != nil {
			t.Fatalf("%v %s", err, out)
		}
	}
	for _, name := range []string{"a", "b", "c"} {
		c.members = append(c.members, &member{name: name, dir: filepath.Join(t.TempDir(), "data"), client: freeURL(t), peer: freeURL(t)})
	}
	t.Cleanup(func() {
		for _, m := range c.members {
			c.end(m, syscall.SIGKILL)
			if log, _ := os.ReadFile(m.dir + ".log"); t.Failed() {
				t.Logf("%s (%s) ends with:\n%s", m.name, m.program, log[max(0, len(log)-4000):])
			}
		}
	})
	return c
}

func freeURL(t *testing.T) string {
	port, err := platform.FreePort()
	must(t, err)
	return "https://127.0.0.1:" + strconv.Itoa(port)
}

// start starts a member. It does not wait.
func (c *cluster) start(m *member, p program) {
	c.t.Helper()
	var initial []string
	for _, have := range c.members {
		initial = append(initial, have.name+"="+have.peer)
	}
	pair := filepath.Join(c.pki, m.name)
	args := append(append([]string{}, p.argv[1:]...),
		"--name="+m.name, "--data-dir="+m.dir, "--listen-client-urls="+m.client, "--advertise-client-urls="+m.client,
		"--listen-peer-urls="+m.peer, "--initial-advertise-peer-urls="+m.peer, "--initial-cluster="+strings.Join(initial, ","),
		"--cert-file="+pair+".crt", "--key-file="+pair+".key", "--trusted-ca-file="+c.pki+"/ca.crt", "--client-cert-auth",
		"--peer-cert-file="+pair+".crt", "--peer-key-file="+pair+".key", "--peer-trusted-ca-file="+c.pki+"/ca.crt", "--peer-client-cert-auth",
		"--snapshot-count=500", "--heartbeat-interval=100", "--election-timeout=1000", "--bcrypt-cost=5",
		"--auth-token=jwt,sign-method=RS256,ttl=20m,priv-key="+c.pki+"/token.key,pub-key="+c.pki+"/token.pub")
	log, err := os.OpenFile(m.dir+".log", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	must(c.t, err)
	m.cmd, m.program, m.done = exec.Command(p.argv[0], args...), p.name, make(chan struct{})
	m.cmd.Stdout, m.cmd.Stderr = log, log
	must(c.t, m.cmd.Start())
	go func(cmd *exec.Cmd, done chan struct{}) {
		_ = cmd.Wait()
		_ = log.Close()
		close(done)
	}(m.cmd, m.done)
}

// end ends a member's program and waits until it is gone.
func (c *cluster) end(m *member, signal syscall.Signal) {
	if m.cmd == nil {
		return
	}
	_ = m.cmd.Process.Signal(signal)
	select {
	case <-m.done:
	case <-time.After(30 * time.Second):
		_ = m.cmd.Process.Kill()
		<-m.done
		c.t.Errorf("%s (%s) did not stop", m.name, m.program)
	}
	m.cmd = nil
}

// dial connects as a user, "" for none, to members, all if none are given.
func (c *cluster) dial(user string, members ...*member) *clientv3.Client {
	c.t.Helper()
	if len(members) == 0 {
		members = c.members
	}
	pair, err := tls.LoadX509KeyPair(c.pki+"/client.crt", c.pki+"/client.key")
	must(c.t, err)
	ca, err := os.ReadFile(c.pki + "/ca.crt")
	must(c.t, err)
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	cfg := clientv3.Config{
		DialTimeout: time.Minute, Logger: zap.NewNop(), TLS: &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{pair}},
		DialKeepAliveTime: 2 * time.Second, DialKeepAliveTimeout: 2 * time.Second,
	}
	for _, m := range members {
		cfg.Endpoints = append(cfg.Endpoints, m.client)
	}
	if user != "" {
		cfg.Username, cfg.Password = user, password(user)
	}
	cl, err := clientv3.New(cfg)
	must(c.t, err)
	c.t.Cleanup(func() { _ = cl.Close() })
	return cl
}

func password(user string) string { return "secret of " + user }

// ready waits until a member answers, and has the version that is expected of what it runs.
func (c *cluster) ready(m *member, version string) {
	c.t.Helper()
	cl := c.dial("root", m)
	defer cl.Close()
	end := time.Now().Add(time.Minute)
	for {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		st, err := cl.Status(ctx, m.client)
		if err == nil {
			_, err = cl.Get(ctx, "x")
		}
		cancel()
		switch {
		case err == nil && strings.HasPrefix(st.Version, version):
			return
		case err == nil:
			c.t.Fatalf("%s has version %s, not %s", m.name, st.Version, version)
		case time.Now().After(end):
			c.t.Fatalf("%s (%s) is not ready: %v", m.name, m.program, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// agree compares the hashes of all members at one revision.
func (c *cluster) agree(root *clientv3.Client) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	got, err := root.Get(ctx, "x")
	must(c.t, err)
	seen := map[string]bool{}
	for _, m := range c.members {
		cl := c.dial("root", m)
		_, err := cl.Get(ctx, "x") // it has all by then
		must(c.t, err)
		h, err := cl.HashKV(ctx, m.client, got.Header.Revision)
		must(c.t, err)
		seen[fmt.Sprint(h.Hash, " ", h.CompactRevision)] = true
	}
	if len(seen) != 1 {
		c.t.Errorf("the members differ at revision %d: %v", got.Header.Revision, seen)
	}
}
