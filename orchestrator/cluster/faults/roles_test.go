package faults

import (
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/keelson-io/keelson/orchestrator/cluster/clustertest"
	"github.com/keelson-io/keelson/server/servertest"
)

// roles are the parts of a cluster as processes of their own, on one store.
type roles struct {
	t     *testing.T
	dir   string
	store *servertest.Cluster
}

func (r *roles) program(name string, args ...string) *clustertest.Program {
	return clustertest.NewProgram(r.t, filepath.Join(r.dir, name+".log"), args...)
}

func (r *roles) file(name string) string { return filepath.Join(r.dir, name) }

// api starts an API server, which shares certificates and keys with the others.
func (r *roles) api(name string) (*clustertest.Program, *kubernetes.Clientset) {
	r.t.Helper()
	port := clustertest.FreePort(r.t)
	p := r.program(name, "apiserver", "--data-dir", r.file("data"), "--secure-port", strconv.Itoa(port), "--kubeconfig", r.file(name+".conf"),
		"--store-endpoints", strings.Join(r.store.Addrs(), ","))
	p.Start()
	clustertest.WaitReady(r.t, port)
	client, err := kubernetes.NewForConfig(clustertest.Kubeconfig(r.t, r.file(name+".conf")))
	require.NoError(r.t, err)
	return p, client
}

// worker starts controllers or a scheduler.
func (r *roles) worker(role, name, api string) *clustertest.Program {
	r.t.Helper()
	args := []string{role, "--kubeconfig", r.file(api + ".conf"), "--metrics-address", ""}
	if role == "controllers" {
		args = append(args, "--pki-dir", r.file("data/pki"))
	}
	p := r.program(name, args...)
	p.Start()
	return p
}

// TestRoles runs every role as processes of their own, two of each, and takes one after another away.
func TestRoles(t *testing.T) {
	t.Parallel()
	r := &roles{t: t, dir: t.TempDir(), store: servertest.Start(t, 1)}
	firstAPI, first := r.api("api1")
	_, second := r.api("api2")
	node(t, first)

	// One of each starts to work without waiting for anybody.
	controllers := r.worker("controllers", "controllers1", "api2")
	scheduler := r.worker("scheduler", "scheduler1", "api2")
	deploy(t, first, "one")
	placed(t, second, "one", 2)
	leaders := []string{holder(t, second, "keelson-controllers"), holder(t, second, "keelson-scheduler")}

	// A second of each waits until the first is gone, in order or not. What was asked for meanwhile is done then.
	r.worker("controllers", "controllers2", "api2")
	r.worker("scheduler", "scheduler2", "api2")
	controllers.Terminate()
	scheduler.Kill()
	deploy(t, first, "two")
	placed(t, second, "two", 2)
	require.NotEqual(t, leaders[0], holder(t, second, "keelson-controllers"))
	require.NotEqual(t, leaders[1], holder(t, second, "keelson-scheduler"))

	// Whoever uses the other API server sees nothing of it when one is killed.
	firstAPI.Kill()
	deploy(t, second, "three")
	placed(t, second, "three", 2)
}

// node makes a node that is ready, as its agent would.
func node(t *testing.T, client *kubernetes.Clientset) {
	t.Helper()
	n, err := client.CoreV1().Nodes().Create(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node"}}, metav1.CreateOptions{})
	require.NoError(t, err)
	now := metav1.Now()
	n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue, LastHeartbeatTime: now, LastTransitionTime: now}}
	n.Status.Allocatable = corev1.ResourceList{
		corev1.ResourceCPU: resource.MustParse("8"), corev1.ResourceMemory: resource.MustParse("8Gi"), corev1.ResourcePods: resource.MustParse("110"),
	}
	n.Status.Capacity = n.Status.Allocatable
	_, err = client.CoreV1().Nodes().UpdateStatus(t.Context(), n, metav1.UpdateOptions{})
	require.NoError(t, err)
}

// deploy makes a deployment of two pods that no taint keeps away.
func deploy(t *testing.T, client *kubernetes.Clientset, name string) {
	t.Helper()
	labels, replicas := map[string]string{"app": name}, int32(2)
	d := &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: appsv1.DeploymentSpec{
			Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec: corev1.PodSpec{
					Tolerations: []corev1.Toleration{{Operator: corev1.TolerationOpExists}},
					Containers:  []corev1.Container{{Name: "web", Image: "web:1"}},
				},
			},
		},
	}
	_, err := client.AppsV1().Deployments("default").Create(t.Context(), d, metav1.CreateOptions{})
	require.NoError(t, err)
}

// placed waits until a deployment's pods are on a node.
func placed(t *testing.T, client *kubernetes.Clientset, name string, want int) {
	t.Helper()
	require.Eventually(t, func() bool {
		pods, err := client.CoreV1().Pods("default").List(t.Context(), metav1.ListOptions{LabelSelector: "app=" + name})
		require.NoError(t, err)
		have := 0
		for _, p := range pods.Items {
			if p.Spec.NodeName != "" {
				have++
			}
		}
		return have == want
	}, limit, 100*time.Millisecond, "the pods of %s", name)
}

func holder(t *testing.T, client *kubernetes.Clientset, lease string) string {
	t.Helper()
	l, err := client.CoordinationV1().Leases("kube-system").Get(t.Context(), lease, metav1.GetOptions{})
	require.NoError(t, err)
	require.NotNil(t, l.Spec.HolderIdentity)
	require.NotEmpty(t, *l.Spec.HolderIdentity)
	return *l.Spec.HolderIdentity
}
