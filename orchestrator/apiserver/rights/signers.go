package rights

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"

	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/keelson-io/keelson/orchestrator/apiserver/request"
	"github.com/keelson-io/keelson/orchestrator/kinds"
)

// Signers asks who writes approvals, certificates and trust bundles for rights on the signer that these are of: the verbs
// approve, sign and attest. It is the admission plugins CertificateApproval, CertificateSigning, CertificateSubjectRestriction
// and ClusterTrustBundleAttest.
type Signers struct{ Authorizer Authorizer }

// Check is an error, for the client, if somebody may not write that.
func (s *Signers) Check(ctx context.Context, w *Write) error {
	if w.Resource.Group != certificatesv1.GroupName || w.Operation == "DELETE" {
		return nil
	}
	switch o := w.Object.(type) {
	case *certificatesv1.CertificateSigningRequest:
		return s.request(ctx, w, o)
	case *certificatesv1.PodCertificateRequest:
		return s.podCertificate(ctx, w, o)
	case *certificatesv1.ClusterTrustBundle:
		return s.bundle(ctx, w, o)
	}
	return nil
}

func (s *Signers) request(ctx context.Context, w *Write, o *certificatesv1.CertificateSigningRequest) error {
	old, _ := w.Old.(*certificatesv1.CertificateSigningRequest)
	switch {
	case old == nil && w.Subresource == "":
		return w.subject(o)
	case old == nil:
	case w.Subresource == "approval" && !s.may(ctx, w.User, "approve", old.Spec.SignerName):
		return w.refuse(fmt.Errorf("user not permitted to approve requests with signerName %q", old.Spec.SignerName))
	case w.Subresource == "status" && signed(o, old) && !s.may(ctx, w.User, "sign", old.Spec.SignerName):
		return w.refuse(fmt.Errorf("user not permitted to sign requests with signerName %q", old.Spec.SignerName))
	}
	return nil
}

func signed(o, old *certificatesv1.CertificateSigningRequest) bool {
	return string(o.Status.Certificate) != string(old.Status.Certificate) || !equality.Semantic.DeepEqual(o.Status.Conditions, old.Status.Conditions)
}

// subject refuses requests for certificates that would give all rights.
func (w *Write) subject(o *certificatesv1.CertificateSigningRequest) error {
	if o.Spec.SignerName != certificatesv1.KubeAPIServerClientSignerName {
		return nil
	}
	block, _ := pem.Decode(o.Spec.Request)
	if block == nil || block.Type != "CERTIFICATE REQUEST" {
		return w.refuse(errors.New("failed to parse CSR: PEM block type must be CERTIFICATE REQUEST"))
	}
	r, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return w.refuse(fmt.Errorf("failed to parse CSR: %w", err))
	}
	if slices.Contains(r.Subject.Organization, Masters) {
		return w.refuse(fmt.Errorf("use of %s signer with %s group is not allowed", o.Spec.SignerName, Masters))
	}
	return nil
}

func (s *Signers) podCertificate(ctx context.Context, w *Write, o *certificatesv1.PodCertificateRequest) error {
	old, _ := w.Old.(*certificatesv1.PodCertificateRequest)
	if old == nil || w.Subresource != "status" || equality.Semantic.DeepEqual(o.Status, old.Status) || s.may(ctx, w.User, "sign", old.Spec.SignerName) {
		return nil
	}
	return apierrors.NewInvalid(certificatesv1.SchemeGroupVersion.WithKind("PodCertificateRequest").GroupKind(), old.Name, field.ErrorList{
		field.Forbidden(field.NewPath("spec", "signerName"), fmt.Sprintf("User %q is not permitted to \"sign\" for signer %q", w.User.Name, old.Spec.SignerName)),
	})
}

func (s *Signers) bundle(ctx context.Context, w *Write, o *certificatesv1.ClusterTrustBundle) error {
	if old, ok := w.Old.(kinds.Object); ok && onlyCollection(o, old) {
		return nil
	}
	if o.Spec.SignerName == "" || s.may(ctx, w.User, "attest", o.Spec.SignerName) {
		return nil
	}
	return w.refuse(fmt.Errorf("user not permitted to attest for signerName %q", o.Spec.SignerName))
}

// may asks for a right on a signer, or on all signers of its domain. An error is no permission.
func (s *Signers) may(ctx context.Context, u *request.User, verb, signer string) bool {
	domain, _, _ := strings.Cut(signer, "/")
	return slices.ContainsFunc([]string{signer, domain + "/*"}, func(name string) bool {
		d, _, _ := s.Authorizer.Authorize(ctx, Attributes{
			User: u, Verb: verb, IsResource: true, Group: certificatesv1.GroupName, Version: "*", Resource: "signers", Name: name,
		})
		return d == Allow
	})
}
