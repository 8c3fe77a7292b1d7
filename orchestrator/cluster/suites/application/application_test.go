//go:build linux

package application

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/keelson-io/keelson/internal/testkit"
	"github.com/keelson-io/keelson/orchestrator/cluster/nodetest"
)

var cluster *nodetest.Cluster

func TestMain(m *testing.M) {
	os.Exit(nodetest.Main(m, nodetest.Options{}, func(c *nodetest.Cluster) { cluster = c }))
}

// deploy makes a Deployment of three servers that tell a word of a ConfigMap, and a Service before them.
func deploy(t *testing.T, ns string) *corev1.Service {
	t.Helper()
	_, err := cluster.Client.CoreV1().ConfigMaps(ns).Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "words"}, Data: map[string]string{"v1": "one", "v2": "two"}}, metav1.CreateOptions{})
	require.NoError(t, err)
	labels := map[string]string{"app": "web"}
	replicas, none, one := int32(3), intstr.FromInt32(0), intstr.FromInt32(1)
	pod := nodetest.Pod("web", "serve", "-http", ":8080", "-name", "$(WORD)", "-drain", "2s")
	grace := int64(30)
	pod.Spec.RestartPolicy, pod.Spec.TerminationGracePeriodSeconds = corev1.RestartPolicyAlways, &grace
	pod.Spec.Containers[0].Env = []corev1.EnvVar{word("v1")}
	pod.Spec.Containers[0].ReadinessProbe = &corev1.Probe{
		ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/healthz", Port: intstr.FromInt32(8080)}}, PeriodSeconds: 1,
	}
	_, err = cluster.Client.AppsV1().Deployments(ns).Create(t.Context(), &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec: appsv1.DeploymentSpec{
			Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: labels},
			Strategy: appsv1.DeploymentStrategy{RollingUpdate: &appsv1.RollingUpdateDeployment{MaxUnavailable: &none, MaxSurge: &one}},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: pod.Spec},
		},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	service, err := cluster.Client.CoreV1().Services(ns).Create(t.Context(), &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec:       corev1.ServiceSpec{Type: corev1.ServiceTypeNodePort, Selector: labels, Ports: []corev1.ServicePort{{Port: 80, TargetPort: intstr.FromInt32(8080)}}},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	rolledOut(t, ns)
	return service
}

func word(key string) corev1.EnvVar {
	return corev1.EnvVar{Name: "WORD", ValueFrom: &corev1.EnvVarSource{ConfigMapKeyRef: &corev1.ConfigMapKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: "words"}, Key: key}}}
}

// rolledOut waits until the deployment is as it should be.
func rolledOut(t *testing.T, ns string) {
	t.Helper()
	nodetest.Until(t, "the roll-out", func() (bool, any) {
		d, err := cluster.Client.AppsV1().Deployments(ns).Get(t.Context(), "web", metav1.GetOptions{})
		if err != nil {
			return false, err
		}
		s := d.Status
		return s.ObservedGeneration == d.Generation && s.UpdatedReplicas == 3 && s.AvailableReplicas == 3 && s.Replicas == 3, s
	})
}

// visitor asks an address again and again, from inside of a network namespace.
type visitor struct {
	from    *testkit.NetNS
	address string

	answers map[string]int
	failed  []string
}

func (v *visitor) run(ctx context.Context) {
	v.answers = map[string]int{}
	c := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext:       dialer(v.from),
	}}
	for ctx.Err() == nil {
		r, err := c.Get("http://" + v.address + "/")
		if err != nil {
			v.failed = append(v.failed, err.Error())
			continue
		}
		b, err := io.ReadAll(r.Body)
		_ = r.Body.Close()
		if err != nil || r.StatusCode != http.StatusOK {
			v.failed = append(v.failed, fmt.Sprint(r.Status, err))
			continue
		}
		v.answers[strings.TrimSpace(string(b))]++
		time.Sleep(5 * time.Millisecond)
	}
}

