package apimachinery

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/keelson-io/keelson/orchestrator/cluster/conformance"
)

// many is how many pods a replication controller has where it should be many.
const many = 40

func podTemplate(app string) corev1.PodTemplateSpec {
	now := int64(0)
	return corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": app}},
		Spec: corev1.PodSpec{
			TerminationGracePeriodSeconds: &now, Containers: []corev1.Container{{Name: "c", Image: "registry.k8s.io/pause:3.10"}},
		},
	}
}

func replicationController(name string, replicas int32) *corev1.ReplicationController {
	template := podTemplate(name)
	return &corev1.ReplicationController{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.ReplicationControllerSpec{
		Replicas: &replicas, Selector: map[string]string{"app": name}, Template: &template,
	}}
}

func replicaSet(name string, replicas int32) *appsv1.ReplicaSet {
	return &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: appsv1.ReplicaSetSpec{
		Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": name}}, Template: podTemplate(name),
	}}
}

func deployment(name string, replicas int32) *appsv1.Deployment {
	return &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: appsv1.DeploymentSpec{
		Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": name}}, Template: podTemplate(name),
	}}
}

// propagate are options to delete an object of a UID.
func propagate(p metav1.DeletionPropagation, uid types.UID) metav1.DeleteOptions {
	return metav1.DeleteOptions{PropagationPolicy: &p, Preconditions: &metav1.Preconditions{UID: &uid}}
}

func podsOf(t *testing.T, e *conformance.Env) []corev1.Pod {
	t.Helper()
	l, err := e.Client.CoreV1().Pods(e.NS).List(e.Ctx, metav1.ListOptions{})
	require.NoError(t, err)
	return l.Items
}

func setsOf(t *testing.T, e *conformance.Env) []appsv1.ReplicaSet {
	t.Helper()
	l, err := e.Client.AppsV1().ReplicaSets(e.NS).List(e.Ctx, metav1.ListOptions{})
	require.NoError(t, err)
	return l.Items
}

// controllerWithPods makes a replication controller and waits for its status to have all pods.
func controllerWithPods(t *testing.T, e *conformance.Env, name string, replicas int32) *corev1.ReplicationController {
	t.Helper()
	controllers := e.Client.CoreV1().ReplicationControllers(e.NS)
	rc, err := controllers.Create(e.Ctx, replicationController(name, replicas), metav1.CreateOptions{})
	require.NoError(t, err)
	eventually(t, e, func() error {
		rc, err := controllers.Get(e.Ctx, name, metav1.GetOptions{})
		if err == nil && rc.Status.Replicas != replicas {
			err = fmt.Errorf("%d replicas", rc.Status.Replicas)
		}
		return err
	})
	return rc
}

func podsGoWithController(t *testing.T, e *conformance.Env) {
	controllers := e.Client.CoreV1().ReplicationControllers(e.NS)
	rc, err := controllers.Create(e.Ctx, replicationController("rc", 2), metav1.CreateOptions{})
	require.NoError(t, err)
	eventually(t, e, func() error { // the controller need not be done
		if len(podsOf(t, e)) == 0 {
			return fmt.Errorf("no pods")
		}
		return nil
	})
	require.NoError(t, controllers.Delete(e.Ctx, "rc", propagate(metav1.DeletePropagationBackground, rc.UID)))
	eventually(t, e, func() error {
		l, err := controllers.List(e.Ctx, metav1.ListOptions{})
		if n := len(podsOf(t, e)); err == nil && (n > 0 || len(l.Items) > 0) {
			err = fmt.Errorf("%d pods, %d controllers", n, len(l.Items))
		}
		return err
	})
}

// deploymentWithSet makes a deployment and waits for its replica set.
func deploymentWithSet(t *testing.T, e *conformance.Env) *appsv1.Deployment {
	t.Helper()
	d, err := e.Client.AppsV1().Deployments(e.NS).Create(e.Ctx, deployment("d", 2), metav1.CreateOptions{})
	require.NoError(t, err)
	eventually(t, e, func() error {
		if len(setsOf(t, e)) == 0 {
			return fmt.Errorf("no replica set")
		}
		return nil
	})
	return d
}

func setsGoWithDeployment(t *testing.T, e *conformance.Env) {
	d := deploymentWithSet(t, e)
	require.NoError(t, e.Client.AppsV1().Deployments(e.NS).Delete(e.Ctx, "d", propagate(metav1.DeletePropagationBackground, d.UID)))
	eventually(t, e, func() error {
		l, err := e.Client.AppsV1().Deployments(e.NS).List(e.Ctx, metav1.ListOptions{})
		if p, s := len(podsOf(t, e)), len(setsOf(t, e)); err == nil && p+s+len(l.Items) > 0 {
			err = fmt.Errorf("%d pods, %d replica sets, %d deployments", p, s, len(l.Items))
		}
		return err
	})
}

