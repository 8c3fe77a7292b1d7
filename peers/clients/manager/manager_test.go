package manager

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	applycorev1 "k8s.io/client-go/applyconfigurations/core/v1"
	"k8s.io/client-go/util/retry"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v1 "github.com/keelson-io/keelson/peers/clients/manager/api/v1"
	"github.com/keelson-io/keelson/peers/clients/manager/api/v1beta1"
)

func TestManager(t *testing.T) {
	s := start(t)
	first, stop := s.controller("first")
	s.reconciles(first)
	s.validates()
	s.converts()
	s.applies()
	s.watchesMetadata()
	s.deletes()
	s.takesOver(stop)
}

func (s *suite) key(name string) client.ObjectKey {
	return client.ObjectKey{Namespace: s.namespace, Name: name}
}

func (s *suite) meta(name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: s.namespace, Name: name}
}

// eventually waits for what a task looks like.
func (s *suite) eventually(name, what string, is func(*v1.Task) bool) *v1.Task {
	s.Helper()
	t := &v1.Task{}
	require.Eventually(s, func() bool {
		require.NoError(s, s.Get(s.Context(), s.key(name), t))
		return is(t)
	}, limit, 20*time.Millisecond, "%s: %s", name, what)
	return t
}

// change updates a task, which the controller may write at the same time.
func (s *suite) change(name string, change func(*v1.Task)) error {
	return retry.RetryOnConflict(retry.DefaultBackoff, func() error {
		var t v1.Task
		if err := s.Get(s.Context(), s.key(name), &t); err != nil {
			return err
		}
		change(&t)
		return s.Update(s.Context(), &t)
	})
}

// gone waits until an object is.
func (s *suite) gone(o client.Object, name string) {
	s.Helper()
	require.Eventually(s, func() bool {
		err := s.Get(s.Context(), s.key(name), o)
		require.NoError(s, client.IgnoreNotFound(err))
		return apierrors.IsNotFound(err)
	}, limit, 20*time.Millisecond, "%T %s is gone", o, name)
}

// reconciles gives a task what it asks for, and gives it again when it was taken away.
func (s *suite) reconciles(m ctrl.Manager) {
	s.Helper()
	t := &v1.Task{ObjectMeta: s.meta("one"), Spec: v1.TaskSpec{Message: "hello"}, Status: v1.TaskStatus{Ready: 7}}
	require.NoError(s, s.Create(s.Context(), t))
	require.EqualValues(s, defaultSize, t.Spec.Size, "the webhook's default")
	require.Zero(s, t.Status.Ready, "a status is not created")
	done := s.eventually("one", "done", func(t *v1.Task) bool { return t.Status.Ready == 2 && t.Status.ObservedGeneration == t.Generation })
	require.Equal(s, []string{finalizer}, done.Finalizers)
	require.Equal(s, "first", done.Status.By)
	require.EqualValues(s, 1, done.Generation, "neither a finalizer nor a status is a new generation")
	var c corev1.ConfigMap
	require.NoError(s, s.Get(s.Context(), s.key("one-0"), &c))
	require.Equal(s, "hello", c.Data["message"])
	require.True(s, metav1.IsControlledBy(&c, done))
	require.Equal(s, "tasks", c.ManagedFields[0].Manager)
	require.Equal(s, metav1.ManagedFieldsOperationApply, c.ManagedFields[0].Operation)

	uid := c.UID
	require.NoError(s, s.Delete(s.Context(), &c))
	require.Eventually(s, func() bool {
		err := s.Get(s.Context(), s.key("one-0"), &c)
		require.NoError(s, client.IgnoreNotFound(err))
		return err == nil && c.UID != uid
	}, limit, 20*time.Millisecond)

	require.NoError(s, s.change("one", func(t *v1.Task) { t.Spec.Size, t.Status.Ready = 5, 7 }))
	grown := s.eventually("one", "grown", func(t *v1.Task) bool { return t.Status.Ready == 5 })
	require.EqualValues(s, 2, grown.Generation)
	stale := done.DeepCopyObject().(client.Object)
	done.Spec.Size = 1
	err := s.Patch(s.Context(), done, client.MergeFromWithOptions(stale, client.MergeFromWithOptimisticLock{}))
	require.True(s, apierrors.IsConflict(err), "%v", err)
	require.NoError(s, s.Patch(s.Context(), done, client.MergeFrom(stale)))
	s.eventually("one", "shrunk", func(t *v1.Task) bool { return t.Status.Ready == 1 && t.Status.ObservedGeneration == 3 })
	s.gone(&corev1.ConfigMap{}, "one-4")

	var owned corev1.ConfigMapList // by an index of the manager's cache
	require.Eventually(s, func() bool {
		require.NoError(s, m.GetClient().List(s.Context(), &owned, client.InNamespace(s.namespace), client.MatchingFields{ownerField: "one"}))
		return len(owned.Items) == 1
	}, limit, 20*time.Millisecond)
}

