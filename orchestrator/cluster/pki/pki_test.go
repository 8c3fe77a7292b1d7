package pki

import (
	"crypto/tls"
	"crypto/x509"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"
)

func TestHandshake(t *testing.T) {
	s, err := Open(t.TempDir(), time.Now)
	require.NoError(t, err)
	server, err := s.Server("apiserver", "127.0.0.1", "localhost")
	require.NoError(t, err)
	admin, err := s.Client("admin", "kubernetes-admin", "system:masters")
	require.NoError(t, err)
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{
		Certificates: []tls.Certificate{server}, ClientCAs: s.Pool(), ClientAuth: tls.RequireAndVerifyClientCert,
	})
	require.NoError(t, err)
	defer l.Close()
	seen := make(chan *x509.Certificate, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		if c.(*tls.Conn).Handshake() == nil {
			seen <- c.(*tls.Conn).ConnectionState().PeerCertificates[0]
		}
		close(seen)
	}()
	c, err := tls.Dial("tcp", l.Addr().String(), &tls.Config{Certificates: []tls.Certificate{admin}, RootCAs: s.Pool()})
	require.NoError(t, err)
	defer c.Close()
	cert := <-seen
	require.NotNil(t, cert)
	require.Equal(t, "kubernetes-admin", cert.Subject.CommonName)
	require.Equal(t, []string{"system:masters"}, cert.Subject.Organization)
}

// TestRenewal opens the same directory again, with other wishes and at other times.
func TestRenewal(t *testing.T) {
	dir, now := t.TempDir(), time.Now()
	open := func() *Store {
		s, err := Open(dir, func() time.Time { return now })
		require.NoError(t, err)
		return s
	}
	first, err := open().Server("apiserver", "127.0.0.1")
	require.NoError(t, err)
	same, err := open().Server("apiserver", "127.0.0.1")
	require.NoError(t, err)
	require.Equal(t, first.Certificate, same.Certificate)

	wider, err := open().Server("apiserver", "127.0.0.1", "10.0.0.1")
	require.NoError(t, err)
	require.NotEqual(t, first.Certificate, wider.Certificate)
	require.True(t, wider.Leaf.IPAddresses[1].Equal(net.ParseIP("10.0.0.1")))

	now = now.Add(certLife / 2)
	same, err = open().Server("apiserver", "127.0.0.1")
	require.NoError(t, err)
	require.Equal(t, wider.Certificate, same.Certificate)
	now = now.Add(certLife / 4)
	renewed, err := open().Server("apiserver", "127.0.0.1")
	require.NoError(t, err)
	require.NotEqual(t, wider.Certificate, renewed.Certificate)

	key, err := open().TokenKey()
	require.NoError(t, err)
	again, err := open().TokenKey()
	require.NoError(t, err)
	require.True(t, key.Equal(again))
	for _, f := range []string{"ca.key", "apiserver.key", "sa.key"} {
		info, err := os.Stat(filepath.Join(dir, f))
		require.NoError(t, err)
		require.Equal(t, os.FileMode(0o600), info.Mode().Perm(), f)
	}
}

// TestDamaged refuses what cannot be read, and names it.
func TestDamaged(t *testing.T) {
	dir := t.TempDir()
	s, err := Open(dir, time.Now)
	require.NoError(t, err)
	_, err = s.Client("admin", "a")
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "admin.key"), []byte("nonsense"), 0o600))
	_, err = s.Client("admin", "a")
	require.ErrorContains(t, err, "admin.key")
	require.NoError(t, os.Remove(filepath.Join(dir, "ca.key")))
	_, err = Open(dir, time.Now)
	require.Error(t, err, "an authority without its key is not replaced silently")
}

// TestTogether has many processes, for which Stores of their own stand, make a cluster's certificates at once.
func TestTogether(t *testing.T) {
	dir := t.TempDir()
	var g errgroup.Group
	authorities, serving := make([]string, 8), make([]string, 8)
	for i := range authorities {
		g.Go(func() error {
			s, err := Open(dir, time.Now)
			if err != nil {
				return err
			}
			c, err := s.Server("apiserver", "127.0.0.1")
			authorities[i], serving[i] = string(s.CA()), string(c.Certificate[0])
			return err
		})
	}
	require.NoError(t, g.Wait())
	for i := range authorities {
		require.Equal(t, authorities[0], authorities[i])
		require.Equal(t, serving[0], serving[i])
	}
}

// TestHalfMade finds a key that was made anew, and the certificate of the one before.
func TestHalfMade(t *testing.T) {
	s, err := Open(t.TempDir(), time.Now)
	require.NoError(t, err)
	first, err := s.Client("admin", "admin")
	require.NoError(t, err)
	_, err = s.makeKey("admin")
	require.NoError(t, err)
	second, err := s.Client("admin", "admin")
	require.NoError(t, err)
	require.NotEqual(t, first.Certificate, second.Certificate)
	third, err := s.Client("admin", "admin")
	require.NoError(t, err)
	require.Equal(t, second.Certificate, third.Certificate)
}

// TestSign asks for a certificate that would outlive the authority.
func TestSign(t *testing.T) {
	s, err := Open(t.TempDir(), time.Now)
	require.NoError(t, err)
	key, err := s.TokenKey()
	require.NoError(t, err)
	b, err := s.Sign(&x509.Certificate{NotBefore: time.Now(), NotAfter: time.Now().AddDate(1000, 0, 0)}, key.Public())
	require.NoError(t, err)
	c, err := decodeCert(b)
	require.NoError(t, err)
	require.Equal(t, s.ca.NotAfter, c.NotAfter)
}
