//go:build linux

package containers

import (
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/keelson-io/keelson/orchestrator/cluster/nodetest"
)

func variables() behaviours {
	// Whatever is printable and not "=" may be in a name.
	prefixes := []string{"p-", "1.", "$_-", "a b:"}
	expanded := []corev1.EnvVar{{Name: "TEST_VAR", Value: "test-value"}}
	return behaviours{
		"ConfigMap should be consumable via environment variable":                                         variable{env: []corev1.EnvVar{{Name: "DATA", ValueFrom: fromConfig("data-1")}}, want: words("DATA=value-1")}.run,
		"ConfigMap should be consumable via the environment":                                              variable{from: allConfig("", "p_"), want: words("data-1=value-1", "data-2=value-2", "p_data-1=value-1", "p_data-2=value-2")}.run,
		"ConfigMap should be consumable as environment variable names with various prefixes":              variable{from: allConfig(prefixes...), want: prefixed(prefixes)}.run,
		"Secrets should be consumable from pods in env vars":                                              variable{env: []corev1.EnvVar{{Name: "DATA", ValueFrom: fromSecret("data-1")}}, want: words("DATA=value-1")}.run,
		"Secrets should be consumable via the environment":                                                variable{from: allSecret("", "p_"), want: words("data-1=value-1", "data-2=value-2", "p_data-1=value-1", "p_data-2=value-2")}.run,
		"Secrets should be consumable as environment variable names variable names with various prefixes": variable{from: allSecret(prefixes...), want: prefixed(prefixes)}.run,
		"Downward API should provide pod name, namespace and IP address as env vars": variable{
			env: []corev1.EnvVar{field("NAME", "metadata.name"), field("NAMESPACE", "metadata.namespace"), field("IP", "status.podIP")},
			want: func(_ *testing.T, p *corev1.Pod) []string {
				return []string{"NAME=" + p.Name, "NAMESPACE=" + p.Namespace, "IP=" + p.Status.PodIP}
			},
		}.run,
		"Downward API should provide pod UID as env vars": variable{
			env:  []corev1.EnvVar{field("ID", "metadata.uid")},
			want: func(_ *testing.T, p *corev1.Pod) []string { return []string{"ID=" + string(p.UID)} },
		}.run,
		"Downward API should provide host IP as an env var": variable{
			env: []corev1.EnvVar{field("HOST", "status.hostIP")}, want: hostAddress,
		}.run,
		"Downward API should provide hostIPs as an env var": variable{
			env: []corev1.EnvVar{field("HOST", "status.hostIPs")}, want: hostAddress,
		}.run,
		"Downward API should provide container's limits.cpu/memory and requests.cpu/memory as env vars": variable{
			env: amounts, requests: quantities("250m", "32Mi"), limits: quantities("1250m", "64Mi"),
			want: words("CPU_LIMIT=2", "CPU_REQUEST=1", "MEMORY_LIMIT=67108864", "MEMORY_REQUEST=33554432"),
		}.run,
		"Downward API should provide default limits.cpu/memory from node allocatable": variable{env: amounts[:2], want: allocatable}.run,
		"Variable Expansion should allow composing env vars into new env vars": variable{
			env:  []corev1.EnvVar{{Name: "FOO", Value: "foo-value"}, {Name: "BAR", Value: "bar-value"}, {Name: "BOTH", Value: "$(FOO);;$(BAR);;$(NONE);;$$(FOO)"}},
			want: words("FOO=foo-value", "BAR=bar-value", "BOTH=foo-value;;bar-value;;$(NONE);;$(FOO)"),
		}.run,
		"Variable Expansion should allow substituting values in a container's command": variable{
			env: expanded, command: []string{"sh", "-c", `TEST_VAR=wrong; echo "$(TEST_VAR)"`}, want: words("test-value"),
		}.run,
		"Variable Expansion should allow substituting values in a container's args": variable{
			env: expanded, command: []string{"sh", "-c"}, args: []string{`TEST_VAR=wrong; echo "$(TEST_VAR)"`}, want: words("test-value"),
		}.run,
		"Pods should contain environment variables for services": serviceVariables,
	}
}

// variable is a container that prints its environment, or something else.
type variable struct {
	env              []corev1.EnvVar
	from             []corev1.EnvFromSource
	requests, limits corev1.ResourceList
	command, args    []string
	// want are lines that are printed by a pod, which has ended.
	want func(*testing.T, *corev1.Pod) []string
}

var amounts = []corev1.EnvVar{amount("CPU_LIMIT", "limits.cpu"), amount("MEMORY_LIMIT", "limits.memory"), amount("CPU_REQUEST", "requests.cpu"), amount("MEMORY_REQUEST", "requests.memory")}

