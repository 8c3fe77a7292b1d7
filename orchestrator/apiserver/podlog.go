package apiserver

import (
	"bufio"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/gorilla/websocket"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"
)

// log answers with the log of a container.
func (s *streams) log(c *call) error {
	if c.info.Verb != "get" {
		return apierrors.NewMethodNotSupported(podResource, c.info.Verb)
	}
	o, err := logOptions(c.query)
	if err != nil {
		return err
	}
	pod, err := find[*corev1.Pod](c.ctx(), c.s.objects(), podResource, c.info.Namespace, c.info.Name)
	if err != nil {
		return err
	}
	container, err := chooseContainer(pod, o.Container)
	if err != nil {
		return err
	}
	if pod.Spec.NodeName == "" { // nothing has been written yet
		return s.tell(c, io.NopCloser(strings.NewReader("")), false)
	}
	to, err := s.node(c, pod.Spec.NodeName, "/containerLogs/"+pod.Namespace+"/"+pod.Name+"/"+container, logQuery(o))
	if err != nil {
		return err
	}
	if o.InsecureSkipTLSVerifyBackend {
		to = s.connector.Unverified(to)
	}
	from, err := s.connector.Get(c.ctx(), to, schema.GroupResource{Resource: "pods/log"}, pod.Name)
	if err != nil {
		return err
	}
	defer func() { _ = from.Close() }() // it was only read
	return s.tell(c, from, o.Follow)
}

// tell answers with text, over a WebSocket if that is asked for.
func (s *streams) tell(c *call, from io.ReadCloser, follow bool) error {
	if websocket.IsWebSocketUpgrade(c.r) {
		s.connector.Messages(c.w, c.r, from)
		return nil
	}
	c.textHead()
	return c.copyText(from, follow)
}

func (c *call) textHead() {
	c.w.Header().Set("Content-Type", "text/plain")
	c.w.Header().Set("Cache-Control", "no-cache, private")
	c.w.WriteHeader(http.StatusOK)
}

// copyText sends text as it comes. If it ends too early, so does the connection.
func (c *call) copyText(from io.Reader, follow bool) error {
	if follow {
		_ = http.NewResponseController(c.w).Flush() // that there is an answer, even if nothing is written for long
	}
	buffered := bufio.NewReaderSize(from, maxBuffer)
	for {
		if _, err := buffered.Peek(1); err != nil {
			if errors.Is(err, io.EOF) || c.ctx().Err() != nil || c.s.draining.Err() != nil {
				return nil
			}
			return errAborted
		}
		b, _ := buffered.Peek(buffered.Buffered()) // it is there
		if _, err := c.w.Write(b); err != nil {
			return nil //nolint:nilerr // the client is gone
		}
		_, _ = buffered.Discard(len(b)) // it is there
		if follow {
			_ = http.NewResponseController(c.w).Flush() // the next write would fail
		}
	}
}

// logOptions reads what is asked for. 400 for what cannot be read, 422 for what is not allowed.
func logOptions(q url.Values) (*corev1.PodLogOptions, error) {
	o := &corev1.PodLogOptions{
		Container: q.Get("container"), Follow: flag(q, "follow"), Previous: flag(q, "previous"), Timestamps: flag(q, "timestamps"),
		InsecureSkipTLSVerifyBackend: flag(q, "insecureSkipTLSVerifyBackend"),
	}
	for name, to := range map[string]**int64{"sinceSeconds": &o.SinceSeconds, "tailLines": &o.TailLines, "limitBytes": &o.LimitBytes} {
		if q.Get(name) == "" {
			continue
		}
		n, err := strconv.ParseInt(q.Get(name), 10, 64)
		if err != nil {
			return nil, apierrors.NewBadRequest(err.Error())
		}
		*to = &n
	}
	if text := q.Get("sinceTime"); text != "" {
		t, err := time.Parse(time.RFC3339, text)
		if err != nil {
			return nil, apierrors.NewBadRequest(err.Error())
		}
		o.SinceTime = &metav1.Time{Time: t}
	}
	if q.Has("stream") {
		o.Stream = ptr.To(q.Get("stream"))
	}
	if errs := validateLogOptions(o); len(errs) > 0 {
		return nil, apierrors.NewInvalid(schema.GroupKind{Kind: "PodLogOptions"}, "", errs)
	}
	return o, nil
}

func validateLogOptions(o *corev1.PodLogOptions) (errs field.ErrorList) {
	const atLeast = "must be greater than "
	if o.TailLines != nil && *o.TailLines < 0 {
		errs = append(errs, field.Invalid(field.NewPath("tailLines"), *o.TailLines, atLeast+"or equal to 0"))
	}
	if o.LimitBytes != nil && *o.LimitBytes < 1 {
		errs = append(errs, field.Invalid(field.NewPath("limitBytes"), *o.LimitBytes, atLeast+"0"))
	}
	switch {
	case o.SinceSeconds != nil && o.SinceTime != nil:
		errs = append(errs, field.Forbidden(field.NewPath(""), "at most one of `sinceTime` or `sinceSeconds` may be specified"))
	case o.SinceSeconds != nil && *o.SinceSeconds < 1:
		errs = append(errs, field.Invalid(field.NewPath("sinceSeconds"), *o.SinceSeconds, atLeast+"0"))
	}
	switch stream := ptr.Deref(o.Stream, corev1.LogStreamAll); stream {
	case corev1.LogStreamAll:
	case corev1.LogStreamStdout, corev1.LogStreamStderr:
		if o.TailLines != nil {
			errs = append(errs, field.Forbidden(field.NewPath(""), "`tailLines` and specific `stream` are mutually exclusive for now"))
		}
	default:
		errs = append(errs, field.NotSupported(field.NewPath("stream"), stream, []string{corev1.LogStreamAll, corev1.LogStreamStdout, corev1.LogStreamStderr}))
	}
	return errs
}

// logQuery is how nodes are told what is wanted.
func logQuery(o *corev1.PodLogOptions) url.Values {
	q := url.Values{}
	for name, on := range map[string]bool{"follow": o.Follow, "previous": o.Previous, "timestamps": o.Timestamps} {
		if on {
			q.Set(name, "true")
		}
	}
	for name, n := range map[string]*int64{"sinceSeconds": o.SinceSeconds, "tailLines": o.TailLines, "limitBytes": o.LimitBytes} {
		if n != nil {
			q.Set(name, itoa(*n))
		}
	}
	if o.SinceTime != nil {
		q.Set("sinceTime", o.SinceTime.Format(time.RFC3339Nano))
	}
	if s := ptr.Deref(o.Stream, corev1.LogStreamAll); s != corev1.LogStreamAll {
		q.Set("stream", s)
	}
	return q
}
