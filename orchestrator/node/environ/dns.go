package environ

import (
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/keelson-io/keelson/orchestrator/node/environ/downward"
)

// Limits of a resolv.conf. A longer search domain makes some resolvers abort.
const (
	maxNameservers  = 3
	maxSearches     = 32
	maxSearchLength = 2048 // characters of the whole line
	maxDomainLength = 253
	maxResolvConf   = 10 << 20 // bytes
)

// DNS is the configuration of a pod's resolver.
func (e *Environ) DNS(pod *corev1.Pod) (*runtimeapi.DNSConfig, error) {
	host, err := e.hostDNS()
	if err != nil {
		return nil, err
	}
	conf := &runtimeapi.DNSConfig{}
	switch policy := pod.Spec.DNSPolicy; {
	case policy == corev1.DNSNone:
	case policy == corev1.DNSDefault, policy == corev1.DNSClusterFirst && pod.Spec.HostNetwork:
		conf = e.likeHost(host)
	case len(e.cfg.ClusterDNS) == 0:
		e.warn(pod, "MissingClusterDNS", "pod: %q. The node knows no DNS server of the cluster, as the policy %q asks for. Falling back to %q policy.",
			fmt.Sprintf("%s_%s(%s)", pod.Name, pod.Namespace, pod.UID), corev1.DNSClusterFirst, corev1.DNSDefault)
		conf = e.likeHost(host)
	default:
		conf = e.clusterDNS(pod.Namespace, host.Searches)
	}
	if more := pod.Spec.DNSConfig; more != nil {
		conf.Servers = distinct(append(conf.Servers, more.Nameservers...))
		conf.Searches = distinct(append(conf.Searches, more.Searches...))
		conf.Options = mergeOptions(conf.Options, more.Options)
	}
	e.limitDNS(pod, conf)
	return conf, nil
}

// clusterDNS asks the cluster's server, in the pod's namespace first.
func (e *Environ) clusterDNS(namespace string, hostSearches []string) *runtimeapi.DNSConfig {
	conf := &runtimeapi.DNSConfig{Searches: hostSearches, Options: []string{"ndots:5"}}
	for _, a := range e.cfg.ClusterDNS {
		conf.Servers = append(conf.Servers, a.String())
	}
	if d := e.cfg.ClusterDomain; d != "" {
		conf.Searches = distinct(append([]string{namespace + ".svc." + d, "svc." + d, d}, hostSearches...))
	}
	return conf
}

// likeHost is the node's configuration for a pod. A node without one is its own resolver.
func (e *Environ) likeHost(host *runtimeapi.DNSConfig) *runtimeapi.DNSConfig {
	if e.cfg.ResolvConf != "" {
		return host
	}
	conf := &runtimeapi.DNSConfig{Searches: []string{"."}}
	for _, ip := range downward.HostIPs(e.cfg.Node()) {
		if a, err := netip.ParseAddr(ip); err == nil && a.Is6() {
			conf.Servers = append(conf.Servers, "::1")
		} else {
			conf.Servers = append(conf.Servers, "127.0.0.1")
		}
	}
	if len(conf.Servers) == 0 {
		conf.Servers = []string{"127.0.0.1"}
	}
	return conf
}

// hostDNS reads the node's own configuration, anew each time: it may change while the node runs.
func (e *Environ) hostDNS() (*runtimeapi.DNSConfig, error) {
	if e.cfg.ResolvConf == "" {
		return &runtimeapi.DNSConfig{}, nil
	}
	info, err := os.Stat(e.cfg.ResolvConf)
	if err != nil {
		return nil, fmt.Errorf("environ: the node's resolver: %w", err)
	}
	if info.Size() > maxResolvConf {
		return nil, fmt.Errorf("environ: %s has more than %d bytes", e.cfg.ResolvConf, maxResolvConf)
	}
	b, err := os.ReadFile(e.cfg.ResolvConf)
	if err != nil {
		return nil, fmt.Errorf("environ: the node's resolver: %w", err)
	}
	return parseResolvConf(string(b)), nil
}

// parseResolvConf reads a resolv.conf. Nameservers add up, of search and options lines the last counts.
func parseResolvConf(text string) *runtimeapi.DNSConfig {
	conf := &runtimeapi.DNSConfig{}
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) == 0 {
			continue
		}
		switch fields[0] {
		case "nameserver":
			if len(fields) > 1 {
				conf.Servers = append(conf.Servers, fields[1])
			}
		case "search":
			conf.Searches = nil
			for _, s := range fields[1:] {
				if s != "." {
					s = strings.TrimSuffix(s, ".")
				}
				conf.Searches = append(conf.Searches, s)
			}
		case "options":
			conf.Options = fields[1:]
		}
	}
	return conf
}

// mergeOptions puts a pod's options over those that there are, which keep their places.
func mergeOptions(have []string, more []corev1.PodDNSConfigOption) []string {
	out := distinctBy(have, optionName)
	for _, o := range more {
		s := o.Name
		if o.Value != nil && *o.Value != "" {
			s += ":" + *o.Value
		}
		if i := slices.IndexFunc(out, func(h string) bool { return optionName(h) == o.Name }); i >= 0 {
			out[i] = s
		} else {
			out = append(out, s)
		}
	}
	return out
}

func optionName(o string) string {
	name, _, _ := strings.Cut(o, ":")
	return name
}

func distinct(list []string) []string {
	return distinctBy(list, func(s string) string { return s })
}

func distinctBy(list []string, key func(string) string) []string {
	seen, out := map[string]bool{}, []string(nil)
	for _, s := range list {
		if k := key(s); !seen[k] {
			seen[k] = true
			out = append(out, s)
		}
	}
	return out
}

// limitDNS cuts what resolvers do not take, and tells the pod.
func (e *Environ) limitDNS(pod *corev1.Pod, conf *runtimeapi.DNSConfig) {
	if len(conf.Servers) > maxNameservers {
		conf.Servers = conf.Servers[:maxNameservers]
		e.warn(pod, "DNSConfigForming", "Nameserver limits were exceeded, some nameservers have been omitted, the applied nameserver line is: %s", strings.Join(conf.Servers, " "))
	}
	kept := make([]string, 0, len(conf.Searches))
	for _, s := range conf.Searches[:min(len(conf.Searches), maxSearches)] {
		if len(s) <= maxDomainLength {
			kept = append(kept, s)
		}
	}
	for len(strings.Join(kept, " ")) > maxSearchLength {
		kept = kept[:len(kept)-1]
	}
	if len(kept) < len(conf.Searches) {
		e.warn(pod, "DNSConfigForming", "Search Line limits were exceeded, some search paths have been omitted, the applied search line is: %s", strings.Join(kept, " "))
	}
	conf.Searches = kept
}
