package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// behaviours are functions that show that behaviours are held, by the names of these.
type behaviours map[string]func(k *kube)

func TestConformance(t *testing.T) {
	for name, run := range (behaviours{
		"Kubectl client Kubectl api-versions should check if v1 is in available api versions":                               apiVersions,
		"Kubectl client Kubectl cluster-info should check if Kubernetes control plane services is included in cluster-info": clusterInfo,
		"Kubectl client Kubectl describe should check if kubectl describe prints relevant information for rc and pods":      describes,
		"Kubectl client Kubectl diff should check if kubectl diff finds a difference for Deployments":                       diffs,
		"Kubectl client Kubectl expose should create services for rc":                                                       exposes,
		"Kubectl client Kubectl label should update the label on a resource":                                                labels,
		"Kubectl client Kubectl patch should add annotations for pods in rc":                                                patches,
		"Kubectl client Kubectl replace should update a single-container pod's image":                                       replaces,
		"Kubectl client Kubectl run pod should create a pod from an image when restart is Never":                            runs,
		"Kubectl client Kubectl server-side dry-run should check if kubectl can dry-run update Pods":                        dryRuns,
		"Kubectl client Kubectl version should check is all data is printed":                                                versions,
		"Kubectl client Proxy server should support --unix-socket=/path":                                                    proxiesSocket,
		"Kubectl client Proxy server should support proxy with --port 0":                                                    proxiesPort,
		"Kubectl client Update Demo should create and stop a replication controller":                                        stopsController,
		"Kubectl client Update Demo should scale a replication controller":                                                  scalesController,
	}) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			run(newKube(t))
		})
	}
}

// controller is a replication controller of a name.
func controller(name string, replicas int) string {
	return fmt.Sprintf(`{"apiVersion": "v1", "kind": "ReplicationController", "metadata": {"name": %[1]q, "labels": {"app": "agnhost", "role": "primary"}},
"spec": {"replicas": %[2]d, "selector": {"app": "agnhost", "role": "primary"}, "template": {
  "metadata": {"labels": {"app": "agnhost", "role": "primary"}},
  "spec": {"containers": [{"name": %[1]q, "image": "agnhost:2", "ports": [{"name": "server", "containerPort": 6379}]}]}}}}`, name, replicas)
}

// running waits until the controller has so many pods, all running the image, and returns their names.
func (k *kube) running(replicas int, image string) (names []string) {
	k.t.Helper()
	require.EventuallyWithT(k.t, func(c *assert.CollectT) {
		out := k.ok("get pods -l role=primary -o", `jsonpath={range .items[*]}{.metadata.name} {.spec.containers[0].image} {.status.containerStatuses[0].state.running.startedAt}{"\n"}{end}`)
		names = nil
		for line := range strings.Lines(out) {
			f := strings.Fields(line)
			if assert.Len(c, f, 3, line) {
				assert.Equal(c, image, f[1])
				names = append(names, f[0])
			}
		}
		assert.Len(c, names, replicas)
	}, patience, patience/300)
	return names
}

func apiVersions(k *kube) {
	require.Contains(k.t, strings.Fields(k.ok("api-versions")), "v1")
}

func clusterInfo(k *kube) {
	k.holds("cluster-info", "Kubernetes control plane", "is running at", up.URL)
}

func describes(k *kube) {
	k.okInput(controller("agnhost-primary", 1), "create -f -")
	k.okInput(`{"apiVersion": "v1", "kind": "Service", "metadata": {"name": "agnhost-primary", "labels": {"app": "agnhost", "role": "primary"}},
"spec": {"ports": [{"port": 6379, "targetPort": "server"}], "selector": {"app": "agnhost", "role": "primary"}}}`, "create -f -")
	pod := k.running(1, "agnhost:2")[0]
	k.holds("describe pod "+pod, "Name: agnhost-primary-", "Namespace: "+k.ns, "Node: hollow-", "Labels: app=agnhost", "role=primary", "Annotations:",
		"Status: Running", "IP: 10.", "Controlled By: ReplicationController/agnhost-primary", "Image: agnhost:2", "State: Running", "QoS Class: BestEffort")
	k.eventually("1", "get rc agnhost-primary -o jsonpath={.status.readyReplicas}")
	k.holds("describe rc agnhost-primary", "Name: agnhost-primary", "Namespace: "+k.ns, "Selector: app=agnhost,role=primary", "Labels: app=agnhost",
		"role=primary", "Annotations:", "Replicas: 1 current / 1 desired", "Pods Status: 1 Running / 0 Waiting / 0 Succeeded / 0 Failed",
		"Pod Template:", "Image: agnhost:2", "Events:")
	k.holds("describe service agnhost-primary", "Name: agnhost-primary", "Namespace: "+k.ns, "Labels: app=agnhost", "role=primary", "Annotations:",
		"Selector: app=agnhost,role=primary", "Type: ClusterIP", "IP: 10.", "Port: <unset> 6379/TCP", "Endpoints:", "Session Affinity: None")
	k.holds("describe node hollow-0", "Name: hollow-0", "Labels:", "Annotations:", "CreationTimestamp:", "Conditions:",
		"Type Status LastHeartbeatTime LastTransitionTime Reason Message", "Addresses:", "Capacity:", "Kernel Version:", "OS Image:",
		"Container Runtime Version:", "Kubelet Version:", "Pods:")
	k.holds("describe namespace "+k.ns, "Name: "+k.ns, "Labels:", "Annotations:", "Status: Active")
}

