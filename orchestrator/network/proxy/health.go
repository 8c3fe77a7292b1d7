package proxy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/keelson-io/keelson/orchestrator/network/netns"
)

// checker answers load balancers that ask whether a node has endpoints of a service: 200 if it has, else 503.
type checker struct {
	ns      *netns.NS
	healthy func() error
	lg      *zap.Logger

	mu      sync.Mutex
	checks  map[uint16]health
	servers map[uint16]*http.Server
	running sync.WaitGroup
}

func newChecker(ns *netns.NS, healthy func() error, lg *zap.Logger) *checker {
	return &checker{ns: ns, healthy: healthy, lg: lg, checks: map[uint16]health{}, servers: map[uint16]*http.Server{}}
}

// answer is what kube-proxy answers.
type answer struct {
	Service struct {
		Namespace string `json:"namespace"`
		Name      string `json:"name"`
	} `json:"service"`
	LocalEndpoints      int  `json:"localEndpoints"`
	ServiceProxyHealthy bool `json:"serviceProxyHealthy"`
}

// set serves the checks, and no others. A port that cannot be listened on is an error; the next call tries again.
func (c *checker) set(all []health) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	clear(c.checks)
	for _, h := range all {
		c.checks[h.port] = h
	}
	for port, s := range c.servers {
		if _, ok := c.checks[port]; !ok {
			_ = s.Close() // what it has to say is not true any more
			delete(c.servers, port)
		}
	}
	var errs []error
	for port := range c.checks {
		if c.servers[port] == nil {
			errs = append(errs, c.listen(port))
		}
	}
	return errors.Join(errs...)
}

// headerTime bounds how long a client takes to ask, in all.
const headerTime = 5 * time.Second

func (c *checker) listen(port uint16) error {
	var l net.Listener
	err := c.ns.Do(func() (err error) {
		l, err = net.Listen("tcp", net.JoinHostPort("", strconv.Itoa(int(port))))
		return err
	})
	if err != nil {
		return fmt.Errorf("proxy: health check of a service: %w", err)
	}
	s := &http.Server{ReadHeaderTimeout: headerTime, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { c.serve(w, port) })}
	c.servers[port] = s
	c.running.Go(func() {
		if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			c.lg.Warn("health checks of a service are not answered any more", zap.Uint16("port", port), zap.Error(err))
		}
	})
	return nil
}

func (c *checker) serve(w http.ResponseWriter, port uint16) {
	c.mu.Lock()
	h := c.checks[port]
	c.mu.Unlock()
	a := answer{LocalEndpoints: h.local, ServiceProxyHealthy: c.healthy() == nil}
	a.Service.Namespace, a.Service.Name = h.namespace, h.name
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("X-Load-Balancing-Endpoint-Weight", strconv.Itoa(h.local))
	if a.LocalEndpoints > 0 && a.ServiceProxyHealthy {
		w.WriteHeader(http.StatusOK)
	} else {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	_ = json.NewEncoder(w).Encode(a)
}

// close ends all servers.
func (c *checker) close() {
	c.mu.Lock()
	servers := c.servers
	c.servers = map[uint16]*http.Server{}
	c.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	for _, s := range servers {
		if s.Shutdown(ctx) != nil {
			_ = s.Close()
		}
	}
	c.running.Wait()
}
