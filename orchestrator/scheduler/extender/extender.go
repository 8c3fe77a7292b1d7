// Package extender asks HTTP servers outside of the scheduler, as kube-scheduler asks its extenders: a POST of JSON
// (k8s.io/kube-scheduler/extender/v1) to the extender's URL with a verb as the last segment of its path.
//
// # Concurrency
//
// A Client does not change; its methods may be called from any goroutine.
package extender

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/client-go/rest"
	api "k8s.io/kube-scheduler/extender/v1"

	"github.com/keelson-io/keelson/orchestrator/scheduler/config"
	"github.com/keelson-io/keelson/orchestrator/scheduler/framework"
)

const (
	defaultTimeout = 5 * time.Second
	// maxAnswer bounds what is read of an answer.
	maxAnswer = 64 << 20
)

// Client is a framework.Extender over HTTP.
type Client struct {
	config  config.Extender
	managed map[v1.ResourceName]struct{}
	http    *http.Client
}

var _ framework.Extender = (*Client)(nil)

// New makes clients of all extenders of a configuration.
func New(c *config.Configuration) ([]framework.Extender, error) {
	var out []framework.Extender
	for i := range c.Extenders {
		e, err := newClient(c.Extenders[i])
		if err != nil {
			return nil, fmt.Errorf("extender %s: %w", c.Extenders[i].URLPrefix, err)
		}
		out = append(out, e)
	}
	return out, nil
}

// IgnoredResources are the extended resources that only extenders account for.
func IgnoredResources(c *config.Configuration) []string {
	var out []string
	for i := range c.Extenders {
		for _, r := range c.Extenders[i].ManagedResources {
			if r.IgnoredByScheduler {
				out = append(out, r.Name)
			}
		}
	}
	return out
}

func newClient(c config.Extender) (*Client, error) {
	transport, err := newTransport(&c)
	if err != nil {
		return nil, err
	}
	if c.HTTPTimeout.Duration == 0 {
		c.HTTPTimeout.Duration = defaultTimeout
	}
	e := &Client{config: c, managed: map[v1.ResourceName]struct{}{}, http: &http.Client{Transport: transport, Timeout: c.HTTPTimeout.Duration}}
	for _, r := range c.ManagedResources {
		e.managed[v1.ResourceName(r.Name)] = struct{}{}
	}
	return e, nil
}

func newTransport(c *config.Extender) (*http.Transport, error) {
	var r rest.Config
	if t := c.TLSConfig; t != nil {
		r.TLSClientConfig = rest.TLSClientConfig{
			Insecure: t.Insecure, ServerName: t.ServerName, CertFile: t.CertFile, KeyFile: t.KeyFile, CAFile: t.CAFile,
			CertData: t.CertData, KeyData: t.KeyData, CAData: t.CAData,
		}
	}
	if c.EnableHTTPS && r.CAFile == "" && len(r.CAData) == 0 {
		r.Insecure = true
	}
	tls, err := rest.TLSConfigFor(&r)
	if err != nil {
		return nil, err
	}
	return utilnet.SetTransportDefaults(&http.Transport{TLSClientConfig: tls}), nil
}

// Name is the extender's URL.
func (e *Client) Name() string { return e.config.URLPrefix }

// Ignorable tells whether the extender may fail without consequence.
func (e *Client) Ignorable() bool { return e.config.Ignorable }

// Verbs tells what the extender can do.
func (e *Client) Verbs() framework.ExtenderVerbs {
	c := &e.config
	return framework.ExtenderVerbs{Filter: c.FilterVerb != "", Prioritize: c.PrioritizeVerb != "", Preempt: c.PreemptVerb != "", Bind: c.BindVerb != ""}
}

// Interested tells whether the pod asks for a resource that the extender manages.
func (e *Client) Interested(pod *v1.Pod) bool {
	if len(e.managed) == 0 {
		return true
	}
	for _, containers := range [][]v1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
		for i := range containers {
			if e.manages(containers[i].Resources.Requests) || e.manages(containers[i].Resources.Limits) {
				return true
			}
		}
	}
	return false
}

func (e *Client) manages(list v1.ResourceList) bool {
	for name := range list {
		if _, managed := e.managed[name]; managed {
			return true
		}
	}
	return false
}

// args names the nodes, or sends them to an extender that does not know them.
func (e *Client) args(pod *v1.Pod, nodes []*framework.NodeInfo) *api.ExtenderArgs {
	if e.config.NodeCacheCapable {
		names := make([]string, len(nodes))
		for i, n := range nodes {
			names[i] = n.Name()
		}
		return &api.ExtenderArgs{Pod: pod, NodeNames: &names}
	}
	list := &v1.NodeList{Items: make([]v1.Node, len(nodes))}
	for i, n := range nodes {
		list.Items[i] = *n.Node()
	}
	return &api.ExtenderArgs{Pod: pod, Nodes: list}
}

