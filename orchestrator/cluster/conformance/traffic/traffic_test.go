//go:build linux

package traffic

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/util/retry"

	"github.com/keelson-io/keelson/orchestrator/cluster/nodetest"
)

var cluster *nodetest.Cluster

func TestMain(m *testing.M) {
	os.Exit(nodetest.Main(m, nodetest.Options{}, func(c *nodetest.Cluster) { cluster = c }))
}

// behaviours are functions that show that behaviours are held, by the names of these. Each has a namespace of its own.
type behaviours map[string]func(t *testing.T, ns string)

func TestBehaviours(t *testing.T) {
	for _, part := range []behaviours{connections(), services(), affinity(), kinds(), endpointSlices(), names(), proxies()} {
		for name, run := range part {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				run(t, cluster.Namespace(t))
			})
		}
	}
}

// lines are those of a log.
func lines(log string) []string { return strings.Split(strings.TrimSuffix(log, "\n"), "\n") }

// webs starts servers web-1, web-2 and so on, with the label app=web.
func webs(t *testing.T, ns string, n int) (all []*corev1.Pod) {
	t.Helper()
	for i := range n {
		pod := nodetest.Server(fmt.Sprintf("web-%d", i+1), "-udp", ":8081")
		pod.Labels = map[string]string{"app": "web"}
		cluster.Create(t, ns, pod)
	}
	for i := range n {
		all = append(all, cluster.Await(t, ns, fmt.Sprintf("web-%d", i+1), "is ready", nodetest.Ready))
	}
	return all
}

// client starts the pod that asks the others.
func client(t *testing.T, ns string) *corev1.Pod {
	t.Helper()
	return cluster.Started(t, ns, nodetest.Pod("client", "sleep"))
}

// service makes a service "web" for the servers, on port 80, as it is changed.
func service(t *testing.T, ns string, change func(*corev1.Service)) *corev1.Service {
	t.Helper()
	s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "web"}, Spec: corev1.ServiceSpec{
		Selector: map[string]string{"app": "web"}, Ports: []corev1.ServicePort{{Name: "http", Port: 80, TargetPort: intstr.FromInt32(8080)}},
	}}
	if change != nil {
		change(s)
	}
	made, err := cluster.Client.CoreV1().Services(ns).Create(t.Context(), s, metav1.CreateOptions{})
	require.NoError(t, err)
	return made
}

// changed changes the service "web".
func changed(t *testing.T, ns string, change func(*corev1.ServiceSpec)) (s *corev1.Service) {
	t.Helper()
	all := cluster.Client.CoreV1().Services(ns)
	require.NoError(t, retry.RetryOnConflict(retry.DefaultRetry, func() error {
		got, err := all.Get(t.Context(), "web", metav1.GetOptions{})
		if err != nil {
			return err
		}
		change(&got.Spec)
		s, err = all.Update(t.Context(), got, metav1.UpdateOptions{})
		return err
	}))
	return s
}

// nodePort is the URL of a service on the machine.
func nodePort(s *corev1.Service) string {
	return "http://" + cluster.One.Address + ":" + strconv.Itoa(int(s.Spec.Ports[0].NodePort)) + "/"
}

// asked asks a URL many times from the client, and returns who answered.
func asked(t *testing.T, ns, url string) ([]string, error) {
	out, err := cluster.TryExec(t.Context(), ns, "client", "main", "get", "-n", "25", "-timeout", "3s", url)
	if err != nil {
		return nil, err
	}
	who := map[string]bool{}
	for _, l := range lines(out) {
		who[l] = true
	}
	return slices.Sorted(maps.Keys(who)), nil
}

// answered waits until a URL is answered by exactly these.
func answered(t *testing.T, ns, url string, by ...string) {
	t.Helper()
	nodetest.Until(t, fmt.Sprintf("%s is answered by %v", url, by), func() (bool, any) {
		who, err := asked(t, ns, url)
		return err == nil && slices.Equal(who, by), fmt.Sprint(who, err)
	})
}

// says waits until the client's command says something.
func says(t *testing.T, ns, want string, command ...string) {
	t.Helper()
	nodetest.Until(t, fmt.Sprintf("%v says %q", command, want), func() (bool, any) {
		out, err := cluster.TryExec(t.Context(), ns, "client", "main", command...)
		return strings.Contains(out, want), fmt.Sprint(out, err)
	})
}

// endpoints waits until the service has exactly these ready endpoints: address:port/protocol.
func endpoints(t *testing.T, ns string, want ...string) {
	t.Helper()
	slices.Sort(want)
	nodetest.Until(t, fmt.Sprintf("the endpoints are %v", want), func() (bool, any) {
		all, err := cluster.Client.DiscoveryV1().EndpointSlices(ns).List(t.Context(), metav1.ListOptions{LabelSelector: discoveryv1.LabelServiceName + "=web"})
		require.NoError(t, err)
		var got []string
		for _, s := range all.Items {
			for _, e := range s.Endpoints {
				for _, p := range s.Ports {
					if *e.Conditions.Ready {
						got = append(got, fmt.Sprintf("%s:%d/%s", e.Addresses[0], *p.Port, *p.Protocol))
					}
				}
			}
		}
		slices.Sort(got)
		return slices.Equal(got, want), got
	})
}

func at(pod *corev1.Pod, port int, protocol corev1.Protocol) string {
	return fmt.Sprintf("%s:%d/%s", pod.Status.PodIP, port, protocol)
}
