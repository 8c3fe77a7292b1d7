// Package certs makes certificate authorities, certificates and revocation lists for tests, as files in PEM.
//
// # Concurrency
//
// An Authority is for one goroutine at a time.
package certs

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Authority signs certificates. Its own is in the file CA.
type Authority struct {
	CA   string
	t    testing.TB
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// Pair is a certificate and its key.
type Pair struct {
	Cert, Key string // files
	X509      *x509.Certificate
}

// New makes an authority whose files are in a directory of the test.
func New(t testing.TB) *Authority {
	t.Helper()
	a := &Authority{t: t, dir: t.TempDir()}
	a.CA = filepath.Join(a.dir, "ca.crt")
	a.key = a.newKey()
	tmpl := template("test authority")
	tmpl.IsCA, tmpl.KeyUsage = true, x509.KeyUsageCertSign|x509.KeyUsageCRLSign
	a.cert = a.sign(tmpl, tmpl, a.key.Public(), a.key)
	Write(t, a.CA, a.PEM())
	return a
}

// PEM is the authority's certificate.
func (a *Authority) PEM() []byte { return encode("CERTIFICATE", a.cert.Raw) }

// Pool has the authority's certificate alone.
func (a *Authority) Pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(a.cert)
	return p
}

// Issue makes a certificate for both sides of a connection, in the files <file>.crt and <file>.key. Hosts are names and
// addresses.
func (a *Authority) Issue(file, cn string, hosts ...string) Pair {
	return a.Make(file, cn, hosts, func(*x509.Certificate) {})
}

// Make is Issue with changes to the certificate.
func (a *Authority) Make(file, cn string, hosts []string, change func(*x509.Certificate)) Pair {
	a.t.Helper()
	tmpl := template(cn)
	tmpl.KeyUsage = x509.KeyUsageDigitalSignature
	tmpl.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	for _, h := range hosts {
		if ip := net.ParseIP(h); ip != nil {
			tmpl.IPAddresses = append(tmpl.IPAddresses, ip)
		} else {
			tmpl.DNSNames = append(tmpl.DNSNames, h)
		}
	}
	change(tmpl)
	key := a.newKey()
	p := Pair{Cert: filepath.Join(a.dir, file+".crt"), Key: filepath.Join(a.dir, file+".key"), X509: a.sign(tmpl, a.cert, key.Public(), a.key)}
	der, err := x509.MarshalECPrivateKey(key)
	require.NoError(a.t, err)
	Write(a.t, p.Cert, encode("CERTIFICATE", p.X509.Raw))
	Write(a.t, p.Key, encode("EC PRIVATE KEY", der))
	return p
}

// Revoke writes a revocation list (DER, as etcd wants it) to a file of this name and returns its path.
func (a *Authority) Revoke(file string, revoked ...Pair) string {
	a.t.Helper()
	list := &x509.RevocationList{Number: serial(a.t), ThisUpdate: time.Now().Add(-time.Hour), NextUpdate: time.Now().Add(24 * time.Hour)}
	for _, p := range revoked {
		list.RevokedCertificateEntries = append(list.RevokedCertificateEntries,
			x509.RevocationListEntry{SerialNumber: p.X509.SerialNumber, RevocationTime: time.Now()})
	}
	der, err := x509.CreateRevocationList(rand.Reader, list, a.cert, a.key)
	require.NoError(a.t, err)
	path := filepath.Join(a.dir, file)
	Write(a.t, path, der)
	return path
}

// TLS returns a client's configuration that trusts the authority and shows a certificate, if one is given.
func (a *Authority) TLS(show ...Pair) *tls.Config {
	a.t.Helper()
	cfg := &tls.Config{RootCAs: a.Pool(), MinVersion: tls.VersionTLS12}
	for _, p := range show {
		pair, err := tls.LoadX509KeyPair(p.Cert, p.Key)
		require.NoError(a.t, err)
		cfg.Certificates = append(cfg.Certificates, pair)
	}
	return cfg
}

// Copy puts the certificate and key of another pair in the place of this one's files.
func (p Pair) Copy(t testing.TB, from Pair) {
	t.Helper()
	for _, f := range [][2]string{{from.Cert, p.Cert}, {from.Key, p.Key}} {
		b, err := os.ReadFile(f[0])
		require.NoError(t, err)
		Write(t, f[1], b)
	}
}

// Write replaces a file as a whole.
func Write(t testing.TB, path string, data []byte) {
	t.Helper()
	require.NoError(t, os.WriteFile(path+".new", data, 0o600))
	require.NoError(t, os.Rename(path+".new", path))
}

func template(cn string) *x509.Certificate {
	return &x509.Certificate{
		Subject:   pkix.Name{CommonName: cn},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), BasicConstraintsValid: true,
	}
}

func (a *Authority) newKey() *ecdsa.PrivateKey {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(a.t, err)
	return key
}

func (a *Authority) sign(tmpl, parent *x509.Certificate, public any, key *ecdsa.PrivateKey) *x509.Certificate {
	a.t.Helper()
	tmpl.SerialNumber = serial(a.t)
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, public, key)
	require.NoError(a.t, err)
	cert, err := x509.ParseCertificate(der)
	require.NoError(a.t, err)
	return cert
}

func serial(t testing.TB) *big.Int {
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 100))
	require.NoError(t, err)
	return n
}

func encode(kind string, der []byte) []byte {
	var b bytes.Buffer
	_ = pem.Encode(&b, &pem.Block{Type: kind, Bytes: der})
	return b.Bytes()
}