// Filter asks which nodes pass.
func (e *Client) Filter(ctx context.Context, pod *v1.Pod, nodes []*framework.NodeInfo) (fit []*framework.NodeInfo, failed, unresolvable map[string]string, err error) {
	if e.config.FilterVerb == "" {
		return nodes, nil, nil, nil
	}
	var answer api.ExtenderFilterResult
	if err := e.post(ctx, e.config.FilterVerb, e.args(pod, nodes), &answer); err != nil {
		return nil, nil, nil, err
	}
	if answer.Error != "" {
		return nil, nil, nil, errors.New(answer.Error)
	}
	var names []string
	switch {
	case e.config.NodeCacheCapable && answer.NodeNames != nil:
		names = *answer.NodeNames
	case answer.Nodes != nil:
		for i := range answer.Nodes.Items {
			names = append(names, answer.Nodes.Items[i].Name)
		}
	}
	known := make(map[string]*framework.NodeInfo, len(nodes))
	for _, n := range nodes {
		known[n.Name()] = n
	}
	for _, name := range names {
		n := known[name]
		if n == nil {
			return nil, nil, nil, fmt.Errorf("extender %q claims a filtered node %q which is not found in the input node list", e.Name(), name)
		}
		fit = append(fit, n)
	}
	return fit, answer.FailedNodes, answer.FailedAndUnresolvableNodes, nil
}

// Prioritize asks for scores.
func (e *Client) Prioritize(ctx context.Context, pod *v1.Pod, nodes []*framework.NodeInfo) (map[string]int64, int64, error) {
	var answer api.HostPriorityList
	if err := e.post(ctx, e.config.PrioritizeVerb, e.args(pod, nodes), &answer); err != nil {
		return nil, 0, err
	}
	scores := make(map[string]int64, len(answer))
	for _, p := range answer {
		scores[p.Host] = p.Score
	}
	return scores, e.config.Weight, nil
}

// Preempt asks which candidates, with which victims, the extender agrees to.
func (e *Client) Preempt(ctx context.Context, pod *v1.Pod, candidates map[string]*framework.Victims, s *framework.Snapshot) (map[string]*framework.Victims, error) {
	args := &api.ExtenderPreemptionArgs{Pod: pod}
	if e.config.NodeCacheCapable {
		args.NodeNameToMetaVictims = map[string]*api.MetaVictims{}
	} else {
		args.NodeNameToVictims = map[string]*api.Victims{}
	}
	for node, v := range candidates {
		if e.config.NodeCacheCapable {
			meta := &api.MetaVictims{NumPDBViolations: int64(v.Violations)}
			for _, p := range v.Pods {
				meta.Pods = append(meta.Pods, &api.MetaPod{UID: string(p.UID())})
			}
			args.NodeNameToMetaVictims[node] = meta
			continue
		}
		full := &api.Victims{NumPDBViolations: int64(v.Violations)}
		for _, p := range v.Pods {
			full.Pods = append(full.Pods, p.Pod)
		}
		args.NodeNameToVictims[node] = full
	}
	var answer api.ExtenderPreemptionResult
	if err := e.post(ctx, e.config.PreemptVerb, args, &answer); err != nil {
		return nil, err
	}
	out := map[string]*framework.Victims{}
	for node, meta := range answer.NodeNameToMetaVictims {
		v, err := e.victims(s.Node(node), node, meta)
		if err != nil {
			return nil, err
		}
		out[node] = v
	}
	return out, nil
}

func (e *Client) victims(n *framework.NodeInfo, name string, meta *api.MetaVictims) (*framework.Victims, error) {
	if n == nil {
		return nil, fmt.Errorf("extender: %s claims to preempt on node %q, which is not found", e.Name(), name)
	}
	out := &framework.Victims{Violations: int(meta.NumPDBViolations)}
next:
	for _, m := range meta.Pods {
		for _, p := range n.Pods {
			if string(p.UID()) == m.UID {
				out.Pods = append(out.Pods, p)
				continue next
			}
		}
		return nil, fmt.Errorf("extender: %s claims to preempt pod (UID: %s) on node: %s, but the pod is not found on that node", e.Name(), m.UID, name)
	}
	return out, nil
}

// Bind has the extender bind a pod.
func (e *Client) Bind(ctx context.Context, b *v1.Binding) error {
	var answer api.ExtenderBindingResult
	args := &api.ExtenderBindingArgs{PodName: b.Name, PodNamespace: b.Namespace, PodUID: b.UID, Node: b.Target.Name}
	if err := e.post(ctx, e.config.BindVerb, args, &answer); err != nil {
		return err
	}
	if answer.Error != "" {
		return errors.New(answer.Error)
	}
	return nil
}

func (e *Client) post(ctx context.Context, verb string, args, answer any) error {
	body, err := json.Marshal(args)
	if err != nil {
		return err
	}
	url := strings.TrimRight(e.config.URLPrefix, "/") + "/" + verb
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := e.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("failed %v with extender at URL %v, code %v", verb, url, resp.StatusCode)
	}
	return json.NewDecoder(io.LimitReader(resp.Body, maxAnswer)).Decode(answer)
}
