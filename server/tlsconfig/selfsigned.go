package tlsconfig

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"

	"go.uber.org/zap"

	"github.com/keelson-io/keelson/internal/clock"
)

// SelfSigned returns the settings for a certificate that signs itself, for these hosts (host:port), in the files cert.pem and
// key.pem of a directory. What is there is used again until it expires. All other settings of who may connect are given up,
// as others' certificates cannot be verified.
func SelfSigned(s Settings, dir string, hosts []string, years uint, clk clock.Clock, lg *zap.Logger) (Settings, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return s, err
	}
	if years == 0 {
		return s, errors.New("selfSignedCertValidity is invalid,it should be greater than 0")
	}
	out := Settings{
		CertFile: filepath.Join(dir, "cert.pem"), KeyFile: filepath.Join(dir, "key.pem"),
		CipherSuites: s.CipherSuites, MinVersion: s.MinVersion, MaxVersion: s.MaxVersion, selfSigned: true,
	}
	if s.wantsClients() || s.CRLFile != "" || len(s.AllowedCNs) > 0 || len(s.AllowedHostnames) > 0 {
		lg.Warn("with a certificate that is made automatically, certificates of others are not verified; the settings for that are ignored")
	}
	if usable(out, clk.Now()) {
		return out, nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return s, err
	}
	end := clk.Now().Add(time.Duration(years) * 365 * 24 * time.Hour)
	if err := makeSelfSigned(out, hosts, clk.Now(), end); err != nil {
		return s, fmt.Errorf("self-signed certificate: %w", err)
	}
	lg.Warn("made a certificate that signs itself", zap.String("cert-file", out.CertFile), zap.Time("not-after", end))
	return out, nil
}

// usable says whether there is a certificate that has not expired.
func usable(s Settings, now time.Time) bool {
	pair, err := tls.LoadX509KeyPair(s.CertFile, s.KeyFile)
	return err == nil && pair.Leaf != nil && now.Before(pair.Leaf.NotAfter)
}

func makeSelfSigned(s Settings, hosts []string, from, to time.Time) error {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return err
	}
	tmpl := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{Organization: []string{"keelson"}}, NotBefore: from, NotAfter: to,
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment | x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, BasicConstraintsValid: true, IsCA: true,
	}
	for _, hp := range hosts {
		h, _, err := net.SplitHostPort(hp)
		if err != nil || h == "" {
			continue // a socket in the file system, or all addresses
		}
		if ip := net.ParseIP(h); ip != nil {
			tmpl.IPAddresses = append(tmpl.IPAddresses, ip)
		} else {
			tmpl.DNSNames = append(tmpl.DNSNames, h)
		}
	}
	key, err := ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	if err != nil {
		return err
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		return err
	}
	private, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return err
	}
	return errors.Join(
		os.WriteFile(s.CertFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600),
		os.WriteFile(s.KeyFile, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: private}), 0o600),
	)
}
