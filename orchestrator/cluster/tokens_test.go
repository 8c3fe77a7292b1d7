package cluster_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/keelson-io/keelson/orchestrator/cluster/clustertest"
)

// TestTokenInSecret makes a secret for a service account's token, is the account with it, and no longer when the account is
// gone.
func TestTokenInSecret(t *testing.T) {
	c := clustertest.Start(t)
	ns, client := c.Namespace(t), c.Client(t, nil)
	accounts, secrets := client.CoreV1().ServiceAccounts(ns), client.CoreV1().Secrets(ns)
	_, err := accounts.Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "robot"}}, metav1.CreateOptions{})
	require.NoError(t, err)
	_, err = secrets.Create(t.Context(), &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: "s", Annotations: map[string]string{corev1.ServiceAccountNameKey: "robot"}}, Type: corev1.SecretTypeServiceAccountToken,
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	var s *corev1.Secret
	require.Eventually(t, func() bool {
		s, err = secrets.Get(t.Context(), "s", metav1.GetOptions{})
		return err == nil && len(s.Data) == 3
	}, time.Minute, 10*time.Millisecond)
	require.Equal(t, ns, string(s.Data["namespace"]))
	require.NoError(t, err)
	robot := c.Client(t, func(rc *rest.Config) {
		rc.TLSClientConfig = rest.TLSClientConfig{CAData: s.Data["ca.crt"]}
		rc.BearerToken = string(s.Data["token"])
	})
	who := func() (string, error) {
		r, err := robot.AuthenticationV1().SelfSubjectReviews().Create(t.Context(), &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
		if err != nil {
			return "", err
		}
		return r.Status.UserInfo.Username, nil
	}
	name, err := who()
	require.NoError(t, err)
	require.Equal(t, "system:serviceaccount:"+ns+":robot", name)
	require.NoError(t, accounts.Delete(t.Context(), "robot", metav1.DeleteOptions{}))
	require.Eventually(t, func() bool {
		_, err := secrets.Get(t.Context(), "s", metav1.GetOptions{})
		return apierrors.IsNotFound(err)
	}, time.Minute, 10*time.Millisecond)
	_, err = who()
	require.True(t, apierrors.IsUnauthorized(err), "%v", err)
}
