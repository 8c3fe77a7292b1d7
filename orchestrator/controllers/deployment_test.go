package controllers

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	ktesting "k8s.io/client-go/testing"
	"k8s.io/utils/ptr"

	"github.com/keelson-io/keelson/internal/clock"
)

func newDeployment(replicas int32, f func(d *appsv1.Deployment)) *appsv1.Deployment {
	labels := map[string]string{"app": "web"}
	d := &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "web", UID: "web", Generation: 1},
		Spec: appsv1.DeploymentSpec{
			Replicas: ptr.To(replicas), Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "v1"}}},
			},
			Strategy: appsv1.DeploymentStrategy{
				Type:          appsv1.RollingUpdateDeploymentStrategyType,
				RollingUpdate: &appsv1.RollingUpdateDeployment{MaxSurge: ptr.To(intstr.FromInt32(1)), MaxUnavailable: ptr.To(intstr.FromInt32(1))},
			},
			RevisionHistoryLimit: ptr.To(int32(2)), ProgressDeadlineSeconds: ptr.To(int32(600)),
		},
	}
	if f != nil {
		f(d)
	}
	return d
}

// startDeployment runs a deployment, and a node that makes pods of every image but "broken" ready after a moment.
func startDeployment(t *testing.T, d *appsv1.Deployment) *world {
	w := newWorld(t, d)
	rs, err := NewReplicaSet(w.client, w.factory, w.events, clock.Real, nil)
	require.NoError(t, err)
	dc, err := NewDeployment(w.client, w.factory, w.events, clock.Real, nil)
	require.NoError(t, err)
	w.run(rs, dc)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for w.ctx.Err() == nil {
			w.makeReady()
			time.Sleep(time.Millisecond)
		}
	}()
	t.Cleanup(func() { w.stop(); <-done })
	return w
}

func (w *world) makeReady() {
	l, err := w.client.CoreV1().Pods("ns").List(w.ctx, metav1.ListOptions{})
	if err != nil {
		return
	}
	for _, p := range l.Items {
		if p.Status.Phase == "" && p.Spec.Containers[0].Image != "broken" && rand.IntN(3) == 0 {
			p.Status.Phase = corev1.PodRunning
			p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Now()}}
			_, _ = w.client.CoreV1().Pods("ns").UpdateStatus(w.ctx, &p, metav1.UpdateOptions{})
		}
	}
}

func (w *world) deployment() *appsv1.Deployment {
	d, err := w.client.AppsV1().Deployments("ns").Get(w.ctx, "web", metav1.GetOptions{})
	require.NoError(w.t, err)
	return d
}

// edit changes the deployment.
func (w *world) edit(f func(d *appsv1.Deployment)) {
	w.t.Helper()
	eventually(w.t, func() error {
		d := w.deployment().DeepCopy()
		f(d)
		_, err := w.client.AppsV1().Deployments("ns").Update(w.ctx, d, metav1.UpdateOptions{})
		return err
	})
}

func image(name string) func(d *appsv1.Deployment) {
	return func(d *appsv1.Deployment) { d.Spec.Template.Spec.Containers[0].Image = name }
}

// rolledOut waits until all pods have an image, and checks meanwhile that there are never too many or too few of them.
func (w *world) rolledOut(image string, most, least int) {
	w.t.Helper()
	eventually(w.t, func() error {
		running, available, right := 0, 0, 0
		for _, p := range w.pods() {
			running++
			if isReady(&p) {
				available++
			}
			if p.Spec.Containers[0].Image == image {
				right++
			}
		}
		if running > most || available < least {
			require.Failf(w.t, "bounds", "%d pods, %d available", running, available)
		}
		if d := w.deployment(); !complete(d, &d.Status) || right != running {
			return fmt.Errorf("%d of %d pods have image %s, %+v", right, running, image, d.Status)
		}
		return nil
	})
}

func TestRollout(t *testing.T) {
	w := startDeployment(t, newDeployment(6, nil))
	w.rolledOut("v1", 7, 0)
	for i := 2; i < 7; i++ {
		name := fmt.Sprintf("v%d", i)
		w.edit(image(name))
		w.rolledOut(name, 7, 5)
		require.Equal(t, fmt.Sprint(i), w.deployment().Annotations[revisionAnnotation])
	}
	c := findCondition(&w.deployment().Status, appsv1.DeploymentProgressing)
	require.Equal(t, reasonAvailable, c.Reason)
	require.True(t, strings.HasPrefix(c.Message, `ReplicaSet "web-`), c.Message)

	// History is kept as far as asked for; an old template gets its replica set back, with a new revision.
	sets := func() []string {
		l, err := w.client.AppsV1().ReplicaSets("ns").List(w.ctx, metav1.ListOptions{})
		require.NoError(t, err)
		var images []string
		for _, rs := range l.Items {
			images = append(images, rs.Spec.Template.Spec.Containers[0].Image)
		}
		slices.Sort(images)
		return images
	}
	eventually(t, func() error {
		if s := sets(); !slices.Equal(s, []string{"v4", "v5", "v6"}) {
			return fmt.Errorf("%v", s)
		}
		return nil
	})
	w.edit(image("v5"))
	w.rolledOut("v5", 7, 5)
	require.Equal(t, "7", w.deployment().Annotations[revisionAnnotation])
	require.Equal(t, []string{"v4", "v5", "v6"}, sets())
}

