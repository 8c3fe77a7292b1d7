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
	"github.com/keelson-io/keelson/orchestrator/apiserver/request"
	"github.com/keelson-io/keelson/orchestrator/apiserver/rights"
)

// streams are connections to containers. They go through admission, as the operation CONNECT, before their node is looked for.
// The nodes that there are simulate their pods and serve no streams: an allowed connection ends with 503.
type streams struct {
	authorizer rights.Authorizer
}

// parts are the calls that streams serves.
func (s *streams) parts() map[part]func(*call) error {
	of := func(options func(q url.Values) (runtime.Object, string, error)) func(*call) error {
		return func(c *call) error { return s.connect(c, options) }
	}
	return map[part]func(*call) error{
		{"", "pods", "attach"}: of(attachOptions), {"", "pods", "exec"}: of(execOptions), {"", "pods", "portforward"}: of(portForwardOptions),
	}
}

// connect admits a connection and finds its node. options reads the query, and says which container is meant.
func (s *streams) connect(c *call, options func(q url.Values) (runtime.Object, string, error)) error {
	if c.info.Verb != "create" && c.info.Verb != "get" {
		return apierrors.NewMethodNotSupported(podResource, c.info.Verb)
	}
	if c.query.Has("dryRun") {
		return apierrors.NewBadRequest("dryRun is not supported")
	}
	o, container, err := options(c.query)
	if err != nil {
		return apierrors.NewBadRequest(err.Error())
	}
	sub := c.res.Kind.Subresource(c.info.Subresource)
	a := &admission.Attributes{
		Operation: admission.Connect, Kind: c.res.Kind, ObjectKind: sub.Kind, Subresource: sub.Name, Namespace: c.info.Namespace, Name: c.info.Name,
		Object: o, User: request.UserFrom(c.ctx()), Warn: c.warn, Annotate: func(key, value string) { audit.Annotate(c.ctx(), key, value) },
	}
	if err := c.res.Admission.Mutate(c.ctx(), a); err != nil {
		return err
	}
	if err := c.res.Admission.Validate(c.ctx(), a); err != nil {
		return err
	}
	if err := s.mayCreate(c); err != nil {
		return err
	}
	pod, err := find[*corev1.Pod](c.ctx(), c.s.objects(), podResource, c.info.Namespace, c.info.Name)
	if err != nil {
		return err
	}
	if sub.Name != "portforward" {
		if err := checkContainer(pod, container); err != nil {
			return err
		}
	}
	if pod.Spec.NodeName == "" {
		return apierrors.NewBadRequest(fmt.Sprintf("pod %s does not have a host assigned", pod.Name))
	}
	return apierrors.NewServiceUnavailable(fmt.Sprintf("node %s serves no streams", pod.Spec.NodeName))
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

// checkContainer says whether a pod has the container that is meant; "" is its only one.
func checkContainer(pod *corev1.Pod, name string) error {
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
		return nil
	case name == "":
		return apierrors.NewBadRequest(fmt.Sprintf("a container name must be specified for pod %s, choose one of: %s", pod.Name, names))
	case !slices.Contains(names, name):
		return apierrors.NewBadRequest(fmt.Sprintf("container %s is not valid for pod %s", name, pod.Name))
	}
	return nil
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
