package kinds

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"fmt"
	"slices"
	"strings"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"
)

const (
	// maxKeyBytes is how long a request for a pod's certificate may be.
	maxKeyBytes = 10 << 10
	maxUIDBytes = 128
	// podCertificateSeconds is how long a certificate may last if nothing is said: a day.
	podCertificateSeconds = 24 * 60 * 60
)

func podCertificateRequestKind() *Kind {
	doc := certificatesv1.PodCertificateRequestSpec{}.SwaggerDoc()
	return with(Kind{
		GroupVersionKind: certificatesv1.SchemeGroupVersion.WithKind("PodCertificateRequest"), Resource: "podcertificaterequests",
		Singular: "podcertificaterequest", Namespaced: true, Place: "podcertificaterequests",
		New:     func() Object { return &certificatesv1.PodCertificateRequest{} },
		NewList: func() runtime.Object { return &certificatesv1.PodCertificateRequestList{} },

		NameErrors: validation.NameIsDNSSubdomain,
		FieldNames: []string{signerNameField, "spec.podName", "spec.nodeName"},
		Columns: []metav1.TableColumnDefinition{
			nameColumn,
			textColumn("PodName", doc["podName"]),
			textColumn("ServiceAccountName", doc["serviceAccountName"]),
			textColumn("NodeName", doc["nodeName"]),
			textColumn("SignerName", doc["signerName"]),
			textColumn("State", "Is the request Pending, Issued, Denied, or Failed?"),
			wideColumn("UnverifiedUserAnnotations", doc["unverifiedUserAnnotations"]),
		},
	}, Rules[*certificatesv1.PodCertificateRequest]{
		Ratchets: true,
		Default: func(o *certificatesv1.PodCertificateRequest) {
			if o.Spec.MaxExpirationSeconds == nil {
				o.Spec.MaxExpirationSeconds = ptr.To[int32](podCertificateSeconds)
			}
		},
		Validate: validatePodCertificateRequest,
		ValidateUpdate: func(o, old *certificatesv1.PodCertificateRequest) field.ErrorList {
			return validation.ValidateImmutableField(o.Spec, old.Spec, field.NewPath("spec"))
		},
		ValidateStatus: func(o, old *certificatesv1.PodCertificateRequest) field.ErrorList {
			return validatePodCertificate(o, old, time.Now())
		},
		Spec: func(o *certificatesv1.PodCertificateRequest) any { return &o.Spec }, Status: func(o *certificatesv1.PodCertificateRequest) any { return &o.Status },
		Fields: func(o *certificatesv1.PodCertificateRequest) map[string]string {
			return map[string]string{signerNameField: o.Spec.SignerName, "spec.podName": o.Spec.PodName, "spec.nodeName": string(o.Spec.NodeName)}
		},
		Row: func(o *certificatesv1.PodCertificateRequest, _ time.Time) []any {
			return []any{
				o.Name, o.Spec.PodName, o.Spec.ServiceAccountName, string(o.Spec.NodeName), o.Spec.SignerName,
				orText(podCertificateState(o), "Pending"), labels.FormatLabels(o.Spec.UnverifiedUserAnnotations),
			}
		},
	})
}

// podCertificateState is the condition in which a request ended, "" if it has not.
func podCertificateState(o *certificatesv1.PodCertificateRequest) string {
	for i := range o.Status.Conditions {
		if c := &o.Status.Conditions[i]; c.Status == metav1.ConditionTrue && slices.Contains(podCertificateEnds, c.Type) {
			return c.Type
		}
	}
	return ""
}

// podCertificateEnds are the conditions in which a request may end.
var podCertificateEnds = []string{
	certificatesv1.PodCertificateRequestConditionTypeIssued, certificatesv1.PodCertificateRequestConditionTypeDenied,
	certificatesv1.PodCertificateRequestConditionTypeFailed,
}

