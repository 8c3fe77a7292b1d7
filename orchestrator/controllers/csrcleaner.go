package controllers

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"
	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/keelson-io/keelson/internal/clock"
)

const (
	// csrCleanPeriod is the time between two looks at all requests for certificates, answeredCSR how long one is kept that was
	// answered, and openCSR how long one that was not.
	csrCleanPeriod = time.Hour
	answeredCSR    = time.Hour
	openCSR        = 24 * time.Hour
)

// csrCleaner deletes requests for certificates that nobody needs any more: programs make them all the time.
type csrCleaner struct {
	client kubernetes.Interface
	csrs   cache.Indexer
	synced cache.InformerSynced
	clock  clock.Clock
	lg     *zap.Logger
}

// NewCSRCleaner makes the controller that deletes old requests for certificates.
func NewCSRCleaner(client kubernetes.Interface, i informers.SharedInformerFactory, c clock.Clock, lg *zap.Logger) Controller {
	if lg == nil {
		lg = zap.NewNop()
	}
	ci := i.Certificates().V1().CertificateSigningRequests().Informer()
	return &csrCleaner{client: client, csrs: ci.GetIndexer(), synced: ci.HasSynced, clock: c, lg: lg.Named("csr-cleaner")}
}

// Run works until ctx ends.
func (c *csrCleaner) Run(ctx context.Context) error {
	if !cache.WaitForCacheSync(ctx.Done(), c.synced) {
		return ctx.Err()
	}
	t := c.clock.NewTicker(csrCleanPeriod)
	defer t.Stop()
	for {
		if err := c.clean(ctx); err != nil && ctx.Err() == nil {
			c.lg.Warn("not all requests could be deleted; they will be tried again", zap.Error(err))
		}
		select {
		case <-t.C():
		case <-ctx.Done():
			return nil
		}
	}
}

func (c *csrCleaner) clean(ctx context.Context) (err error) {
	for _, o := range c.csrs.List() {
		r, ok := o.(*certificatesv1.CertificateSigningRequest)
		if !ok || !done(r, c.clock.Now()) {
			continue
		}
		if derr := c.client.CertificatesV1().CertificateSigningRequests().Delete(ctx, r.Name, metav1.DeleteOptions{}); ignoreMissing(derr) != nil {
			err = errors.Join(err, fmt.Errorf("%s: %w", r.Name, derr))
		}
	}
	return err
}

// done says whether a request need not be kept.
func done(r *certificatesv1.CertificateSigningRequest, now time.Time) bool {
	older := func(t metav1.Time, d time.Duration) bool { return !t.IsZero() && now.Sub(t.Time) > d }
	if len(r.Status.Conditions) == 0 {
		return older(r.CreationTimestamp, openCSR)
	}
	issued := len(r.Status.Certificate) > 0
	for _, c := range r.Status.Conditions {
		switch c.Type {
		case certificatesv1.CertificateDenied, certificatesv1.CertificateFailed:
			if older(c.LastUpdateTime, answeredCSR) {
				return true
			}
		case certificatesv1.CertificateApproved:
			if issued && (older(c.LastUpdateTime, answeredCSR) || expired(r.Status.Certificate, now)) || !issued && older(c.LastUpdateTime, openCSR) {
				return true
			}
		}
	}
	return false
}

// expired says whether a certificate in PEM has ended. One that cannot be read has not.
func expired(text []byte, now time.Time) bool {
	block, _ := pem.Decode(text)
	if block == nil {
		return false
	}
	c, err := x509.ParseCertificate(block.Bytes)
	return err == nil && now.After(c.NotAfter)
}
