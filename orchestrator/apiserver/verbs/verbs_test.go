package verbs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"github.com/keelson-io/keelson/client"
	"github.com/keelson-io/keelson/internal/clock"
	"github.com/keelson-io/keelson/orchestrator/apiserver/admission"
	"github.com/keelson-io/keelson/orchestrator/kinds"
	"github.com/keelson-io/keelson/orchestrator/objectstore"
	"github.com/keelson-io/keelson/server/servertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// merger applies merge patches of metadata, and tracks nothing.
type merger struct{ k *kinds.Kind }

func (m merger) Apply(_ context.Context, current kinds.Object, body []byte, _ PatchOptions) (kinds.Object, []string, error) {
	o := current.DeepCopyObject().(kinds.Object)
	if err := json.Unmarshal(body, o); err != nil {
		return nil, nil, apierrors.NewBadRequest(err.Error())
	}
	return o, []string{"patched"}, nil
}

func (merger) Track(_, changed kinds.Object, _ PatchOptions) (kinds.Object, error) {
	return changed, nil
}

func deployments() *kinds.Kind {
	return &kinds.Kind{
		GroupVersionKind: appsv1.SchemeGroupVersion.WithKind("Deployment"), Resource: "deployments", Namespaced: true, Place: "deployments",
		New: func() kinds.Object { return &appsv1.Deployment{} }, NewList: func() runtime.Object { return &appsv1.DeploymentList{} },
		Lifecycle: kinds.Lifecycle{Generation: true, Unconditional: true},
		Strategy: kinds.Strategy{
			Default: func(o kinds.Object) {
				if d := o.(*appsv1.Deployment); d.Spec.Replicas == nil {
					d.Spec.Replicas = ptr.To(int32(1))
				}
			},
			Validate: func(o kinds.Object) (errs field.ErrorList) {
				if d := o.(*appsv1.Deployment); *d.Spec.Replicas < 0 {
					errs = append(errs, field.Invalid(field.NewPath("spec", "replicas"), *d.Spec.Replicas, "must be greater than or equal to 0"))
				}
				return errs
			},
			Spec:   kinds.PartAt(func(o kinds.Object) any { return &o.(*appsv1.Deployment).Spec }),
			Status: kinds.PartAt(func(o kinds.Object) any { return &o.(*appsv1.Deployment).Status }),
		},
	}
}

func pods() *kinds.Kind {
	return &kinds.Kind{
		GroupVersionKind: corev1.SchemeGroupVersion.WithKind("Pod"), Resource: "pods", Namespaced: true, Place: "pods",
		New: func() kinds.Object { return &corev1.Pod{} }, NewList: func() runtime.Object { return &corev1.PodList{} },
		Strategy: kinds.Strategy{Grace: func(_ kinds.Object, asked *int64) *int64 {
			if asked == nil {
				return ptr.To(int64(30))
			}
			return asked
		}},
	}
}

func configMaps() *kinds.Kind {
	return &kinds.Kind{
		GroupVersionKind: corev1.SchemeGroupVersion.WithKind("ConfigMap"), Resource: "configmaps", Namespaced: true, Place: "configmaps",
		New: func() kinds.Object { return &corev1.ConfigMap{} }, NewList: func() runtime.Object { return &corev1.ConfigMapList{} },
	}
}

// start serves a kind on a store of its own.
func start(t *testing.T, k *kinds.Kind, plugins ...admission.Plugin) *Resource {
	c := servertest.Start(t, 1, servertest.Quick()...)
	cl, err := client.New(client.Config{Endpoints: c.Addrs()})
	require.NoError(t, err)
	s := objectstore.New(objectstore.Config{Client: cl})
	t.Cleanup(func() { require.NoError(t, s.Close()); _ = cl.Close() })
	return &Resource{Kind: k, Objects: s.Collection(k), Patcher: merger{k}, Admission: admission.NewChain(plugins...), Clock: clock.Real}
}

func at(name string) *Target { return &Target{Namespace: "ns", Name: name} }

func deployment(name string) *appsv1.Deployment {
	return &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: name}}
}

func configMap(name string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}}
}

