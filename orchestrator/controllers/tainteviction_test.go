package controllers

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/keelson-io/keelson/internal/clock"
)

// TestUndatedTaint puts a taint on a node that does not say since when it is there, as users do, takes it away, and puts it on
// again.
func TestUndatedTaint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n", ResourceVersion: "1"}}, &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p", UID: "p", ResourceVersion: "1"},
			Spec: corev1.PodSpec{NodeName: "n", Tolerations: []corev1.Toleration{
				{Key: "k", Value: "v", Effect: corev1.TaintEffectNoExecute, TolerationSeconds: ptr.To(int64(60))},
			}},
		})
		c, err := NewTaintEviction(w.client, w.factory, w.events, clock.Real, nil)
		require.NoError(t, err)
		w.run(c)
		defer func() { w.stop(); w.factory.Shutdown() }()
		set := func(taints ...corev1.Taint) {
			n := w.node("n").DeepCopy()
			n.Spec.Taints = taints
			_, err := w.client.CoreV1().Nodes().Update(w.ctx, n, metav1.UpdateOptions{})
			require.NoError(t, err)
			synctest.Wait()
		}
		taint := corev1.Taint{Key: "k", Value: "v", Effect: corev1.TaintEffectNoExecute}
		there := func(after time.Duration, pods int) {
			t.Helper()
			time.Sleep(after)
			synctest.Wait()
			require.Len(t, w.pods(), pods)
		}
		set(taint)
		there(40*time.Second, 1)
		set()
		there(40*time.Second, 1)
		set(taint)
		there(40*time.Second, 1)
		set(taint, corev1.Taint{Key: "k", Effect: corev1.TaintEffectNoSchedule}) // the time goes on
		there(19*time.Second, 1)
		there(2*time.Second, 0)
	})
}
