package kinds

import (
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net/mail"
	"slices"
	"strings"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

const (
	maxChainBytes = 100 << 10
	// issuedNear is how far the beginning of a certificate may be from the time at which it is handed in.
	issuedNear      = 5 * time.Minute
	minIssuedLife   = time.Hour
	refreshDistance = 10 * time.Minute
)

// validatePodCertificate checks a status that a signer has written: a request ends once, in one of three ways.
func validatePodCertificate(o, old *certificatesv1.PodCertificateRequest, now time.Time) field.ErrorList {
	var p problems
	status := field.NewPath("status")
	p.podCertificateConditions(status.Child("conditions"), o.Status.Conditions)
	if len(p.list) > 0 {
		return p.list
	}
	same := func(want *certificatesv1.PodCertificateRequestStatus, detail string) {
		if !equality.Semantic.DeepEqual(&o.Status, want) {
			p.add(field.Invalid(status, field.OmitValueType{}, detail))
		}
	}
	switch end := podCertificateState(o); {
	case podCertificateState(old) != "":
		same(&old.Status, "immutable after PodCertificateRequest is issued, denied, or failed")
	case end == certificatesv1.PodCertificateRequestConditionTypeIssued:
		p.issued(status, o)
	case end != "":
		same(&certificatesv1.PodCertificateRequestStatus{Conditions: o.Status.Conditions},
			"non-condition status fields must be empty when denying or failing the PodCertificateRequest")
	default:
		same(&old.Status, `status is immutable unless transitioning to "Issued", "Denied", or "Failed"`)
	}
	if len(p.list) == 0 && podCertificateState(old) == "" && o.Status.NotBefore != nil {
		if begin := o.Status.NotBefore.Time; begin.Sub(now).Abs() >= issuedNear {
			p.invalid(status.Child("notBefore"), begin, "must be set to within 5 minutes of kube-apiserver's current time")
		}
	}
	return p.list
}

func (p *problems) podCertificateConditions(at *field.Path, conditions []metav1.Condition) {
	known := 0
	for i := range conditions {
		c, at := &conditions[i], at.Child(fmt.Sprintf("[%d]", i))
		if !slices.Contains(podCertificateEnds, c.Type) {
			p.add(field.NotSupported(at.Child("type"), c.Type, podCertificateEnds))
			continue
		}
		if known++; known > 1 {
			p.invalid(at.Child("type"), c.Type, `There may be at most one condition with type "Issued", "Denied", or "Failed"`)
		}
		oneOf(p, at.Child("status"), c.Status, metav1.ConditionTrue)
	}
	p.add(metav1validation.ValidateConditions(conditions, at)...)
}

// issued checks a certificate that was issued, and what is said of it. It stops at the first thing that is wrong.
func (p *problems) issued(status *field.Path, o *certificatesv1.PodCertificateRequest) {
	at, s := status.Child("certificateChain"), &o.Status
	if len(s.CertificateChain) > maxChainBytes {
		p.add(field.TooLong(at, "", maxChainBytes))
		return
	}
	leaf, problem := parseChain(s.CertificateChain)
	if problem != "" {
		p.invalid(at, s.CertificateChain, problem)
		return
	}
	p.leafNames(at, leaf)
	if key, err := requestedKey(&o.Spec); err != nil {
		p.add(field.Invalid(field.NewPath("spec"), field.OmitValueType{}, err.Error()))
	} else if k, ok := key.(interface{ Equal(x crypto.PublicKey) bool }); !ok || !k.Equal(leaf.PublicKey) {
		p.invalid(at, s.CertificateChain, "leaf certificate was not issued to the requested public key")
	}
	for _, t := range []struct {
		name, detail string
		time         *metav1.Time
	}{
		{"notBefore", "must be present and consistent with the issued certificate", s.NotBefore},
		{"notAfter", "must be present and consistent with the issued certificate", s.NotAfter},
		{"beginRefreshAt", "must be present and in the range [notbefore+10min, notafter-10min]", s.BeginRefreshAt},
	} {
		if t.time == nil {
			p.required(status.Child(t.name), t.detail)
		}
	}
	if len(p.list) == 0 {
		p.issuedTimes(status, o, leaf)
	}
}

func (p *problems) issuedTimes(status *field.Path, o *certificatesv1.PodCertificateRequest, leaf *x509.Certificate) {
	s, life := &o.Status, leaf.NotAfter.Sub(leaf.NotBefore)
	longest := time.Duration(0)
	if m := o.Spec.MaxExpirationSeconds; m != nil {
		longest = time.Duration(*m) * time.Second
	}
	refresh := status.Child("beginRefreshAt")
	switch at := status.Child("certificateChain"); {
	case !s.NotBefore.Time.Equal(leaf.NotBefore):
		p.invalid(status.Child("notBefore"), s.NotBefore.Time, "must be set to the NotBefore time encoded in the leaf certificate")
	case !s.NotAfter.Time.Equal(leaf.NotAfter):
		p.invalid(status.Child("notAfter"), s.NotAfter.Time, "must be set to the NotAfter time encoded in the leaf certificate")
	case life < minIssuedLife:
		p.invalid(at, life, "leaf certificate lifetime must be >= 1 hour")
	case life > longest:
		p.invalid(at, life, fmt.Sprintf("leaf certificate lifetime must be <= spec.maxExpirationSeconds (%d)", int(longest.Seconds())))
	case s.BeginRefreshAt.Time.Before(leaf.NotBefore.Add(refreshDistance)):
		p.invalid(refresh, s.BeginRefreshAt.Time, "must be at least 10 minutes after status.notBefore")
	case s.BeginRefreshAt.Time.After(leaf.NotAfter.Add(-refreshDistance)):
		p.invalid(refresh, s.BeginRefreshAt.Time, "must be at least 10 minutes before status.notAfter")
	}
}

// requestedKey is the key of which a certificate was wanted.
func requestedKey(s *certificatesv1.PodCertificateRequestSpec) (crypto.PublicKey, error) {
	r, err := x509.ParseCertificateRequest(s.StubPKCS10Request)
	if err != nil {
		return nil, err
	}
	return r.PublicKey, nil
}

// parseChain returns the first certificate of a chain, or what is wrong with the chain.
func parseChain(text string) (leaf *x509.Certificate, problem string) {
	for rest := []byte(text); ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type != certificateBlock {
			return nil, "issued certificate chain must consist entirely of CERTIFICATE PEM blocks"
		}
		c, err := x509.ParseCertificate(block.Bytes)
		switch {
		case err != nil && leaf == nil:
			return nil, "leaf certificate does not parse as valid X.509"
		case err != nil:
			return nil, "intermediate certificate does not parse as valid X.509"
		case leaf == nil:
			leaf = c
		}
	}
	if leaf == nil {
		return nil, "issued certificate chain must contain at least one certificate"
	}
	return leaf, ""
}

// leafNames refuses names that no host and no mailbox has.
func (p *problems) leafNames(at *field.Path, leaf *x509.Certificate) {
	for _, n := range leaf.DNSNames {
		switch {
		case n == "":
			p.invalid(at, n, "leaf certificate should not contain empty DNSName")
		case strings.Contains(n, ".."):
			p.invalid(at, n, "leaf certificate's DNSName should not contain '..'")
		case strings.HasPrefix(n, "."), strings.HasSuffix(n, "."):
			p.invalid(at, n, "leaf certificate's DNSName should not start or end with '.'")
		}
	}
	for _, a := range leaf.EmailAddresses {
		if _, err := mail.ParseAddress(a); err != nil {
			p.invalid(at, a, "leaf certificate should not contain invalid EmailAddress")
		}
	}
}