func diffs(k *kube) {
	const deployment = `{"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": {"selector": {"matchLabels": {"app": "d"}},
"template": {"metadata": {"labels": {"app": "d"}}, "spec": {"containers": [{"name": "c", "image": "agnhost:1"}]}}}}`
	k.okInput(deployment, "create -f -")
	out, errs, code := k.run(strings.ReplaceAll(deployment, "agnhost:1", "busybox:9"), "diff -f -")
	require.Equal(k.t, 1, code, errs)
	require.Regexp(k.t, `(?m)^-.*image: agnhost:1$`, out)
	require.Regexp(k.t, `(?m)^\+.*image: busybox:9$`, out)
	k.says("", "get deployment d -o jsonpath={.spec.template.spec.containers[?(@.image=='busybox:9')].name}")
	k.okInput(deployment, "delete -f -")
}

func exposes(k *kube) {
	k.okInput(controller("agnhost-primary", 1), "create -f -")
	pod := k.running(1, "agnhost:2")[0]
	exposed := func(name string, port int32) {
		require.EventuallyWithT(k.t, func(c *assert.CollectT) {
			l, err := k.client.DiscoveryV1().EndpointSlices(k.ns).List(k.t.Context(), metav1.ListOptions{LabelSelector: discoveryv1.LabelServiceName + "=" + name})
			if !assert.NoError(c, err) || !assert.Len(c, l.Items, 1) || !assert.Len(c, l.Items[0].Endpoints, 1) || !assert.Len(c, l.Items[0].Ports, 1) {
				return
			}
			assert.Equal(c, pod, l.Items[0].Endpoints[0].TargetRef.Name)
			assert.Equal(c, int32(6379), *l.Items[0].Ports[0].Port)
		}, patience, patience/300)
		s, err := k.client.CoreV1().Services(k.ns).Get(k.t.Context(), name, metav1.GetOptions{})
		require.NoError(k.t, err)
		require.Len(k.t, s.Spec.Ports, 1)
		require.Equal(k.t, port, s.Spec.Ports[0].Port)
		require.Equal(k.t, 6379, s.Spec.Ports[0].TargetPort.IntValue())
	}
	k.says("service/rm2 exposed", "expose rc agnhost-primary --name=rm2 --port=1234 --target-port=6379")
	exposed("rm2", 1234)
	k.says("service/rm3 exposed", "expose service rm2 --name=rm3 --port=2345 --target-port=6379")
	exposed("rm3", 2345)
}

func labels(k *kube) {
	k.ok("run pause --image=pause")
	k.ok("wait --for=condition=Ready pod/pause")
	k.says("pod/pause labeled", "label pods pause testing-label=testing-label-value")
	require.Equal(k.t, "testing-label-value", cells(k.ok("get pod pause -L testing-label"))[1][5])
	k.says("pod/pause", "get pod -l testing-label=testing-label-value -o name")
	k.says("pod/pause unlabeled", "label pods pause testing-label-")
	require.NotContains(k.t, k.ok("get pod pause -L testing-label"), "testing-label-value")
	k.says("", "get pod -l testing-label=testing-label-value -o name")
}

func patches(k *kube) {
	k.okInput(controller("agnhost-primary", 2), "create -f -")
	for _, pod := range k.running(2, "agnhost:2") {
		k.says("pod/"+pod+" patched", "patch pod -p", `{"metadata":{"annotations":{"x":"y"}}}`, pod)
	}
	pods, err := k.client.CoreV1().Pods(k.ns).List(k.t.Context(), metav1.ListOptions{LabelSelector: "role=primary"})
	require.NoError(k.t, err)
	require.Len(k.t, pods.Items, 2)
	for _, p := range pods.Items {
		require.Equal(k.t, "y", p.Annotations["x"])
	}
}

