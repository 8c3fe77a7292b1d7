package serve

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/keelson-io/keelson/orchestrator/node/logs"
)

// failure is an error with the code that it is answered with.
type failure struct {
	code int
	text string
}

func (f *failure) Error() string { return f.text }

func failed(code int, format string, a ...any) error {
	return &failure{code, fmt.Sprintf(format, a...)}
}

// refuse answers with an error.
func refuse(w http.ResponseWriter, err error) {
	var f *failure
	if errors.As(err, &f) {
		http.Error(w, f.text, f.code)
		return
	}
	http.Error(w, err.Error(), http.StatusInternalServerError)
}

// pod finds a pod of the node. The UID may be "", for any.
func (s *Server) pod(namespace, name, uid string) (*corev1.Pod, error) {
	for _, p := range s.cfg.Workers.Pods() {
		if p.Namespace == namespace && p.Name == name && (uid == "" || string(p.UID) == uid) {
			return p, nil
		}
	}
	return nil, failed(http.StatusNotFound, "pod %q not found", namespace+"/"+name)
}

// statusOf is a container's status, nil if there is none; known says whether the pod has such a container at all.
func statusOf(p *corev1.Pod, container string) (status *corev1.ContainerStatus, known bool) {
	for _, list := range [][]corev1.ContainerStatus{p.Status.InitContainerStatuses, p.Status.ContainerStatuses, p.Status.EphemeralContainerStatuses} {
		for i := range list {
			if list[i].Name == container {
				return &list[i], true
			}
		}
	}
	for _, list := range [][]corev1.Container{p.Spec.InitContainers, p.Spec.Containers} {
		for i := range list {
			known = known || list[i].Name == container
		}
	}
	for i := range p.Spec.EphemeralContainers {
		known = known || p.Spec.EphemeralContainers[i].Name == container
	}
	return nil, known
}

// container finds a container, or says why there is none.
func (s *Server) container(r *http.Request, previous bool) (id, logPath string, err error) {
	namespace, name, container := r.PathValue("namespace"), r.PathValue("pod"), r.PathValue("container")
	p, err := s.pod(namespace, name, r.PathValue("uid"))
	if err != nil {
		return "", "", err
	}
	status, known := statusOf(p, container)
	if !known {
		return "", "", failed(http.StatusNotFound, "container %q not found in pod %q", container, name)
	}
	// One that waits for its next start has already become the one before, whatever else the runtime still has.
	ended := status != nil && status.State.Waiting != nil && status.LastTerminationState.Terminated != nil
	id, logPath, err = s.cfg.Workers.Container(namespace, name, container, previous && !ended)
	switch {
	case err == nil && id != "":
		return id, logPath, nil
	case previous:
		return "", "", failed(http.StatusBadRequest, "previous terminated container %q in pod %q not found", container, name)
	case status != nil && status.State.Waiting != nil && status.State.Waiting.Reason != "":
		return "", "", failed(http.StatusBadRequest, "container %q in pod %q is waiting to start: %s", container, name, status.State.Waiting.Reason)
	case status == nil || status.State.Waiting != nil:
		return "", "", failed(http.StatusBadRequest, "container %q in pod %q is waiting to start", container, name)
	case err != nil:
		return "", "", failed(http.StatusBadRequest, "container %q in pod %q is not available: %v", container, name, err)
	}
	return "", "", failed(http.StatusBadRequest, "container %q in pod %q is not available", container, name)
}

// logOptions reads what is asked for. now is what seconds are counted from.
func logOptions(q url.Values, now time.Time) (o logs.Options, previous bool, err error) {
	number := func(name string, least int64) *int64 {
		if err != nil || q.Get(name) == "" {
			return nil
		}
		n, e := strconv.ParseInt(q.Get(name), 10, 64)
		if e != nil || n < least {
			err = failed(http.StatusUnprocessableEntity, "invalid %s %q", name, q.Get(name))
			return nil
		}
		return &n
	}
	yes := func(name string) bool {
		if v := q.Get(name); v != "" && err == nil {
			b, e := strconv.ParseBool(v)
			if e != nil {
				err = failed(http.StatusBadRequest, "invalid %s %q", name, v)
			}
			return b
		}
		return false
	}
	o.Tail, o.Limit = number("tailLines", 0), number("limitBytes", 1)
	seconds := number("sinceSeconds", 1)
	o.Follow, o.Timestamps, previous = yes("follow"), yes("timestamps"), yes("previous")
	if text := q.Get("sinceTime"); text != "" && err == nil {
		if o.Since, err = time.Parse(time.RFC3339, text); err != nil {
			err = failed(http.StatusBadRequest, "invalid sinceTime %q", text)
		}
	}
	if seconds != nil {
		o.Since = now.Add(-time.Duration(*seconds) * time.Second)
	}
	switch stream := q.Get("stream"); stream {
	case "", corev1.LogStreamAll:
	case corev1.LogStreamStdout:
		o.Stream = logs.Stdout
	case corev1.LogStreamStderr:
		o.Stream = logs.Stderr
	default:
		err = errors.Join(err, failed(http.StatusUnprocessableEntity, "invalid stream %q", stream))
	}
	return o, previous, err
}

// containerLogs serves a container's log as text.
func (s *Server) containerLogs(w http.ResponseWriter, r *http.Request) {
	o, previous, err := logOptions(r.URL.Query(), s.cfg.Clock.Now())
	if err != nil {
		refuse(w, err)
		return
	}
	id, path, err := s.container(r, previous)
	if err != nil {
		refuse(w, err)
		return
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	defer context.AfterFunc(s.ending, cancel)()
	o.Running = func(ctx context.Context) bool { return s.running(ctx, id) }
	out := &flushed{w: w}
	err = logs.Read(ctx, path, o, out)
	switch {
	case err == nil:
		out.begin()
	case out.begun:
		s.cfg.Logger.Info("a log ended early", zap.String("container", id), zap.Error(err))
	case errors.Is(err, fs.ErrNotExist):
		refuse(w, failed(http.StatusInternalServerError, "the log of container %q is not there: %s", id, path))
	default:
		refuse(w, err)
	}
}

// running says whether a container still writes to its log.
func (s *Server) running(ctx context.Context, id string) bool {
	resp, err := s.cfg.Runtime.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: id})
	if err != nil {
		return false
	}
	state := resp.GetStatus().GetState()
	return state == runtimeapi.ContainerState_CONTAINER_RUNNING || state == runtimeapi.ContainerState_CONTAINER_CREATED
}

// flushed sends what is written at once.
type flushed struct {
	w     http.ResponseWriter
	begun bool
}

func (f *flushed) begin() {
	if !f.begun {
		f.begun = true
		f.w.Header().Set("Content-Type", "text/plain")
		f.w.WriteHeader(http.StatusOK)
	}
}

func (f *flushed) Write(p []byte) (int, error) {
	f.begin()
	n, err := f.w.Write(p)
	if err == nil {
		err = http.NewResponseController(f.w).Flush()
	}
	return n, err
}