func setsAreOrphaned(t *testing.T, e *conformance.Env) {
	d := deploymentWithSet(t, e)
	eventually(t, e, func() error {
		if s := setsOf(t, e)[0]; s.Status.ObservedGeneration < s.Generation || s.Status.Replicas != 2 {
			return fmt.Errorf("%+v", s.Status)
		}
		return nil
	})
	deployments := e.Client.AppsV1().Deployments(e.NS)
	require.NoError(t, deployments.Delete(e.Ctx, "d", propagate(metav1.DeletePropagationOrphan, d.UID)))
	eventually(t, e, gone(func() (*appsv1.Deployment, error) { return deployments.Get(e.Ctx, "d", metav1.GetOptions{}) }))
	sets := setsOf(t, e)
	require.Len(t, sets, 1)
	require.Empty(t, sets[0].OwnerReferences)
	require.Len(t, podsOf(t, e), 2)
}

func podsAreOrphaned(t *testing.T, e *conformance.Env) {
	rc := controllerWithPods(t, e, "rc", many)
	controllers := e.Client.CoreV1().ReplicationControllers(e.NS)
	require.NoError(t, controllers.Delete(e.Ctx, "rc", propagate(metav1.DeletePropagationOrphan, rc.UID)))
	eventually(t, e, gone(func() (*corev1.ReplicationController, error) {
		return controllers.Get(e.Ctx, "rc", metav1.GetOptions{})
	}))
	// What the collector does with something that it got to know later, it has done with the pods.
	collectorIsIdle(t, e)
	pods := podsOf(t, e)
	require.Len(t, pods, many)
	for _, p := range pods {
		require.Nil(t, p.DeletionTimestamp)
		require.Empty(t, p.OwnerReferences)
	}
}

// collectorIsIdle has the garbage collector delete something that was made now.
func collectorIsIdle(t *testing.T, e *conformance.Env) {
	t.Helper()
	maps := e.Client.CoreV1().ConfigMaps(e.NS)
	for i := range 10 {
		stray := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("stray-", i), OwnerReferences: []metav1.OwnerReference{
			{APIVersion: "v1", Kind: "ConfigMap", Name: "nobody", UID: types.UID(fmt.Sprint("nobody-", i))},
		}}}
		_, err := maps.Create(e.Ctx, stray, metav1.CreateOptions{})
		require.NoError(t, err)
		eventually(t, e, gone(func() (*corev1.ConfigMap, error) { return maps.Get(e.Ctx, stray.Name, metav1.GetOptions{}) }))
	}
}

func controllerGoesLast(t *testing.T, e *conformance.Env) {
	rc := controllerWithPods(t, e, "rc", many)
	controllers := e.Client.CoreV1().ReplicationControllers(e.NS)
	require.NoError(t, controllers.Delete(e.Ctx, "rc", propagate(metav1.DeletePropagationForeground, rc.UID)))
	eventually(t, e, gone(func() (*corev1.ReplicationController, error) {
		return controllers.Get(e.Ctx, "rc", metav1.GetOptions{})
	}))
	require.Empty(t, podsOf(t, e))
}

func secondOwnerKeeps(t *testing.T, e *conformance.Env) {
	going := controllerWithPods(t, e, "going", many)
	controllers := e.Client.CoreV1().ReplicationControllers(e.NS)
	staying, err := controllers.Create(e.Ctx, replicationController("staying", 0), metav1.CreateOptions{})
	require.NoError(t, err)
	patch := fmt.Sprintf(`{"metadata":{"ownerReferences":[{"apiVersion":"v1","kind":"ReplicationController","name":"staying","uid":%q}]}}`, staying.UID)
	for _, p := range podsOf(t, e)[:many/2] {
		_, err := e.Client.CoreV1().Pods(e.NS).Patch(e.Ctx, p.Name, types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{})
		require.NoError(t, err)
	}
	require.NoError(t, controllers.Delete(e.Ctx, "going", propagate(metav1.DeletePropagationForeground, going.UID)))
	eventually(t, e, gone(func() (*corev1.ReplicationController, error) {
		return controllers.Get(e.Ctx, "going", metav1.GetOptions{})
	}))
	pods := podsOf(t, e)
	require.Len(t, pods, many/2)
	for _, p := range pods {
		require.Nil(t, p.DeletionTimestamp)
		require.Len(t, p.OwnerReferences, 1)
		require.Equal(t, staying.UID, p.OwnerReferences[0].UID)
	}
}

func circleGoes(t *testing.T, e *conformance.Env) {
	pods := e.Client.CoreV1().Pods(e.NS)
	var all [3]*corev1.Pod
	for i := range all {
		p, err := pods.Create(e.Ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("pod", i)}, Spec: podTemplate("a").Spec}, metav1.CreateOptions{})
		require.NoError(t, err)
		all[i] = p
	}
	for i, p := range all {
		owner := all[(i+2)%3]
		patch := fmt.Sprintf(`{"metadata":{"ownerReferences":[{"apiVersion":"v1","kind":"Pod","name":%q,"uid":%q,"controller":true,"blockOwnerDeletion":true}]}}`, owner.Name, owner.UID)
		_, err := pods.Patch(e.Ctx, p.Name, types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{})
		require.NoError(t, err)
	}
	err := pods.Delete(e.Ctx, all[0].Name, propagate(metav1.DeletePropagationForeground, all[0].UID))
	require.NoError(t, err)
	eventually(t, e, func() error {
		if n := len(podsOf(t, e)); n > 0 {
			return fmt.Errorf("%d pods", n)
		}
		return nil
	})
	_, err = pods.Get(e.Ctx, all[2].Name, metav1.GetOptions{})
	require.True(t, apierrors.IsNotFound(err))
}
