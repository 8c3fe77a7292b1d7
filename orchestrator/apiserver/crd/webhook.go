package crd

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/google/uuid"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
)

const (
	webhookTimeout = 30 * time.Second
	webhookBatch   = 500       // objects in one request
	maxReview      = 256 << 20 // bytes of an answer
)

// Resolver finds where a service is.
type Resolver interface {
	// Resolve returns host and port of an endpoint of a service's port, or of its cluster IP.
	Resolve(ctx context.Context, namespace, service string, port int32) (address string, err error)
}

// Webhook is a Converter that asks the webhooks which definitions name.
type Webhook struct {
	resolver Resolver
	timeout  time.Duration // of one request

	mu      sync.Mutex
	clients map[peer]*http.Client
}

// peer is what connections depend on.
type peer struct {
	name string // of a service in certificates, "" for that of a URL
	host string // and port of a service
	ca   [sha256.Size]byte
}

// NewWebhook returns a Webhook. Without a resolver only webhooks with a URL can be asked.
func NewWebhook(r Resolver) *Webhook {
	return &Webhook{resolver: r, timeout: webhookTimeout, clients: map[peer]*http.Client{}}
}

// Close closes idle connections.
func (w *Webhook) Close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range w.clients {
		c.CloseIdleConnections()
	}
}

// Convert implements Converter.
func (w *Webhook) Convert(c *apiextensionsv1.CustomResourceDefinition, apiVersion string, objects []*unstructured.Unstructured) ([]*unstructured.Unstructured, error) {
	out := make([]*unstructured.Unstructured, 0, len(objects))
	for batch := range slices.Chunk(objects, webhookBatch) {
		converted, err := w.convert(c, apiVersion, batch)
		if err != nil {
			return nil, fmt.Errorf("conversion webhook for %v %w", batch[0].GroupVersionKind(), err)
		}
		out = append(out, converted...)
	}
	return out, nil
}

func (w *Webhook) convert(c *apiextensionsv1.CustomResourceDefinition, apiVersion string, objects []*unstructured.Unstructured) ([]*unstructured.Unstructured, error) {
	uid := types.UID(uuid.NewString())
	review := &apiextensionsv1.ConversionReview{Request: &apiextensionsv1.ConversionRequest{
		UID: uid, DesiredAPIVersion: apiVersion, Objects: make([]runtime.RawExtension, len(objects)),
	}}
	for i, u := range objects {
		review.Request.Objects[i].Object = u
	}
	hook := c.Spec.Conversion.Webhook
	if hook == nil || hook.ClientConfig == nil {
		return nil, errors.New("failed: it is not configured")
	}
	at := slices.IndexFunc(hook.ConversionReviewVersions, func(v string) bool { return v == "v1" || v == "v1beta1" })
	if at < 0 {
		return nil, errors.New("failed: no supported conversion review versions")
	}
	version := hook.ConversionReviewVersions[at]
	review.TypeMeta = metav1.TypeMeta{APIVersion: "apiextensions.k8s.io/" + version, Kind: "ConversionReview"}
	answer, err := w.ask(hook.ClientConfig, review)
	if err == nil {
		err = checkAnswer(review, answer)
	}
	if err != nil {
		return nil, fmt.Errorf("failed: %w", err)
	}
	if have := len(answer.Response.ConvertedObjects); have != len(objects) {
		return nil, fmt.Errorf("returned %d objects, expected %d", have, len(objects))
	}
	out := make([]*unstructured.Unstructured, len(objects))
	for i, raw := range answer.Response.ConvertedObjects {
		out[i] = &unstructured.Unstructured{}
		if err := out[i].UnmarshalJSON(raw.Raw); err != nil {
			return nil, fmt.Errorf("returned invalid converted object at index %d: %w", i, err)
		}
		if err := accept(objects[i], out[i], apiVersion); err != nil {
			return nil, fmt.Errorf("returned invalid converted object at index %d: %w", i, err)
		}
	}
	return out, nil
}

