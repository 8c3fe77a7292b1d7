package serve

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/httpstream/wsstream"
	"k8s.io/apimachinery/pkg/util/proxy"
	streamproxy "k8s.io/apiserver/pkg/util/proxy"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/keelson-io/keelson/internal/upgrade"
)

// streamsOf reads which streams are asked for. A terminal has one for output and errors.
func streamsOf(q url.Values) (streamproxy.Options, error) {
	yes := func(name string) bool { return q.Get(name) == "1" || q.Get(name) == "true" }
	o := streamproxy.Options{Stdin: yes("input"), Stdout: yes("output"), Stderr: yes("error"), Tty: yes("tty")}
	if o.Tty {
		o.Stderr = false
	}
	if !o.Stdin && !o.Stdout && !o.Stderr {
		return o, failed(http.StatusBadRequest, "you must specify at least 1 of stdin, stdout, stderr")
	}
	return o, nil
}

func (s *Server) exec(w http.ResponseWriter, r *http.Request) {
	s.command(w, r, func(ctx context.Context, id string, o streamproxy.Options) (string, error) {
		resp, err := s.cfg.Runtime.Exec(ctx, &runtimeapi.ExecRequest{
			ContainerId: id, Cmd: r.URL.Query()["command"], Tty: o.Tty, Stdin: o.Stdin, Stdout: o.Stdout, Stderr: o.Stderr,
		})
		return resp.GetUrl(), err
	})
}

func (s *Server) attach(w http.ResponseWriter, r *http.Request) {
	s.command(w, r, func(ctx context.Context, id string, o streamproxy.Options) (string, error) {
		resp, err := s.cfg.Runtime.Attach(ctx, &runtimeapi.AttachRequest{ContainerId: id, Tty: o.Tty, Stdin: o.Stdin, Stdout: o.Stdout, Stderr: o.Stderr})
		return resp.GetUrl(), err
	})
}

// command connects a client with a container, at an address that the runtime tells.
func (s *Server) command(w http.ResponseWriter, r *http.Request, address func(ctx context.Context, id string, o streamproxy.Options) (string, error)) {
	o, err := streamsOf(r.URL.Query())
	if err != nil {
		refuseStream(w, err)
		return
	}
	id, _, err := s.container(r, false)
	if err != nil {
		refuseStream(w, err)
		return
	}
	at, err := address(r.Context(), id, o)
	if err != nil {
		refuseStream(w, ofRuntime(err))
		return
	}
	to, err := location(at)
	if err != nil {
		refuseStream(w, err)
		return
	}
	if wsstream.IsWebSocketRequestWithStreamCloseProtocol(r) {
		streamproxy.NewStreamTranslatorHandler(to, backend(), 0, o).ServeHTTP(w, r)
		return
	}
	through(to).ServeHTTP(w, r)
}

func (s *Server) portForward(w http.ResponseWriter, r *http.Request) {
	p, err := s.pod(r.PathValue("namespace"), r.PathValue("pod"), r.PathValue("uid"))
	if err != nil {
		refuseStream(w, err)
		return
	}
	ports, err := portsOf(r.URL.Query())
	if err != nil {
		refuseStream(w, err)
		return
	}
	ready := &runtimeapi.PodSandboxFilter{
		State: &runtimeapi.PodSandboxStateValue{State: runtimeapi.PodSandboxState_SANDBOX_READY}, LabelSelector: map[string]string{podUIDLabel: string(p.UID)},
	}
	list, err := s.cfg.Runtime.ListPodSandbox(r.Context(), &runtimeapi.ListPodSandboxRequest{Filter: ready})
	if err != nil {
		refuseStream(w, ofRuntime(err))
		return
	}
	if len(list.Items) == 0 {
		refuseStream(w, failed(http.StatusBadRequest, "pod %q is not running", p.Namespace+"/"+p.Name))
		return
	}
	resp, err := s.cfg.Runtime.PortForward(r.Context(), &runtimeapi.PortForwardRequest{PodSandboxId: list.Items[0].Id, Port: ports})
	if err != nil {
		refuseStream(w, ofRuntime(err))
		return
	}
	to, err := location(resp.Url)
	if err != nil {
		refuseStream(w, err)
		return
	}
	if wsstream.IsWebSocketRequestWithTunnelingProtocol(r) {
		streamproxy.NewTunnelingHandler(through(to)).ServeHTTP(w, r)
		return
	}
	through(to).ServeHTTP(w, r)
}

