// Package pki makes and keeps the certificates of a cluster: its authority, the API server's serving certificate, client
// certificates and the key that signs service account tokens.
//
// Everything lies in one directory, keys readable by their owner only, and is made when it is missing:
//
//	ca.crt ca.key                 the authority, ten years
//	apiserver.crt apiserver.key   serving certificate, one year
//	<name>.crt <name>.key         client certificates, one year
//	sa.key                        signs service account tokens
//	lock                          held while something is made
//
// The certificate by which aggregated API servers know the API server has an authority of its own, in a directory below.
//
// A certificate that has less than a third of its time left, does not name all addresses that are asked for, or was not
// signed by the authority is made anew. Nobody has to renew anything by hand.
//
// # Concurrency
//
// A Store may be used from any number of goroutines, and a directory by any number of processes: what is made is made under a
// lock on the file lock.
package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	caLife   = 10 * 365 * 24 * time.Hour
	certLife = 365 * 24 * time.Hour
	// backdate is for clocks that are behind.
	backdate = 5 * time.Minute
)

// Store is described in the package comment.
type Store struct {
	dir string
	now func() time.Time

	mu    sync.Mutex
	ca    *x509.Certificate
	caKey crypto.Signer
}

// Open opens or makes the directory and the authority.
func Open(dir string, now func() time.Time) (*Store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("pki: %w", err)
	}
	s := &Store{dir: dir, now: now}
	unlock, err := s.lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	cert, key, err := s.load("ca")
	if _, none := os.Stat(s.path("ca", "crt")); errors.Is(none, fs.ErrNotExist) {
		cert, key, err = s.makeCA()
	}
	if err != nil {
		return nil, fmt.Errorf("pki: the authority in %s: %w", dir, err)
	}
	s.ca, s.caKey = cert, key
	return s, nil
}

// CA is the authority's certificate, in PEM.
func (s *Store) CA() []byte { return encode("CERTIFICATE", s.ca.Raw) }

// Pool holds the authority.
func (s *Store) Pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(s.ca)
	return p
}

// Sign makes a certificate for a public key, from a template that says what it is for. It ends no later than the authority's.
// It is returned in PEM.
func (s *Store) Sign(template *x509.Certificate, public crypto.PublicKey) ([]byte, error) {
	serial, err := serialNumber()
	if err != nil {
		return nil, err
	}
	t := *template
	t.SerialNumber, t.BasicConstraintsValid = serial, true
	if t.NotAfter.After(s.ca.NotAfter) {
		t.NotAfter = s.ca.NotAfter
	}
	der, err := x509.CreateCertificate(rand.Reader, &t, s.ca, public, s.caKey)
	if err != nil {
		return nil, fmt.Errorf("pki: %w", err)
	}
	return encode("CERTIFICATE", der), nil
}

// Server returns a serving certificate for hosts: names and addresses.
func (s *Store) Server(name string, hosts ...string) (tls.Certificate, error) {
	t := s.template(pkix.Name{CommonName: name}, x509.ExtKeyUsageServerAuth)
	for _, h := range hosts {
		if ip := net.ParseIP(h); ip != nil {
			t.IPAddresses = append(t.IPAddresses, ip)
		} else {
			t.DNSNames = append(t.DNSNames, h)
		}
	}
	return s.pair(name, t)
}

// Client returns a client certificate: the common name is the user, organizations are its groups.
func (s *Store) Client(file, user string, groups ...string) (tls.Certificate, error) {
	return s.pair(file, s.template(pkix.Name{CommonName: user, Organization: groups}, x509.ExtKeyUsageClientAuth))
}

// PEM returns a certificate that Server or Client made, and its key.
func (s *Store) PEM(name string) (cert, key []byte, err error) {
	if cert, err = os.ReadFile(s.path(name, "crt")); err == nil {
		key, err = os.ReadFile(s.path(name, "key"))
	}
	return cert, key, err
}

// TokenKey returns the key that signs service account tokens.
func (s *Store) TokenKey() (*ecdsa.PrivateKey, error) {
	unlock, err := s.lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	key, err := s.loadKey("sa")
	if errors.Is(err, fs.ErrNotExist) {
		key, err = s.makeKey("sa")
	}
	if err != nil {
		return nil, fmt.Errorf("pki: %w", err)
	}
	return key, nil
}

func (s *Store) template(subject pkix.Name, usage x509.ExtKeyUsage) *x509.Certificate {
	now := s.now()
	return &x509.Certificate{
		Subject: subject, NotBefore: now.Add(-backdate), NotAfter: now.Add(certLife),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{usage},
	}
}

