package volume

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
)

// credential is a token, or a key with its certificates.
type credential struct {
	token      string
	key, chain []byte    // PEM
	renew      time.Time // when the next one is asked for
	expires    time.Time
}

const (
	tokenLife    = int64(3600) // seconds, if the volume does not say
	maxTokenAge  = 24 * time.Hour
	trustPoll    = 10 * time.Second // how often trust bundles are looked at
	certPoll     = 250 * time.Millisecond
	certPatience = 30 * time.Second
	retryToken   = 10 * time.Second // after a renewal failed while the old one is still good
)

// credentialFor gives the one that the pod has for a source, or asks for a new one if it is time. While the old one is good,
// a failure to renew it is no error.
func (c *collection) credentialFor(source string, ask func(ctx context.Context) (*credential, error)) (*credential, error) {
	key, now := c.name+"/"+source, c.volumes.cfg.Clock.Now()
	have := c.p.creds[key]
	if have == nil || !now.Before(have.renew) {
		fresh, err := ask(c.ctx)
		switch {
		case err == nil:
			have = fresh
			c.p.creds[key] = have
		case have != nil && now.Before(have.expires):
			c.volumes.lg.Warn("a credential is not renewed: " + err.Error())
			c.again(now.Add(retryToken))
			return have, nil
		default:
			return nil, err
		}
	}
	c.again(have.renew)
	return have, nil
}

// token puts in a service account token that is bound to the pod.
func (c *collection) token(i int, src *corev1.ServiceAccountTokenProjection, mode int32, user *int64) error {
	cred, err := c.credentialFor(fmt.Sprint(i), func(ctx context.Context) (*credential, error) { return c.askToken(ctx, src) })
	if err != nil {
		return err
	}
	f := file{data: []byte(cred.token)}
	f.mode, f.user = c.private(mode, eitherUser(src.User, user))
	c.payload[src.Path] = f
	return nil
}

func (c *collection) askToken(ctx context.Context, src *corev1.ServiceAccountTokenProjection) (*credential, error) {
	pod, now := c.p.pod, c.volumes.cfg.Clock.Now()
	life := tokenLife
	if src.ExpirationSeconds != nil {
		life = *src.ExpirationSeconds
	}
	req := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
		ExpirationSeconds: &life,
		BoundObjectRef:    &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID},
	}}
	if src.Audience != "" {
		req.Spec.Audiences = []string{src.Audience}
	}
	account := pod.Spec.ServiceAccountName
	if account == "" {
		account = "default"
	}
	resp, err := c.volumes.cfg.Client.CoreV1().ServiceAccounts(pod.Namespace).CreateToken(ctx, account, req, metav1.CreateOptions{})
	if err != nil {
		return nil, fmt.Errorf("failed to fetch token: %w", err)
	}
	cred := &credential{token: resp.Status.Token, expires: resp.Status.ExpirationTimestamp.Time}
	if cred.expires.IsZero() {
		cred.expires = now.Add(time.Duration(life) * time.Second)
	}
	cred.renew = now.Add(min(cred.expires.Sub(now)*4/5, maxTokenAge))
	return cred, nil
}

// trustBundle puts in certificates that the cluster trusts: of one bundle, or of all of a signer that labels select. Each
// comes once, in a fixed order.
func (c *collection) trustBundle(src *corev1.ClusterTrustBundleProjection, mode int32, user *int64) error {
	bundles, err := c.bundles(src)
	if err != nil {
		return err
	}
	c.again(c.volumes.cfg.Clock.Now().Add(trustPoll))
	seen := map[string]bool{}
	var blocks []string
	for _, b := range bundles {
		for rest := []byte(b.Spec.TrustBundle); ; {
			var block *pem.Block
			if block, rest = pem.Decode(rest); block == nil {
				break
			}
			text := string(pem.EncodeToMemory(&pem.Block{Type: block.Type, Bytes: block.Bytes}))
			if block.Type == "CERTIFICATE" && !seen[text] {
				seen[text] = true
				blocks = append(blocks, text)
			}
		}
	}
	slices.Sort(blocks)
	f := file{data: []byte(strings.Join(blocks, ""))}
	f.mode, f.user = c.private(mode, eitherUser(src.User, user))
	c.payload[src.Path] = f
	return nil
}

func (c *collection) bundles(src *corev1.ClusterTrustBundleProjection) ([]certificatesv1.ClusterTrustBundle, error) {
	client := c.volumes.cfg.Client.CertificatesV1().ClusterTrustBundles()
	if src.Name != nil {
		b, err := client.Get(c.ctx, *src.Name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) && isTrue(src.Optional) {
			return nil, nil
		}
		if err != nil {
			return nil, fmt.Errorf("unable to get the trust bundle: %w", err)
		}
		return []certificatesv1.ClusterTrustBundle{*b}, nil
	}
	selector, err := metav1.LabelSelectorAsSelector(src.LabelSelector)
	if err != nil {
		return nil, fmt.Errorf("the label selector of trust bundles: %w", err)
	}
	if src.LabelSelector == nil {
		selector = labels.Nothing()
	}
	list, err := client.List(c.ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("unable to list trust bundles: %w", err)
	}
	var found []certificatesv1.ClusterTrustBundle
	for _, b := range list.Items {
		if src.SignerName != nil && b.Spec.SignerName == *src.SignerName && selector.Matches(labels.Set(b.Labels)) {
			found = append(found, b)
		}
	}
	if len(found) == 0 && !isTrue(src.Optional) {
		return nil, errors.New("combination of signer name and label selector matched zero ClusterTrustBundles")
	}
	return found, nil
}

