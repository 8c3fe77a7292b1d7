package apiserver

import (
	"fmt"
	"math"
	"net/url"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/keelson-io/keelson/orchestrator/apiserver/admission"
	"github.com/keelson-io/keelson/orchestrator/apiserver/audit"
	"github.com/keelson-io/keelson/orchestrator/apiserver/connect"
	"github.com/keelson-io/keelson/orchestrator/apiserver/request"
	"github.com/keelson-io/keelson/orchestrator/apiserver/rights"
)

// streams are connections to containers, to nodes, and to what is behind pods and services. They go through admission, as the
// operation CONNECT, before it is looked for what they lead to.
type streams struct {
	authorizer rights.Authorizer
	connector  *connect.Connector
	services   services
}

// parts are the calls that streams serves.
func (s *streams) parts() map[part]func(*call) error {
	return map[part]func(*call) error{
		{"", "pods", "attach"}:      func(c *call) error { return s.command(c, attachOptions) },
		{"", "pods", "exec"}:        func(c *call) error { return s.command(c, execOptions) },
		{"", "pods", "portforward"}: s.portForward,
		{"", "pods", "log"}:         s.log,
		{"", "pods", "proxy"}:       s.podProxy,
		{"", "services", "proxy"}:   s.serviceProxy,
		{"", "nodes", "proxy"}:      s.nodeProxy,
	}
}

// admit has a connection admitted.
func (s *streams) admit(c *call, o runtime.Object) error {
	sub := c.res.Kind.Subresource(c.info.Subresource)
	a := &admission.Attributes{
		Operation: admission.Connect, Kind: c.res.Kind, ObjectKind: sub.Kind, Subresource: sub.Name, Namespace: c.info.Namespace, Name: c.info.Name,
		Object: o, User: request.UserFrom(c.ctx()), Warn: c.warn, Annotate: func(key, value string) { audit.Annotate(c.ctx(), key, value) },
	}
	if err := c.res.Admission.Mutate(c.ctx(), a); err != nil {
		return err
	}
	return c.res.Admission.Validate(c.ctx(), a)
}

// connect admits a connection to a pod, and finds the pod and its node.
func (s *streams) connect(c *call, options func(q url.Values) (runtime.Object, string, error)) (pod *corev1.Pod, container string, err error) {
	if c.info.Verb != "create" && c.info.Verb != "get" {
		return nil, "", apierrors.NewMethodNotSupported(podResource, c.info.Verb)
	}
	if c.query.Has("dryRun") {
		return nil, "", apierrors.NewBadRequest("dryRun is not supported")
	}
	o, container, err := options(c.query)
	if err != nil {
		return nil, "", apierrors.NewBadRequest(err.Error())
	}
	if err := s.admit(c, o); err != nil {
		return nil, "", err
	}
	if err := s.mayCreate(c); err != nil {
		return nil, "", err
	}
	pod, err = find[*corev1.Pod](c.ctx(), c.s.objects(), podResource, c.info.Namespace, c.info.Name)
	if err != nil {
		return nil, "", err
	}
	if c.info.Subresource != "portforward" {
		if container, err = chooseContainer(pod, container); err != nil {
			return nil, "", err
		}
	}
	if pod.Spec.NodeName == "" {
		return nil, "", apierrors.NewBadRequest(fmt.Sprintf("pod %s does not have a host assigned", pod.Name))
	}
	return pod, container, nil
}

// node is the server of a pod's node, at a path.
func (s *streams) node(c *call, name, path string, query url.Values) (*connect.Target, error) {
	node, err := find[*corev1.Node](c.ctx(), c.s.objects(), nodeResource, "", name)
	if apierrors.IsNotFound(err) {
		return nil, apierrors.NewServiceUnavailable(fmt.Sprintf("node %s serves no streams", name))
	}
	if err != nil {
		return nil, err
	}
	return s.connector.Node(node, path, query)
}