// pair returns the certificate of a name, made anew unless it is as the template wants it.
func (s *Store) pair(name string, want *x509.Certificate) (tls.Certificate, error) {
	unlock, err := s.lock()
	if err != nil {
		return tls.Certificate{}, err
	}
	defer unlock()
	cert, key, err := s.load(name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, errMismatch) {
		return tls.Certificate{}, fmt.Errorf("pki: %s: %w", name, err)
	}
	if err != nil || !s.fits(cert, want) {
		if cert, key, err = s.make(name, want); err != nil {
			return tls.Certificate{}, fmt.Errorf("pki: %s: %w", name, err)
		}
	}
	return tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key, Leaf: cert}, nil
}

// fits says whether a certificate can be used for what a template wants, and for long enough.
func (s *Store) fits(cert, want *x509.Certificate) bool {
	if cert.CheckSignatureFrom(s.ca) != nil || !slices.Equal(cert.ExtKeyUsage, want.ExtKeyUsage) ||
		cert.Subject.String() != want.Subject.String() || s.now().Before(cert.NotBefore) ||
		cert.NotAfter.Sub(s.now()) < cert.NotAfter.Sub(cert.NotBefore)/3 {
		return false
	}
	for _, ip := range want.IPAddresses {
		if !slices.ContainsFunc(cert.IPAddresses, ip.Equal) {
			return false
		}
	}
	for _, n := range want.DNSNames {
		if !slices.Contains(cert.DNSNames, n) {
			return false
		}
	}
	return true
}

func (s *Store) make(name string, t *x509.Certificate) (*x509.Certificate, crypto.Signer, error) {
	key, err := s.makeKey(name)
	if err != nil {
		return nil, nil, err
	}
	b, err := s.Sign(t, key.Public())
	if err != nil {
		return nil, nil, err
	}
	if err := replace(s.path(name, "crt"), b, 0o644); err != nil {
		return nil, nil, err
	}
	cert, err := decodeCert(b)
	return cert, key, err
}

func (s *Store) makeCA() (*x509.Certificate, crypto.Signer, error) {
	key, err := s.makeKey("ca")
	if err != nil {
		return nil, nil, err
	}
	serial, err := serialNumber()
	if err != nil {
		return nil, nil, err
	}
	now := s.now()
	t := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: "keelson"}, NotBefore: now.Add(-backdate), NotAfter: now.Add(caLife),
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign | x509.KeyUsageDigitalSignature, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
	if err != nil {
		return nil, nil, err
	}
	if err := replace(s.path("ca", "crt"), encode("CERTIFICATE", der), 0o644); err != nil {
		return nil, nil, err
	}
	cert, err := x509.ParseCertificate(der)
	return cert, key, err
}

func (s *Store) makeKey(name string) (*ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, err
	}
	return key, replace(s.path(name, "key"), encode("EC PRIVATE KEY", der), 0o600)
}

// errMismatch is what is left when a process was killed while it made a certificate anew.
var errMismatch = errors.New("key and certificate do not belong together")

// lock keeps other goroutines and other processes from making what this one is about to make.
func (s *Store) lock() (unlock func(), err error) {
	s.mu.Lock()
	f, err := os.OpenFile(filepath.Join(s.dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err == nil {
		if err = unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
			err = errors.Join(err, f.Close())
		}
	}
	if err != nil {
		s.mu.Unlock()
		return nil, fmt.Errorf("pki: %w", err)
	}
	return func() {
		_ = f.Close() // which unlocks
		s.mu.Unlock()
	}, nil
}

func (s *Store) path(name, ext string) string { return filepath.Join(s.dir, name+"."+ext) }

func (s *Store) load(name string) (*x509.Certificate, crypto.Signer, error) {
	b, err := os.ReadFile(s.path(name, "crt"))
	if err != nil {
		return nil, nil, err
	}
	cert, err := decodeCert(b)
	if err != nil {
		return nil, nil, err
	}
	key, err := s.loadKey(name)
	if err != nil {
		return nil, nil, err
	}
	if !key.PublicKey.Equal(cert.PublicKey) {
		return nil, nil, fmt.Errorf("%s and %s: %w", s.path(name, "crt"), s.path(name, "key"), errMismatch)
	}
	return cert, key, nil
}

func (s *Store) loadKey(name string) (*ecdsa.PrivateKey, error) {
	b, err := os.ReadFile(s.path(name, "key"))
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(b)
	if block == nil {
		return nil, fmt.Errorf("%s is no PEM file", s.path(name, "key"))
	}
	key, err := x509.ParseECPrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.path(name, "key"), err)
	}
	return key, nil
}

func decodeCert(b []byte) (*x509.Certificate, error) {
	block, _ := pem.Decode(b)
	if block == nil {
		return nil, errors.New("a certificate is no PEM file")
	}
	return x509.ParseCertificate(block.Bytes)
}

func encode(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

func serialNumber() (*big.Int, error) {
	return rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
}

// replace writes a file as a whole or not at all.
func replace(path string, b []byte, mode os.FileMode) error {
	tmp := path + ".tmp"
	if err := os.WriteFile(tmp, b, mode); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}
