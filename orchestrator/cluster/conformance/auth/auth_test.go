package auth

import (
	"testing"

	"github.com/keelson-io/keelson/orchestrator/cluster/conformance"
)

func TestConformance(t *testing.T) {
	conformance.Test(t, conformance.Behaviours{
		"CRUD Tests certificates.k8s.io/v1 ClusterTrustBundles":                                                                                    trustBundles,
		"Certificates API should support CSR API operations":                                                                                       signingRequests,
		"PodCertificateRequest API should support PodCertificateRequest API operations":                                                            podCertificateRequests,
		"Projected PodCertificate MaxExpirationSeconds validations should reject pod creation when MaxExpirationSeconds exceeds maximum (91d)":     longCertificate,
		"Projected PodCertificate MaxExpirationSeconds validations should reject pod creation when MaxExpirationSeconds is less than minimum (1h)": shortCertificate,
		"ServiceAccounts ServiceAccountIssuerDiscovery should support OIDC discovery of service account issuer":                                    issuerDiscovery,
		"ServiceAccounts should allow opting out of API token automount":                                                                           automount,
		"ServiceAccounts should create a serviceAccountToken and ensure a successful TokenReview":                                                  tokenReview,
		"ServiceAccounts should guarantee kube-root-ca.crt exist in any namespace":                                                                 rootCA,
		"ServiceAccounts should run through the lifecycle of a ServiceAccount":                                                                     accountLifecycle,
		"ServiceAccounts should update a ServiceAccount":                                                                                           accountUpdate,
		"SubjectReview should support SubjectReview API operations":                                                                                subjectReviews,
	})
}
