package controllers

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/keelson-io/keelson/internal/clock"
	"github.com/keelson-io/keelson/internal/jointoken"
)

func joinToken(id string, expires time.Time, usages ...string) *corev1.Secret {
	return (&jointoken.Entry{Token: jointoken.Token{ID: id, Secret: "0123456789abcdef"}, Expires: expires, Usages: usages}).ToSecret()
}

// signatures waits for the keys of the ConfigMap.
func (w *world) signatures(want ...string) *corev1.ConfigMap {
	w.t.Helper()
	var m *corev1.ConfigMap
	eventually(w.t, func() (err error) {
		m, err = w.client.CoreV1().ConfigMaps("kube-public").Get(w.ctx, "cluster-info", metav1.GetOptions{})
		if err != nil {
			return err
		}
		if keys := slices.Sorted(maps.Keys(m.Data)); !slices.Equal(keys, want) {
			return fmt.Errorf("it has %v", keys)
		}
		return nil
	})
	return m
}

// TestBootstrapSigner signs with the tokens that are for it, anew when the content changes, and no more with those that are gone.
func TestBootstrapSigner(t *testing.T) {
	later := time.Now().Add(time.Hour)
	w := newWorld(t,
		&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-public", Name: "cluster-info", ResourceVersion: "1"}, Data: map[string]string{"kubeconfig": "one", "jws-kubeconfig-aaaaaa": "old", "other": "stays"}},
		&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "cluster-info"}, Data: map[string]string{"kubeconfig": "one"}},
		joinToken("signer", time.Time{}, jointoken.Signing), joinToken("lasts1", later, jointoken.Signing, jointoken.Authentication),
		joinToken("authen", later, jointoken.Authentication), joinToken("expire", time.Now().Add(-time.Hour), jointoken.Signing),
	)
	c, err := NewBootstrapSigner(w.client, w.factory, clock.Real, nil)
	require.NoError(t, err)
	w.run(c)
	m := w.signatures("jws-kubeconfig-lasts1", "jws-kubeconfig-signer", "kubeconfig", "other")
	token := jointoken.Token{ID: "signer", Secret: "0123456789abcdef"}
	require.True(t, token.Signed("one", m.Data["jws-kubeconfig-signer"]))

	m.Data["kubeconfig"] = "two"
	_, err = w.client.CoreV1().ConfigMaps("kube-public").Update(t.Context(), m, metav1.UpdateOptions{})
	require.NoError(t, err)
	eventually(t, func() error {
		if m := w.signatures("jws-kubeconfig-lasts1", "jws-kubeconfig-signer", "kubeconfig", "other"); !token.Signed("two", m.Data["jws-kubeconfig-signer"]) {
			return fmt.Errorf("it is not signed")
		}
		return nil
	})
	require.NoError(t, w.client.CoreV1().Secrets("kube-system").Delete(t.Context(), "bootstrap-token-lasts1", metav1.DeleteOptions{}))
	w.signatures("jws-kubeconfig-signer", "kubeconfig", "other")
	o, err := w.client.CoreV1().ConfigMaps("ns").Get(t.Context(), "cluster-info", metav1.GetOptions{})
	require.NoError(t, err)
	require.Len(t, o.Data, 1, "one of that name in another namespace is nobody's business")
}

// TestTokenCleaner deletes what has expired, when it expires, and nothing else.
func TestTokenCleaner(t *testing.T) {
	foreign := joinToken("foreig", time.Now().Add(-time.Hour))
	foreign.Type = corev1.SecretTypeOpaque
	soon := joinToken("soon00", time.Now())
	soon.Data["expiration"] = []byte(time.Now().Add(1500 * time.Millisecond).UTC().Format(time.RFC3339Nano))
	w := newWorld(t, joinToken("lasts1", time.Now().Add(time.Hour)), joinToken("forevr", time.Time{}), joinToken("expire", time.Now().Add(-time.Hour)), soon, foreign)
	c, err := NewTokenCleaner(w.client, w.factory, clock.Real, nil)
	require.NoError(t, err)
	w.run(c)
	gone := func(id string) error {
		_, err := w.client.CoreV1().Secrets("kube-system").Get(t.Context(), "bootstrap-token-"+id, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return fmt.Errorf("%s is there: %v", id, err)
	}
	eventually(t, func() error { return gone("expire") })
	eventually(t, func() error { return gone("soon00") })
	for _, id := range []string{"lasts1", "forevr", "foreig"} {
		require.Error(t, gone(id))
	}
}
