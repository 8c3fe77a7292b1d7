package controllers

import (
	"context"
	"crypto/x509"
	"slices"
	"strings"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// approveServing approves requests of nodes for the certificates of their servers, if all names and addresses in them are the
// node's own and nobody else's.
func (c *csrController) approveServing(ctx context.Context, r *certificatesv1.CertificateSigningRequest) error {
	req, err := parseRequest(r)
	if err != nil || checkKubeletServing(req, r.Spec.Usages) != nil || r.Spec.Username != req.Subject.CommonName || !slices.Contains(r.Spec.Groups, nodesGroup) {
		return nil // a person may know better
	}
	name := strings.TrimPrefix(req.Subject.CommonName, nodeUserPrefix)
	node, err := c.client.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{}) // the request may be faster than the informer
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if !ownNames(req, node) || c.othersNames(req, name) {
		return nil
	}
	ok, err := c.may(ctx, r, "selfnodeserver")
	if err != nil || !ok {
		return err
	}
	return c.approved(ctx, r, "Auto approving kubelet serving certificate for the node's own addresses after SubjectAccessReview.")
}

// addressesOf are the names and addresses of a node.
func addressesOf(node *corev1.Node) (names, ips map[string]bool) {
	names, ips = map[string]bool{}, map[string]bool{}
	for _, a := range node.Status.Addresses {
		switch a.Type {
		case corev1.NodeInternalIP, corev1.NodeExternalIP:
			ips[a.Address] = true
		default:
			names[strings.ToLower(a.Address)] = true
		}
	}
	return names, ips
}

// reserved says whether a name is one of the API server's, or of every machine. A node may call itself that, too.
func reserved(name string) bool {
	return name == "localhost" || strings.HasSuffix(name, ".localhost") || name == "kubernetes" || strings.HasPrefix(name, "kubernetes.")
}

// ownNames says whether all that a request names is a node's.
func ownNames(req *x509.CertificateRequest, node *corev1.Node) bool {
	names, ips := addressesOf(node)
	for _, n := range req.DNSNames {
		if n = strings.ToLower(n); reserved(n) || !names[n] {
			return false
		}
	}
	for _, ip := range req.IPAddresses {
		if !ips[ip.String()] {
			return false
		}
	}
	return true
}

// othersNames says whether a request names anything that is another node's. A loopback address is everybody's.
func (c *csrController) othersNames(req *x509.CertificateRequest, node string) bool {
	for _, x := range c.nodes.List() {
		other, ok := x.(*corev1.Node)
		if !ok || other.Name == node {
			continue
		}
		names, ips := addressesOf(other)
		for _, n := range req.DNSNames {
			if names[strings.ToLower(n)] {
				return true
			}
		}
		for _, ip := range req.IPAddresses {
			if ips[ip.String()] && !ip.IsLoopback() {
				return true
			}
		}
	}
	return false
}
