package node

import (
	"fmt"
	"net"
	"slices"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"

	"github.com/keelson-io/keelson/orchestrator/node/serve"
)

// defaultPort is that of the node's server.
const defaultPort = 10250

// splitAddress reads where the node's server listens.
func splitAddress(address string) (host string, port int32, err error) {
	if address == "" {
		return "", defaultPort, nil
	}
	host, text, err := net.SplitHostPort(address)
	if err != nil {
		return "", 0, fmt.Errorf("node: the server's address %q: %w", address, err)
	}
	n, err := strconv.ParseInt(text, 10, 32)
	if err != nil || n < 1 || n > 65535 {
		return "", 0, fmt.Errorf("node: the server's address %q has no port", address)
	}
	return host, int32(n), nil
}

// follow hands the pods of the node to the workers.
func (p *pods) follow() error {
	p.mine = informers.NewSharedInformerFactoryWithOptions(p.client, 0, informers.WithTweakListOptions(func(o *metav1.ListOptions) {
		o.FieldSelector = fields.OneTermEqualSelector("spec.nodeName", p.cfg.Name).String()
	}))
	_, err := p.mine.Core().V1().Pods().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(o any) { p.workers.Set(o.(*corev1.Pod)) },
		UpdateFunc: func(old, o any) {
			was, is := old.(*corev1.Pod), o.(*corev1.Pod)
			if was.UID != is.UID { // it went, and another one of its name came
				p.workers.Delete(was)
			}
			p.workers.Set(is)
		},
		DeleteFunc: func(o any) {
			if gone, ok := o.(cache.DeletedFinalStateUnknown); ok {
				o = gone.Obj
			}
			if pod, ok := o.(*corev1.Pod); ok {
				p.workers.Delete(pod)
			}
		},
	})
	return err
}

// registryOf is a registry with metrics.
func registryOf(lists ...[]prometheus.Collector) (*prometheus.Registry, error) {
	r := prometheus.NewRegistry()
	for _, m := range slices.Concat(lists...) {
		if err := r.Register(m); err != nil {
			return nil, fmt.Errorf("node: metrics: %w", err)
		}
	}
	return r, nil
}

// listen makes the node's server.
func (p *pods) listen() (err error) {
	probes, err := registryOf(p.prober.Metrics())
	if err != nil {
		return err
	}
	own, err := registryOf(p.workers.Metrics(), p.volumes.Metrics(), p.evictions.Metrics(), p.collect.Metrics(), []prometheus.Collector{newClaimGauges(p)})
	if err != nil {
		return err
	}
	agent := prometheus.Gatherers{own}
	if p.cfg.Registry != nil {
		agent = append(agent, p.cfg.Registry)
	}
	p.server, err = serve.New(serve.Config{
		Node: p.cfg.Name, Address: p.cfg.Address, Certificate: p.serving.Certificate, ClientCAs: p.cfg.Authorities, Client: p.client,
		Workers: p.workers, Runtime: p.runtime, Metrics: serve.Metrics{
			Agent: agent, Probes: probes, Resource: p.usage.Resource(), Containers: p.usage.Containers(), Summary: p.usage.Summary,
		},
		Clock: p.cfg.Clock, Logger: p.cfg.Logger.Named("server"),
	})
	return err
}