// checkAnswer says what is wrong with an answer. Webhooks of v1beta1 may leave out what names the question.
func checkAnswer(review, answer *apiextensionsv1.ConversionReview) error {
	if want, have := review.GroupVersionKind(), answer.GroupVersionKind(); want.Version == "v1" && want != have {
		return fmt.Errorf("expected webhook response of %v, got %v", want, have)
	}
	r := answer.Response
	switch {
	case r == nil:
		return errors.New("no response provided")
	case review.GroupVersionKind().Version == "v1" && r.UID != review.Request.UID:
		return fmt.Errorf("expected response.uid=%q, got %q", review.Request.UID, r.UID)
	case r.Result.Status == metav1.StatusSuccess:
		return nil
	case r.Result.Message != "":
		return errors.New(r.Result.Message)
	}
	return fmt.Errorf("response.result.status was '%s', not 'Success'", r.Result.Status)
}

// ask sends a review to a webhook.
func (w *Webhook) ask(config *apiextensionsv1.WebhookClientConfig, review *apiextensionsv1.ConversionReview) (*apiextensionsv1.ConversionReview, error) {
	url, client, err := w.client(config)
	if err != nil {
		return nil, err
	}
	body, err := json.Marshal(review)
	if err != nil {
		return nil, err
	}
	// Who waits for the answer may be several requests, none of which may end it.
	ctx, cancel := context.WithTimeout(context.Background(), w.timeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	request.Header.Set("Content-Type", runtime.ContentTypeJSON)
	request.Header.Set("Accept", runtime.ContentTypeJSON)
	response, err := client.Do(request)
	if err != nil {
		return nil, err
	}
	defer func() { _ = response.Body.Close() }()
	data, err := io.ReadAll(io.LimitReader(response.Body, maxReview))
	if err != nil {
		return nil, err
	}
	if response.StatusCode < 200 || response.StatusCode > 299 {
		return nil, fmt.Errorf("the webhook answered %s: %.200s", response.Status, data)
	}
	answer := &apiextensionsv1.ConversionReview{}
	if err := json.Unmarshal(data, answer); err != nil {
		return nil, fmt.Errorf("the webhook's answer: %w", err)
	}
	return answer, nil
}

// client returns where a webhook is, and what speaks to it.
func (w *Webhook) client(config *apiextensionsv1.WebhookClientConfig) (url string, client *http.Client, err error) {
	ca := bytes.TrimSpace(config.CABundle)
	p := peer{ca: sha256.Sum256(ca)}
	var dial func(ctx context.Context, network, address string) (net.Conn, error)
	switch s := config.Service; {
	case s != nil:
		port := int32(443)
		if s.Port != nil {
			port = *s.Port
		}
		p.name = s.Name + "." + s.Namespace + ".svc"
		p.host = net.JoinHostPort(p.name, strconv.Itoa(int(port)))
		url = "https://" + p.host
		if s.Path != nil {
			url += *s.Path
		}
		dial = w.dialer(s.Namespace, s.Name, port)
	case config.URL != nil:
		url = *config.URL
	default:
		return "", nil, errors.New("webhook configuration must have either service or URL")
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if client := w.clients[p]; client != nil {
		return url, client, nil
	}
	t := &http.Transport{
		DialContext: dial, TLSClientConfig: &tls.Config{ServerName: p.name, MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout: 10 * time.Second, IdleConnTimeout: 90 * time.Second, MaxIdleConnsPerHost: 8,
	}
	if len(ca) > 0 {
		t.TLSClientConfig.RootCAs = x509.NewCertPool()
		if !t.TLSClientConfig.RootCAs.AppendCertsFromPEM(ca) {
			return "", nil, errors.New("unable to load root certificates: unable to parse bytes as PEM block")
		}
	}
	w.clients[p] = &http.Client{Transport: t}
	return url, w.clients[p], nil
}

// dialer connects to an endpoint of a service, whatever the address.
func (w *Webhook) dialer(namespace, service string, port int32) func(ctx context.Context, network, address string) (net.Conn, error) {
	return func(ctx context.Context, network, _ string) (net.Conn, error) {
		if w.resolver == nil {
			return nil, fmt.Errorf("service %q in namespace %q: no resolver", service, namespace)
		}
		address, err := w.resolver.Resolve(ctx, namespace, service, port)
		if err != nil {
			return nil, err
		}
		return (&net.Dialer{Timeout: 10 * time.Second}).DialContext(ctx, network, address)
	}
}
