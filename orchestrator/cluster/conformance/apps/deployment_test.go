package apps

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/utils/ptr"

	"github.com/keelson-io/keelson/orchestrator/cluster/conformance"
)

const revisionAnnotation = "deployment.kubernetes.io/revision"

func deployments() conformance.Behaviours {
	return conformance.Behaviours{
		"Deployment Deployment should have a working scale subresource":                 deploymentScale,
		"Deployment RecreateDeployment should delete old pods and create new ones":      deploymentRecreate,
		"Deployment RollingUpdateDeployment should delete old pods and create new ones": deploymentRollingUpdate,
		"Deployment deployment should delete old replica sets":                          deploymentHistory,
		"Deployment deployment should support proportional scaling":                     deploymentProportional,
		"Deployment deployment should support rollover":                                 deploymentRollover,
		"Deployment should run the lifecycle of a Deployment":                           deploymentLifecycle,
		"Deployment should validate Deployment Status endpoints":                        deploymentStatus,
	}
}

// complete waits until a deployment's rollout is complete.
func complete(t *testing.T, e *conformance.Env, name string) *appsv1.Deployment {
	t.Helper()
	return conformance.Until(t, e, name+" is rolled out", func() (*appsv1.Deployment, error) {
		return e.Client.AppsV1().Deployments(e.NS).Get(e.Ctx, name, metav1.GetOptions{})
	}, isComplete)
}

func isComplete(d *appsv1.Deployment) bool {
	s, n := d.Status, *d.Spec.Replicas
	return s.ObservedGeneration >= d.Generation && s.UpdatedReplicas == n && s.Replicas == n && s.AvailableReplicas == n
}

// sets returns the replica sets that a deployment controls: the one of its present template, nil if it is not there, and others.
func sets(t *testing.T, e *conformance.Env, d *appsv1.Deployment) (current *appsv1.ReplicaSet, old []appsv1.ReplicaSet) {
	t.Helper()
	l, err := e.Client.AppsV1().ReplicaSets(e.NS).List(e.Ctx, metav1.ListOptions{LabelSelector: metav1.FormatLabelSelector(d.Spec.Selector)})
	require.NoError(t, err)
	for i, rs := range l.Items {
		if !metav1.IsControlledBy(&rs, d) {
			continue
		}
		template := rs.Spec.Template.DeepCopy()
		delete(template.Labels, appsv1.DefaultDeploymentUniqueLabelKey)
		if apiequality.Semantic.DeepEqual(template, &d.Spec.Template) {
			current = &l.Items[i]
		} else {
			old = append(old, rs)
		}
	}
	return current, old
}

func getSet(t *testing.T, e *conformance.Env, name string) *appsv1.ReplicaSet {
	t.Helper()
	rs, err := e.Client.AppsV1().ReplicaSets(e.NS).Get(e.Ctx, name, metav1.GetOptions{})
	require.NoError(t, err)
	return rs
}

// sized waits until a replica set is to have, and has, a number of pods.
func sized(t *testing.T, e *conformance.Env, name string, replicas int32) {
	t.Helper()
	conformance.Until(t, e, fmt.Sprintf("%s has %d pods", name, replicas), func() (*appsv1.ReplicaSet, error) {
		return e.Client.AppsV1().ReplicaSets(e.NS).Get(e.Ctx, name, metav1.GetOptions{})
	}, func(rs *appsv1.ReplicaSet) bool {
		return *rs.Spec.Replicas == replicas && rs.Status.Replicas == replicas && rs.Status.ObservedGeneration >= rs.Generation
	})
}

func deploymentScale(t *testing.T, e *conformance.Env) {
	create(t, e, e.Client.AppsV1().Deployments(e.NS), deployment("app", 1, map[string]string{"name": "app"}))
	require.Equal(t, "1", complete(t, e, "app").Annotations[revisionAnnotation])
	scales(t, e, "deployments", "app")
}

