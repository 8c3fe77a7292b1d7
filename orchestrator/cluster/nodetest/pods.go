//go:build linux

package nodetest

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// Pod is a pod of one container, "main", that runs a tool once. Tests change it as they need it.
func Pod(name string, command ...string) *corev1.Pod {
	grace := int64(2)
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app": name}},
		Spec: corev1.PodSpec{
			RestartPolicy: corev1.RestartPolicyNever, TerminationGracePeriodSeconds: &grace,
			Containers: []corev1.Container{Container("main", command...)},
		},
	}
}

// Container is a container that runs a tool.
func Container(name string, command ...string) corev1.Container {
	return corev1.Container{Name: name, Image: Image, ImagePullPolicy: corev1.PullNever, Command: command}
}

// Server is a pod that serves HTTP on port 8080, and counts what it is asked for. It is ready when it serves.
func Server(name string, args ...string) *corev1.Pod {
	pod := Pod(name, append([]string{"serve", "-http", ":8080"}, args...)...)
	pod.Spec.Containers[0].ReadinessProbe = &corev1.Probe{
		ProbeHandler:  corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/healthz", Port: intstr.FromInt32(8080)}},
		PeriodSeconds: 1, TimeoutSeconds: 10,
	}
	return pod
}

// Hits is how often a server was asked for something: a path, a method with a path, "tcp" or "grpc".
func (c *Cluster) Hits(t testing.TB, ns, server, of string) (n int) {
	t.Helper()
	Until(t, server+" tells its hits", func() (bool, any) {
		b, err := c.Client.CoreV1().Pods(ns).ProxyGet("http", server, "8080", "/hits", map[string]string{"of": of}).DoRaw(t.Context())
		if err == nil {
			n, err = strconv.Atoi(strings.TrimSpace(string(b)))
		}
		return err == nil, err
	})
	return n
}

// Namespace makes a namespace for a test, with its service account. It is deleted after the test, without waiting for it to be
// gone.
func (c *Cluster) Namespace(t testing.TB) string {
	t.Helper()
	namespaces := c.Client.CoreV1().Namespaces()
	ns, err := namespaces.Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "test-"}}, metav1.CreateOptions{})
	require.NoError(t, err)
	t.Cleanup(func() {
		_ = namespaces.Delete(context.Background(), ns.Name, metav1.DeleteOptions{}) // the cluster may be gone
	})
	Until(t, "the service account", func() (bool, any) {
		_, err := c.Client.CoreV1().ServiceAccounts(ns.Name).Get(t.Context(), "default", metav1.GetOptions{})
		return err == nil, err
	})
	return ns.Name
}

// Until waits until something is so. done also returns what is seen, which a failure shows.
func Until(t testing.TB, what string, done func() (ok bool, seen any)) {
	t.Helper()
	for end := time.Now().Add(limit); ; {
		ok, seen := done()
		if ok {
			return
		}
		if time.Now().After(end) {
			require.FailNow(t, "not reached: "+what, "%v", seen)
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-t.Context().Done():
			require.FailNow(t, "the test has ended, and this is not reached: "+what)
		}
	}
}

// Create creates a pod.
func (c *Cluster) Create(t testing.TB, ns string, pod *corev1.Pod) *corev1.Pod {
	t.Helper()
	made, err := c.Client.CoreV1().Pods(ns).Create(t.Context(), pod, metav1.CreateOptions{})
	require.NoError(t, err)
	return made
}

// Await waits until a pod is as it should be, and returns it. A failure shows its status and its events.
func (c *Cluster) Await(t testing.TB, ns, name, what string, is func(*corev1.Pod) bool) (pod *corev1.Pod) {
	t.Helper()
	Until(t, fmt.Sprintf("pod %s: %s", name, what), func() (bool, any) {
		var err error
		pod, err = c.Client.CoreV1().Pods(ns).Get(t.Context(), name, metav1.GetOptions{})
		if err != nil {
			return false, err
		}
		return is(pod), lazily(func() string { return c.story(pod) })
	})
	return pod
}

