package controllers

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"

	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/keelson-io/keelson/internal/clock"
	"github.com/keelson-io/keelson/internal/jointoken"
)

// joinTokens are the tokens by which machines join, in their secrets.
type joinTokens struct {
	*loop
	client  kubernetes.Interface
	secrets cache.Indexer
	clock   clock.Clock
}

// isJoinToken says whether a secret is of the type that keeps tokens.
func isJoinToken(s *corev1.Secret) bool {
	return s.Namespace == jointoken.Namespace && s.Type == jointoken.SecretType
}

// bootstrapSigner signs the ConfigMap from which machines that join learn of the cluster.
type bootstrapSigner struct {
	joinTokens
	maps cache.Indexer
}

// NewBootstrapSigner makes the controller that signs the ConfigMap cluster-info with every token that is for it.
func NewBootstrapSigner(client kubernetes.Interface, i informers.SharedInformerFactory, c clock.Clock, lg *zap.Logger) (Controller, error) {
	si, mi := i.Core().V1().Secrets().Informer(), i.Core().V1().ConfigMaps().Informer()
	r := &bootstrapSigner{joinTokens{newLoop("bootstrapsigner", lg), client, si.GetIndexer(), c}, mi.GetIndexer()}
	r.sync = r.syncOne
	const key = jointoken.InfoNamespace + "/" + jointoken.InfoName
	return r, errors.Join(
		r.watch(mi, objects(func(o *corev1.ConfigMap) {
			if keyOf(o) == key {
				r.queue.Add(key)
			}
		})),
		r.watch(si, objects(func(o *corev1.Secret) {
			if isJoinToken(o) {
				r.queue.Add(key)
			}
		})),
	)
}

// Run works until ctx ends.
func (r *bootstrapSigner) Run(ctx context.Context) error { return r.run(ctx, 1) }

func (r *bootstrapSigner) syncOne(ctx context.Context, key string) error {
	x, exists, err := r.maps.GetByKey(key)
	if err != nil || !exists {
		return err
	}
	was := x.(*corev1.ConfigMap)
	content, ok := was.Data[jointoken.InfoKey]
	if !ok {
		return nil // there is nothing to sign
	}
	m := was.DeepCopy()
	maps.DeleteFunc(m.Data, func(k, _ string) bool { return strings.HasPrefix(k, jointoken.SignatureKey) })
	all, err := r.secrets.ByIndex(cache.NamespaceIndex, jointoken.Namespace)
	if err != nil {
		return err
	}
	for _, x := range all {
		s := x.(*corev1.Secret)
		if !isJoinToken(s) || s.DeletionTimestamp != nil {
			continue
		}
		e, err := jointoken.FromSecret(s)
		if err != nil || !e.May(jointoken.Signing) || e.Expired(r.clock.Now()) {
			continue // it is no token that could be used
		}
		m.Data[jointoken.SignatureKey+e.ID] = e.Sign(content)
	}
	if maps.Equal(m.Data, was.Data) {
		return nil
	}
	_, err = r.client.CoreV1().ConfigMaps(m.Namespace).Update(ctx, m, metav1.UpdateOptions{})
	return ignoreMissing(err)
}

// tokenCleaner deletes tokens that have expired.
type tokenCleaner struct{ joinTokens }

// NewTokenCleaner makes the controller that deletes the tokens of machines that join when they have expired.
func NewTokenCleaner(client kubernetes.Interface, i informers.SharedInformerFactory, c clock.Clock, lg *zap.Logger) (Controller, error) {
	si := i.Core().V1().Secrets().Informer()
	r := &tokenCleaner{joinTokens{newLoop("tokencleaner", lg), client, si.GetIndexer(), c}}
	r.sync = r.syncOne
	return r, r.watch(si, objects(func(o *corev1.Secret) {
		if isJoinToken(o) {
			r.add(o)
		}
	}))
}

// Run works until ctx ends.
func (r *tokenCleaner) Run(ctx context.Context) error { return r.run(ctx, 1) }

func (r *tokenCleaner) syncOne(ctx context.Context, key string) error {
	x, exists, err := r.secrets.GetByKey(key)
	if err != nil || !exists {
		return err
	}
	s := x.(*corev1.Secret)
	e, err := jointoken.FromSecret(s)
	if err != nil || e.Expires.IsZero() {
		return nil // somebody has to look at it, or it is good for ever
	}
	now := r.clock.Now()
	if !e.Expired(now) {
		r.after(s, e.Expires.Sub(now))
		return nil
	}
	options := metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &s.UID, ResourceVersion: &s.ResourceVersion}} // it may have been prolonged
	if err := ignoreMissing(r.client.CoreV1().Secrets(s.Namespace).Delete(ctx, s.Name, options)); err != nil {
		return fmt.Errorf("%s: %w", key, err)
	}
	r.lg.Info("deleted a token that has expired", zap.String("id", e.ID))
	return nil
}
