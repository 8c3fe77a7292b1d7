package controllers

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/keelson-io/keelson/internal/clock"
	"github.com/keelson-io/keelson/orchestrator/cluster/pki"
)

func TestCSRCleaner(t *testing.T) {
	now := time.Now()
	authority, err := pki.Open(t.TempDir(), time.Now)
	require.NoError(t, err)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	certificate := func(life time.Duration) []byte {
		b, err := authority.Sign(&x509.Certificate{NotBefore: now.Add(-time.Hour), NotAfter: now.Add(life)}, key.Public())
		require.NoError(t, err)
		return b
	}
	const approved, denied, failed = certificatesv1.CertificateApproved, certificatesv1.CertificateDenied, certificatesv1.CertificateFailed
	var objects []runtime.Object
	request := func(name string, age time.Duration, is certificatesv1.RequestConditionType, cert []byte) {
		at := metav1.Time{Time: now.Add(-age)}
		r := &certificatesv1.CertificateSigningRequest{ObjectMeta: metav1.ObjectMeta{Name: name, ResourceVersion: "1", CreationTimestamp: at}}
		if is != "" {
			r.Status.Conditions = []certificatesv1.CertificateSigningRequestCondition{{Type: is, LastUpdateTime: at}}
		}
		r.Status.Certificate = cert
		objects = append(objects, r)
	}
	request("open", 23*time.Hour, "", nil)
	request("open-old", 25*time.Hour, "", nil)
	request("denied", 59*time.Minute, denied, nil)
	request("denied-old", 61*time.Minute, denied, nil)
	request("failed-old", 61*time.Minute, failed, nil)
	request("approved", 23*time.Hour, approved, nil)
	request("approved-old", 25*time.Hour, approved, nil)
	request("issued", 59*time.Minute, approved, certificate(time.Hour))
	request("issued-old", 61*time.Minute, approved, certificate(time.Hour))
	request("issued-expired", time.Minute, approved, certificate(-time.Second))
	request("issued-strange", time.Minute, approved, []byte("strange"))
	w := newWorld(t, objects...)
	w.run(NewCSRCleaner(w.client, w.factory, clock.Real, nil))
	eventually(t, func() error {
		l, err := w.client.CertificatesV1().CertificateSigningRequests().List(w.ctx, metav1.ListOptions{})
		require.NoError(t, err)
		var left []string
		for _, r := range l.Items {
			left = append(left, r.Name)
		}
		if got := fmt.Sprint(left); got != "[approved denied issued issued-strange open]" {
			return fmt.Errorf("%s", got)
		}
		return nil
	})
}