// validates refuses what the webhooks refuse.
func (s *suite) validates() {
	s.Helper()
	denied := func(err error, why string) {
		s.Helper()
		require.True(s, apierrors.IsForbidden(err), "%v", err)
		require.ErrorContains(s, err, `admission webhook "validate.tasks.work.example.com" denied the request: `+why)
	}
	denied(s.Create(s.Context(), &v1.Task{ObjectMeta: s.meta("big"), Spec: v1.TaskSpec{Size: 11}}), "a task has 10 config maps at most")
	denied(s.Create(s.Context(), &v1beta1.Task{ObjectMeta: s.meta("big"), Spec: v1beta1.TaskSpec{Count: "11"}}), "a task has 10 config maps at most")
	denied(s.Create(s.Context(), &v1.Task{ObjectMeta: s.meta("big"), Spec: v1.TaskSpec{Size: 11}}, client.DryRunAll), "a task has 10 config maps at most")
	err := s.Create(s.Context(), &v1.Task{ObjectMeta: s.meta("big"), Spec: v1.TaskSpec{Size: -1}})
	require.True(s, apierrors.IsInvalid(err), "%v", err)
	denied(s.change("one", func(t *v1.Task) { t.Spec.Message = "other" }), "the message of a task cannot be changed")
	kept := &v1.Task{ObjectMeta: s.meta("kept")}
	kept.Annotations = map[string]string{keep: "yes"}
	require.NoError(s, s.Create(s.Context(), kept))
	denied(s.Delete(s.Context(), kept), "the task is to be kept")
	s.eventually("kept", "reconciled", func(t *v1.Task) bool { return t.Status.Ready == 2 })
	require.NoError(s, s.change("kept", func(t *v1.Task) { t.Annotations = nil }))
	require.NoError(s, s.Delete(s.Context(), kept))
	s.gone(kept, "kept")
}

// converts reads and writes tasks in both versions.
func (s *suite) converts() {
	s.Helper()
	old := &v1beta1.Task{ObjectMeta: s.meta("old"), Spec: v1beta1.TaskSpec{Count: "3", Message: "from before"}}
	require.NoError(s, s.Create(s.Context(), old))
	t := s.eventually("old", "reconciled", func(t *v1.Task) bool { return t.Status.Ready == 3 })
	require.EqualValues(s, 3, t.Spec.Size)
	require.NoError(s, s.Get(s.Context(), s.key("old"), old))
	require.Equal(s, "3", old.Spec.Count)
	require.EqualValues(s, 3, old.Status.Ready)
	before := old.DeepCopyObject().(client.Object)
	old.Spec.Count = "4"
	require.NoError(s, s.Patch(s.Context(), old, client.MergeFrom(before)))
	s.eventually("old", "grown", func(t *v1.Task) bool { return t.Status.Ready == 4 })
	var all v1beta1.TaskList
	require.NoError(s, s.List(s.Context(), &all, client.InNamespace(s.namespace)))
	counts := map[string]string{}
	for _, x := range all.Items {
		counts[x.Name] = x.Spec.Count
	}
	require.Equal(s, map[string]string{"one": "1", "old": "4"}, counts)

	w, err := client.NewWithWatch(s.config, client.Options{Scheme: s.scheme})
	require.NoError(s, err)
	events, err := w.Watch(s.Context(), &v1beta1.TaskList{}, client.InNamespace(s.namespace))
	require.NoError(s, err)
	defer events.Stop()
	for range 2 {
		x := (<-events.ResultChan()).Object.(*v1beta1.Task)
		require.Equal(s, counts[x.Name], x.Spec.Count)
	}
	err = s.Create(s.Context(), &v1beta1.Task{ObjectMeta: s.meta("bad"), Spec: v1beta1.TaskSpec{Count: "many"}})
	require.ErrorContains(s, err, "conversion webhook for work.example.com/v1beta1, Kind=Task failed")
}

