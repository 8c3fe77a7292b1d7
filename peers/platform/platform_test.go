package platform

import (
	"crypto/tls"
	"io"
	"net/http"
	"os"
	"testing"
)

var shared *Platform

func TestMain(m *testing.M) {
	os.Exit(Main(m, Options{HollowNodes: 1}, func(p *Platform) { shared = p }))
}

// TestStart sees that a platform that was started answers at its URL.
func TestStart(t *testing.T) {
	c := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}} // only that it answers
	defer c.CloseIdleConnections()
	r, err := c.Get(shared.URL + "/readyz")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Body.Close() }()
	b, err := io.ReadAll(r.Body)
	if err != nil || r.StatusCode != http.StatusOK || string(b) != "ok" {
		t.Fatalf("got %d %q %v", r.StatusCode, b, err)
	}
	if _, err := os.Stat(shared.Kubeconfig); err != nil {
		t.Fatal(err)
	}
}

// TestRestart sees that a platform goes on in its directory, at its port, after it was killed.
func TestRestart(t *testing.T) {
	o := Options{Dir: t.TempDir()}
	p, err := Start(o)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	if p, err = Start(o); err != nil {
		t.Fatal(err)
	}
	if err := p.Stop(); err != nil {
		t.Error(err)
	}
}
