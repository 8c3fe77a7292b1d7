package kinds

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"

	certificatesv1 "k8s.io/api/certificates/v1"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

const (
	requestBlock     = "CERTIFICATE REQUEST"
	certificateBlock = "CERTIFICATE"
)

// usages are the known ones, sorted.
func usages() []certificatesv1.KeyUsage {
	l := []certificatesv1.KeyUsage{
		certificatesv1.UsageSigning, certificatesv1.UsageDigitalSignature, certificatesv1.UsageContentCommitment,
		certificatesv1.UsageKeyEncipherment, certificatesv1.UsageKeyAgreement, certificatesv1.UsageDataEncipherment,
		certificatesv1.UsageCertSign, certificatesv1.UsageCRLSign, certificatesv1.UsageEncipherOnly, certificatesv1.UsageDecipherOnly,
		certificatesv1.UsageAny, certificatesv1.UsageServerAuth, certificatesv1.UsageClientAuth, certificatesv1.UsageCodeSigning,
		certificatesv1.UsageEmailProtection, certificatesv1.UsageSMIME, certificatesv1.UsageIPsecEndSystem, certificatesv1.UsageIPsecTunnel,
		certificatesv1.UsageIPsecUser, certificatesv1.UsageTimestamping, certificatesv1.UsageOCSPSigning, certificatesv1.UsageMicrosoftSGC,
		certificatesv1.UsageNetscapeSGC,
	}
	slices.Sort(l)
	return l
}

func (p *problems) usages(at *field.Path, of []certificatesv1.KeyUsage) {
	for i, u := range of {
		oneOf(p, at.Index(i), u, usages()...)
	}
	seen := make(map[certificatesv1.KeyUsage]bool, len(of))
	for i, u := range of {
		unique(p, seen, at.Index(i), u)
	}
}

// requestPEM checks that the request is one, and signed.
func (p *problems) requestPEM(at *field.Path, text []byte) {
	block, _ := pem.Decode(text)
	if block == nil || block.Type != requestBlock {
		p.invalid(at, text, "PEM block type must be CERTIFICATE REQUEST")
		return
	}
	r, err := x509.ParseCertificateRequest(block.Bytes)
	if err == nil {
		err = r.CheckSignature()
	}
	if err != nil {
		p.invalid(at, text, err.Error())
	}
}

// checkCertificates says what is wrong with certificates in PEM, of which there may be none.
func checkCertificates(text []byte) error {
	if len(text) == 0 {
		return nil
	}
	blocks := 0
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			break
		}
		blocks++
		switch {
		case block.Type != certificateBlock:
			return fmt.Errorf("only CERTIFICATE PEM blocks are allowed, found %q", block.Type)
		case len(block.Headers) != 0:
			return errors.New("no PEM block headers are permitted")
		}
		switch l, err := x509.ParseCertificates(block.Bytes); {
		case err != nil:
			return err
		case len(l) == 0:
			return errors.New("found CERTIFICATE PEM block containing 0 certificates")
		}
	}
	if blocks == 0 {
		return errors.New("must contain at least one CERTIFICATE PEM block")
	}
	return nil
}

// signerName checks the name of a signer: a domain with a dot in it, a slash, and subdomains.
func (p *problems) signerName(at *field.Path, name string) {
	if !p.have(at, name) {
		return
	}
	domain, path, ok := strings.Cut(name, "/")
	if !ok || strings.Contains(path, "/") {
		p.invalid(at, name, "must be a fully qualified domain and path of the form 'example.com/signer-name'")
		return
	}
	if len(domain) > utilvalidation.DNS1123SubdomainMaxLength {
		p.add(field.TooLong(at, "", utilvalidation.DNS1123SubdomainMaxLength))
	}
	p.firstBadLabel(at, domain, utilvalidation.IsDNS1123Label)
	if !strings.Contains(domain, ".") {
		p.invalid(at, domain, "should be a domain with at least two segments separated by dots")
	}
	p.firstBadLabel(at, path, utilvalidation.IsDNS1123Subdomain)
	// a namespace and a name must fit behind the slash
	const longest = 2*utilvalidation.DNS1123SubdomainMaxLength + utilvalidation.DNS1123LabelMaxLength + 2
	if len(name) > longest {
		p.add(field.TooLong(at, "", longest))
	}
}

// firstBadLabel says what is wrong with the first bad part of a name with dots.
func (p *problems) firstBadLabel(at *field.Path, name string, check func(string) []string) {
	for label := range strings.SplitSeq(name, ".") {
		if messages := check(label); len(messages) > 0 {
			for _, m := range messages {
				p.invalid(at, name, fmt.Sprintf("validating label %q: %s", label, m))
			}
			return
		}
	}
}
