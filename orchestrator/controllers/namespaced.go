package controllers

import (
	"context"
	"errors"

	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

// Objects that every namespace has.
const (
	defaultServiceAccount = "default"
	rootCAConfigMap       = "kube-root-ca.crt"
	rootCAKey             = "ca.crt"
	rootCADescription     = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes clusters."
)

// inNamespaces keeps one object in every namespace that is not being deleted. Keys are names of namespaces.
type inNamespaces struct {
	*loop
	namespaces cache.Indexer
	ensure     func(ctx context.Context, namespace string) error
}

func newInNamespaces(name string, lg *zap.Logger, i informers.SharedInformerFactory, of cache.SharedIndexInformer, object string, ensure func(ctx context.Context, namespace string) error) (Controller, error) {
	ni := i.Core().V1().Namespaces().Informer()
	c := &inNamespaces{loop: newLoop(name, lg), namespaces: ni.GetIndexer(), ensure: ensure}
	c.sync = c.syncOne
	return c, errors.Join(
		c.watch(ni, objects(func(o *corev1.Namespace) { c.queue.Add(o.Name) })),
		c.watch(of, objects(func(o metav1.Object) {
			if o.GetName() == object {
				c.queue.Add(o.GetNamespace())
			}
		})),
	)
}

// Run works until ctx ends.
func (c *inNamespaces) Run(ctx context.Context) error { return c.run(ctx, 2) }

func (c *inNamespaces) syncOne(ctx context.Context, namespace string) error {
	x, exists, err := c.namespaces.GetByKey(namespace)
	if err != nil || !exists || x.(*corev1.Namespace).Status.Phase == corev1.NamespaceTerminating {
		return err
	}
	err = c.ensure(ctx, namespace)
	if apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) || apierrors.IsAlreadyExists(err) {
		return nil
	}
	return err
}

// NewServiceAccount makes the controller that gives every namespace its default service account.
func NewServiceAccount(client kubernetes.Interface, i informers.SharedInformerFactory, lg *zap.Logger) (Controller, error) {
	si := i.Core().V1().ServiceAccounts().Informer()
	return newInNamespaces("serviceaccount", lg, i, si, defaultServiceAccount, func(ctx context.Context, namespace string) error {
		if _, exists, err := si.GetIndexer().GetByKey(namespace + "/" + defaultServiceAccount); err != nil || exists {
			return err
		}
		_, err := client.CoreV1().ServiceAccounts(namespace).Create(ctx,
			&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: defaultServiceAccount}}, metav1.CreateOptions{})
		return err
	})
}

// NewRootCA makes the controller that publishes the certificates (PEM) by which pods know the API server, in every namespace.
func NewRootCA(client kubernetes.Interface, i informers.SharedInformerFactory, lg *zap.Logger, ca []byte) (Controller, error) {
	ci := i.Core().V1().ConfigMaps().Informer()
	annotations := map[string]string{"kubernetes.io/description": rootCADescription}
	data := map[string]string{rootCAKey: string(ca)}
	return newInNamespaces("root-ca", lg, i, ci, rootCAConfigMap, func(ctx context.Context, namespace string) error {
		x, exists, err := ci.GetIndexer().GetByKey(namespace + "/" + rootCAConfigMap)
		switch {
		case err != nil:
			return err
		case !exists:
			_, err := client.CoreV1().ConfigMaps(namespace).Create(ctx, &corev1.ConfigMap{
				ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: rootCAConfigMap, Annotations: annotations}, Data: data,
			}, metav1.CreateOptions{})
			return err
		}
		have := x.(*corev1.ConfigMap)
		if len(have.Data) == 1 && have.Data[rootCAKey] == data[rootCAKey] && len(have.BinaryData) == 0 {
			return nil
		}
		c := have.DeepCopy()
		c.Data, c.BinaryData = data, nil
		_, err = client.CoreV1().ConfigMaps(namespace).Update(ctx, c, metav1.UpdateOptions{})
		return err
	})
}