// deploymentRecreate watches that new pods never run beside old ones.
func deploymentRecreate(t *testing.T, e *conformance.Env) {
	deployments := e.Client.AppsV1().Deployments(e.NS)
	d := deployment("app", 2, map[string]string{"name": "app"})
	d.Spec.Strategy.Type = appsv1.RecreateDeploymentStrategyType
	create(t, e, deployments, d)
	require.Equal(t, "1", complete(t, e, "app").Annotations[revisionAnnotation])
	d = conformance.Update(t, e, deployments, "app", func(d *appsv1.Deployment) { d.Spec.Template.Spec.Containers[0].Image = nextImage })
	w := conformance.Observe[*appsv1.Deployment](t, e, deployments.Watch, metav1.ListOptions{
		FieldSelector: "metadata.name=app", ResourceVersion: d.ResourceVersion,
	})
	w.Until(watch.Modified, "the deployment is recreated", func(d *appsv1.Deployment) bool {
		if d.Status.UpdatedReplicas > 0 {
			require.Equal(t, d.Status.UpdatedReplicas, d.Status.Replicas, "old pods beside new ones")
		}
		return d.Status.ObservedGeneration >= d.Generation && d.Status.Replicas == 2 && d.Status.UpdatedReplicas == 2
	})
	for _, p := range conformance.PodsRunning(t, e, "name=app", 2) {
		require.Equal(t, nextImage, p.Spec.Containers[0].Image)
	}
}

// deploymentRollingUpdate lets a deployment adopt a replica set of a high revision and replace its pod.
func deploymentRollingUpdate(t *testing.T, e *conformance.Env) {
	old := replicaSet("older", 1, map[string]string{"name": "app", "pod": "old"})
	old.Annotations = map[string]string{revisionAnnotation: "3546343826724305832"}
	create(t, e, e.Client.AppsV1().ReplicaSets(e.NS), old)
	was := conformance.PodsRunning(t, e, "name=app", 1)[0]
	create(t, e, e.Client.AppsV1().Deployments(e.NS), deployment("app", 1, map[string]string{"name": "app"}))
	d := complete(t, e, "app")
	require.Equal(t, "3546343826724305833", d.Annotations[revisionAnnotation])
	current, adopted := sets(t, e, d)
	require.NotNil(t, current)
	require.Len(t, adopted, 1)
	require.Equal(t, "older", adopted[0].Name)
	require.NotEqual(t, was.UID, conformance.PodsRunning(t, e, "name=app", 1)[0].UID)
}

// deploymentHistory keeps no old replica set, and makes no pod of an old one.
func deploymentHistory(t *testing.T, e *conformance.Env) {
	create(t, e, e.Client.AppsV1().ReplicaSets(e.NS), replicaSet("older", 1, map[string]string{"name": "app", "pod": "old"}))
	conformance.PodsRunning(t, e, "name=app", 1)
	pods, err := e.Client.CoreV1().Pods(e.NS).List(e.Ctx, metav1.ListOptions{})
	require.NoError(t, err)
	w := conformance.Observe[*corev1.Pod](t, e, e.Client.CoreV1().Pods(e.NS).Watch, metav1.ListOptions{ResourceVersion: pods.ResourceVersion})
	d := deployment("app", 1, map[string]string{"name": "app"})
	d.Spec.RevisionHistoryLimit, d.Spec.Template.Spec.Containers[0].Name = ptr.To(int32(0)), "next"
	create(t, e, e.Client.AppsV1().Deployments(e.NS), d)
	d = complete(t, e, "app")
	conformance.Eventually(t, e, "the old replica set is gone", func() (bool, error) {
		_, old := sets(t, e, d)
		return len(old) == 0, nil
	})
	made := 0
	w.Until(watch.Deleted, "the old pod is gone", func(p *corev1.Pod) bool { return p.Labels["pod"] == "old" })
	l, err := e.Client.CoreV1().Pods(e.NS).List(e.Ctx, metav1.ListOptions{})
	require.NoError(t, err)
	for _, p := range l.Items {
		if p.DeletionTimestamp == nil {
			require.Equal(t, "next", p.Spec.Containers[0].Name)
			made++
		}
	}
	require.Equal(t, 1, made)
}