// applies shares the fields of an object between owners.
func (s *suite) applies() {
	s.Helper()
	mine := applycorev1.ConfigMap("one-0", s.namespace).WithData(map[string]string{"message": "mine", "more": "x"})
	err := s.Apply(s.Context(), mine, client.FieldOwner("other"))
	require.True(s, apierrors.IsConflict(err), "%v", err)
	require.ErrorContains(s, err, `conflict with "tasks"`)
	require.NoError(s, s.Apply(s.Context(), mine, client.FieldOwner("other"), client.ForceOwnership))
	var c corev1.ConfigMap
	require.Eventually(s, func() bool { // the controller takes its field back, and leaves the other
		require.NoError(s, s.Get(s.Context(), s.key("one-0"), &c))
		return c.Data["message"] == "hello"
	}, limit, 20*time.Millisecond)
	require.Equal(s, "x", c.Data["more"])
	require.NoError(s, s.Apply(s.Context(), applycorev1.ConfigMap("one-0", s.namespace), client.FieldOwner("other")))
	require.NoError(s, s.Get(s.Context(), s.key("one-0"), &c))
	require.Equal(s, map[string]string{"message": "hello"}, c.Data)
}

// watchesMetadata counts secrets of which the manager sees nothing but the metadata.
func (s *suite) watchesMetadata() {
	s.Helper()
	secret := &corev1.Secret{ObjectMeta: s.meta("about-one"), StringData: map[string]string{"password": "x"}}
	secret.Labels = map[string]string{taskLabel: "one"}
	require.NoError(s, s.Create(s.Context(), secret))
	s.eventually("one", "has a secret", func(t *v1.Task) bool { return t.Status.Secrets == 1 })
	require.NoError(s, s.Delete(s.Context(), secret))
	s.eventually("one", "has no secret", func(t *v1.Task) bool { return t.Status.Secrets == 0 })
}

// deletes lets the finalizer work, and the garbage collector after it.
func (s *suite) deletes() {
	s.Helper()
	for name, policy := range map[string]metav1.DeletionPropagation{"one": metav1.DeletePropagationForeground, "old": metav1.DeletePropagationBackground} {
		t := &v1.Task{ObjectMeta: s.meta(name)}
		require.NoError(s, s.Delete(s.Context(), t, client.PropagationPolicy(policy)))
		s.gone(t, name)
		require.NoError(s, s.Get(s.Context(), s.key("farewell-"+name), &corev1.ConfigMap{}), "the finalizer was heeded")
		if policy == metav1.DeletePropagationForeground {
			err := s.Get(s.Context(), s.key(name+"-0"), &corev1.ConfigMap{})
			require.True(s, apierrors.IsNotFound(err), "what it owned goes first: %v", err)
		}
		s.gone(&corev1.ConfigMap{}, name+"-0")
	}
}

// takesOver stops the manager that leads: the other one, which waited, leads then.
func (s *suite) takesOver(stop func()) {
	s.Helper()
	second, _ := s.controller("second")
	holder := func() string {
		var l coordinationv1.Lease
		require.NoError(s, s.Get(s.Context(), s.key(lease), &l))
		if l.Spec.HolderIdentity == nil {
			return ""
		}
		return *l.Spec.HolderIdentity
	}
	leader := holder()
	require.NotEmpty(s, leader)
	for i, by := range []string{"first", "second"} {
		name := fmt.Sprint("elected-", i)
		require.NoError(s, s.Create(s.Context(), &v1.Task{ObjectMeta: s.meta(name)}))
		s.eventually(name, "reconciled by "+by, func(t *v1.Task) bool { return t.Status.Ready == 2 && t.Status.By == by })
		if by == "first" {
			stop()
		}
	}
	<-second.Elected()
	require.NotEqual(s, leader, holder())
}