// certificate puts in a key and the certificates that a signer issued for it.
func (c *collection) certificate(i int, src *corev1.PodCertificateProjection, mode int32, user *int64) error {
	cred, err := c.credentialFor(fmt.Sprint(i), func(ctx context.Context) (*credential, error) { return c.askCertificate(ctx, src) })
	if err != nil {
		return err
	}
	var perm os.FileMode
	perm, user = c.private(mode, eitherUser(src.User, user))
	for path, data := range map[string][]byte{
		src.CredentialBundlePath: append(slices.Clone(cred.key), cred.chain...), src.KeyPath: cred.key, src.CertificateChainPath: cred.chain,
	} {
		if path != "" {
			c.payload[path] = file{data: data, mode: perm, user: user}
		}
	}
	return nil
}

// askCertificate makes a key, asks the signer, and waits for its answer.
func (c *collection) askCertificate(ctx context.Context, src *corev1.PodCertificateProjection) (*credential, error) {
	key, err := newKey(src.KeyType)
	if err != nil {
		return nil, err
	}
	stub, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return nil, fmt.Errorf("a certificate request: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("a key: %w", err)
	}
	pod, api := c.p.pod, c.volumes.cfg.Client
	account, err := api.CoreV1().ServiceAccounts(pod.Namespace).Get(ctx, pod.Spec.ServiceAccountName, metav1.GetOptions{})
	if err != nil {
		return nil, fmt.Errorf("the pod's service account: %w", err)
	}
	req := &certificatesv1.PodCertificateRequest{
		ObjectMeta: metav1.ObjectMeta{
			GenerateName: "req-", Namespace: pod.Namespace,
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID}},
		},
		Spec: certificatesv1.PodCertificateRequestSpec{
			SignerName: src.SignerName, PodName: pod.Name, PodUID: pod.UID, ServiceAccountName: account.Name, ServiceAccountUID: account.UID,
			NodeName: types.NodeName(pod.Spec.NodeName), MaxExpirationSeconds: src.MaxExpirationSeconds, StubPKCS10Request: stub, UnverifiedUserAnnotations: src.UserAnnotations,
		},
	}
	if node := c.volumes.cfg.Node(); node != nil {
		req.Spec.NodeUID = node.UID
	}
	if req, err = api.CertificatesV1().PodCertificateRequests(pod.Namespace).Create(ctx, req, metav1.CreateOptions{}); err != nil {
		return nil, fmt.Errorf("a certificate of %s: %w", src.SignerName, err)
	}
	cred, err := c.issued(ctx, req)
	if err != nil {
		return nil, err
	}
	cred.key = pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	return cred, nil
}

// issued waits for the signer.
func (c *collection) issued(ctx context.Context, req *certificatesv1.PodCertificateRequest) (*credential, error) {
	ctx, cancel := context.WithTimeout(ctx, certPatience)
	defer cancel()
	ticker := c.volumes.cfg.Clock.NewTicker(certPoll)
	defer ticker.Stop()
	for {
		for _, cond := range req.Status.Conditions {
			switch {
			case cond.Status != metav1.ConditionTrue:
			case cond.Type == certificatesv1.PodCertificateRequestConditionTypeDenied, cond.Type == certificatesv1.PodCertificateRequestConditionTypeFailed:
				return nil, fmt.Errorf("PodCertificateRequest %s/%s is %s: %s: %s", req.Namespace, req.Name, strings.ToLower(cond.Type), cond.Reason, cond.Message)
			case cond.Type == certificatesv1.PodCertificateRequestConditionTypeIssued:
				cred := &credential{chain: []byte(req.Status.CertificateChain)}
				if t := req.Status.NotAfter; t != nil {
					cred.expires = t.Time
				}
				if cred.renew = cred.expires; req.Status.BeginRefreshAt != nil {
					cred.renew = req.Status.BeginRefreshAt.Time
				}
				return cred, nil
			}
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("PodCertificateRequest %s/%s is not answered by %s", req.Namespace, req.Name, req.Spec.SignerName)
		case <-ticker.C():
		}
		latest, err := c.volumes.cfg.Client.CertificatesV1().PodCertificateRequests(req.Namespace).Get(ctx, req.Name, metav1.GetOptions{})
		if err != nil {
			return nil, fmt.Errorf("PodCertificateRequest %s/%s: %w", req.Namespace, req.Name, err)
		}
		req = latest
	}
}

func newKey(kind string) (crypto.Signer, error) {
	switch kind {
	case "RSA3072":
		return rsa.GenerateKey(rand.Reader, 3072)
	case "RSA4096":
		return rsa.GenerateKey(rand.Reader, 4096)
	case "ECDSAP256":
		return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case "ECDSAP384":
		return ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case "ECDSAP521":
		return ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	case "ED25519":
		_, key, err := ed25519.GenerateKey(rand.Reader)
		return key, err
	}
	return nil, fmt.Errorf("unknown key type %q", kind)
}