func validatePodCertificateRequest(o *certificatesv1.PodCertificateRequest) field.ErrorList {
	var p problems
	spec := field.NewPath("spec")
	p.signerName(spec.Child("signerName"), o.Spec.SignerName)
	p.userAnnotations(spec.Child("unverifiedUserAnnotations"), o.Spec.UnverifiedUserAnnotations)
	for _, part := range []struct {
		name, value string
		uid         string
		check       validation.ValidateNameFunc
	}{
		{"pod", o.Spec.PodName, string(o.Spec.PodUID), validation.NameIsDNSSubdomain},
		{"serviceAccount", o.Spec.ServiceAccountName, string(o.Spec.ServiceAccountUID), validation.ValidateServiceAccountName},
		{"node", string(o.Spec.NodeName), string(o.Spec.NodeUID), validation.NameIsDNSSubdomain},
	} {
		p.each(spec.Child(part.name+"Name"), part.value, part.check(part.value, false))
		if uid := spec.Child(part.name + "UID"); part.uid == "" {
			p.invalid(uid, part.uid, "must not be empty")
		} else if len(part.uid) > maxUIDBytes {
			p.add(field.TooLong(uid, "", maxUIDBytes))
		}
	}
	s := o.Spec.MaxExpirationSeconds
	if s == nil {
		p.required(spec.Child("maxExpirationSeconds"), "must be set")
		return p.list
	}
	if limit := maxCertificateSeconds(o.Spec.SignerName); *s < minPodCertificateSeconds || *s > limit {
		p.invalid(spec.Child("maxExpirationSeconds"), *s, fmt.Sprintf("must be in the range [%d, %d]", minPodCertificateSeconds, limit))
	}
	p.podKey(spec, &o.Spec)
	return p.list
}

// maxCertificateSeconds is how long a signer may sign for.
func maxCertificateSeconds(signer string) int32 {
	if host, _, _ := strings.Cut(signer, "/"); strings.HasSuffix("."+host, ".kubernetes.io") {
		return maxOwnCertificateSeconds
	}
	return maxPodCertificateSeconds
}

// podKey checks the request whose key a certificate is wanted for. What else it says is for the signer to look at.
func (p *problems) podKey(spec *field.Path, s *certificatesv1.PodCertificateRequestSpec) {
	at, request := spec.Child("stubPKCS10Request"), s.StubPKCS10Request
	switch {
	case len(request) == 0: // beta versions had another form beside it
		p.add(field.Invalid(spec, field.OmitValueType{}, "exactly one of (stubPKCS10Request) or (pkixPublicKey, proofOfPossession) must be set"))
		return
	case len(request) > maxKeyBytes:
		p.add(field.TooLong(at, "", maxKeyBytes))
		return
	}
	r, err := x509.ParseCertificateRequest(request)
	if err != nil {
		p.add(field.Invalid(at, field.OmitValueType{}, "must be a valid PKCS#10 CSR"))
		return
	}
	if p.podPublicKey(at, r.PublicKey) && r.CheckSignature() != nil {
		p.add(field.Invalid(at, field.OmitValueType{}, "invalid signature"))
	}
}

// podPublicKey tells whether pods may have keys of such a kind.
func (p *problems) podPublicKey(at *field.Path, key any) bool {
	switch k := key.(type) {
	case ed25519.PublicKey:
		return true
	case *ecdsa.PublicKey:
		if slices.Contains([]elliptic.Curve{elliptic.P256(), elliptic.P384(), elliptic.P521()}, k.Curve) {
			return true
		}
		p.invalid(at, "curve "+k.Params().Name, "elliptic public keys must use curve P256, P384, or P521")
	case *rsa.PublicKey:
		if bits := k.Size() * 8; bits != 3072 && bits != 4096 {
			p.invalid(at, fmt.Sprintf("%d-bit modulus", bits), "RSA keys must have modulus size 3072 or 4096")
			return false
		}
		return true
	default:
		p.add(field.Invalid(at, field.OmitValueType{}, "unknown public key type; supported types are Ed25519, ECDSA, and RSA"))
	}
	return false
}
