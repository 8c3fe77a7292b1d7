// Package helm drives helm 3 and helm 4, as they are, through the life of a release: a chart with hooks and a kind of its own is
// installed, upgraded, rolled back and uninstalled, and fails in between.
package helm

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/keelson-io/keelson/peers/platform"
)

// limit is for what must come about. It is generous: machines that run tests are busy.
const limit = 2 * time.Minute

var stalls = schema.GroupVersionResource{Group: "shop.example.com", Version: "v1", Resource: "stalls"}

// helm is one version of helm, with a platform and a namespace to work in.
type helm struct {
	*testing.T
	program, kubeconfig string
	namespace           string
	home                string // for its own files

	// onFailure is the flag that undoes what failed, and render the arguments that render a chart with the help of the server.
	onFailure string
	render    []string

	client  *kubernetes.Clientset
	dynamic *dynamic.DynamicClient
}

func newHelm(t *testing.T, name string) *helm {
	t.Helper()
	program, err := platform.Find("peers/"+name, "make peers")
	var p *platform.Platform
	if err == nil {
		p, err = platform.Start(platform.Options{Dir: t.TempDir(), HollowNodes: 1})
	}
	if errors.Is(err, platform.ErrMissing) && os.Getenv("KEELSON_REQUIRE_BINARIES") == "" {
		t.Skip(err)
	}
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, p.Stop()) })
	config, err := clientcmd.BuildConfigFromFlags("", p.Kubeconfig)
	require.NoError(t, err)
	config.QPS = -1
	h := &helm{T: t, program: program, kubeconfig: p.Kubeconfig, namespace: name, home: t.TempDir()}
	h.onFailure, h.render = "--rollback-on-failure", []string{"template", "--dry-run=server"}
	if name == "helm3" {
		h.onFailure, h.render = "--atomic", []string{"template", "--validate"}
	}
	h.client, err = kubernetes.NewForConfig(config)
	require.NoError(t, err)
	h.dynamic, err = dynamic.NewForConfig(config)
	require.NoError(t, err)
	return h
}

const chart = "testdata/chart"

// try runs helm in the namespace and returns what it wrote.
func (h *helm) try(args ...string) (stdout, stderr string, err error) {
	h.Helper()
	var out, errs bytes.Buffer
	c := exec.CommandContext(h.Context(), h.program, append(args, "--namespace", h.namespace)...)
	c.Stdout, c.Stderr = &out, &errs
	c.Env = append(os.Environ(), "KUBECONFIG="+h.kubeconfig, "HELM_CACHE_HOME="+h.home, "HELM_CONFIG_HOME="+h.home, "HELM_DATA_HOME="+h.home)
	err = c.Run()
	return out.String(), errs.String(), err
}

// run runs helm, which must succeed, and returns what it wrote.
func (h *helm) run(args ...string) string {
	h.Helper()
	out, errs, err := h.try(args...)
	require.NoError(h, err, "helm %v\n%s\n%s", args, out, errs)
	return out
}

// refused runs helm, which must fail, and returns its complaint.
func (h *helm) refused(args ...string) string {
	h.Helper()
	out, errs, err := h.try(args...)
	var exit *exec.ExitError
	require.ErrorAs(h, err, &exit, "helm %v\n%s", args, out)
	return errs
}

// parsed runs helm and decodes the JSON that it wrote.
func parsed[T any](h *helm, args ...string) (v T) {
	h.Helper()
	out := h.run(append(args, "--output", "json")...)
	require.NoError(h, json.Unmarshal([]byte(out), &v), out)
	return v
}

// revision is a line of a release's history.
type revision struct {
	Revision    int    `json:"revision"`
	Status      string `json:"status"`
	Description string `json:"description"`
}

// statuses are those of all revisions, in order.
func (h *helm) statuses(release string) (s []string) {
	h.Helper()
	for _, r := range parsed[[]revision](h, "history", release) {
		s = append(s, r.Status)
	}
	return s
}

func (h *helm) configMap(name string) *corev1.ConfigMap {
	h.Helper()
	c, err := h.client.CoreV1().ConfigMaps(h.namespace).Get(h.Context(), name, metav1.GetOptions{})
	require.NoError(h, err)
	return c
}

// size is what the custom object of a release says.
func (h *helm) size(release string) int64 {
	h.Helper()
	o, err := h.dynamic.Resource(stalls).Namespace(h.namespace).Get(h.Context(), release, metav1.GetOptions{})
	require.NoError(h, err)
	return o.Object["spec"].(map[string]any)["size"].(int64)
}