func TestCreate(t *testing.T) {
	r := start(t, deployments())
	d := deployment("web")
	d.Generation, d.UID, d.Status.Replicas, d.SelfLink = 7, "mine", 5, "/x"
	item, err := r.Create(t.Context(), at(""), d)
	require.NoError(t, err)
	got := item.Object.(*appsv1.Deployment)
	require.Equal(t, "ns", got.Namespace)
	require.EqualValues(t, 1, got.Generation)
	require.NotEqual(t, types.UID("mine"), got.UID)
	require.False(t, got.CreationTimestamp.IsZero())
	require.EqualValues(t, 1, *got.Spec.Replicas)
	require.Zero(t, got.Status.Replicas)

	_, err = r.Create(t.Context(), at(""), deployment("web"))
	require.True(t, apierrors.IsAlreadyExists(err))
	other := deployment("x")
	other.Namespace = "other"
	_, err = r.Create(t.Context(), at(""), other)
	require.EqualError(t, err, "the namespace of the provided object does not match the namespace sent on the request")
	_, err = r.Create(t.Context(), at(""), deployment(""))
	require.EqualError(t, err, `Deployment.apps "" is invalid: metadata.name: Required value: name or generateName is required`)
	bad := deployment("a/b")
	bad.Spec.Replicas = ptr.To(int32(-1))
	_, err = r.Create(t.Context(), at(""), bad)
	require.ErrorContains(t, err, `metadata.name: Invalid value: "a/b": may not contain '/'`)
	require.ErrorContains(t, err, "spec.replicas: Invalid value: -1")

	generated := deployment("")
	generated.GenerateName = "web-"
	item, err = r.Create(t.Context(), at(""), generated)
	require.NoError(t, err)
	require.Regexp(t, "^web-[b-z2-9]{5}$", item.Object.GetName())

	dry := at("")
	dry.DryRun = true
	_, err = r.Create(t.Context(), dry, deployment("dry"))
	require.NoError(t, err)
	_, err = r.Get(t.Context(), "ns", "dry", "")
	require.True(t, apierrors.IsNotFound(err))
	_, err = r.Create(t.Context(), dry, deployment("web"))
	require.True(t, apierrors.IsAlreadyExists(err))
}

func TestUpdate(t *testing.T) {
	r := start(t, deployments())
	item, err := r.Create(t.Context(), at(""), deployment("web"))
	require.NoError(t, err)
	created := item.Object.(*appsv1.Deployment)

	d := created.DeepCopy()
	d.Spec.Replicas, d.Status.Replicas = ptr.To(int32(3)), 9
	item, _, err = r.Update(t.Context(), at("web"), d)
	require.NoError(t, err)
	got := item.Object.(*appsv1.Deployment)
	require.EqualValues(t, 2, got.Generation)
	require.Zero(t, got.Status.Replicas, "only through the subresource")

	_, _, err = r.Update(t.Context(), at("web"), created.DeepCopy())
	require.True(t, apierrors.IsConflict(err))
	require.ErrorContains(t, err, "the object has been modified; please apply your changes to the latest version and try again")

	// Without a version, labels only: no new generation. The same once more writes nothing.
	labelled := deployment("web")
	labelled.Labels, labelled.Spec = map[string]string{"a": "b"}, got.Spec
	item, _, err = r.Update(t.Context(), at("web"), labelled)
	require.NoError(t, err)
	require.EqualValues(t, 2, item.Object.GetGeneration())
	require.Equal(t, created.UID, item.Object.GetUID())
	again, _, err := r.Update(t.Context(), at("web"), labelled)
	require.NoError(t, err)
	require.Equal(t, item.Revision, again.Revision)

	status := at("web")
	status.Subresource = "status"
	d = item.Object.(*appsv1.Deployment).DeepCopy()
	d.Status.Replicas, d.Spec.Replicas = 3, ptr.To(int32(99))
	item, _, err = r.Update(t.Context(), status, d)
	require.NoError(t, err)
	got = item.Object.(*appsv1.Deployment)
	require.EqualValues(t, 3, got.Status.Replicas)
	require.EqualValues(t, 3, *got.Spec.Replicas)
	require.EqualValues(t, 2, got.Generation)

	stranger := got.DeepCopy()
	stranger.UID = "another"
	_, _, err = r.Update(t.Context(), at("web"), stranger)
	require.True(t, apierrors.IsConflict(err))
	_, _, err = r.Update(t.Context(), at("none"), deployment("none"))
	require.True(t, apierrors.IsNotFound(err))
	_, _, err = r.Update(t.Context(), at("web"), deployment("other"))
	require.EqualError(t, err, "the name of the object (other) does not match the name on the URL (web)")
	bad := got.DeepCopy()
	bad.Spec.Replicas = ptr.To(int32(-1))
	_, _, err = r.Update(t.Context(), at("web"), bad)
	require.True(t, apierrors.IsInvalid(err))
}

// TestRules tells kinds with other rules for updates apart.
func TestRules(t *testing.T) {
	k := configMaps()
	r := start(t, k)
	_, _, err := r.Update(t.Context(), at("x"), configMap("x"))
	require.True(t, apierrors.IsNotFound(err))
	k.CreateOnUpdate = true
	_, created, err := r.Update(t.Context(), at("x"), configMap("x"))
	require.NoError(t, err)
	require.True(t, created)
	_, _, err = r.Update(t.Context(), at("x"), configMap("x"))
	require.ErrorContains(t, err, "metadata.resourceVersion: Invalid value: 0: must be specified for an update")
}