// deploymentRollover changes a deployment whose rollout is stuck: both earlier replica sets give way.
func deploymentRollover(t *testing.T, e *conformance.Env) {
	create(t, e, e.Client.AppsV1().ReplicaSets(e.NS), replicaSet("older", 1, map[string]string{"name": "app", "pod": "old"}))
	conformance.PodsRunning(t, e, "name=app", 1)
	deployments := e.Client.AppsV1().Deployments(e.NS)
	d := deployment("app", 1, map[string]string{"name": "app"})
	d.Spec.MinReadySeconds = 2
	d.Spec.Strategy.RollingUpdate = &appsv1.RollingUpdateDeployment{MaxUnavailable: ptr.To(intstr.FromInt32(0)), MaxSurge: ptr.To(intstr.FromInt32(1))}
	d.Spec.Template.Annotations = map[string]string{neverReady: "true"}
	create(t, e, deployments, d)
	d = conformance.Until(t, e, "the rollout begins", func() (*appsv1.Deployment, error) {
		return deployments.Get(e.Ctx, "app", metav1.GetOptions{})
	}, func(d *appsv1.Deployment) bool {
		return d.Status.ObservedGeneration >= d.Generation && d.Status.UpdatedReplicas == 1 && d.Annotations[revisionAnnotation] == "1"
	})
	stuck, old := sets(t, e, d)
	require.Len(t, old, 1)
	sized(t, e, "older", 1)
	sized(t, e, stuck.Name, 1)
	conformance.Update(t, e, deployments, "app", func(d *appsv1.Deployment) {
		d.Spec.Template.Annotations = nil
		d.Spec.Template.Spec.Containers[0] = corev1.Container{Name: "next", Image: nextImage}
	})
	conformance.Until(t, e, "app is rolled out", func() (*appsv1.Deployment, error) {
		return deployments.Get(e.Ctx, "app", metav1.GetOptions{})
	}, func(d *appsv1.Deployment) bool {
		current, others := sets(t, e, d)
		var total int32
		for _, rs := range others {
			total += *rs.Spec.Replicas
		}
		if current != nil {
			total += *current.Spec.Replicas
		}
		require.LessOrEqual(t, total, int32(2), "maxSurge is 1")
		require.GreaterOrEqual(t, d.Status.AvailableReplicas, int32(1), "maxUnavailable is 0")
		return isComplete(d)
	})
	d, err := deployments.Get(e.Ctx, "app", metav1.GetOptions{})
	require.NoError(t, err)
	require.Equal(t, "2", d.Annotations[revisionAnnotation])
	sized(t, e, "older", 0)
	sized(t, e, stuck.Name, 0)
}

// deploymentProportional scales a deployment in the middle of a rollout that is stuck.
func deploymentProportional(t *testing.T, e *conformance.Env) {
	deployments := e.Client.AppsV1().Deployments(e.NS)
	d := deployment("app", 10, map[string]string{"name": "app"})
	d.Spec.Strategy.RollingUpdate = &appsv1.RollingUpdateDeployment{MaxUnavailable: ptr.To(intstr.FromInt32(2)), MaxSurge: ptr.To(intstr.FromInt32(3))}
	create(t, e, deployments, d)
	conformance.PodsRunning(t, e, "name=app", 10)
	first, _ := sets(t, e, complete(t, e, "app"))
	d = conformance.Update(t, e, deployments, "app", func(d *appsv1.Deployment) {
		d.Spec.Template.Annotations = map[string]string{neverReady: "true"}
		d.Spec.Template.Spec.Containers[0].Image = "registry.example/missing:404"
	})
	sized(t, e, first.Name, 8)
	require.EqualValues(t, 8, getSet(t, e, first.Name).Status.AvailableReplicas)
	second, _ := sets(t, e, d)
	require.NotNil(t, second)
	sized(t, e, second.Name, 5)
	require.Zero(t, getSet(t, e, second.Name).Status.AvailableReplicas)
	d, err := deployments.Get(e.Ctx, "app", metav1.GetOptions{})
	require.NoError(t, err)
	require.GreaterOrEqual(t, d.Status.AvailableReplicas, int32(8))
	conformance.Update(t, e, deployments, "app", func(d *appsv1.Deployment) { d.Spec.Replicas = ptr.To(int32(30)) })
	// 20 more pods are shared as 8 to 5.
	sized(t, e, first.Name, 20)
	sized(t, e, second.Name, 13)
}

func deploymentStatus(t *testing.T, e *conformance.Env) {
	create(t, e, e.Client.AppsV1().Deployments(e.NS), deployment("app", 1, map[string]string{"name": "app"}))
	complete(t, e, "app")
	statusConditions(t, e, "deployments", "app")
}
