package faults

import (
	"context"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"

	"github.com/keelson-io/keelson/orchestrator/cluster/clustertest"
)

// limit is for what must come about. It is generous: machines that run tests are busy.
const limit = 3 * time.Minute

// kills is how often the process is killed, each time after so many acknowledged writes.
const (
	kills         = 10
	writesBetween = 150
)

// TestKill kills the whole platform under load, again and again: every acknowledged write is still there, and every
// controller goes on.
func TestKill(t *testing.T) {
	t.Parallel()
	dir, port := t.TempDir(), clustertest.FreePort(t)
	config := filepath.Join(dir, "kubeconfig")
	up := clustertest.NewProgram(t, filepath.Join(dir, "log"), "up", "--data-dir", filepath.Join(dir, "data"),
		"--secure-port", strconv.Itoa(port), "--kubeconfig", config, "--hollow-nodes", "3")
	up.Start()
	clustertest.WaitReady(t, port)
	client, err := kubernetes.NewForConfig(clustertest.Kubeconfig(t, config))
	require.NoError(t, err)

	l := newLoad(t, client)
	var slowest time.Duration
	for range kills {
		l.wait(writesBetween)
		up.Kill()
		begun := time.Now()
		up.Start()
		clustertest.WaitReady(t, port)
		slowest = max(slowest, time.Since(begun))
	}
	l.wait(writesBetween)
	l.stop()
	t.Logf("the slowest start took %v; %d writes were acknowledged", slowest, l.acknowledged())
	l.check(t)
}

// load writes all the time, and knows what was acknowledged.
type load struct {
	client *kubernetes.Clientset
	stop   func()

	mu      sync.Mutex
	more    *sync.Cond
	writes  int
	objects map[string]string // config maps that are there: name to value
	gone    map[string]bool   // config maps that were deleted
	counter int               // the last acknowledged value of a config map that is updated
}

const namespace = "load"

func newLoad(t *testing.T, client *kubernetes.Clientset) *load {
	l := &load{client: client, objects: map[string]string{}, gone: map[string]bool{}}
	l.more = sync.NewCond(&l.mu)
	l.prepare(t)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	l.stop = sync.OnceFunc(func() {
		cancel()
		wg.Wait()
	})
	t.Cleanup(l.stop)
	for w := range 4 {
		wg.Go(func() { l.create(ctx, w) })
	}
	wg.Go(func() { l.count(ctx) })
	wg.Go(func() { l.scale(ctx) })
	return l
}

func (l *load) prepare(t *testing.T) {
	t.Helper()
	_, err := l.client.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}, metav1.CreateOptions{})
	require.NoError(t, err)
	labels, replicas := map[string]string{"app": "web"}, int32(3)
	_, err = l.client.AppsV1().Deployments(namespace).Create(t.Context(), &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec: appsv1.DeploymentSpec{
			Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "web", Image: "web:1"}}},
			},
		},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	_, err = l.client.CoreV1().Services(namespace).Create(t.Context(), &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec:       corev1.ServiceSpec{Selector: labels, Ports: []corev1.ServicePort{{Port: 80, TargetPort: intstr.FromInt32(8080)}}},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	_, err = l.client.CoreV1().ConfigMaps(namespace).Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "counter"}}, metav1.CreateOptions{})
	require.NoError(t, err)
}

// done records an acknowledged write.
func (l *load) done(record func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	record()
	l.writes++
	l.more.Broadcast()
}

func (l *load) acknowledged() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.writes
}

// wait returns after n more acknowledged writes.
func (l *load) wait(n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for until := l.writes + n; l.writes < until; {
		l.more.Wait()
	}
}

// pause keeps failing writers from spinning.
func pause(ctx context.Context) {
	select {
	case <-ctx.Done():
	case <-time.After(5 * time.Millisecond):
	}
}

// create creates config maps, and deletes every third.
func (l *load) create(ctx context.Context, writer int) {
	c := l.client.CoreV1().ConfigMaps(namespace)
	for n := 0; ctx.Err() == nil; n++ {
		name, value := fmt.Sprintf("w%d-%d", writer, n), fmt.Sprint("value ", n)
		_, err := c.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: map[string]string{"v": value}}, metav1.CreateOptions{})
		if err != nil {
			pause(ctx)
			continue
		}
		l.done(func() { l.objects[name] = value })
		if n%3 != 0 {
			continue
		}
		// A deletion that fails may have been done.
		l.done(func() { delete(l.objects, name) })
		if err := c.Delete(ctx, name, metav1.DeleteOptions{}); err == nil {
			l.done(func() { l.gone[name] = true })
		}
	}
}

