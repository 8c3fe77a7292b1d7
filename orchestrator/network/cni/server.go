package cni

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"go.uber.org/zap"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// maxRequest bounds a request, in bytes.
const maxRequest = 1 << 20

// Backend is the network that a Server answers for.
type Backend interface {
	Attach(ctx context.Context, id, netns string, c *runtimeapi.PodSandboxConfig) ([]netip.Addr, error)
	Detach(ctx context.Context, id, netns string, c *runtimeapi.PodSandboxConfig) error
	Check(id string) error
	GC(ctx context.Context, keep []string) error
	Ready() error
	Gateways() []netip.Addr
}

// Server answers the plugin.
type Server struct {
	backend Backend
	lg      *zap.Logger
}

// NewServer makes the server of a network.
func NewServer(b Backend, lg *zap.Logger) *Server {
	if lg == nil {
		lg = zap.NewNop()
	}
	return &Server{backend: b, lg: lg}
}

// Serve answers on a unix socket until ctx ends. Only root may connect.
func (s *Server) Serve(ctx context.Context, socket string) error {
	if err := os.MkdirAll(filepath.Dir(socket), 0o700); err != nil {
		return fmt.Errorf("cni: %w", err)
	}
	if err := os.Remove(socket); err != nil && !errors.Is(err, os.ErrNotExist) { // of an agent that was killed
		return fmt.Errorf("cni: %w", err)
	}
	l, err := net.Listen("unix", socket)
	if err != nil {
		return fmt.Errorf("cni: %w", err)
	}
	if err := os.Chmod(socket, 0o600); err != nil {
		return errors.Join(fmt.Errorf("cni: %w", err), l.Close())
	}
	h := &http.Server{Handler: s, ReadHeaderTimeout: 10 * time.Second, BaseContext: func(net.Listener) context.Context { return ctx }}
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		late, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		_ = h.Shutdown(late)
	})
	err = h.Serve(l)
	if !stop() {
		<-stopped
	}
	if errors.Is(err, http.ErrServerClosed) {
		return ctx.Err()
	}
	return fmt.Errorf("cni: %w", err)
}

func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var q request
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxRequest)).Decode(&q); err != nil || r.URL.Path != "/cni" {
		http.Error(w, "not a request of the plugin", http.StatusBadRequest)
		return
	}
	result, err := s.answer(r.Context(), q)
	out := response{Result: result}
	if err != nil {
		s.lg.Warn("a request of the CNI plugin failed", zap.String("command", q.Command), zap.String("sandbox", q.ContainerID), zap.Error(err))
		if !errors.As(err, &out.Error) {
			out.Error = types.NewError(types.ErrInternal, err.Error(), "")
		}
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(out)
}

// answer runs a command.
func (s *Server) answer(ctx context.Context, q request) (*types100.Result, error) {
	var conf pluginConf
	if err := json.Unmarshal(q.Config, &conf); err != nil {
		return nil, types.NewError(types.ErrDecodingFailure, "the configuration cannot be read", err.Error())
	}
	switch q.Command {
	case "ADD":
		if q.IfName != podInterface {
			return nil, types.NewError(types.ErrInvalidEnvironmentVariables, "the interface of a pod is "+podInterface+", not "+q.IfName, "")
		}
		addrs, err := s.backend.Attach(ctx, q.ContainerID, q.NetNS, sandboxOf(q.Args, &conf))
		if err != nil {
			return nil, err
		}
		return s.result(q.NetNS, addrs), nil
	case "DEL":
		return nil, s.backend.Detach(ctx, q.ContainerID, q.NetNS, nil)
	case "CHECK":
		if err := s.backend.Check(q.ContainerID); err != nil {
			return nil, types.NewError(types.ErrUnknownContainer, err.Error(), "")
		}
		return nil, nil
	case "GC":
		if conf.ValidAttachments == nil { // it does not say what to keep
			return nil, nil
		}
		keep := []string{}
		for _, a := range conf.ValidAttachments {
			keep = append(keep, a.ContainerID)
		}
		return nil, s.backend.GC(ctx, keep)
	case "STATUS":
		if err := s.backend.Ready(); err != nil {
			return nil, types.NewError(types.ErrPluginNotAvailable, err.Error(), "")
		}
		return nil, nil
	}
	return nil, types.NewError(types.ErrInvalidEnvironmentVariables, "unknown command "+q.Command, "")
}

// sandboxOf is what a runtime told the plugin of a pod.
func sandboxOf(args string, conf *pluginConf) *runtimeapi.PodSandboxConfig {
	m := &runtimeapi.PodSandboxMetadata{}
	for pair := range strings.SplitSeq(args, ";") {
		switch k, v, _ := strings.Cut(pair, "="); k {
		case "K8S_POD_NAMESPACE":
			m.Namespace = v
		case "K8S_POD_NAME":
			m.Name = v
		case "K8S_POD_UID":
			m.Uid = v
		}
	}
	c := &runtimeapi.PodSandboxConfig{Metadata: m, Annotations: map[string]string{}}
	for k, v := range conf.RuntimeConfig.Annotations {
		c.Annotations[k] = v
	}
	if b := conf.RuntimeConfig.Bandwidth; b.IngressRate > 0 {
		c.Annotations[ingressAnnotation] = strconv.FormatUint(b.IngressRate, 10)
	}
	if b := conf.RuntimeConfig.Bandwidth; b.EgressRate > 0 {
		c.Annotations[egressAnnotation] = strconv.FormatUint(b.EgressRate, 10)
	}
	for _, p := range conf.RuntimeConfig.PortMappings {
		proto, ok := runtimeapi.Protocol_value[strings.ToUpper(p.Protocol)]
		if !ok && p.Protocol != "" {
			proto = -1 // refused by who attaches
		}
		c.PortMappings = append(c.PortMappings, &runtimeapi.PortMapping{
			Protocol: runtimeapi.Protocol(proto), HostPort: p.HostPort, ContainerPort: p.ContainerPort, HostIp: p.HostIP,
		})
	}
	return c
}

// result is what a runtime is told of an attached pod.
func (s *Server) result(sandbox string, addrs []netip.Addr) *types100.Result {
	r := &types100.Result{CNIVersion: types100.ImplementedSpecVersion, Interfaces: []*types100.Interface{{Name: podInterface, Sandbox: sandbox}}}
	for _, a := range addrs {
		ip := &types100.IPConfig{Interface: types100.Int(0), Address: net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen(), a.BitLen())}}
		for _, g := range s.backend.Gateways() {
			if g.Is4() == a.Is4() {
				ip.Gateway = g.AsSlice()
			}
		}
		r.IPs = append(r.IPs, ip)
		size := a.BitLen()
		r.Routes = append(r.Routes, &types.Route{Dst: net.IPNet{IP: make(net.IP, size/8), Mask: net.CIDRMask(0, size)}, GW: ip.Gateway})
	}
	return r
}
