package registration

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"math/big"
	"net"
	"slices"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/util/certificate"
)

// Serving is the certificate of the node's server.
type Serving struct {
	own     tls.Certificate // that nobody signed
	manager certificate.Manager
}

// Serving has a certificate for the node's server, for the names and addresses that the Node object has; before it has any, none
// is asked for. Until Close new ones are asked for in time, and when the addresses change.
func (c *Credentials) Serving(node func() *corev1.Node) (*Serving, error) {
	s := &Serving{}
	var err error
	if s.own, err = selfSigned(c.cfg.Name); err != nil {
		return nil, fmt.Errorf("registration: %w", err)
	}
	files, err := openStore(c.cfg.Dir, "server", nil, c.cfg.Logger)
	if err != nil {
		return nil, err
	}
	template := func() *x509.CertificateRequest { return servingTemplate(c.cfg.Name, node()) }
	s.manager, err = certificate.NewManager(&certificate.Config{
		ClientsetFn: c.clientset, CertificateStore: files, SignerName: certificatesv1.KubeletServingSignerName,
		GetTemplate: template,
		GetUsages:   certificate.DefaultKubeletServingGetUsages, RequestedCertificateLifetime: life(c.cfg.Life), Name: "server", Ctx: &c.ctx,
	})
	if err != nil {
		return nil, fmt.Errorf("registration: %w", err)
	}
	go s.start(c.ctx, template)
	return s, nil
}

// lookForAddresses is how often it is seen whether the node has addresses.
const lookForAddresses = 20 * time.Millisecond

// start starts the manager once there is something to ask for. A manager that finds nothing at first waits for seconds before it
// looks again, during which nobody could reach the pods of a new node.
func (s *Serving) start(ctx context.Context, template func() *x509.CertificateRequest) {
	t := time.NewTicker(lookForAddresses)
	defer t.Stop()
	for template() == nil {
		select {
		case <-t.C:
		case <-ctx.Done():
			return
		}
	}
	s.manager.Start()
}

// Certificate is the one to show, for tls.Config.GetCertificate.
func (s *Serving) Certificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	if c := s.manager.Current(); c != nil {
		return c, nil
	}
	return &s.own, nil
}

// servingTemplate is what is asked for, nil if the node has no addresses yet.
func servingTemplate(name string, node *corev1.Node) *x509.CertificateRequest {
	if node == nil {
		return nil
	}
	t := &x509.CertificateRequest{Subject: subject(name)}
	for _, a := range node.Status.Addresses {
		switch ip := net.ParseIP(a.Address); {
		case ip != nil:
			if !slices.ContainsFunc(t.IPAddresses, ip.Equal) {
				t.IPAddresses = append(t.IPAddresses, ip)
			}
		case a.Address != "" && a.Address != "localhost" && !slices.Contains(t.DNSNames, a.Address):
			t.DNSNames = append(t.DNSNames, a.Address)
		}
	}
	if len(t.IPAddresses) == 0 && len(t.DNSNames) == 0 {
		return nil
	}
	slices.Sort(t.DNSNames)
	slices.SortFunc(t.IPAddresses, func(a, b net.IP) int { return slices.Compare(a, b) })
	return t
}

// ownLife is how long a certificate is good that nobody signed.
const ownLife = 365 * 24 * time.Hour

// selfSigned makes a certificate for a start.
func selfSigned(name string) (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	now := time.Now()
	t := &x509.Certificate{
		SerialNumber: big.NewInt(now.UnixNano()), Subject: subject(name), DNSNames: []string{name}, NotBefore: now.Add(-time.Minute), NotAfter: now.Add(ownLife),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}