// count counts up in a config map. Who loses a race has a conflict.
func (l *load) count(ctx context.Context) {
	c := l.client.CoreV1().ConfigMaps(namespace)
	for ctx.Err() == nil {
		m, err := c.Get(ctx, "counter", metav1.GetOptions{})
		if err != nil {
			pause(ctx)
			continue
		}
		n, _ := strconv.Atoi(m.Data["n"]) // 0 at first
		m.Data = map[string]string{"n": strconv.Itoa(n + 1)}
		if _, err := c.Update(ctx, m, metav1.UpdateOptions{}); err != nil {
			pause(ctx)
			continue
		}
		l.done(func() { l.counter = n + 1 })
	}
}

// scale keeps the controllers and the scheduler busy.
func (l *load) scale(ctx context.Context) {
	for n := 0; ctx.Err() == nil; n++ {
		patch := fmt.Appendf(nil, `{"spec":{"replicas":%d}}`, 2+n%7)
		_, err := l.client.AppsV1().Deployments(namespace).Patch(ctx, "web", "application/merge-patch+json", patch, metav1.PatchOptions{})
		if err == nil {
			l.done(func() {})
		}
		for range 10 {
			pause(ctx)
		}
	}
}

// check compares what is there with what was acknowledged, and waits until the controllers have done their work.
func (l *load) check(t *testing.T) {
	ctx := t.Context()
	list, err := l.client.CoreV1().ConfigMaps(namespace).List(ctx, metav1.ListOptions{})
	require.NoError(t, err)
	there := map[string]string{}
	for _, m := range list.Items {
		there[m.Name] = m.Data["v"]
		if m.Name == "counter" {
			n, err := strconv.Atoi(m.Data["n"])
			require.NoError(t, err)
			require.GreaterOrEqual(t, n, l.counter, "acknowledged updates are lost")
		}
	}
	for _, name := range slices.Sorted(maps.Keys(l.objects)) {
		require.Equal(t, l.objects[name], there[name], "%s was acknowledged", name)
	}
	for name := range l.gone {
		require.NotContains(t, there, name, "its deletion was acknowledged")
	}
	l.converges(t)
	require.NoError(t, l.client.CoreV1().Namespaces().Delete(ctx, namespace, metav1.DeleteOptions{}))
	require.Eventually(t, func() bool {
		_, err := l.client.CoreV1().Namespaces().Get(ctx, namespace, metav1.GetOptions{})
		return apierrors.IsNotFound(err)
	}, limit, 100*time.Millisecond, "the namespace goes with all that is in it")
}

func (l *load) converges(t *testing.T) {
	t.Helper()
	ctx, replicas := t.Context(), int32(5)
	_, err := l.client.AppsV1().Deployments(namespace).Patch(ctx, "web", "application/merge-patch+json",
		[]byte(`{"spec":{"replicas":5,"template":{"spec":{"containers":[{"name":"web","image":"web:2"}]}}}}`), metav1.PatchOptions{})
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		d, err := l.client.AppsV1().Deployments(namespace).Get(ctx, "web", metav1.GetOptions{})
		require.NoError(t, err)
		s := d.Status
		if s.ObservedGeneration != d.Generation || s.UpdatedReplicas != replicas || s.Replicas != replicas || s.AvailableReplicas != replicas {
			return false
		}
		pods, err := l.client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{})
		require.NoError(t, err)
		slices, err := l.client.DiscoveryV1().EndpointSlices(namespace).List(ctx, metav1.ListOptions{})
		require.NoError(t, err)
		return len(pods.Items) == int(replicas) && endpoints(pods.Items, slices.Items)
	}, limit, 100*time.Millisecond, "the deployment is rolled out, and the service knows its pods")
}

// endpoints says whether the slices name the pods' addresses, and no others.
func endpoints(pods []corev1.Pod, all []discoveryv1.EndpointSlice) bool {
	have := map[string]bool{}
	for _, s := range all {
		for _, e := range s.Endpoints {
			have[e.Addresses[0]] = true
		}
	}
	for _, p := range pods {
		if !have[p.Status.PodIP] {
			return false
		}
	}
	return len(have) == len(pods)
}
