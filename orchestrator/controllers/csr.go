package controllers

import (
	"context"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"
	authorizationv1 "k8s.io/api/authorization/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/keelson-io/keelson/internal/clock"
)

const (
	nodesGroup     = "system:nodes"
	nodeUserPrefix = "system:node:"
	// certificateLife is how long a certificate is good that asked for nothing shorter.
	certificateLife = 365 * 24 * time.Hour
	// minCertificateLife is the shortest time that can be asked for.
	minCertificateLife = 10 * time.Minute
	certificateSkew    = 5 * time.Minute
)

// CertificateSigner signs certificates with the cluster's authority.
type CertificateSigner interface {
	// Sign returns a certificate in PEM.
	Sign(template *x509.Certificate, public crypto.PublicKey) ([]byte, error)
}

// csrController approves requests for certificates of nodes, and signs what is approved.
type csrController struct {
	*loop
	client kubernetes.Interface
	csrs   cache.Indexer
	nodes  cache.Indexer
	signer CertificateSigner
	clock  clock.Clock
}

// NewCSR makes the controller that approves and signs certificates.
func NewCSR(client kubernetes.Interface, i informers.SharedInformerFactory, s CertificateSigner, c clock.Clock, lg *zap.Logger) (Controller, error) {
	ci := i.Certificates().V1().CertificateSigningRequests().Informer()
	nodes := i.Core().V1().Nodes().Informer()
	r := &csrController{loop: newLoop("csr", lg), client: client, csrs: ci.GetIndexer(), nodes: nodes.GetIndexer(), signer: s, clock: c}
	r.sync = r.syncOne
	r.synced = append(r.synced, nodes.HasSynced)
	return r, r.watch(ci, objects(func(o *certificatesv1.CertificateSigningRequest) { r.add(o) }))
}

// Run works until ctx ends.
func (c *csrController) Run(ctx context.Context) error { return c.run(ctx, 2) }

func csrCondition(r *certificatesv1.CertificateSigningRequest, t certificatesv1.RequestConditionType) bool {
	return slices.ContainsFunc(r.Status.Conditions, func(c certificatesv1.CertificateSigningRequestCondition) bool { return c.Type == t })
}

func (c *csrController) syncOne(ctx context.Context, name string) error {
	x, exists, err := c.csrs.GetByKey(name)
	if err != nil || !exists {
		return err
	}
	r := x.(*certificatesv1.CertificateSigningRequest)
	if len(r.Status.Certificate) > 0 || csrCondition(r, certificatesv1.CertificateDenied) || csrCondition(r, certificatesv1.CertificateFailed) {
		return nil
	}
	if !csrCondition(r, certificatesv1.CertificateApproved) {
		return c.approve(ctx, r.DeepCopy())
	}
	rules, ours := signerRules[r.Spec.SignerName]
	if !ours {
		return nil
	}
	return c.sign(ctx, r.DeepCopy(), rules)
}

// approve approves requests of nodes for their own certificates, and of whoever may make client certificates for any node.
func (c *csrController) approve(ctx context.Context, r *certificatesv1.CertificateSigningRequest) error {
	switch r.Spec.SignerName {
	case certificatesv1.KubeletServingSignerName:
		return c.approveServing(ctx, r)
	case certificatesv1.KubeAPIServerClientKubeletSignerName:
		return c.approveClient(ctx, r)
	}
	return nil
}

func (c *csrController) approveClient(ctx context.Context, r *certificatesv1.CertificateSigningRequest) error {
	req, err := parseRequest(r)
	if err != nil || checkKubeletClient(req, r.Spec.Usages) != nil {
		return nil // somebody else may know what to make of it
	}
	for _, rule := range []struct {
		subresource, message string
		applies              bool
	}{
		{"selfnodeclient", "Auto approving self kubelet client certificate after SubjectAccessReview.", r.Spec.Username == req.Subject.CommonName},
		{"nodeclient", "Auto approving kubelet client certificate after SubjectAccessReview.", true},
	} {
		if !rule.applies {
			continue
		}
		ok, err := c.may(ctx, r, rule.subresource)
		if err != nil {
			return err
		}
		if ok {
			return c.approved(ctx, r, rule.message)
		}
	}
	return nil
}

func (c *csrController) approved(ctx context.Context, r *certificatesv1.CertificateSigningRequest, message string) error {
	now := metav1.Time{Time: c.clock.Now().Truncate(time.Second)}
	r.Status.Conditions = append(r.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{
		Type: certificatesv1.CertificateApproved, Status: corev1.ConditionTrue, Reason: "AutoApproved", Message: message,
		LastUpdateTime: now, LastTransitionTime: now,
	})
	_, err := c.client.CertificatesV1().CertificateSigningRequests().UpdateApproval(ctx, r.Name, r, metav1.UpdateOptions{})
	return ignoreMissing(err)
}

