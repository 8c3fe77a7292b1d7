package helm

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestRelease(t *testing.T) {
	for _, name := range []string{"helm3", "helm4"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHelm(t, name)
			h.install()
			h.look()
			h.preview()
			h.upgrade()
			h.upgradeFails()
			h.rollBack()
			h.installFails()
			h.uninstall()
		})
	}
}

// available is how many of a release's pods are, and by which revision of their deployment.
func (h *helm) available(release string) (n int32, revision string) {
	h.Helper()
	d, err := h.client.AppsV1().Deployments(h.namespace).Get(h.Context(), release+"-web", metav1.GetOptions{})
	require.NoError(h, err)
	require.Equal(h, d.Generation, d.Status.ObservedGeneration)
	return d.Status.AvailableReplicas, d.Annotations["deployment.kubernetes.io/revision"]
}

func (h *helm) install() {
	h.Helper()
	out := h.run("install", "one", chart, "--create-namespace", "--wait", "--timeout", limit.String(), "--set", "greeting=first")
	require.Contains(h, out, "one says first.")
	n, revision := h.available("one")
	require.EqualValues(h, 2, n, "it waited")
	require.Equal(h, "1", revision)
	require.EqualValues(h, 3, h.size("one"))
	require.Equal(h, map[string]string{"greeting": "first", "revision": "1", "seed": "none", "deployments": "served"}, h.configMap("one-config").Data)
	require.Equal(h, "first", h.configMap("one-pre-install").Data["greeting"])
	pods := h.client.CoreV1().Pods(h.namespace)
	before, err := pods.Get(h.Context(), "one-pre-install", metav1.GetOptions{})
	require.NoError(h, err)
	require.Equal(h, corev1.PodSucceeded, before.Status.Phase)
	_, err = pods.Get(h.Context(), "one-post-install", metav1.GetOptions{})
	require.True(h, apierrors.IsNotFound(err), "a hook that is to go when it succeeded: %v", err)
	require.Contains(h, h.refused("install", "one", chart), "in use")
}

// look reads what helm knows of the release.
func (h *helm) look() {
	h.Helper()
	type release struct{ Name, Status, Chart, Revision string }
	require.Equal(h, []release{{"one", "deployed", "shop-1.0.0", "1"}}, parsed[[]release](h, "list"))
	type status struct {
		Name    string
		Version int
		Info    struct{ Status, Notes string }
	}
	s := parsed[status](h, "status", "one")
	require.Equal(h, "deployed", s.Info.Status)
	require.Equal(h, 1, s.Version)
	for _, kind := range []string{"Deployment", "Service", "ConfigMap", "Stall"} {
		require.Contains(h, h.run("get", "manifest", "one"), "kind: "+kind+"\n")
	}
	require.Contains(h, h.run("get", "hooks", "one"), "helm.sh/hook: pre-upgrade")
	require.Equal(h, map[string]any{"greeting": "first"}, parsed[map[string]any](h, "get", "values", "one"))
	require.Contains(h, h.run("test", "one", "--timeout", limit.String()), "Succeeded")
}

// preview renders the chart with what the server knows: objects to look up, kinds that it serves. Nothing is made.
func (h *helm) preview() {
	h.Helper()
	seed := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "seed"}, Data: map[string]string{"word": "sown"}}
	_, err := h.client.CoreV1().ConfigMaps(h.namespace).Create(h.Context(), seed, metav1.CreateOptions{})
	require.NoError(h, err)
	out := h.run("install", "dry", chart, "--dry-run=server")
	require.Contains(h, out, `seed: "sown"`)
	require.Contains(h, out, `deployments: "served"`)
	require.Contains(h, h.run("install", "dry", chart, "--dry-run=client"), `seed: "none"`)
	require.Contains(h, h.run(append(h.render, "dry", chart)...), `deployments: "served"`)
	_, err = h.client.CoreV1().ConfigMaps(h.namespace).Get(h.Context(), "dry-config", metav1.GetOptions{})
	require.True(h, apierrors.IsNotFound(err), "%v", err)
}

func (h *helm) upgrade() {
	h.Helper()
	h.run("upgrade", "one", chart, "--wait", "--timeout", limit.String(), "--set", "greeting=second,size=4,replicas=3")
	require.Equal(h, map[string]string{"greeting": "second", "revision": "2", "seed": "sown", "deployments": "served"}, h.configMap("one-config").Data)
	require.EqualValues(h, 4, h.size("one"))
	n, revision := h.available("one")
	require.EqualValues(h, 3, n)
	require.Equal(h, "2", revision)
	require.Equal(h, []string{"superseded", "deployed"}, h.statuses("one"))
	p, err := h.client.CoreV1().Pods(h.namespace).Get(h.Context(), "one-pre-upgrade", metav1.GetOptions{})
	require.NoError(h, err)
	require.Equal(h, corev1.PodSucceeded, p.Status.Phase)
}