// portsOf reads the ports that a WebSocket of old is for; SPDY tells them later.
func portsOf(q url.Values) (ports []int32, err error) {
	for _, text := range q["port"] {
		for one := range strings.SplitSeq(text, ",") {
			n, err := strconv.ParseUint(one, 10, 16)
			if err != nil || n == 0 {
				return nil, failed(http.StatusBadRequest, "unable to parse %q as a port", one)
			}
			ports = append(ports, int32(n))
		}
	}
	return ports, nil
}

// runTimeout bounds a command whose output is awaited.
const runTimeout = 10 * time.Minute

// run runs a command, and answers with its output.
func (s *Server) run(w http.ResponseWriter, r *http.Request) {
	id, _, err := s.container(r, false)
	if err != nil {
		refuse(w, err)
		return
	}
	resp, err := s.cfg.Runtime.ExecSync(r.Context(), &runtimeapi.ExecSyncRequest{
		ContainerId: id, Cmd: strings.Fields(r.URL.Query().Get("cmd")), Timeout: int64(runTimeout / time.Second),
	})
	if err != nil {
		refuse(w, ofRuntime(err))
		return
	}
	w.Header().Set("Content-Type", "text/plain")
	if resp.ExitCode != 0 {
		w.WriteHeader(http.StatusInternalServerError)
	}
	_, _ = w.Write(append(resp.Stdout, resp.Stderr...)) // the client is gone
	if resp.ExitCode != 0 {
		_, _ = fmt.Fprintf(w, "\ncommand exited with %d\n", resp.ExitCode)
	}
}

// ofRuntime says with what an error of the runtime is answered.
func ofRuntime(err error) error {
	st, ok := status.FromError(err)
	if !ok {
		return err
	}
	code := http.StatusInternalServerError
	switch st.Code() {
	case codes.NotFound:
		code = http.StatusNotFound
	case codes.InvalidArgument, codes.FailedPrecondition:
		code = http.StatusBadRequest
	case codes.ResourceExhausted:
		code = http.StatusTooManyRequests
	case codes.Unavailable:
		code = http.StatusServiceUnavailable
	}
	return failed(code, "container runtime: %s", st.Message())
}

// location is where the runtime serves a connection.
func location(at string) (*url.URL, error) {
	u, err := url.Parse(at)
	if err != nil || u.Host == "" {
		return nil, failed(http.StatusInternalServerError, "the container runtime tells an address that is none: %q", at)
	}
	return u, nil
}

// backend reaches the runtime's server of streams: one connection for each.
func backend() *http.Transport {
	return &http.Transport{DisableKeepAlives: true}
}

// through sends a request to the runtime as it is.
func through(to *url.URL) http.Handler {
	h := proxy.NewUpgradeAwareHandler(to, upgrade.Transport(backend()), false, true, refuser{})
	h.UseLocationHost = true
	return h
}

// refuser answers with what goes wrong before a connection is there.
type refuser struct{}

func (refuser) Error(w http.ResponseWriter, _ *http.Request, err error) {
	var status apierrors.APIStatus
	if errors.As(err, &status) {
		err = failed(int(status.Status().Code), "%v", err)
	}
	refuseStream(w, err)
}

// refuseStream answers with a Status: clients that ask for a connection take other texts for something else.
func refuseStream(w http.ResponseWriter, err error) {
	s := metav1.Status{
		TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusFailure, Message: err.Error(), Code: http.StatusInternalServerError,
	}
	var f *failure
	if errors.As(err, &f) {
		s.Code = int32(f.code)
	}
	s.Reason = map[int32]metav1.StatusReason{
		http.StatusBadRequest: metav1.StatusReasonBadRequest, http.StatusNotFound: metav1.StatusReasonNotFound,
		http.StatusTooManyRequests: metav1.StatusReasonTooManyRequests, http.StatusServiceUnavailable: metav1.StatusReasonServiceUnavailable,
		http.StatusInternalServerError: metav1.StatusReasonInternalError,
	}[s.Code]
	b, err := json.Marshal(s)
	if err != nil {
		http.Error(w, s.Message, int(s.Code))
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(int(s.Code))
	_, _ = w.Write(b) // the client is gone
}
