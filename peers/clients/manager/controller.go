// Package manager is a program on controller-runtime as users write them, with a controller and webhooks for a kind of its own,
// and a suite that runs it.
package manager

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	applycorev1 "k8s.io/client-go/applyconfigurations/core/v1"
	applymetav1 "k8s.io/client-go/applyconfigurations/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	v1 "github.com/keelson-io/keelson/peers/clients/manager/api/v1"
)

const (
	finalizer  = "work.example.com/farewell"
	taskLabel  = "work.example.com/task" // of secrets: what they are about
	ownerField = ".metadata.controller"  // an index of config maps
	fieldOwner = client.FieldOwner("tasks")
)

// Controller gives tasks what they ask for.
type Controller struct {
	client.Client
	Name string // of the manager
}

// Add adds the controller to a manager.
func (c *Controller) Add(ctx context.Context, m ctrl.Manager) error {
	c.Client = m.GetClient()
	err := m.GetFieldIndexer().IndexField(ctx, &corev1.ConfigMap{}, ownerField, func(o client.Object) []string {
		if r := metav1.GetControllerOf(o); r != nil && r.Kind == "Task" {
			return []string{r.Name}
		}
		return nil
	})
	if err != nil {
		return err
	}
	skip := true // several managers of a process have a controller of that name
	return ctrl.NewControllerManagedBy(m).Named("tasks").WithOptions(controller.Options{SkipNameValidation: &skip}).
		For(&v1.Task{}).Owns(&corev1.ConfigMap{}).
		WatchesMetadata(&corev1.Secret{}, handler.EnqueueRequestsFromMapFunc(func(_ context.Context, o client.Object) []reconcile.Request {
			if task := o.GetLabels()[taskLabel]; task != "" {
				return []reconcile.Request{{NamespacedName: types.NamespacedName{Namespace: o.GetNamespace(), Name: task}}}
			}
			return nil
		})).Complete(c)
}

// Reconcile implements reconcile.Reconciler.
func (c *Controller) Reconcile(ctx context.Context, r ctrl.Request) (ctrl.Result, error) {
	var t v1.Task
	if err := c.Get(ctx, r.NamespacedName, &t); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	if !t.DeletionTimestamp.IsZero() {
		return ctrl.Result{}, c.sayFarewell(ctx, &t)
	}
	if controllerutil.AddFinalizer(&t, finalizer) {
		return ctrl.Result{}, c.Update(ctx, &t) // which brings it back here
	}
	ready, err := c.provide(ctx, &t)
	if err != nil {
		return ctrl.Result{}, err
	}
	secrets := metav1.PartialObjectMetadataList{}
	secrets.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("SecretList"))
	if err := c.List(ctx, &secrets, client.InNamespace(t.Namespace), client.MatchingLabels{taskLabel: t.Name}); err != nil {
		return ctrl.Result{}, err
	}
	status := v1.TaskStatus{ObservedGeneration: t.Generation, Ready: ready, Secrets: int32(len(secrets.Items)), By: c.Name}
	if status == t.Status {
		return ctrl.Result{}, nil
	}
	before := t.DeepCopyObject().(*v1.Task)
	t.Status = status
	return ctrl.Result{}, c.Status().Patch(ctx, &t, client.MergeFrom(before))
}

// provide applies the config maps that a task asks for, deletes others that it has, and returns how many there are.
func (c *Controller) provide(ctx context.Context, t *v1.Task) (int32, error) {
	wanted := map[string]bool{}
	owner := applymetav1.OwnerReference().WithAPIVersion(v1.GroupVersion.String()).WithKind("Task").WithName(t.Name).WithUID(t.UID).
		WithController(true).WithBlockOwnerDeletion(true)
	for i := range t.Spec.Size {
		name := fmt.Sprintf("%s-%d", t.Name, i)
		wanted[name] = true
		m := applycorev1.ConfigMap(name, t.Namespace).WithOwnerReferences(owner).WithData(map[string]string{"message": t.Spec.Message})
		if err := c.Apply(ctx, m, fieldOwner, client.ForceOwnership); err != nil {
			return 0, err
		}
	}
	var have corev1.ConfigMapList
	if err := c.List(ctx, &have, client.InNamespace(t.Namespace), client.MatchingFields{ownerField: t.Name}); err != nil {
		return 0, err
	}
	n := int32(0)
	for i := range have.Items {
		if m := &have.Items[i]; wanted[m.Name] {
			n++
		} else if err := client.IgnoreNotFound(c.Delete(ctx, m)); err != nil {
			return 0, err
		}
	}
	return n, nil
}

// sayFarewell leaves a note of a task that goes, and lets it go.
func (c *Controller) sayFarewell(ctx context.Context, t *v1.Task) error {
	if !controllerutil.ContainsFinalizer(t, finalizer) {
		return nil
	}
	note := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: t.Namespace, Name: "farewell-" + t.Name}}
	if err := c.Create(ctx, note); err != nil && !apierrors.IsAlreadyExists(err) {
		return err
	}
	controllerutil.RemoveFinalizer(t, finalizer)
	return client.IgnoreNotFound(c.Update(ctx, t))
}
