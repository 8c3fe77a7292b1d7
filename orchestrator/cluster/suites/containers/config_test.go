//go:build linux

package containers

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/keelson-io/keelson/orchestrator/cluster/nodetest"
)

// configMap makes one.
func configMap(t *testing.T, ns, name string, data map[string]string) {
	t.Helper()
	_, err := cluster.Client.CoreV1().ConfigMaps(ns).Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: data}, metav1.CreateOptions{})
	require.NoError(t, err)
}

// secret makes one.
func secret(t *testing.T, ns, name string, data map[string]string) {
	t.Helper()
	_, err := cluster.Client.CoreV1().Secrets(ns).Create(t.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name}, StringData: data}, metav1.CreateOptions{})
	require.NoError(t, err)
}

func TestVariables(t *testing.T) {
	t.Parallel()
	ns := cluster.Namespace(t)
	configMap(t, ns, "settings", map[string]string{"color": "blue", "1bad": "x"})
	secret(t, ns, "keys", map[string]string{"key": "s3cret"})
	field := func(name, path string) corev1.EnvVar {
		return corev1.EnvVar{Name: name, ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: path}}}
	}
	pod := with(script("variables", "env"), func(c *corev1.Container) {
		c.EnvFrom = []corev1.EnvFromSource{
			{Prefix: "S_", ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "settings"}}},
			{SecretRef: &corev1.SecretEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "absent"}, Optional: ptr(true)}},
		}
		c.Env = []corev1.EnvVar{
			{Name: "ONE", Value: "1"},
			{Name: "BOTH", Value: "$(ONE) $(S_color) $$(ONE) $(NONE)"},
			{Name: "KEY", ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: "keys"}, Key: "key"}}},
			field("NAME", "metadata.name"), field("SPACE", "metadata.namespace"), field("NODE", "spec.nodeName"), field("IP", "status.podIP"), field("HOST", "status.hostIP"),
			field("LABEL", "metadata.labels['app']"),
		}
		c.Args = []string{"$(ONE)"}
	})
	log := cluster.Run(t, ns, pod)
	for _, want := range []string{"S_color=blue", "ONE=1", "BOTH=1 blue $(ONE) $(NONE)", "KEY=s3cret", "NAME=variables", "SPACE=" + ns, "NODE=one", "HOST=" + cluster.One.Address, "LABEL=variables", "FROM_IMAGE=yes", "KUBERNETES_SERVICE_PORT=443"} {
		require.Contains(t, strings.Split(log, "\n"), want)
	}
	require.Regexp(t, `\nIP=10\.244\.`, log)
	require.Equal(t, "1 $(ONE)\n", cluster.Run(t, ns, with(nodetest.Pod("arguments", "echo", "$(ONE)", "$$(ONE)"), func(c *corev1.Container) {
		c.Env = []corev1.EnvVar{{Name: "ONE", Value: "1"}}
	})))
}

// A container whose configuration is not there waits for it.
func TestMissingConfig(t *testing.T) {
	t.Parallel()
	ns := cluster.Namespace(t)
	cluster.Create(t, ns, with(script("waits", "echo $COLOR"), func(c *corev1.Container) {
		c.Env = []corev1.EnvVar{{Name: "COLOR", ValueFrom: &corev1.EnvVarSource{ConfigMapKeyRef: &corev1.ConfigMapKeySelector{
			LocalObjectReference: corev1.LocalObjectReference{Name: "late"}, Key: "color",
		}}}}
	}))
	cluster.Await(t, ns, "waits", "misses its configuration", func(p *corev1.Pod) bool {
		w := status(p, "main").State.Waiting
		return w != nil && w.Reason == "CreateContainerConfigError"
	})
	configMap(t, ns, "late", map[string]string{"color": "red"})
	cluster.Await(t, ns, "waits", "has ended", nodetest.Ended)
	require.Equal(t, "red\n", cluster.Log(t, ns, "waits", "main"))
}

