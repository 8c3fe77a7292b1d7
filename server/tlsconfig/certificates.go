package tlsconfig

import (
	"crypto/tls"
	"crypto/x509"
)

// Certificate is one that a side uses now, and where it is from.
type Certificate struct {
	What string // own, connecting (what is shown to others instead of the own one) or authority
	File string
	*x509.Certificate
}

// Certificates are those that the side uses now. A nil side has none.
func (t *Side) Certificates() (all []Certificate) {
	if t == nil {
		return nil
	}
	leaf := func(what, file string, from *reloaded[*tls.Certificate]) {
		if cert := from.get(); cert.Leaf != nil {
			all = append(all, Certificate{what, file, cert.Leaf})
		}
	}
	if t.own != nil {
		leaf("own", t.s.CertFile, t.own)
	}
	if t.show != t.own {
		leaf("connecting", t.s.ClientCertFile, t.show)
	}
	if t.cas != nil {
		for _, cert := range t.cas.get().certs {
			all = append(all, Certificate{"authority", t.s.TrustedCAFile, cert})
		}
	}
	return all
}