func (v variable) run(t *testing.T, ns string) {
	data := map[string]string{"data-1": "value-1", "data-2": "value-2"}
	meta := metav1.ObjectMeta{Name: "data"}
	_, err := cluster.Client.CoreV1().ConfigMaps(ns).Create(t.Context(), &corev1.ConfigMap{ObjectMeta: meta, Data: data}, metav1.CreateOptions{})
	require.NoError(t, err)
	_, err = cluster.Client.CoreV1().Secrets(ns).Create(t.Context(), &corev1.Secret{ObjectMeta: meta, StringData: data}, metav1.CreateOptions{})
	require.NoError(t, err)
	pod := nodetest.Pod("app", "env")
	c := &pod.Spec.Containers[0]
	if v.command != nil {
		c.Command, c.Args = v.command, v.args
	}
	c.Env, c.EnvFrom = v.env, v.from
	c.Resources = corev1.ResourceRequirements{Requests: v.requests, Limits: v.limits}
	log := cluster.Run(t, ns, pod)
	got, err := cluster.Client.CoreV1().Pods(ns).Get(t.Context(), "app", metav1.GetOptions{})
	require.NoError(t, err)
	require.Subset(t, lines(log), v.want(t, got), log)
}

func words(all ...string) func(*testing.T, *corev1.Pod) []string {
	return func(*testing.T, *corev1.Pod) []string { return all }
}

func prefixed(prefixes []string) func(*testing.T, *corev1.Pod) []string {
	var all []string
	for _, p := range prefixes {
		all = append(all, p+"data-1=value-1", p+"data-2=value-2")
	}
	return words(all...)
}

func hostAddress(*testing.T, *corev1.Pod) []string { return []string{"HOST=" + cluster.One.Address} }

func allocatable(t *testing.T, p *corev1.Pod) []string {
	node, err := cluster.Client.CoreV1().Nodes().Get(t.Context(), p.Spec.NodeName, metav1.GetOptions{})
	require.NoError(t, err)
	return []string{
		"CPU_LIMIT=" + strconv.FormatInt(node.Status.Allocatable.Cpu().Value(), 10),
		"MEMORY_LIMIT=" + strconv.FormatInt(node.Status.Allocatable.Memory().Value(), 10),
	}
}

func field(name, path string) corev1.EnvVar {
	return corev1.EnvVar{Name: name, ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: path}}}
}

func amount(name, of string) corev1.EnvVar {
	return corev1.EnvVar{Name: name, ValueFrom: &corev1.EnvVarSource{ResourceFieldRef: &corev1.ResourceFieldSelector{Resource: of}}}
}

func fromConfig(key string) *corev1.EnvVarSource {
	return &corev1.EnvVarSource{ConfigMapKeyRef: &corev1.ConfigMapKeySelector{LocalObjectReference: data, Key: key}}
}

func fromSecret(key string) *corev1.EnvVarSource {
	return &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: data, Key: key}}
}

var data = corev1.LocalObjectReference{Name: "data"}

func allConfig(prefixes ...string) (all []corev1.EnvFromSource) {
	for _, p := range prefixes {
		all = append(all, corev1.EnvFromSource{Prefix: p, ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: data}})
	}
	return all
}

func allSecret(prefixes ...string) (all []corev1.EnvFromSource) {
	for _, p := range prefixes {
		all = append(all, corev1.EnvFromSource{Prefix: p, SecretRef: &corev1.SecretEnvSource{LocalObjectReference: data}})
	}
	return all
}

// quantities are amounts of processor and memory; "" is none.
func quantities(cpu, memory string) corev1.ResourceList {
	all := corev1.ResourceList{}
	if cpu != "" {
		all[corev1.ResourceCPU] = resource.MustParse(cpu)
	}
	if memory != "" {
		all[corev1.ResourceMemory] = resource.MustParse(memory)
	}
	return all
}

func serviceVariables(t *testing.T, ns string) {
	service, err := cluster.Client.CoreV1().Services(ns).Create(t.Context(), &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "foo-service"}, Spec: corev1.ServiceSpec{Selector: map[string]string{"app": "server"}, Ports: []corev1.ServicePort{{Port: 8765}}},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	// The node hears of the service in its own time, and a container's variables are fixed when it is created.
	at := service.Spec.ClusterIP
	want := []string{
		"FOO_SERVICE_SERVICE_HOST=" + at, "FOO_SERVICE_SERVICE_PORT=8765", "FOO_SERVICE_PORT=tcp://" + at + ":8765",
		"FOO_SERVICE_PORT_8765_TCP=tcp://" + at + ":8765", "FOO_SERVICE_PORT_8765_TCP_PROTO=tcp", "FOO_SERVICE_PORT_8765_TCP_PORT=8765", "FOO_SERVICE_PORT_8765_TCP_ADDR=" + at,
	}
	pod := nodetest.Pod("app", "sh", "-c", "env; [ -n \"$FOO_SERVICE_SERVICE_HOST\" ]")
	pod.Spec.RestartPolicy = corev1.RestartPolicyOnFailure
	require.Subset(t, lines(cluster.Run(t, ns, pod)), want)
}
