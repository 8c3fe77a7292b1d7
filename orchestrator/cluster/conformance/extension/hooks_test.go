package extension

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	registration "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/utils/ptr"

	"github.com/keelson-io/keelson/orchestrator/cluster/conformance"
)

// Polling is generous: machines that run tests are busy.
const (
	limit = time.Minute
	tick  = 50 * time.Millisecond
)

// poll calls a function until it says true; its error ends the test.
func poll(t *testing.T, ctx context.Context, done func() (bool, error)) {
	t.Helper()
	require.NoError(t, wait.PollUntilContextTimeout(ctx, tick, limit, true, func(context.Context) (bool, error) { return done() }))
}

// isDenied says whether a webhook has denied a request. Other errors stay.
func isDenied(err error) (bool, error) {
	if err != nil && strings.Contains(err.Error(), "denied") {
		return true, nil
	}
	return false, err
}

// hooks is webhooks that are about one namespace, and their server.
type hooks struct {
	*conformance.Env
	t      *testing.T
	server *webhookServer
	// label selects what the webhooks are about, and names their configurations.
	label string
	// markers is a namespace in which requests are denied as soon as a configuration is in force.
	markers string
}

func newHooks(t *testing.T, e *conformance.Env) *hooks {
	h := &hooks{Env: e, t: t, server: serveWebhooks(t), label: e.NS}
	h.mark(h.NS, h.label)
	h.markers = h.namespace(h.label + "-markers") // who sees it sees the label before it
	return h
}

// mark gives a namespace a label whose value is "true".
func (h *hooks) mark(namespace, key string) {
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"labels": map[string]string{key: "true"}}})
	require.NoError(h.t, err)
	_, err = h.Client.CoreV1().Namespaces().Patch(h.Ctx, namespace, types.StrategicMergePatchType, patch, metav1.PatchOptions{})
	require.NoError(h.t, err)
}

// namespace makes one more namespace, which has labels from the beginning: admission may see a change of labels late.
func (h *hooks) namespace(keys ...string) string {
	h.t.Helper()
	o := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "test-", Labels: map[string]string{}}}
	for _, key := range keys {
		o.Labels[key] = "true"
	}
	c := h.Client.CoreV1().Namespaces()
	made, err := c.Create(h.Ctx, o, metav1.CreateOptions{})
	require.NoError(h.t, err)
	h.t.Cleanup(func() { _ = c.Delete(context.Background(), made.Name, metav1.DeleteOptions{}) })
	return made.Name
}

func (h *hooks) configMaps() corev1client.ConfigMapInterface {
	return h.Client.CoreV1().ConfigMaps(h.NS)
}

// at says where a webhook is.
func (h *hooks) at(path string) registration.WebhookClientConfig {
	return registration.WebhookClientConfig{URL: ptr.To(h.server.url + path), CABundle: h.server.ca}
}

// rules are about some operations on resources, which are named as "pods" or "group|version,version|plural,plural".
func rules(resource string, operations ...registration.OperationType) []registration.RuleWithOperations {
	group, version := "", "v1"
	if parts := strings.SplitN(resource, "|", 3); len(parts) == 3 {
		group, version, resource = parts[0], parts[1], parts[2]
	}
	return []registration.RuleWithOperations{{
		Operations: operations,
		Rule:       registration.Rule{APIGroups: []string{group}, APIVersions: strings.Split(version, ","), Resources: strings.Split(resource, ",")},
	}}
}

func (h *hooks) validating(name, path string, rules []registration.RuleWithOperations) registration.ValidatingWebhook {
	return registration.ValidatingWebhook{
		Name: name + ".example.com", ClientConfig: h.at(path), Rules: rules, SideEffects: ptr.To(registration.SideEffectClassNone),
		AdmissionReviewVersions: []string{"v1", "v1beta1"},
		NamespaceSelector:       &metav1.LabelSelector{MatchLabels: map[string]string{h.label: "true"}},
	}
}