// command connects with a container.
func (s *streams) command(c *call, options func(q url.Values) (runtime.Object, string, error)) error {
	pod, container, err := s.connect(c, options)
	if err != nil {
		return err
	}
	to, err := s.node(c, pod.Spec.NodeName, "/"+c.info.Subresource+"/"+pod.Namespace+"/"+pod.Name+"/"+container, nodeQuery(c.query))
	if err != nil {
		return err
	}
	s.connector.Forward(c.w, c.r, to.Upgraded())
	return nil
}

// nodeQuery is how nodes are told which streams are wanted.
func nodeQuery(q url.Values) url.Values {
	out := url.Values{}
	for theirs, ours := range map[string]string{"input": "stdin", "output": "stdout", "error": "stderr", "tty": "tty"} {
		if flag(q, ours) {
			out.Set(theirs, "1")
		}
	}
	if command := q["command"]; len(command) > 0 {
		out["command"] = command
	}
	return out
}

// portForward connects with ports of a pod.
func (s *streams) portForward(c *call) error {
	pod, _, err := s.connect(c, portForwardOptions)
	if err != nil {
		return err
	}
	query := url.Values{}
	if ports := c.query["ports"]; len(ports) > 0 {
		query["port"] = ports
	}
	to, err := s.node(c, pod.Spec.NodeName, "/portForward/"+pod.Namespace+"/"+pod.Name, query)
	if err != nil {
		return err
	}
	s.connector.Forward(c.w, c.r, to.Upgraded())
	return nil
}

// mayCreate demands the right to create from a GET, too: a WebSocket does as much as a POST.
func (s *streams) mayCreate(c *call) error {
	a := rights.OfRequest(c.r)
	a.Verb = "create"
	switch d, reason, err := s.authorizer.Authorize(c.ctx(), a); {
	case d == rights.Allow:
		return nil
	case err != nil:
		return apierrors.NewInternalError(err)
	default:
		return rights.Forbidden(a, reason)
	}
}

// chooseContainer finds the container that is meant; "" is its only one.
func chooseContainer(pod *corev1.Pod, name string) (string, error) {
	var names []string
	for _, c := range pod.Spec.InitContainers {
		names = append(names, c.Name)
	}
	for _, c := range pod.Spec.Containers {
		names = append(names, c.Name)
	}
	for _, c := range pod.Spec.EphemeralContainers {
		names = append(names, c.Name)
	}
	switch {
	case name == "" && len(pod.Spec.Containers) == 1:
		return pod.Spec.Containers[0].Name, nil
	case name == "":
		return "", apierrors.NewBadRequest(fmt.Sprintf("a container name must be specified for pod %s, choose one of: %s", pod.Name, names))
	case !slices.Contains(names, name):
		return "", apierrors.NewBadRequest(fmt.Sprintf("container %s is not valid for pod %s", name, pod.Name))
	}
	return name, nil
}

// flag reads a boolean as Kubernetes does: what is there and does not say no is yes.
func flag(q url.Values, name string) bool {
	if !q.Has(name) {
		return false
	}
	v := q.Get(name)
	return v != "0" && !strings.EqualFold(v, "false")
}

// attachOptions and execOptions always ask for the output and the errors: nodes know when there is only one stream.
func attachOptions(q url.Values) (runtime.Object, string, error) {
	o := &corev1.PodAttachOptions{Stdin: flag(q, "stdin"), Stdout: true, Stderr: true, TTY: flag(q, "tty"), Container: q.Get("container")}
	return o, o.Container, nil
}

func execOptions(q url.Values) (runtime.Object, string, error) {
	o := &corev1.PodExecOptions{
		Stdin: flag(q, "stdin"), Stdout: true, Stderr: true, TTY: flag(q, "tty"), Container: q.Get("container"), Command: q["command"],
	}
	return o, o.Container, nil
}

func portForwardOptions(q url.Values) (runtime.Object, string, error) {
	o := &corev1.PodPortForwardOptions{}
	for _, text := range q["ports"] {
		for one := range strings.SplitSeq(text, ",") {
			port, err := strconv.ParseInt(one, 10, 32)
			if err != nil || port < 1 || port > math.MaxUint16 {
				return nil, "", fmt.Errorf("invalid port %q", one)
			}
			o.Ports = append(o.Ports, int32(port))
		}
	}
	return o, "", nil
}
