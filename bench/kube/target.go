package kube

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/util/flowcontrol"
)

// Content types that bodies can have.
const (
	JSON     = "application/json"
	Protobuf = "application/vnd.kubernetes.protobuf"
)

// Target is an API server that is measured.
type Target struct {
	clients []kubernetes.Interface // one connection each
	content string
}

// Connect prepares connections to what a kubeconfig names. Content is JSON or Protobuf.
func Connect(kubeconfig, content string, connections int) (*Target, error) {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("kube: %w", err)
	}
	if content != JSON && content != Protobuf {
		return nil, fmt.Errorf("kube: content type %q: it is %s or %s", content, JSON, Protobuf)
	}
	config.UserAgent = "keelson-bench"
	config.ContentType, config.AcceptContentTypes = content, content
	config.RateLimiter = flowcontrol.NewFakeAlwaysRateLimiter()
	t := &Target{content: content}
	for range max(1, connections) {
		own := rest.CopyConfig(config)
		dialer := &net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}
		own.Dial = func(ctx context.Context, network, address string) (net.Conn, error) { // client-go shares connections by this function
			return dialer.DialContext(ctx, network, address)
		}
		c, err := kubernetes.NewForConfig(own)
		if err != nil {
			return nil, fmt.Errorf("kube: %w", err)
		}
		t.clients = append(t.clients, c)
	}
	return t, nil
}

// core reaches the core group for a worker.
func (t *Target) core(worker int) rest.Interface {
	return t.clients[worker%len(t.clients)].CoreV1().RESTClient()
}

// encode encodes an object of a built-in kind as the target wants it.
func (t *Target) encode(o runtime.Object) ([]byte, error) {
	info, ok := runtime.SerializerInfoForMediaType(scheme.Codecs.SupportedMediaTypes(), t.content)
	if !ok {
		return nil, fmt.Errorf("kube: no encoder of %s", t.content)
	}
	return runtime.Encode(scheme.Codecs.EncoderForVersion(info.Serializer, corev1.SchemeGroupVersion), o)
}

// Usage is what the server says that it takes.
type Usage struct {
	CPUSeconds float64
	Bytes      int64 // resident
}

// metrics reads /metrics.
func (t *Target) metrics(ctx context.Context) ([]byte, error) {
	b, err := t.core(0).Get().AbsPath("/metrics").SetHeader("Accept", "text/plain").DoRaw(ctx)
	if err != nil {
		return nil, fmt.Errorf("kube: the server's metrics: %w", err)
	}
	return b, nil
}

// usage is what the server took until now.
func (t *Target) usage(ctx context.Context) (u Usage, err error) {
	b, err := t.metrics(ctx)
	if err != nil {
		return u, err
	}
	cpu, ok := sample(b, "process_cpu_seconds_total")
	rss, rok := sample(b, "process_resident_memory_bytes")
	if !ok || !rok {
		return u, errors.New("kube: the server does not tell what it takes at /metrics")
	}
	return Usage{CPUSeconds: cpu, Bytes: int64(rss)}, nil
}

// sample finds the value of a metric, with its labels if it has some, in the text format.
func sample(text []byte, name string) (float64, bool) {
	for line := range bytes.Lines(text) {
		rest, ok := bytes.CutPrefix(line, []byte(name))
		if !ok || len(rest) == 0 || rest[0] != ' ' {
			continue
		}
		v, err := strconv.ParseFloat(string(bytes.Fields(rest)[0]), 64)
		return v, err == nil
	}
	return 0, false
}

// namespace makes an empty namespace. remove deletes it, and waits until it is gone if there is something that removes it.
func (t *Target) namespace(ctx context.Context, name string) error {
	_, err := t.clients[0].CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("kube: the namespace %s of another run is still there", name)
	}
	return err
}

// removal bounds the wait for a namespace to go.
const removal = 2 * time.Minute

func (t *Target) remove(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), removal)
	defer cancel()
	namespaces := t.clients[0].CoreV1().Namespaces()
	if err := namespaces.Delete(ctx, name, metav1.DeleteOptions{}); err != nil {
		return err
	}
	for {
		if _, err := namespaces.Get(ctx, name, metav1.GetOptions{}); apierrors.IsNotFound(err) {
			return nil
		}
		select {
		case <-time.After(200 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("kube: the namespace %s is still there", name)
		}
	}
}

// drain reads an answer to its end.
func drain(r io.ReadCloser, err error) error {
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, r)
	return errors.Join(err, r.Close())
}