func TestPatch(t *testing.T) {
	r := start(t, deployments())
	_, err := r.Create(t.Context(), at(""), deployment("web"))
	require.NoError(t, err)
	var warned []string
	target := at("web")
	target.Warn = func(s string) { warned = append(warned, s) }
	patch := func(kind types.PatchType, body string) (*objectstore.Item, bool, error) {
		return r.Patch(t.Context(), target, kind, []byte(body), false)
	}
	item, _, err := patch(types.MergePatchType, `{"spec":{"replicas":4}}`)
	require.NoError(t, err)
	require.EqualValues(t, 2, item.Object.GetGeneration())
	require.Equal(t, []string{"patched"}, warned)
	_, _, err = patch(types.MergePatchType, `{"metadata":{"name":"other"}}`)
	require.True(t, apierrors.IsBadRequest(err))
	_, _, err = patch(types.MergePatchType, `{"metadata":{"resourceVersion":"1"}}`)
	require.True(t, apierrors.IsConflict(err))
	_, _, err = patch(types.MergePatchType, `{"spec":{"replicas":-4}}`)
	require.True(t, apierrors.IsInvalid(err))

	target = at("new")
	_, _, err = patch(types.MergePatchType, `{}`)
	require.True(t, apierrors.IsNotFound(err))
	item, created, err := patch(types.ApplyPatchType, `{"spec":{"replicas":2}}`)
	require.NoError(t, err)
	require.True(t, created)
	require.EqualValues(t, 2, *item.Object.(*appsv1.Deployment).Spec.Replicas)
	target = at("newer")
	_, _, err = patch(types.ApplyPatchType, `{"metadata":{"uid":"x"}}`)
	require.True(t, apierrors.IsConflict(err))
}

// TestPatchesRace has many clients count in one object: none is lost.
func TestPatchesRace(t *testing.T) {
	r := start(t, configMaps())
	_, err := r.Create(t.Context(), at(""), configMap("x"))
	require.NoError(t, err)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 5 {
				if _, _, err := r.Patch(t.Context(), at("x"), types.MergePatchType, fmt.Appendf(nil, `{"data":{"%d-%d":""}}`, i, j), false); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	item, err := r.Get(t.Context(), "ns", "x", "")
	require.NoError(t, err)
	require.Len(t, item.Object.(*corev1.ConfigMap).Data, 40)
}

func TestDelete(t *testing.T) {
	r := start(t, configMaps())
	create := func(name string, finalizers ...string) *objectstore.Item {
		o := configMap(name)
		o.Finalizers = finalizers
		item, err := r.Create(t.Context(), at(""), o)
		require.NoError(t, err)
		return item
	}
	gone := func(name string) bool {
		_, err := r.Get(t.Context(), "ns", name, "")
		return apierrors.IsNotFound(err)
	}
	create("plain")
	_, removed, err := r.Delete(t.Context(), at("plain"), &metav1.DeleteOptions{})
	require.NoError(t, err)
	require.True(t, removed)
	require.True(t, gone("plain"))

	// With a finalizer it is marked, and goes when the finalizer does.
	create("held", "example.com/x")
	item, removed, err := r.Delete(t.Context(), at("held"), &metav1.DeleteOptions{})
	require.NoError(t, err)
	require.False(t, removed)
	require.NotNil(t, item.Object.GetDeletionTimestamp())
	o := item.Object.DeepCopyObject().(kinds.Object)
	o.SetFinalizers(nil)
	_, _, err = r.Update(t.Context(), at("held"), o)
	require.NoError(t, err)
	require.True(t, gone("held"))

	for policy, finalizer := range map[metav1.DeletionPropagation]string{
		metav1.DeletePropagationForeground: "foregroundDeletion", metav1.DeletePropagationOrphan: "orphan",
	} {
		create("owner-" + strings.ToLower(string(policy)))
		item, removed, err := r.Delete(t.Context(), at("owner-"+strings.ToLower(string(policy))), &metav1.DeleteOptions{PropagationPolicy: &policy})
		require.NoError(t, err)
		require.False(t, removed)
		require.Equal(t, []string{finalizer}, item.Object.GetFinalizers())
	}
	_, _, err = r.Delete(t.Context(), at("plain"), &metav1.DeleteOptions{PropagationPolicy: ptr.To(metav1.DeletionPropagation("Sideways"))})
	require.True(t, apierrors.IsBadRequest(err))

	item = create("sure")
	_, _, err = r.Delete(t.Context(), at("sure"), &metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions("other")})
	require.True(t, apierrors.IsConflict(err))
	_, _, err = r.Delete(t.Context(), at("sure"), &metav1.DeleteOptions{Preconditions: &metav1.Preconditions{ResourceVersion: ptr.To("1")}})
	require.True(t, apierrors.IsConflict(err))
	dry := at("sure")
	dry.DryRun = true
	_, removed, err = r.Delete(t.Context(), dry, &metav1.DeleteOptions{})
	require.NoError(t, err)
	require.True(t, removed)
	require.False(t, gone("sure"))
	_, removed, err = r.Delete(t.Context(), at("sure"), &metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(item.Object.GetUID()))})
	require.NoError(t, err)
	require.True(t, removed)
	_, _, err = r.Delete(t.Context(), at("sure"), &metav1.DeleteOptions{})
	require.True(t, apierrors.IsNotFound(err))
}