// Mounted configuration follows what it is made from, all of it at once. What is mounted by subPath does not.
func TestConfigFollows(t *testing.T) {
	t.Parallel()
	ns := cluster.Namespace(t)
	configMap(t, ns, "settings", map[string]string{"color": "blue", "shape": "round"})
	secret(t, ns, "keys", map[string]string{"key": "old"})
	pod := nodetest.Pod("follows", "sleep", "infinity")
	pod.Annotations = map[string]string{"note": "first"}
	volume(pod, "config", "/config", corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "settings"}, DefaultMode: ptr(int32(0o440))}})
	volume(pod, "all", "/all", corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
		{Secret: &corev1.SecretProjection{LocalObjectReference: corev1.LocalObjectReference{Name: "keys"}}},
		{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token", ExpirationSeconds: ptr(int64(3600))}},
		{DownwardAPI: &corev1.DownwardAPIProjection{Items: []corev1.DownwardAPIVolumeFile{{Path: "notes", FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.annotations['note']"}}}}},
	}}})
	with(pod, func(c *corev1.Container) {
		c.VolumeMounts = append(c.VolumeMounts, corev1.VolumeMount{Name: "config", MountPath: "/fixed", SubPath: "color"})
	})
	cluster.Started(t, ns, pod)
	read := func(path string) string { return cluster.Exec(t, ns, "follows", "main", "cat", path) }
	require.Equal(t, "blue", read("/config/color"))
	require.Equal(t, "old", read("/all/key"))
	require.Equal(t, "first", read("/all/notes"))
	require.Len(t, strings.Split(read("/all/token"), "."), 3)
	require.Contains(t, cluster.Exec(t, ns, "follows", "main", "sh", "-c", "stat /config/..data/color"), " 0440 0 0 4 ")

	patch := func(change func(kind []byte) error, text string) { require.NoError(t, change([]byte(text))) }
	core := cluster.Client.CoreV1()
	patch(func(b []byte) error {
		_, err := core.ConfigMaps(ns).Patch(t.Context(), "settings", types.MergePatchType, b, metav1.PatchOptions{})
		return err
	}, `{"data":{"color":"green","shape":null,"size":"big"}}`)
	patch(func(b []byte) error {
		_, err := core.Secrets(ns).Patch(t.Context(), "keys", types.MergePatchType, b, metav1.PatchOptions{})
		return err
	}, `{"stringData":{"key":"new"}}`)
	patch(func(b []byte) error {
		_, err := core.Pods(ns).Patch(t.Context(), "follows", types.MergePatchType, b, metav1.PatchOptions{})
		return err
	}, `{"metadata":{"annotations":{"note":"second"}}}`)
	for path, want := range map[string]string{"/config/color": "green", "/all/key": "new", "/all/notes": "second"} {
		nodetest.Until(t, path+" is "+want, func() (bool, any) {
			got := read(path)
			return got == want, got
		})
	}
	require.Equal(t, "big", read("/config/size"))
	_, err := cluster.TryExec(t.Context(), ns, "follows", "main", "cat", "/config/shape")
	require.ErrorContains(t, err, "no such file")
	require.Equal(t, "blue", read("/fixed"))
}

// A pod speaks to the API server with the token that it is given.
func TestToken(t *testing.T) {
	t.Parallel()
	ns := cluster.Namespace(t)
	log := cluster.Run(t, ns, script("token", "ls /var/run/secrets/kubernetes.io/serviceaccount/; cat /var/run/secrets/kubernetes.io/serviceaccount/namespace"))
	for _, want := range []string{"token", "ca.crt", "namespace", "\n" + ns} {
		require.Contains(t, log, want)
	}
	without := script("without", "stat /var/run/secrets || echo nothing")
	without.Spec.AutomountServiceAccountToken = ptr(false)
	require.Contains(t, cluster.Run(t, ns, without), "nothing")
}
