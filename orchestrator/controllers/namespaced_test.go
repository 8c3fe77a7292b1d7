package controllers

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/keelson-io/keelson/internal/clock"
)

func TestInEveryNamespace(t *testing.T) {
	ns := func(name string, phase corev1.NamespacePhase) *corev1.Namespace {
		return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}, Status: corev1.NamespaceStatus{Phase: phase}}
	}
	w := newWorld(t, ns("a", corev1.NamespaceActive), ns("going", corev1.NamespaceTerminating))
	sa, err := NewServiceAccount(w.client, w.factory, nil)
	require.NoError(t, err)
	ca, err := NewRootCA(w.client, w.factory, nil, []byte("PEM"))
	require.NoError(t, err)
	w.run(sa, ca)
	complete := func(namespace string) {
		t.Helper()
		eventually(t, func() error {
			_, err := w.client.CoreV1().ServiceAccounts(namespace).Get(w.ctx, "default", metav1.GetOptions{})
			cm, err2 := w.client.CoreV1().ConfigMaps(namespace).Get(w.ctx, "kube-root-ca.crt", metav1.GetOptions{})
			if err2 == nil && (cm.Data["ca.crt"] != "PEM" || len(cm.Data) != 1) {
				err2 = fmt.Errorf("%v", cm.Data)
			}
			return errors.Join(err, err2)
		})
	}
	complete("a")
	_, err = w.client.CoreV1().Namespaces().Create(w.ctx, ns("b", corev1.NamespaceActive), metav1.CreateOptions{})
	require.NoError(t, err)
	complete("b")

	// What somebody removed or changed is put right.
	require.NoError(t, w.client.CoreV1().ServiceAccounts("a").Delete(w.ctx, "default", metav1.DeleteOptions{}))
	cm, err := w.client.CoreV1().ConfigMaps("a").Get(w.ctx, "kube-root-ca.crt", metav1.GetOptions{})
	require.NoError(t, err)
	cm = cm.DeepCopy()
	cm.Data["ca.crt"] = "forged"
	_, err = w.client.CoreV1().ConfigMaps("a").Update(w.ctx, cm, metav1.UpdateOptions{})
	require.NoError(t, err)
	complete("a")
	_, err = w.client.CoreV1().ServiceAccounts("going").Get(w.ctx, "default", metav1.GetOptions{})
	require.Error(t, err)
}

func TestPodGC(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		pod := func(name, node string, phase corev1.PodPhase, age time.Duration) *corev1.Pod {
			return &corev1.Pod{
				ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, CreationTimestamp: metav1.NewTime(start.Add(-age))},
				Spec:       corev1.PodSpec{NodeName: node}, Status: corev1.PodStatus{Phase: phase},
			}
		}
		unplaced := pod("unplaced", "", corev1.PodPending, 0)
		unplaced.DeletionTimestamp, unplaced.Finalizers = &metav1.Time{Time: start}, []string{"x"}
		objects := []runtime.Object{
			&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}}, unplaced,
			pod("runs", "n", corev1.PodRunning, 0), pod("waits", "", corev1.PodPending, 0), pod("lost", "gone", corev1.PodRunning, 0),
			pod("done-1", "n", corev1.PodSucceeded, time.Hour), pod("done-2", "n", corev1.PodFailed, time.Minute), pod("done-3", "n", corev1.PodSucceeded, time.Second),
		}
		w := newWorld(t, objects...)
		w.run(NewPodGC(w.client, w.factory, clock.Real, nil, 2))
		names := func() (out []string) {
			for _, p := range w.pods() {
				out = append(out, p.Name)
			}
			return out
		}
		time.Sleep(time.Second)
		synctest.Wait()
		require.ElementsMatch(t, []string{"runs", "waits", "lost", "done-2", "done-3"}, names())
		time.Sleep(nodeQuarantine + podGCInterval)
		synctest.Wait()
		require.ElementsMatch(t, []string{"runs", "waits", "done-2", "done-3"}, names())
		w.stop()
		w.factory.Shutdown()
	})
}