func TestGracefulDelete(t *testing.T) {
	r := start(t, pods())
	_, err := r.Create(t.Context(), at(""), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p"}})
	require.NoError(t, err)
	seconds := func(o *metav1.DeleteOptions) int64 {
		t.Helper()
		item, removed, err := r.Delete(t.Context(), at("p"), o)
		require.NoError(t, err)
		require.False(t, removed)
		left := *item.Object.GetDeletionGracePeriodSeconds()
		require.WithinDuration(t, time.Now().Add(time.Duration(left)*time.Second), item.Object.GetDeletionTimestamp().Time, 5*time.Second)
		return left
	}
	require.EqualValues(t, 30, seconds(&metav1.DeleteOptions{}))
	require.EqualValues(t, 30, seconds(&metav1.DeleteOptions{GracePeriodSeconds: ptr.To(int64(60))}), "never later")
	require.EqualValues(t, 10, seconds(&metav1.DeleteOptions{GracePeriodSeconds: ptr.To(int64(10))}), "but sooner")
	require.EqualValues(t, 10, seconds(&metav1.DeleteOptions{}))
	_, removed, err := r.Delete(t.Context(), at("p"), &metav1.DeleteOptions{GracePeriodSeconds: ptr.To(int64(0))})
	require.NoError(t, err)
	require.True(t, removed)
}

func TestDeleteCollection(t *testing.T) {
	r := start(t, configMaps())
	for i := range 10 {
		o := configMap(fmt.Sprint("x", i))
		o.Labels = map[string]string{"odd": fmt.Sprint(i%2 == 1)}
		_, err := r.Create(t.Context(), at(""), o)
		require.NoError(t, err)
	}
	odd := labels.SelectorFromSet(labels.Set{"odd": "true"})
	page, err := r.DeleteCollection(t.Context(), at(""), objectstore.ListQuery{Namespace: "ns", Labels: odd}, &metav1.DeleteOptions{})
	require.NoError(t, err)
	require.Len(t, page.Items, 5)
	page, err = r.List(t.Context(), objectstore.ListQuery{Namespace: "ns"})
	require.NoError(t, err)
	require.Len(t, page.Items, 5)
}

// plugin is an admission plugin made of functions.
type plugin struct {
	mutate, validate func(a *admission.Attributes) error
}

func (p plugin) Mutate(_ context.Context, a *admission.Attributes) error   { return p.mutate(a) }
func (p plugin) Validate(_ context.Context, a *admission.Attributes) error { return p.validate(a) }

func TestAdmission(t *testing.T) {
	var seen []string
	r := start(t, deployments(), plugin{
		mutate: func(a *admission.Attributes) error {
			if a.Operation == admission.Delete {
				seen = append(seen, "mutate DELETE")
				return nil
			}
			a.Object.(*appsv1.Deployment).Annotations = map[string]string{"mutated": "yes"}
			a.Object.(*appsv1.Deployment).Spec.Replicas = nil // defaults come after
			return nil
		},
		validate: func(a *admission.Attributes) error {
			seen = append(seen, string(a.Operation))
			if a.Name == "no" || a.Operation == admission.Create && a.Object.(*appsv1.Deployment).Name == "no" {
				return apierrors.NewForbidden(a.Kind.GroupResource(), "no", errors.New("no"))
			}
			return nil
		},
	})
	item, err := r.Create(t.Context(), at(""), deployment("yes"))
	require.NoError(t, err)
	require.Equal(t, "yes", item.Object.GetAnnotations()["mutated"])
	require.EqualValues(t, 1, *item.Object.(*appsv1.Deployment).Spec.Replicas)
	_, err = r.Create(t.Context(), at(""), deployment("no"))
	require.True(t, apierrors.IsForbidden(err))
	_, _, err = r.Delete(t.Context(), at("yes"), &metav1.DeleteOptions{})
	require.NoError(t, err)
	require.Equal(t, []string{"CREATE", "CREATE", "mutate DELETE", "DELETE"}, seen)
}