func (h *hooks) mutating(name, path string, rules []registration.RuleWithOperations) registration.MutatingWebhook {
	return registration.MutatingWebhook{
		Name: name + ".example.com", ClientConfig: h.at(path), Rules: rules, SideEffects: ptr.To(registration.SideEffectClassNone),
		AdmissionReviewVersions: []string{"v1", "v1beta1"},
		NamespaceSelector:       &metav1.LabelSelector{MatchLabels: map[string]string{h.label: "true"}},
	}
}

// validatingMarker and mutatingMarker deny config maps in the namespace of markers.
func (h *hooks) validatingMarker() registration.ValidatingWebhook {
	w := h.validating("marker", "/always-deny", rules("configmaps", registration.Create))
	w.NamespaceSelector.MatchLabels = map[string]string{h.label + "-markers": "true"}
	w.ObjectSelector = &metav1.LabelSelector{MatchLabels: map[string]string{h.label: "true"}}
	return w
}

func (h *hooks) mutatingMarker() registration.MutatingWebhook {
	w := h.mutating("marker", "/always-deny", rules("configmaps", registration.Create))
	w.NamespaceSelector.MatchLabels = map[string]string{h.label + "-markers": "true"}
	w.ObjectSelector = &metav1.LabelSelector{MatchLabels: map[string]string{h.label: "true"}}
	return w
}

// wait waits until a configuration with a marker is in force.
func (h *hooks) wait() {
	h.t.Helper()
	poll(h.t, h.Ctx, func() (bool, error) {
		marker := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{GenerateName: "marker-", Labels: map[string]string{h.label: "true"}}}
		_, err := h.Client.CoreV1().ConfigMaps(h.markers).Create(h.Ctx, marker, metav1.CreateOptions{})
		return isDenied(err)
	})
}

// validate and mutate make a configuration, and waits until it is in force.
func (h *hooks) validate(suffix string, webhooks ...registration.ValidatingWebhook) *registration.ValidatingWebhookConfiguration {
	h.t.Helper()
	c := h.Client.AdmissionregistrationV1().ValidatingWebhookConfigurations()
	made, err := c.Create(h.Ctx, &registration.ValidatingWebhookConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: h.label + suffix}, Webhooks: append(webhooks, h.validatingMarker()),
	}, metav1.CreateOptions{})
	require.NoError(h.t, err)
	h.t.Cleanup(func() { _ = c.Delete(context.Background(), made.Name, metav1.DeleteOptions{}) })
	h.wait()
	return made
}

func (h *hooks) mutate(suffix string, webhooks ...registration.MutatingWebhook) *registration.MutatingWebhookConfiguration {
	h.t.Helper()
	c := h.Client.AdmissionregistrationV1().MutatingWebhookConfigurations()
	made, err := c.Create(h.Ctx, &registration.MutatingWebhookConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: h.label + suffix}, Webhooks: append(webhooks, h.mutatingMarker()),
	}, metav1.CreateOptions{})
	require.NoError(h.t, err)
	h.t.Cleanup(func() { _ = c.Delete(context.Background(), made.Name, metav1.DeleteOptions{}) })
	h.wait()
	return made
}

func configMap(name string, data map[string]string) *corev1.ConfigMap {
	m := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: data}
	if name == "" {
		m.GenerateName = "test-"
	}
	return m
}

func badConfigMap(name string) *corev1.ConfigMap {
	return configMap(name, map[string]string{sign: disallow})
}

// denies waits until config maps with bad data are denied, or are not.
func (h *hooks) denies(want bool) {
	h.t.Helper()
	poll(h.t, h.Ctx, func() (bool, error) {
		_, err := h.configMaps().Create(h.Ctx, badConfigMap(""), metav1.CreateOptions{})
		is, err := isDenied(err)
		return is == want, err
	})
}

// mutates waits until new config maps are taken one stage on, or are not.
func (h *hooks) mutates(want bool) {
	h.t.Helper()
	poll(h.t, h.Ctx, func() (bool, error) {
		made, err := h.configMaps().Create(h.Ctx, configMap("", map[string]string{started: "yes"}), metav1.CreateOptions{})
		return err == nil && (made.Data[stage1] == "yes") == want, err
	})
}