// dialer dials from inside of a network namespace.
func dialer(from *testkit.NetNS) func(ctx context.Context, network, address string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		return nodetest.Dial(ctx, from, network, address)
	}
}

// TestRollingUpdate changes an application under load. No request fails, whoever asks: its own machine, one outside by way of
// the machine's port, and a pod by way of the service's name.
func TestRollingUpdate(t *testing.T) {
	t.Parallel()
	ns := cluster.Namespace(t)
	service := deploy(t, ns)
	visitors := []*visitor{
		{from: cluster.One.NetNS, address: service.Spec.ClusterIP + ":80"},
		{from: cluster.Wire, address: fmt.Sprintf("%s:%d", cluster.One.Address, service.Spec.Ports[0].NodePort)},
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var all sync.WaitGroup
	for _, v := range visitors {
		nodetest.Until(t, "the service answers at "+v.address, func() (bool, any) {
			c, err := nodetest.Dial(ctx, v.from, "tcp", v.address)
			if err != nil {
				return false, err
			}
			return c.Close() == nil, nil
		})
		all.Go(func() { v.run(ctx) })
	}
	asks := nodetest.Pod("asks", "sh", "-c", "until stat /tmp/enough 2>/dev/null; do get http://web/ || echo failed; done")
	cluster.Started(t, ns, asks)
	cluster.Logs(t, ns, "asks", "main", "one\n")

	d, err := cluster.Client.AppsV1().Deployments(ns).Get(t.Context(), "web", metav1.GetOptions{})
	require.NoError(t, err)
	d.Spec.Template.Spec.Containers[0].Env = []corev1.EnvVar{word("v2")}
	_, err = cluster.Client.AppsV1().Deployments(ns).Update(t.Context(), d, metav1.UpdateOptions{})
	require.NoError(t, err)
	rolledOut(t, ns)
	cluster.Logs(t, ns, "asks", "main", "two\n")
	cluster.Exec(t, ns, "asks", "main", "touch", "/tmp/enough")
	nodetest.Until(t, "only the new ones are there", func() (bool, any) {
		pods, err := cluster.Client.CoreV1().Pods(ns).List(t.Context(), metav1.ListOptions{LabelSelector: "app=web"})
		return err == nil && len(pods.Items) == 3, err
	})
	cancel()
	all.Wait()
	for _, v := range visitors {
		require.Empty(t, v.failed, v.address)
		require.Positive(t, v.answers["one"], v.address)
		require.Positive(t, v.answers["two"], v.address)
		require.Len(t, v.answers, 2, v.address)
	}
	cluster.Await(t, ns, "asks", "has ended", nodetest.Ended)
	require.NotContains(t, cluster.Log(t, ns, "asks", "main"), "failed")
}

// TestScale takes servers away and adds some under load: the service knows only those that are there.
func TestScale(t *testing.T) {
	t.Parallel()
	ns := cluster.Namespace(t)
	service := deploy(t, ns)
	v := &visitor{from: cluster.One.NetNS, address: service.Spec.ClusterIP + ":80"}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var all sync.WaitGroup
	all.Go(func() { v.run(ctx) })
	for _, n := range []int{1, 4} {
		_, err := cluster.Client.AppsV1().Deployments(ns).Patch(t.Context(), "web", types.MergePatchType, fmt.Appendf(nil, `{"spec":{"replicas":%d}}`, n), metav1.PatchOptions{})
		require.NoError(t, err)
		nodetest.Until(t, fmt.Sprint(n, " servers"), func() (bool, any) {
			pods, err := cluster.Client.CoreV1().Pods(ns).List(t.Context(), metav1.ListOptions{LabelSelector: "app=web"})
			if err != nil {
				return false, err
			}
			ready := 0
			for i := range pods.Items {
				if nodetest.Ready(&pods.Items[i]) {
					ready++
				}
			}
			return ready == n && len(pods.Items) == n, len(pods.Items)
		})
	}
	cancel()
	all.Wait()
	require.Empty(t, v.failed)
	require.Positive(t, v.answers["one"])
}
