package crd

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/keelson-io/keelson/orchestrator/kinds"
	"github.com/keelson-io/keelson/orchestrator/objectstore"
)

// hook is a conversion webhook: it moves spec.color (v1) to spec.colour (v2) and back.
type hook struct {
	*httptest.Server
	mu     sync.Mutex
	sizes  []int // objects per request
	change func(*apiextensionsv1.ConversionReview)
	answer func(http.ResponseWriter) // instead of a review; nil: none
}

func startHook(t *testing.T) *hook {
	h := &hook{}
	h.Server = httptest.NewUnstartedServer(http.HandlerFunc(h.serve))
	h.Config.ErrorLog = log.New(io.Discard, "", 0)
	h.TLS = &tls.Config{Certificates: []tls.Certificate{certificate(t, "hook.ns.svc")}}
	h.StartTLS()
	t.Cleanup(h.Close)
	return h
}

// certificate is a self-signed one.
func certificate(t *testing.T, name string) tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{name}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	require.NoError(t, err)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func (h *hook) serve(rw http.ResponseWriter, r *http.Request) {
	h.mu.Lock()
	defer h.mu.Unlock()
	review := &apiextensionsv1.ConversionReview{}
	if err := json.NewDecoder(r.Body).Decode(review); err != nil {
		http.Error(rw, err.Error(), http.StatusBadRequest)
		return
	}
	h.sizes = append(h.sizes, len(review.Request.Objects))
	review.Response = &apiextensionsv1.ConversionResponse{UID: review.Request.UID, Result: metav1.Status{Status: metav1.StatusSuccess}}
	for _, raw := range review.Request.Objects {
		u := &unstructured.Unstructured{}
		_ = u.UnmarshalJSON(raw.Raw)
		u.SetAPIVersion(review.Request.DesiredAPIVersion)
		spec, _ := u.Object["spec"].(map[string]any)
		from, to := "color", "colour"
		if strings.HasSuffix(review.Request.DesiredAPIVersion, "v1") {
			from, to = to, from
		}
		spec[to] = spec[from]
		delete(spec, from)
		u.SetLabels(map[string]string{"converted": "yes"})
		u.SetFinalizers([]string{"not/allowed"})
		review.Response.ConvertedObjects = append(review.Response.ConvertedObjects, runtime.RawExtension{Object: u})
	}
	review.Request = nil
	if h.change != nil {
		h.change(review)
	}
	if h.answer != nil {
		h.answer(rw)
		return
	}
	_ = json.NewEncoder(rw).Encode(review)
}

func (h *hook) behave(f func(*apiextensionsv1.ConversionReview)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.change, h.answer, h.sizes = f, nil, nil
}

func (h *hook) answers(f func(http.ResponseWriter)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.answer = f
}

func (h *hook) requests() []int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.sizes
}

func (h *hook) config() *apiextensionsv1.WebhookClientConfig {
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: h.Certificate().Raw})
	return &apiextensionsv1.WebhookClientConfig{URL: &h.URL, CABundle: ca}
}

const paints = `
metadata: {name: paints.example.com}
spec:
  group: example.com
  scope: Namespaced
  names: {plural: paints, kind: Paint}
  versions:
  - {name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object, properties: {spec: {type: object, properties: {color: {type: string}}}}}}}
  - {name: v2, served: true, storage: false, schema: {openAPIV3Schema: {type: object, properties: {spec: {type: object, properties: {colour: {type: string}}}}}}}
`

func paintDefinition(t *testing.T, config *apiextensionsv1.WebhookClientConfig) *apiextensionsv1.CustomResourceDefinition {
	c := parse(t, paints)
	c.Spec.Conversion = &apiextensionsv1.CustomResourceConversion{
		Strategy: apiextensionsv1.WebhookConverter,
		Webhook:  &apiextensionsv1.WebhookConversion{ClientConfig: config, ConversionReviewVersions: []string{"v9", "v1"}},
	}
	return c
}

func paint(t *testing.T, version, name, field string) kinds.Object {
	return object(t, "apiVersion: example.com/"+version+"\nkind: Paint\nmetadata: {name: "+name+"}\nspec: {"+field+": red}")
}

