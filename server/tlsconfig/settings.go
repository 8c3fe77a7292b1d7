package tlsconfig

import (
	"crypto/tls"
	"errors"
	"fmt"
)

// Settings are what a Side is made of. All files are in PEM; a revocation list may be in DER, too.
type Settings struct {
	CertFile, KeyFile string // shown to those who connect, and, unless there is another, when connecting
	// ClientCertFile and ClientKeyFile are shown when connecting.
	ClientCertFile, ClientKeyFile string

	ClientCertAuth bool   // those who connect must show a certificate
	TrustedCAFile  string // authorities of the others' certificates; with it, those who connect must show a certificate
	CRLFile        string // revoked certificates of those who connect

	// AllowedCNs and AllowedHostnames: the other side's certificate must have one of these common names, or be valid for
	// one of these host names or addresses. Only one of the two lists may be given.
	AllowedCNs, AllowedHostnames []string

	ServerName string // that the certificates of those connected to are for; empty: the address's

	// SkipClientSANVerification lets certificates be shown from other addresses than they are made for.
	SkipClientSANVerification bool

	AutoTLS bool // make a certificate if none is given

	CipherSuites           []uint16 // nil: those of crypto/tls
	MinVersion, MaxVersion uint16   // 0: TLS 1.2, and the newest

	selfSigned bool // AutoTLS has made the certificate: others' are not verified
}

// Empty says whether there is no certificate.
func (s *Settings) Empty() bool { return s.CertFile == "" && s.KeyFile == "" }

// check refuses what contradicts itself.
func (s *Settings) check() error {
	switch {
	case !s.Empty() && (s.CertFile == "" || s.KeyFile == ""):
		return fmt.Errorf("KeyFile and CertFile must both be present[key: %v, cert: %v]", s.KeyFile, s.CertFile)
	case (s.ClientCertFile == "") != (s.ClientKeyFile == ""):
		return fmt.Errorf("ClientKeyFile and ClientCertFile must both be present or both absent: key: %v, cert: %v]", s.ClientKeyFile, s.ClientCertFile)
	case len(s.AllowedCNs) > 0 && len(s.AllowedHostnames) > 0:
		return fmt.Errorf("AllowedCNs and AllowedHostnames are mutually exclusive (cns=%q, hostnames=%q)", s.AllowedCNs, s.AllowedHostnames)
	}
	return nil
}

// wantsClients says whether those who connect must show a certificate.
func (s *Settings) wantsClients() bool { return s.ClientCertAuth || s.TrustedCAFile != "" }

// Version returns the number of a TLS version as flags name it: TLS1.2, TLS1.3, or nothing (0).
func Version(name string) (uint16, error) {
	switch name {
	case "":
		return 0, nil
	case "TLS1.2":
		return tls.VersionTLS12, nil
	case "TLS1.3":
		return tls.VersionTLS13, nil
	}
	return 0, fmt.Errorf("unexpected TLS version %q (must be one of: TLS1.2, TLS1.3)", name)
}

// CipherSuites returns the numbers of cipher suites that are given by their names in crypto/tls.
func CipherSuites(names []string) ([]uint16, error) {
	known := map[string]uint16{ // names that they had once
		"TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305":   tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
		"TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305": tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
	}
	for _, c := range append(tls.CipherSuites(), tls.InsecureCipherSuites()...) {
		known[c.Name] = c.ID
	}
	var out []uint16
	for _, n := range names {
		id, ok := known[n]
		if !ok {
			return nil, fmt.Errorf("unexpected TLS cipher suite %q", n)
		}
		out = append(out, id)
	}
	return out, nil
}

// CheckVersions refuses bounds that leave no version, and cipher suites where only TLS 1.3 is left, whose suites cannot be
// chosen.
func CheckVersions(lowest, highest string, suites []string) error {
	low, err := Version(lowest)
	if err != nil {
		return err
	}
	high, err := Version(highest)
	if err != nil {
		return err
	}
	switch {
	case high != 0 && low > high:
		return fmt.Errorf("min version (%s) is greater than max version (%s)", lowest, highest)
	case low == tls.VersionTLS13 && len(suites) > 0:
		return errors.New("cipher suites cannot be configured when only TLS1.3 is enabled")
	}
	return nil
}
