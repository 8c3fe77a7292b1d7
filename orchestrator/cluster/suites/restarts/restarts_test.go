//go:build linux

package restarts

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
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/keelson-io/keelson/orchestrator/cluster/nodetest"
)

var cluster *nodetest.Cluster

func TestMain(m *testing.M) {
	os.Exit(nodetest.Main(m, nodetest.Options{}, func(c *nodetest.Cluster) { cluster = c }))
}

// request asks a pod from its machine, without keelson.
func request(pod *corev1.Pod, path string) (string, error) {
	c := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			return nodetest.Dial(ctx, cluster.One.NetNS, network, address)
		},
	}}
	r, err := c.Get("http://" + pod.Status.PodIP + ":8080" + path)
	if err != nil {
		return "", err
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	return string(b), err
}

// server is a pod that serves and never ends by itself.
func server(name string) *corev1.Pod {
	pod := nodetest.Pod(name, "serve", "-http", ":8080")
	pod.Spec.RestartPolicy = corev1.RestartPolicyAlways
	return pod
}

// churn makes and deletes pods all the time, until the function that it returns is called. What fails does not matter: the API
// server comes and goes.
func churn(ns string) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	pods := cluster.Client.CoreV1().Pods(ns)
	var all sync.WaitGroup
	for w := range 3 {
		all.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				name := fmt.Sprintf("churn-%d-%d", w, n)
				_, _ = pods.Create(ctx, nodetest.Pod(name, "sleep", "0.3"), metav1.CreateOptions{})
				select {
				case <-time.After(500 * time.Millisecond):
				case <-ctx.Done():
				}
				_ = pods.Delete(ctx, name, metav1.DeleteOptions{})
			}
		})
	}
	return func() {
		cancel()
		all.Wait()
	}
}

// knock asks a pod again and again until the function that it returns is called, which tells what failed.
func knock(pod *corev1.Pod) (stop func() (asked int, failed []string)) {
	end, done := make(chan struct{}), make(chan struct{})
	var asked int
	var failed []string
	go func() {
		defer close(done)
		for {
			if out, err := request(pod, "/"); err != nil || out != pod.Name+"\n" {
				failed = append(failed, fmt.Sprint(out, err))
			}
			asked++
			select {
			case <-time.After(20 * time.Millisecond):
			case <-end:
				return
			}
		}
	}()
	return func() (int, []string) {
		close(end)
		<-done
		return asked, failed
	}
}

// TestRestart ends keelson in both ways under load. Pods live on as they are, and are reached all the time.
func TestRestart(t *testing.T) {
	for name, end := range map[string]func() error{"in order": cluster.Up.Stop, "killed": cluster.Up.Kill} {
		t.Run(name, func(t *testing.T) {
			ns := cluster.Namespace(t)
			web := cluster.Started(t, ns, server("web"))
			counts := cluster.Started(t, ns, nodetest.Pod("counts", "count", "10ms"))
			dies := cluster.Started(t, ns, server("dies"))
			accompanied := server("accompanied")
			side := nodetest.Container("side", "sleep", "infinity")
			always := corev1.ContainerRestartPolicyAlways
			side.RestartPolicy = &always
			accompanied.Spec.InitContainers = []corev1.Container{side, nodetest.Container("once", "true")}
			accompanied = cluster.Started(t, ns, accompanied)
			stopChurn, stopKnocking := churn(ns), knock(web)
			time.Sleep(2 * time.Second) // of load

			require.NoError(t, end())
			_, err := request(dies, "/exit?code=3")
			require.Error(t, err)
			time.Sleep(time.Second) // without keelson
			require.NoError(t, cluster.Up.Start())
			require.NoError(t, cluster.Up.Says("ready:"))
			require.NoError(t, cluster.Serves(cluster.One.Name))

			for _, before := range []*corev1.Pod{web, counts, accompanied} {
				now := cluster.Await(t, ns, before.Name, "is ready", nodetest.Ready)
				require.Equal(t, before.Status.PodIP, now.Status.PodIP)
				require.Equal(t, ids(before), ids(now), before.Name)
			}
			died := cluster.Await(t, ns, "dies", "was started again", func(p *corev1.Pod) bool {
				return nodetest.Ready(p) && p.Status.ContainerStatuses[0].RestartCount == 1
			})
			require.EqualValues(t, 3, died.Status.ContainerStatuses[0].LastTerminationState.Terminated.ExitCode)
			require.Equal(t, dies.Status.PodIP, died.Status.PodIP)

			require.Equal(t, "web\n", cluster.Exec(t, ns, "web", "main", "get", "http://127.0.0.1:8080/"))
			asked, failed := stopKnocking()
			require.Empty(t, failed, "of %d", asked)
			stopChurn()
			gapless(t, cluster.Log(t, ns, "counts", "main"))
			require.Equal(t, "works\n", cluster.Run(t, ns, nodetest.Pod("works", "echo", "works")))
		})
	}
}

// ids are the containers of a pod with how often each was started again.
func ids(p *corev1.Pod) (all []string) {
	for _, list := range [][]corev1.ContainerStatus{p.Status.InitContainerStatuses, p.Status.ContainerStatuses} {
		for _, s := range list {
			all = append(all, fmt.Sprint(s.ContainerID, " ", s.RestartCount))
		}
	}
	return all
}

// gapless looks at numbers that begin with 1: none is missing, none is there twice.
func gapless(t *testing.T, log string) {
	t.Helper()
	lines := strings.Split(strings.TrimSuffix(log, "\n"), "\n")
	for i, line := range lines {
		require.Equal(t, fmt.Sprint(i+1), line, "line %d of %d", i+1, len(lines))
	}
	require.Greater(t, len(lines), 100)
}

// TestDeletedMeanwhile is about a pod whose deletion has begun when keelson is killed: it goes on, and nothing is left.
func TestDeletedMeanwhile(t *testing.T) {
	ns := cluster.Namespace(t)
	pod := nodetest.Pod("slow", "trap", "3")
	grace := int64(30)
	pod.Spec.TerminationGracePeriodSeconds = &grace
	cluster.Started(t, ns, pod)
	cluster.Logs(t, ns, "slow", "main", "ready")
	require.NoError(t, cluster.Client.CoreV1().Pods(ns).Delete(t.Context(), "slow", metav1.DeleteOptions{}))
	cluster.Logs(t, ns, "slow", "main", "got SIGTERM")
	require.NoError(t, cluster.Up.Kill())
	require.NoError(t, cluster.Up.Start())
	require.NoError(t, cluster.Up.Says("ready:"))
	nodetest.Until(t, "the pod is gone", func() (bool, any) {
		all, err := cluster.Client.CoreV1().Pods(ns).List(t.Context(), metav1.ListOptions{})
		return err == nil && len(all.Items) == 0, all
	})
}