func TestConversionByWebhook(t *testing.T) {
	h := startHook(t)
	converter := NewWebhook(nil)
	t.Cleanup(converter.Close)
	w := start(t, func(c *Config) { c.Converter = converter })
	w.establish(paintDefinition(t, h.config()))
	v1, v2 := w.of("example.com/v1", "Paint"), w.of("example.com/v2", "Paint")
	for _, name := range []string{"a", "b"} {
		_, err := v1.Create(t.Context(), in(""), paint(t, "v1", name, "color"))
		require.NoError(t, err)
	}
	require.Empty(t, h.requests(), "the version that is stored is not converted")

	page, err := v2.List(t.Context(), objectstore.ListQuery{})
	require.NoError(t, err)
	require.Equal(t, []int{2}, h.requests(), "all objects of a list are converted at once")
	for _, it := range page.Items {
		require.Equal(t, map[string]any{"colour": "red"}, content(it.Object).Object["spec"])
		require.Equal(t, map[string]string{"converted": "yes"}, it.Object.GetLabels())
		require.Empty(t, it.Object.GetFinalizers(), "only labels and annotations may be changed")
		require.NotEmpty(t, it.Object.GetResourceVersion())
	}
	_, err = v2.Get(t.Context(), "ns", "a", "")
	require.NoError(t, err)
	require.Len(t, h.requests(), 1, "an object is converted once")

	stream, err := v2.Watch(t.Context(), objectstore.WatchQuery{})
	require.NoError(t, err)
	defer stream.Close()
	_, err = v2.Create(t.Context(), in(""), paint(t, "v2", "c", "colour"))
	require.NoError(t, err)
	it, err := v1.Get(t.Context(), "ns", "c", "")
	require.NoError(t, err)
	require.Equal(t, map[string]any{"color": "red"}, content(it.Object).Object["spec"])
	seen := map[string]any{}
	for len(seen) < 3 {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		events, err := stream.Next(ctx)
		cancel()
		require.NoError(t, err)
		for _, e := range events {
			seen[e.Item.Object.GetName()] = content(e.Item.Object).Object["spec"]
		}
	}
	require.Equal(t, map[string]any{"colour": "red"}, seen["c"])
}

func TestWebhooksThatFail(t *testing.T) {
	h := startHook(t)
	converter := NewWebhook(nil)
	t.Cleanup(converter.Close)
	w := start(t, func(c *Config) { c.Converter = converter })
	w.establish(paintDefinition(t, h.config()))
	v1, v2 := w.of("example.com/v1", "Paint"), w.of("example.com/v2", "Paint")
	_, err := v1.Create(t.Context(), in(""), paint(t, "v1", "a", "color"))
	require.NoError(t, err)
	object := func(r *apiextensionsv1.ConversionReview) *unstructured.Unstructured {
		return r.Response.ConvertedObjects[0].Object.(*unstructured.Unstructured)
	}
	for want, change := range map[string]func(*apiextensionsv1.ConversionReview){
		"conversion webhook for example.com/v1, Kind=Paint failed: I will not": func(r *apiextensionsv1.ConversionReview) {
			r.Response.Result = metav1.Status{Status: metav1.StatusFailure, Message: "I will not"}
		},
		"response.result.status was '', not 'Success'":     func(r *apiextensionsv1.ConversionReview) { r.Response.Result = metav1.Status{} },
		"no response provided":                             func(r *apiextensionsv1.ConversionReview) { r.Response = nil },
		`, got "x"`:                                        func(r *apiextensionsv1.ConversionReview) { r.Response.UID = "x" },
		"returned 0 objects, expected 1":                   func(r *apiextensionsv1.ConversionReview) { r.Response.ConvertedObjects = nil },
		"got example.com/v1, Kind=ConversionReview":        func(r *apiextensionsv1.ConversionReview) { r.APIVersion = "example.com/v1" },
		"invalid groupVersion (expected example.com/v2, r": func(r *apiextensionsv1.ConversionReview) { object(r).SetAPIVersion("example.com/v1") },
		"invalid kind (expected Paint, received Other)":    func(r *apiextensionsv1.ConversionReview) { object(r).SetKind("Other") },
		"must have the same name: a != b":                  func(r *apiextensionsv1.ConversionReview) { object(r).SetName("b") },
		"returned 2 objects, expected 1": func(r *apiextensionsv1.ConversionReview) {
			r.Response.ConvertedObjects = append(r.Response.ConvertedObjects, r.Response.ConvertedObjects[0])
		},
		"must have the same namespace: ns != other": func(r *apiextensionsv1.ConversionReview) { object(r).SetNamespace("other") },
		"invalid converted object at index 0: Object 'Kind' is missing": func(r *apiextensionsv1.ConversionReview) {
			r.Response.ConvertedObjects[0] = runtime.RawExtension{Raw: []byte(`{"apiVersion": "example.com/v2"}`)}
		},
		"must have the same UID": func(r *apiextensionsv1.ConversionReview) { object(r).SetUID("b") },
		"metadata.labels[x] must be a string, but is bool": func(r *apiextensionsv1.ConversionReview) {
			object(r).Object["metadata"].(map[string]any)["labels"] = map[string]any{"x": true}
		},
		"metadata.labels: Invalid value": func(r *apiextensionsv1.ConversionReview) { object(r).SetLabels(map[string]string{"x": "- -"}) },
	} {
		h.behave(change)
		_, err := v2.Get(t.Context(), "ns", "a", "")
		require.ErrorContains(t, err, want)
	}
	for want, answer := range map[string]func(http.ResponseWriter){
		"the webhook answered 500 Internal Server Error: boom": func(rw http.ResponseWriter) { http.Error(rw, "boom", http.StatusInternalServerError) },
		"the webhook's answer: unexpected end of JSON input":   func(http.ResponseWriter) {},
		"the webhook's answer: invalid character":              func(rw http.ResponseWriter) { _, _ = io.WriteString(rw, "<html>") },
		"EOF": func(http.ResponseWriter) { panic(http.ErrAbortHandler) },
	} {
		h.behave(nil)
		h.answers(answer)
		_, err := v2.Get(t.Context(), "ns", "a", "")
		require.ErrorContains(t, err, want)
		_, err = v2.List(t.Context(), objectstore.ListQuery{})
		require.ErrorContains(t, err, want)
	}
	h.behave(nil)
	_, err = v2.Get(t.Context(), "ns", "a", "")
	require.NoError(t, err, "a failure is not kept")

	// Objects go without a webhook.
	h.behave(func(r *apiextensionsv1.ConversionReview) { r.Response = nil })
	require.NoError(t, w.change("paints.example.com", func(c *apiextensionsv1.CustomResourceDefinition) {
		c.Spec.Versions[0].Storage, c.Spec.Versions[1].Storage = false, true
	}))
	_, _, err = w.defs.Delete(t.Context(), in("paints.example.com"), &metav1.DeleteOptions{})
	require.NoError(t, err)
	require.Eventually(t, func() bool { return w.definition("paints.example.com") == nil }, 10*time.Second, 5*time.Millisecond)
}