// upgradeFails fails in a hook, by what the server refuses, and by waiting in vain, and is undone then.
func (h *helm) upgradeFails() {
	h.Helper()
	require.Contains(h, h.refused("upgrade", "one", chart, "--set", "greeting=third,exitCode=1"), "pre-upgrade")
	require.Equal(h, "second", h.configMap("one-config").Data["greeting"], "the hook came first")
	require.Contains(h, h.refused("upgrade", "one", chart, "--set", "size=11"), "spec.size")
	require.Equal(h, []string{"superseded", "deployed", "failed", "failed"}, h.statuses("one"))

	require.NotEmpty(h, h.refused("upgrade", "one", chart, h.onFailure, "--wait", "--timeout", "10s", "--set", "greeting=fourth,neverReady=true,replicas=1,size=5"))
	require.Equal(h, []string{"superseded", "superseded", "failed", "failed", "failed", "deployed"}, h.statuses("one"))
	require.Equal(h, "second", h.configMap("one-config").Data["greeting"])
	require.EqualValues(h, 4, h.size("one"))
	n, _ := h.available("one")
	require.EqualValues(h, 3, n)
}

func (h *helm) rollBack() {
	h.Helper()
	h.run("rollback", "one", "1", "--wait", "--timeout", limit.String())
	require.Equal(h, "first", h.configMap("one-config").Data["greeting"])
	require.EqualValues(h, 3, h.size("one"))
	n, _ := h.available("one")
	require.EqualValues(h, 2, n)
	require.Equal(h, []string{"superseded", "superseded", "failed", "failed", "failed", "superseded", "deployed"}, h.statuses("one"))
}

// installFails leaves nothing where it was undone, and does not take what is not the release's.
func (h *helm) installFails() {
	h.Helper()
	require.NotEmpty(h, h.refused("install", "two", chart, h.onFailure, "--wait", "--timeout", "10s", "--set", "neverReady=true"))
	_, err := h.client.AppsV1().Deployments(h.namespace).Get(h.Context(), "two-web", metav1.GetOptions{})
	require.True(h, apierrors.IsNotFound(err), "%v", err)
	_, err = h.dynamic.Resource(stalls).Namespace(h.namespace).Get(h.Context(), "two", metav1.GetOptions{})
	require.True(h, apierrors.IsNotFound(err), "%v", err)
	require.Len(h, parsed[[]any](h, "list"), 1)

	strange := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "three-config"}}
	_, err = h.client.CoreV1().ConfigMaps(h.namespace).Create(h.Context(), strange, metav1.CreateOptions{})
	require.NoError(h, err)
	require.Contains(h, h.refused("install", "three", chart), "cannot be imported into the current release")
	require.Empty(h, h.configMap("three-config").Labels)
}

func (h *helm) uninstall() {
	h.Helper()
	require.Contains(h, h.run("uninstall", "one", "--wait", "--timeout", limit.String()), "uninstalled")
	require.Empty(h, parsed[[]any](h, "list"))
	require.Equal(h, "first", h.configMap("one-post-delete").Data["greeting"])
	for _, name := range []string{"one-config", "one-pre-upgrade"} {
		_, err := h.client.CoreV1().ConfigMaps(h.namespace).Get(h.Context(), name, metav1.GetOptions{})
		require.True(h, apierrors.IsNotFound(err), "%v", err)
	}
	list, err := h.dynamic.Resource(stalls).Namespace(h.namespace).List(h.Context(), metav1.ListOptions{})
	require.NoError(h, err, "the kind stays")
	require.Empty(h, list.Items)
	require.Eventually(h, func() bool { // the pods go after their deployment
		pods, err := h.client.CoreV1().Pods(h.namespace).List(h.Context(), metav1.ListOptions{LabelSelector: "app=one-web"})
		require.NoError(h, err)
		secrets, err := h.client.CoreV1().Secrets(h.namespace).List(h.Context(), metav1.ListOptions{LabelSelector: "owner=helm,name=one"})
		require.NoError(h, err)
		return len(pods.Items) == 0 && len(secrets.Items) == 0
	}, limit, 20*time.Millisecond)
}