// may asks whether the requestor may have its request approved without a person.
func (c *csrController) may(ctx context.Context, r *certificatesv1.CertificateSigningRequest, subresource string) (bool, error) {
	extra := make(map[string]authorizationv1.ExtraValue, len(r.Spec.Extra))
	for k, v := range r.Spec.Extra {
		extra[k] = authorizationv1.ExtraValue(v)
	}
	review, err := c.client.AuthorizationV1().SubjectAccessReviews().Create(ctx, &authorizationv1.SubjectAccessReview{
		Spec: authorizationv1.SubjectAccessReviewSpec{
			User: r.Spec.Username, UID: r.Spec.UID, Groups: r.Spec.Groups, Extra: extra,
			ResourceAttributes: &authorizationv1.ResourceAttributes{
				Group: certificatesv1.GroupName, Resource: "certificatesigningrequests", Verb: "create", Subresource: subresource, Version: "*",
			},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		return false, err
	}
	return review.Status.Allowed, nil
}

func parseRequest(r *certificatesv1.CertificateSigningRequest) (*x509.CertificateRequest, error) {
	block, _ := pem.Decode(r.Spec.Request)
	if block == nil || block.Type != "CERTIFICATE REQUEST" {
		return nil, errors.New("PEM block type must be CERTIFICATE REQUEST")
	}
	req, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, err
	}
	return req, req.CheckSignature()
}

// signerRules check what a signer of this cluster may sign.
var signerRules = map[string]func(req *x509.CertificateRequest, usages []certificatesv1.KeyUsage) error{
	certificatesv1.KubeAPIServerClientSignerName:        checkClient,
	certificatesv1.KubeAPIServerClientKubeletSignerName: checkKubeletClient,
	certificatesv1.KubeletServingSignerName:             checkKubeletServing,
}

func onlyUsages(usages []certificatesv1.KeyUsage, must certificatesv1.KeyUsage, may ...certificatesv1.KeyUsage) error {
	if !slices.Contains(usages, must) {
		return fmt.Errorf("usages must contain %q", must)
	}
	for _, u := range usages {
		if u != must && !slices.Contains(may, u) {
			return fmt.Errorf("usage %q is not allowed for this signer", u)
		}
	}
	return nil
}

func checkClient(_ *x509.CertificateRequest, usages []certificatesv1.KeyUsage) error {
	return onlyUsages(usages, certificatesv1.UsageClientAuth, certificatesv1.UsageDigitalSignature, certificatesv1.UsageKeyEncipherment)
}

func checkKubeletSubject(req *x509.CertificateRequest) error {
	switch {
	case !slices.Equal(req.Subject.Organization, []string{nodesGroup}):
		return errors.New("subject organization is not system:nodes")
	case !strings.HasPrefix(req.Subject.CommonName, nodeUserPrefix):
		return fmt.Errorf("subject common name does not begin with %q", nodeUserPrefix)
	case len(req.EmailAddresses) > 0:
		return errors.New("email subjectAltNames are not allowed")
	case len(req.URIs) > 0:
		return errors.New("URI subjectAltNames are not allowed")
	}
	return nil
}

func checkKubeletClient(req *x509.CertificateRequest, usages []certificatesv1.KeyUsage) error {
	if len(req.DNSNames) > 0 || len(req.IPAddresses) > 0 {
		return errors.New("DNS and IP subjectAltNames are not allowed")
	}
	return errors.Join(checkKubeletSubject(req), checkClient(req, usages))
}

func checkKubeletServing(req *x509.CertificateRequest, usages []certificatesv1.KeyUsage) error {
	if len(req.DNSNames) == 0 && len(req.IPAddresses) == 0 {
		return errors.New("DNS or IP subjectAltName is required")
	}
	return errors.Join(checkKubeletSubject(req),
		onlyUsages(usages, certificatesv1.UsageServerAuth, certificatesv1.UsageDigitalSignature, certificatesv1.UsageKeyEncipherment))
}

func (c *csrController) sign(ctx context.Context, r *certificatesv1.CertificateSigningRequest, rules func(*x509.CertificateRequest, []certificatesv1.KeyUsage) error) error {
	req, err := parseRequest(r)
	if err == nil {
		err = rules(req, r.Spec.Usages)
	}
	if err != nil {
		now := metav1.Time{Time: c.clock.Now().Truncate(time.Second)}
		r.Status.Conditions = append(r.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{
			Type: certificatesv1.CertificateFailed, Status: corev1.ConditionTrue, Reason: "SignerValidationFailure", Message: err.Error(),
			LastUpdateTime: now, LastTransitionTime: now,
		})
	} else if r.Status.Certificate, err = c.signer.Sign(c.template(r, req), req.PublicKey); err != nil {
		return err
	}
	_, err = c.client.CertificatesV1().CertificateSigningRequests().UpdateStatus(ctx, r, metav1.UpdateOptions{})
	return ignoreMissing(err)
}

func (c *csrController) template(r *certificatesv1.CertificateSigningRequest, req *x509.CertificateRequest) *x509.Certificate {
	life := certificateLife
	if s := r.Spec.ExpirationSeconds; s != nil {
		life = min(life, max(minCertificateLife, time.Duration(*s)*time.Second))
	}
	now := c.clock.Now()
	t := &x509.Certificate{
		Subject: req.Subject, DNSNames: req.DNSNames, IPAddresses: req.IPAddresses, EmailAddresses: req.EmailAddresses, URIs: req.URIs,
		NotBefore: now.Add(-certificateSkew), NotAfter: now.Add(life),
	}
	for _, u := range r.Spec.Usages {
		switch u {
		case certificatesv1.UsageClientAuth:
			t.ExtKeyUsage = append(t.ExtKeyUsage, x509.ExtKeyUsageClientAuth)
		case certificatesv1.UsageServerAuth:
			t.ExtKeyUsage = append(t.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
		case certificatesv1.UsageDigitalSignature:
			t.KeyUsage |= x509.KeyUsageDigitalSignature
		case certificatesv1.UsageKeyEncipherment:
			t.KeyUsage |= x509.KeyUsageKeyEncipherment
		}
	}
	return t
}
