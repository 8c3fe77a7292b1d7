package controllers

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

// TokenIssuer makes the tokens without an end that live in secrets.
type TokenIssuer interface {
	// Secret makes the token of an account that is in the secret of a name.
	Secret(account *corev1.ServiceAccount, secret string) (string, error)
}

// tokenSecrets fills secrets of the type kubernetes.io/service-account-token, which name a service account, and deletes them
// when it is gone. Nobody makes such secrets but users: pods have tokens that end.
type tokenSecrets struct {
	*loop
	client   kubernetes.Interface
	informer cache.SharedIndexInformer // its own: others need not hold secrets in memory
	accounts cache.Indexer
	issuer   TokenIssuer
	ca       []byte
}

// secretsByAccount is an index of token secrets, by "namespace/account".
const secretsByAccount = "account"

// NewTokenSecrets makes the controller of secrets with tokens. ca is the certificates that prove who the API server is.
func NewTokenSecrets(client kubernetes.Interface, i informers.SharedInformerFactory, issuer TokenIssuer, ca []byte, lg *zap.Logger) (Controller, error) {
	ai := i.Core().V1().ServiceAccounts().Informer()
	s := &tokenSecrets{
		loop: newLoop("token-secrets", lg), client: client, accounts: ai.GetIndexer(), issuer: issuer, ca: ca,
		informer: cache.NewSharedIndexInformer(tokenSecretsOf(client), &corev1.Secret{}, 0, cache.Indexers{secretsByAccount: func(o any) ([]string, error) {
			if x, ok := o.(*corev1.Secret); ok {
				return []string{x.Namespace + "/" + x.Annotations[corev1.ServiceAccountNameKey]}, nil
			}
			return nil, nil
		}}),
	}
	s.sync = s.syncOne
	return s, errors.Join(
		s.watch(s.informer, objects(func(o *corev1.Secret) { s.add(o) })),
		s.watch(ai, objects(func(o *corev1.ServiceAccount) {
			of, _ := s.informer.GetIndexer().ByIndex(secretsByAccount, keyOf(o)) // the index is there
			for _, x := range of {
				s.add(x)
			}
		})),
	)
}

// tokenSecretsOf lists and watches no other secrets.
func tokenSecretsOf(client kubernetes.Interface) cache.ListerWatcher {
	only := fields.OneTermEqualSelector("type", string(corev1.SecretTypeServiceAccountToken)).String()
	secrets := client.CoreV1().Secrets(metav1.NamespaceAll)
	return cache.ToListWatcherWithWatchListSemantics(&cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			o.FieldSelector = only
			return secrets.List(ctx, o)
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			o.FieldSelector = only
			return secrets.Watch(ctx, o)
		},
	}, client)
}

// Run works until ctx ends.
func (s *tokenSecrets) Run(ctx context.Context) error {
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.informer.RunWithContext(ctx)
	}()
	err := s.run(ctx, 2)
	<-done
	return err
}

func (s *tokenSecrets) syncOne(ctx context.Context, key string) error {
	o, exists, err := s.informer.GetIndexer().GetByKey(key)
	if err != nil {
		return err
	}
	if !exists {
		return s.unreferenced(ctx, key)
	}
	secret := o.(*corev1.Secret)
	if secret.Type != corev1.SecretTypeServiceAccountToken || secret.DeletionTimestamp != nil {
		return nil
	}
	account, err := s.account(ctx, secret)
	switch {
	case err != nil:
		return err
	case account == nil:
		err := s.client.CoreV1().Secrets(secret.Namespace).Delete(ctx, secret.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(secret.UID))})
		if apierrors.IsConflict(err) {
			return nil // it is another one of its name
		}
		return ignoreMissing(err)
	}
	return s.fill(ctx, account, secret)
}

// account is that of a secret; nil: it does not exist. The API server has the last word on that.
func (s *tokenSecrets) account(ctx context.Context, secret *corev1.Secret) (*corev1.ServiceAccount, error) {
	name, uid := secret.Annotations[corev1.ServiceAccountNameKey], secret.Annotations[corev1.ServiceAccountUIDKey]
	is := func(a *corev1.ServiceAccount) bool { return uid == "" || uid == string(a.UID) }
	if o, exists, err := s.accounts.GetByKey(secret.Namespace + "/" + name); err != nil {
		return nil, err
	} else if exists {
		if a, ok := o.(*corev1.ServiceAccount); ok && is(a) {
			return a, nil
		}
	}
	a, err := s.client.CoreV1().ServiceAccounts(secret.Namespace).Get(ctx, name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err) || err == nil && !is(a):
		return nil, nil
	case err != nil:
		return nil, err
	}
	return a, nil
}

// fill puts into a secret what is missing.
func (s *tokenSecrets) fill(ctx context.Context, account *corev1.ServiceAccount, secret *corev1.Secret) error {
	missing := map[string][]byte{}
	if len(s.ca) > 0 && !bytes.Equal(secret.Data[corev1.ServiceAccountRootCAKey], s.ca) {
		missing[corev1.ServiceAccountRootCAKey] = s.ca
	}
	if len(secret.Data[corev1.ServiceAccountNamespaceKey]) == 0 {
		missing[corev1.ServiceAccountNamespaceKey] = []byte(secret.Namespace)
	}
	if len(secret.Data[corev1.ServiceAccountTokenKey]) == 0 {
		token, err := s.issuer.Secret(account, secret.Name)
		if err != nil {
			return fmt.Errorf("the token of %s: %w", keyOf(account), err)
		}
		missing[corev1.ServiceAccountTokenKey] = []byte(token)
	}
	if len(missing) == 0 {
		return nil
	}
	c := secret.DeepCopy()
	if c.Data == nil {
		c.Data = map[string][]byte{}
	}
	for k, v := range missing {
		c.Data[k] = v
	}
	c.Annotations[corev1.ServiceAccountUIDKey] = string(account.UID)
	_, err := s.client.CoreV1().Secrets(c.Namespace).Update(ctx, c, metav1.UpdateOptions{})
	if apierrors.IsConflict(err) {
		return nil // it has changed, and will be seen
	}
	return ignoreMissing(err)
}

// unreferenced takes a secret that is gone out of the accounts that name it.
func (s *tokenSecrets) unreferenced(ctx context.Context, key string) error {
	namespace, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return err
	}
	all, err := s.accounts.ByIndex(cache.NamespaceIndex, namespace)
	names := func(r corev1.ObjectReference) bool { return r.Name == name }
	for _, o := range all {
		a, ok := o.(*corev1.ServiceAccount)
		if !ok || !slices.ContainsFunc(a.Secrets, names) {
			continue
		}
		c := a.DeepCopy()
		c.Secrets = slices.DeleteFunc(c.Secrets, names)
		_, uerr := s.client.CoreV1().ServiceAccounts(namespace).Update(ctx, c, metav1.UpdateOptions{})
		err = errors.Join(err, ignoreMissing(uerr))
	}
	return err
}
