package controllers

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// plainIssuer makes tokens that say whose they are.
type plainIssuer struct{}

func (plainIssuer) Secret(a *corev1.ServiceAccount, secret string) (string, error) {
	return string(a.UID) + " in " + secret, nil
}

func tokenSecret(name, account, uid string) *corev1.Secret {
	s := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, ResourceVersion: "1", Annotations: map[string]string{corev1.ServiceAccountNameKey: account}},
		Type:       corev1.SecretTypeServiceAccountToken,
	}
	if uid != "" {
		s.Annotations[corev1.ServiceAccountUIDKey] = uid
	}
	return s
}

func TestTokenSecrets(t *testing.T) {
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "a", UID: "uid-a", ResourceVersion: "1"}, Secrets: []corev1.ObjectReference{{Name: "filled"}, {Name: "other"}}}
	opaque := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "opaque", ResourceVersion: "1"}, Type: corev1.SecretTypeOpaque}
	filled := tokenSecret("filled", "a", "uid-a")
	filled.Data = map[string][]byte{"token": []byte("mine"), "namespace": []byte("ns"), "ca.crt": []byte("old")}
	w := newWorld(t, account, opaque, filled, tokenSecret("empty", "a", ""), tokenSecret("stray", "nobody", ""), tokenSecret("former", "a", "uid-before"))
	c, err := NewTokenSecrets(w.client, w.factory, plainIssuer{}, []byte("ca"), nil)
	require.NoError(t, err)
	w.run(c)
	secrets := w.client.CoreV1().Secrets("ns")
	has := func(name, token string) {
		t.Helper()
		eventually(t, func() error {
			s, err := secrets.Get(w.ctx, name, metav1.GetOptions{})
			if err != nil {
				return err
			}
			if got := fmt.Sprintf("%s %s %s %s", s.Data["token"], s.Data["namespace"], s.Data["ca.crt"], s.Annotations[corev1.ServiceAccountUIDKey]); got != token+" ns ca uid-a" {
				return fmt.Errorf("%s", got)
			}
			return nil
		})
	}
	gone := func(name string) {
		t.Helper()
		eventually(t, func() error {
			if _, err := secrets.Get(w.ctx, name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
				return fmt.Errorf("%s: %v", name, err)
			}
			return nil
		})
	}
	has("empty", "uid-a in empty")
	has("filled", "mine")
	gone("stray")
	gone("former")
	o, err := secrets.Get(w.ctx, "opaque", metav1.GetOptions{})
	require.NoError(t, err)
	require.Empty(t, o.Data)

	require.NoError(t, secrets.Delete(w.ctx, "filled", metav1.DeleteOptions{}))
	eventually(t, func() error {
		a, err := w.client.CoreV1().ServiceAccounts("ns").Get(w.ctx, "a", metav1.GetOptions{})
		if err == nil && (len(a.Secrets) != 1 || a.Secrets[0].Name != "other") {
			err = fmt.Errorf("%v", a.Secrets)
		}
		return err
	})
	require.NoError(t, w.client.CoreV1().ServiceAccounts("ns").Delete(w.ctx, "a", metav1.DeleteOptions{}))
	gone("empty")
	_, err = secrets.Get(w.ctx, "opaque", metav1.GetOptions{})
	require.NoError(t, err)
}