func replaces(k *kube) {
	k.ok("run e2e-pod --image=agnhost:2 --labels=run=e2e-pod")
	k.ok("wait --for=condition=Ready pod -l run=e2e-pod")
	pod := k.ok("get pod e2e-pod -o json")
	require.Equal(k.t, "pod/e2e-pod replaced", k.okInput(strings.Replace(pod, "agnhost:2", "busybox:9", 1), "replace -f -"))
	k.says("busybox:9", "get pod e2e-pod -o jsonpath={.spec.containers[*].image}")
	k.ok("delete pods e2e-pod")
}

func runs(k *kube) {
	k.says("pod/e2e-pod created", "run e2e-pod --restart=Never --image=agnhost:2")
	p, err := k.client.CoreV1().Pods(k.ns).Get(k.t.Context(), "e2e-pod", metav1.GetOptions{})
	require.NoError(k.t, err)
	require.Len(k.t, p.Spec.Containers, 1)
	require.Equal(k.t, "agnhost:2", p.Spec.Containers[0].Image)
	require.Equal(k.t, corev1.RestartPolicyNever, p.Spec.RestartPolicy)
	k.ok("delete pods e2e-pod")
}

func dryRuns(k *kube) {
	k.ok("run e2e-pod --image=agnhost:2 --labels=run=e2e-pod")
	k.says("pod/e2e-pod patched", "patch pod e2e-pod --dry-run=server -p", `{"spec":{"containers":[{"name":"e2e-pod","image":"busybox:9"}]}}`)
	k.says("agnhost:2", "get pod e2e-pod -o jsonpath={.spec.containers[*].image}")
	k.ok("delete pods e2e-pod")
}

func versions(k *kube) {
	out := k.ok("version")
	for _, of := range []string{"Client", "Server"} {
		require.Regexp(k.t, regexp.MustCompile(`(?m)^`+of+` Version: v1\.37\.\d+(\+keelson)?$`), out)
	}
}

// proxy starts a proxy, and returns what it says first. It ends with the test.
func (k *kube) proxy(args ...string) string {
	k.t.Helper()
	ctx, cancel := context.WithCancel(k.t.Context())
	cmd := exec.CommandContext(ctx, k.program[0], append(append(k.program[1:], "proxy"), args...)...)
	cmd.Env, cmd.Dir = k.env, k.dir
	out, err := cmd.StdoutPipe()
	require.NoError(k.t, err)
	require.NoError(k.t, cmd.Start())
	k.t.Cleanup(func() {
		cancel()
		_ = cmd.Wait() // it was killed
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(k.t, err)
	return strings.TrimSpace(line)
}

// fetch gets JSON from a URL.
func fetch(t *testing.T, c *http.Client, url string, into any) {
	t.Helper()
	defer c.CloseIdleConnections()
	r, err := c.Get(url)
	require.NoError(t, err)
	defer func() { _ = r.Body.Close() }()
	b, err := io.ReadAll(r.Body)
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, r.StatusCode, string(b))
	require.NoError(t, json.Unmarshal(b, into))
}

func proxiesPort(k *kube) {
	m := regexp.MustCompile(`^Starting to serve on (127\.0\.0\.1:\d+)$`).FindStringSubmatch(k.proxy("--port=0"))
	require.NotNil(k.t, m)
	var versions metav1.APIVersions
	fetch(k.t, &http.Client{Transport: &http.Transport{}}, "http://"+m[1]+"/api/", &versions)
	require.Equal(k.t, []string{"v1"}, versions.Versions)
}

func proxiesSocket(k *kube) {
	dir, err := os.MkdirTemp("", "kubectl") // the paths of sockets are short
	require.NoError(k.t, err)
	defer func() { require.NoError(k.t, os.RemoveAll(dir)) }()
	path := filepath.Join(dir, "test")
	require.Equal(k.t, "Starting to serve on "+path, k.proxy("--unix-socket="+path))
	c := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}}}
	var versions metav1.APIVersions
	fetch(k.t, c, "http://localhost/api", &versions)
	require.Equal(k.t, []string{"v1"}, versions.Versions)
}

func stopsController(k *kube) {
	k.okInput(controller("update-demo", 2), "create -f -")
	k.running(2, "agnhost:2")
	require.Equal(k.t, fmt.Sprintf("replicationcontroller %q deleted from %s namespace", "update-demo", k.ns), k.okInput(controller("update-demo", 2), "delete -f -"))
	k.eventually("", "get rc,pods -l role=primary -o name")
}

func scalesController(k *kube) {
	k.okInput(controller("update-demo", 2), "create -f -")
	k.running(2, "agnhost:2")
	for _, n := range []int{1, 2} {
		k.says("replicationcontroller/update-demo scaled", fmt.Sprintf("scale rc update-demo --replicas=%d --timeout=1m", n))
		k.running(n, "agnhost:2")
	}
}