// lazily is a text that is made when it is shown.
type lazily func() string

func (l lazily) String() string { return l() }

// story is the status of a pod with its events.
func (c *Cluster) story(pod *corev1.Pod) string {
	var b strings.Builder
	status, _ := json.Marshal(pod.Status) // it came from JSON
	fmt.Fprintf(&b, "%s\n", status)
	events, err := c.Client.CoreV1().Events(pod.Namespace).List(context.Background(), metav1.ListOptions{FieldSelector: "involvedObject.name=" + pod.Name})
	if err != nil {
		return b.String() + err.Error()
	}
	for _, e := range events.Items {
		fmt.Fprintf(&b, "%s %s: %s\n", e.Type, e.Reason, e.Message)
	}
	return b.String()
}

// Ready says whether a pod is ready.
func Ready(pod *corev1.Pod) bool {
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// Ended says whether all containers of a pod have ended for good.
func Ended(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
}

// Started creates a pod and waits until it is ready.
func (c *Cluster) Started(t testing.TB, ns string, pod *corev1.Pod) *corev1.Pod {
	t.Helper()
	return c.Await(t, ns, c.Create(t, ns, pod).Name, "is ready", Ready)
}

// Finished creates a pod and waits until it has ended, well or not.
func (c *Cluster) Finished(t testing.TB, ns string, pod *corev1.Pod) *corev1.Pod {
	t.Helper()
	return c.Await(t, ns, c.Create(t, ns, pod).Name, "has ended", Ended)
}

// Run creates a pod, waits until it has succeeded, and returns the log of its first container.
func (c *Cluster) Run(t testing.TB, ns string, pod *corev1.Pod) string {
	t.Helper()
	done := c.Finished(t, ns, pod)
	log := c.Log(t, ns, done.Name, pod.Spec.Containers[0].Name)
	require.Equal(t, corev1.PodSucceeded, done.Status.Phase, "its log: %s\n%s", log, lazily(func() string { return c.story(done) }))
	return log
}

// Log is the log of a container.
func (c *Cluster) Log(t testing.TB, ns, pod, container string) string {
	t.Helper()
	log, err := c.TryLog(t.Context(), ns, pod, &corev1.PodLogOptions{Container: container})
	require.NoError(t, err)
	return log
}

// TryLog is Log for what may fail. Other than DoRaw it tells what the server says.
func (c *Cluster) TryLog(ctx context.Context, ns, pod string, o *corev1.PodLogOptions) (string, error) {
	stream, err := c.Client.CoreV1().Pods(ns).GetLogs(pod, o).Stream(ctx)
	if err != nil {
		return "", err
	}
	defer stream.Close()
	b, err := io.ReadAll(stream)
	return string(b), err
}

// Logs waits until the log of a container has a text in it, and returns the log.
func (c *Cluster) Logs(t testing.TB, ns, pod, container, text string) (log string) {
	t.Helper()
	Until(t, fmt.Sprintf("%q in the log of %s", text, pod), func() (bool, any) {
		var err error
		if log, err = c.TryLog(t.Context(), ns, pod, &corev1.PodLogOptions{Container: container}); err != nil {
			return false, err
		}
		return strings.Contains(log, text), log
	})
	return log
}

// Delete deletes a pod and waits until it is gone.
func (c *Cluster) Delete(t testing.TB, ns, name string) {
	t.Helper()
	require.NoError(t, c.Client.CoreV1().Pods(ns).Delete(t.Context(), name, metav1.DeleteOptions{}))
	Until(t, name+" is gone", func() (bool, any) {
		pod, err := c.Client.CoreV1().Pods(ns).Get(t.Context(), name, metav1.GetOptions{})
		return apierrors.IsNotFound(err), lazily(func() string { return c.story(pod) })
	})
}

func names(pods []corev1.Pod) string {
	var all []string
	for _, p := range pods {
		all = append(all, p.Namespace+"/"+p.Name)
	}
	return strings.Join(all, ", ")
}
