package access

import (
	"testing"
	"time"

	jose "github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/stretchr/testify/require"
	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/keelson-io/keelson/orchestrator/cluster/clustertest"
)

// patience bounds what is waited for.
const patience = time.Minute

// as is a client of somebody: with says by what he is known, without what the administrator has.
func as(t *testing.T, c *clustertest.Cluster, with func(r *rest.Config)) *kubernetes.Clientset {
	r := rest.AnonymousClientConfig(c.Config)
	r.QPS = -1
	with(r)
	client, err := kubernetes.NewForConfig(r)
	require.NoError(t, err)
	return client
}

func bearer(token string) func(r *rest.Config) { return func(r *rest.Config) { r.BearerToken = token } }

func whoamiErr(t *testing.T, c *clustertest.Cluster, with func(r *rest.Config)) (authenticationv1.UserInfo, error) {
	o, err := as(t, c, with).AuthenticationV1().SelfSubjectReviews().Create(t.Context(), &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
	if err != nil {
		return authenticationv1.UserInfo{}, err
	}
	return o.Status.UserInfo, nil
}

func whoami(t *testing.T, c *clustertest.Cluster, with func(r *rest.Config)) authenticationv1.UserInfo {
	t.Helper()
	u, err := whoamiErr(t, c, with)
	require.NoError(t, err)
	return u
}

// token asks for a token of a service account, which may be bound to an object.
func token(t *testing.T, client kubernetes.Interface, namespace, account string, to *authenticationv1.BoundObjectReference) string {
	t.Helper()
	r, err := client.CoreV1().ServiceAccounts(namespace).CreateToken(t.Context(), account, &authenticationv1.TokenRequest{
		Spec: authenticationv1.TokenRequestSpec{BoundObjectRef: to},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	return r.Status.Token
}

// claimsOf reads a token without verifying it.
func claimsOf(t *testing.T, token string) jwt.Claims {
	t.Helper()
	p, err := jwt.ParseSigned(token, []jose.SignatureAlgorithm{jose.RS256, jose.ES256})
	require.NoError(t, err)
	var c jwt.Claims
	require.NoError(t, p.UnsafeClaimsWithoutVerification(&c))
	return c
}