func TestWebhookThatHangs(t *testing.T) {
	h := startHook(t)
	converter := NewWebhook(nil)
	t.Cleanup(converter.Close)
	converter.timeout = 50 * time.Millisecond
	release := make(chan struct{})
	h.behave(func(*apiextensionsv1.ConversionReview) { <-release })
	_, err := converter.Convert(paintDefinition(t, h.config()), "example.com/v2", []*unstructured.Unstructured{content(paint(t, "v1", "a", "color"))})
	require.ErrorIs(t, err, context.DeadlineExceeded)
	close(release)
}

// A webhook is asked about a bounded number of objects at once.
func TestWebhookBatches(t *testing.T) {
	h := startHook(t)
	converter := NewWebhook(nil)
	t.Cleanup(converter.Close)
	var objects []*unstructured.Unstructured
	for i := range 2*webhookBatch + 1 {
		objects = append(objects, content(paint(t, "v1", "p"+strconv.Itoa(i), "color")))
	}
	out, err := converter.Convert(paintDefinition(t, h.config()), "example.com/v2", objects)
	require.NoError(t, err)
	require.Equal(t, []int{webhookBatch, webhookBatch, 1}, h.requests())
	for i, o := range out {
		require.Equal(t, objects[i].GetName(), o.GetName())
	}
}

// A watch whose events cannot be converted ends with an error, so that nobody takes silence for peace.
func TestWatchWithoutItsWebhook(t *testing.T) {
	h := startHook(t)
	converter := NewWebhook(nil)
	t.Cleanup(converter.Close)
	w := start(t, func(c *Config) { c.Converter = converter })
	w.establish(paintDefinition(t, h.config()))
	v1, v2 := w.of("example.com/v1", "Paint"), w.of("example.com/v2", "Paint")
	page, err := v2.List(t.Context(), objectstore.ListQuery{})
	require.NoError(t, err)
	stream, err := v2.Watch(t.Context(), objectstore.WatchQuery{ResourceVersion: strconv.FormatInt(page.Revision, 10)})
	require.NoError(t, err)
	defer stream.Close()
	h.answers(func(rw http.ResponseWriter) { http.Error(rw, "boom", http.StatusInternalServerError) })
	_, err = v1.Create(t.Context(), in(""), paint(t, "v1", "a", "color"))
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for err == nil {
		_, err = stream.Next(ctx)
	}
	require.ErrorContains(t, err, "boom")
}

// resolver knows one service.
type resolver struct{ address string }

func (r resolver) Resolve(_ context.Context, namespace, service string, port int32) (string, error) {
	if namespace != "ns" || service != "hook" || port != 8443 {
		return "", errors.New("no such service")
	}
	return r.address, nil
}

func TestWebhookOfAService(t *testing.T) {
	h := startHook(t)
	port, path := int32(8443), "/convert"
	config := &apiextensionsv1.WebhookClientConfig{Service: &apiextensionsv1.ServiceReference{Namespace: "ns", Name: "hook", Port: &port, Path: &path}}
	ask := func(r Resolver) error {
		hooks := NewWebhook(r)
		defer hooks.Close()
		_, err := hooks.Convert(paintDefinition(t, config), "example.com/v2", []*unstructured.Unstructured{content(paint(t, "v1", "a", "color"))})
		return err
	}
	require.ErrorContains(t, ask(nil), "no resolver")
	require.ErrorContains(t, ask(resolver{h.Listener.Addr().String()}), "x509: certificate signed by unknown authority")
	config.CABundle = h.config().CABundle
	require.NoError(t, ask(resolver{h.Listener.Addr().String()}))
	config.Service.Name = "other"
	require.ErrorContains(t, ask(resolver{}), "no such service")
	config.Service.Name, port = "hook", 1
	require.ErrorContains(t, ask(resolver{}), "no such service")
	config.CABundle = []byte("x")
	require.ErrorContains(t, ask(resolver{}), "unable to load root certificates")
}