func TestRecreate(t *testing.T) {
	w := startDeployment(t, newDeployment(4, func(d *appsv1.Deployment) {
		d.Spec.Strategy = appsv1.DeploymentStrategy{Type: appsv1.RecreateDeploymentStrategyType}
	}))
	w.rolledOut("v1", 4, 0)
	w.edit(image("v2"))
	eventually(t, func() error {
		images := map[string]bool{}
		for _, p := range w.pods() {
			images[p.Spec.Containers[0].Image] = true
		}
		require.Less(t, len(images), 2, "both at once")
		if !images["v2"] {
			return errors.New("not yet")
		}
		return nil
	})
	w.rolledOut("v2", 4, 0)
}

// TestStuck rolls out what never gets ready, scales in the middle, and goes back.
func TestStuck(t *testing.T) {
	w := startDeployment(t, newDeployment(10, func(d *appsv1.Deployment) { d.Spec.ProgressDeadlineSeconds = ptr.To(int32(1)) }))
	w.rolledOut("v1", 11, 0)
	w.edit(image("broken"))
	count := func() (good, bad int) {
		for _, p := range w.pods() {
			if p.Spec.Containers[0].Image == "broken" {
				bad++
			} else {
				good++
			}
		}
		return good, bad
	}
	eventually(t, func() error {
		if good, bad := count(); good != 9 || bad != 2 {
			return fmt.Errorf("%d and %d", good, bad)
		}
		return nil
	})
	eventually(t, func() error {
		if c := findCondition(&w.deployment().Status, appsv1.DeploymentProgressing); c == nil || c.Reason != reasonTimedOut || c.Status != corev1.ConditionFalse {
			return fmt.Errorf("%+v", c)
		}
		return nil
	})
	w.edit(func(d *appsv1.Deployment) { d.Spec.Replicas = ptr.To(int32(20)) })
	eventually(t, func() error { // 9 and 2 of 11 become 17 and 4 of 21
		if good, bad := count(); good != 17 || bad != 4 {
			return fmt.Errorf("%d and %d", good, bad)
		}
		return nil
	})
	w.edit(image("v1"))
	w.rolledOut("v1", 21, 0)
}

func TestPaused(t *testing.T) {
	w := startDeployment(t, newDeployment(3, nil))
	w.rolledOut("v1", 4, 0)
	w.edit(func(d *appsv1.Deployment) { d.Spec.Paused = true; image("v2")(d) })
	eventually(t, func() error {
		if c := findCondition(&w.deployment().Status, appsv1.DeploymentProgressing); c.Reason != reasonPaused {
			return errors.New(c.Reason)
		}
		return nil
	})
	w.edit(func(d *appsv1.Deployment) { d.Spec.Replicas = ptr.To(int32(5)) })
	eventually(t, func() error {
		if n := len(w.pods()); n != 5 {
			return fmt.Errorf("%d pods", n)
		}
		return nil
	})
	for _, p := range w.pods() {
		require.Equal(t, "v1", p.Spec.Containers[0].Image)
	}
	w.edit(func(d *appsv1.Deployment) { d.Spec.Paused = false })
	w.rolledOut("v2", 6, 0)
}

// TestShares spreads changes over replica sets.
func TestShares(t *testing.T) {
	sets := func(most string, sizes ...int32) (out []*appsv1.ReplicaSet) {
		for _, n := range sizes {
			out = append(out, &appsv1.ReplicaSet{
				ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{maxAnnotation: most}}, Spec: appsv1.ReplicaSetSpec{Replicas: ptr.To(n)},
			})
		}
		return out
	}
	require.Equal(t, []int32{17, 4}, shares(sets("11", 9, 2), 10, 21, 11))
	require.Equal(t, []int32{5, 1}, shares(sets("11", 9, 2), -5, 6, 11))
	require.Equal(t, []int32{0, 0}, shares(sets("11", 9, 2), -11, 0, 11))
	require.Equal(t, []int32{9, 2}, shares(sets("11", 9, 2), 0, 11, 11))
	for range 1000 { // nothing is lost or made up, and nothing is negative
		a, b, c, more := rand.Int32N(20), rand.Int32N(20), rand.Int32N(20), rand.Int32N(40)-20
		total := a + b + c
		if total == 0 || total+more < 0 {
			continue
		}
		s := sets(fmt.Sprint(total), a, b, c)
		slices.SortFunc(s, func(x, y *appsv1.ReplicaSet) int { return int(wanted(y) - wanted(x)) })
		got := shares(s, more, total+more, total)
		require.Equal(t, total+more, got[0]+got[1]+got[2], "%d %d %d and %d: %v", a, b, c, more, got)
		require.GreaterOrEqual(t, slices.Min(got), int32(0))
	}
}

// TestTerminatingNamespace has a deployment whose replica set was deleted with its namespace.
func TestTerminatingNamespace(t *testing.T) {
	w := newWorld(t, newDeployment(3, nil))
	refused := make(chan struct{}, 100)
	w.client.PrependReactor("create", "replicasets", func(ktesting.Action) (bool, runtime.Object, error) {
		err := apierrors.NewForbidden(appsv1.Resource("replicasets"), "web", errors.New("the namespace goes"))
		err.ErrStatus.Details.Causes = []metav1.StatusCause{{Type: corev1.NamespaceTerminatingCause}}
		select {
		case refused <- struct{}{}:
		default:
		}
		return true, nil, err
	})
	dc, err := NewDeployment(w.client, w.factory, w.events, clock.Real, nil)
	require.NoError(t, err)
	w.run(dc)
	<-refused
	w.edit(func(d *appsv1.Deployment) { d.Spec.Replicas = ptr.To(int32(5)) })
	<-refused
}
