package workers

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/keelson-io/keelson/internal/clock"
)

// hookBody is how much of a hook's answer is read, in bytes.
const hookBody = 10 * 1024

// postStart runs a container's postStart hook. If it fails the container is stopped, and its end decides about a restart.
func (ws *Workers) postStart(ctx context.Context, p *corev1.Pod, c *corev1.Container, id string, box *sandbox) *failure {
	if c.Lifecycle == nil || c.Lifecycle.PostStart == nil {
		return nil
	}
	err := ws.hook(ctx, p, c, id, podIPs(p, box, ws.cfg.hostIPs()), c.Lifecycle.PostStart)
	if err == nil {
		return nil
	}
	if ctx.Err() != nil { // the pod ends, and its containers with it
		return &failure{reason: reasonPostStartError, message: err.Error()}
	}
	ws.event(p, c, corev1.EventTypeWarning, eventPostStart, "PostStartHook failed")
	ws.log.Info("postStart hook failed", podFields(p, err)...)
	rc, rerr := ws.rt.container(ctx, id, box.id)
	if rerr == nil && rc != nil && rc.running() {
		ws.kill(ctx, p, stop{container: rc, spec: c, message: "FailedPostStartHook"}, ws.grace(p, nil))
	}
	return &failure{reason: reasonPostStartError, message: err.Error()}
}

// hook runs a hook of a container.
func (ws *Workers) hook(ctx context.Context, p *corev1.Pod, c *corev1.Container, id string, ips []string, h *corev1.LifecycleHandler) error {
	switch {
	case h.Exec != nil:
		return ws.execHook(ctx, id, h.Exec.Command)
	case h.HTTPGet != nil:
		return ws.httpHook(ctx, c, ips, h.HTTPGet)
	case h.Sleep != nil:
		return sleep(ctx, ws.cfg.Clock, time.Duration(h.Sleep.Seconds)*time.Second)
	}
	return errors.New("invalid handler: it has to have exec, httpGet or sleep")
}

func (ws *Workers) execHook(ctx context.Context, id string, command []string) error {
	r, err := ws.cfg.Runtime.ExecSync(ctx, &runtimeapi.ExecSyncRequest{ContainerId: id, Cmd: command})
	if err != nil {
		return fmt.Errorf("exec hook %q: %s", strings.Join(command, " "), message(err))
	}
	if r.ExitCode != 0 {
		said := append(r.Stdout, r.Stderr...)
		return fmt.Errorf("command '%s' exited with %d: %s", strings.Join(command, " "), r.ExitCode, said[:min(len(said), hookBody)])
	}
	return nil
}

// newHookClient is a client that asks no pod for its certificate, and that no proxy stands in the way of.
func newHookClient() *http.Client {
	return &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true}}
}

func (ws *Workers) httpHook(ctx context.Context, c *corev1.Container, ips []string, h *corev1.HTTPGetAction) error {
	host := h.Host
	if host == "" {
		if len(ips) == 0 {
			return errors.New("failed to find networking container: the pod has no address")
		}
		host = ips[0]
	}
	port, err := hookPort(c, h.Port)
	if err != nil {
		return err
	}
	u := &url.URL{Scheme: "http", Host: net.JoinHostPort(host, strconv.Itoa(port)), Path: "/"}
	if h.Scheme == corev1.URISchemeHTTPS {
		u.Scheme = "https"
	}
	if ref, err := url.Parse(h.Path); err == nil {
		u = u.ResolveReference(&url.URL{Path: ref.Path, RawQuery: ref.RawQuery})
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return err
	}
	for _, hd := range h.HTTPHeaders {
		req.Header.Add(hd.Name, hd.Value)
		if strings.EqualFold(hd.Name, "Host") {
			req.Host = hd.Value
		}
	}
	resp, err := ws.hooks.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, hookBody))
	if resp.StatusCode >= http.StatusBadRequest {
		return fmt.Errorf("HTTP hook (%s) failed with status %d", u, resp.StatusCode)
	}
	return nil
}

// hookPort is the number of a port that may be given by its name.
func hookPort(c *corev1.Container, port intstr.IntOrString) (int, error) {
	if port.Type == intstr.Int {
		if port.IntVal == 0 {
			return 80, nil
		}
		return port.IntValue(), nil
	}
	if port.StrVal == "" {
		return 80, nil
	}
	for _, p := range c.Ports {
		if p.Name == port.StrVal {
			return int(p.ContainerPort), nil
		}
	}
	n, err := strconv.Atoi(port.StrVal)
	if err != nil {
		return 0, fmt.Errorf("couldn't find port: %q", port.StrVal)
	}
	return n, nil
}

// sleep waits for a time, or until ctx ends.
func sleep(ctx context.Context, c clock.Clock, d time.Duration) error {
	t := c.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C():
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
