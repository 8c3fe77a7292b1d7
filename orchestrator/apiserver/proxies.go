package apiserver

import (
	"fmt"
	"net"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilnet "k8s.io/apimachinery/pkg/util/net"

	"github.com/keelson-io/keelson/orchestrator/apiserver/connect"
)

// behind is the path behind a proxy subresource, with its first and last slashes as they are in the request.
func (c *call) behind() string {
	if len(c.info.Parts) <= 3 {
		if strings.HasSuffix(c.r.URL.Path, "/") {
			return "/"
		}
		return ""
	}
	path := "/" + strings.Join(c.info.Parts[3:], "/")
	if strings.HasSuffix(c.r.URL.Path, "/") {
		path += "/"
	}
	return path
}

// split reads [scheme:]name[:port] from a request's name.
func (c *call) split(resource schema.GroupResource) (scheme, name, port string, err error) {
	scheme, name, port, ok := utilnet.SplitSchemeNamePort(c.info.Name)
	if !ok {
		return "", "", "", apierrors.NewBadRequest(fmt.Sprintf("invalid %s request %q", strings.TrimSuffix(resource.Resource, "s"), c.info.Name))
	}
	return scheme, name, port, nil
}

// podProxy forwards requests to a port of a pod, by default the first that it names.
func (s *streams) podProxy(c *call) error {
	if err := s.admit(c, &corev1.PodProxyOptions{Path: c.behind()}); err != nil {
		return err
	}
	scheme, name, port, err := c.split(podResource)
	if err != nil {
		return err
	}
	pod, err := find[*corev1.Pod](c.ctx(), c.s.objects(), podResource, c.info.Namespace, name)
	if err != nil {
		return err
	}
	for i := range pod.Spec.Containers {
		if ports := pod.Spec.Containers[i].Ports; port == "" && len(ports) > 0 {
			port = itoa(int64(ports[0].ContainerPort))
		}
	}
	switch {
	case pod.Status.PodIP == "":
		return apierrors.NewServiceUnavailable(fmt.Sprintf("pod %s has no address", pod.Name))
	case port == "" && scheme == "https":
		port = "443"
	case port == "":
		port = "80"
	}
	to, err := s.connector.At(scheme, net.JoinHostPort(pod.Status.PodIP, port), c.behind())
	return s.forward(c, to, err)
}

// serviceProxy forwards requests to a ready endpoint of a port of a service, which is given by name or number; "" is the port
// without a name.
func (s *streams) serviceProxy(c *call) error {
	if err := s.admit(c, &corev1.ServiceProxyOptions{Path: c.behind()}); err != nil {
		return err
	}
	scheme, name, port, err := c.split(serviceResource)
	if err != nil {
		return err
	}
	svc, err := find[*corev1.Service](c.ctx(), c.s.objects(), serviceResource, c.info.Namespace, name)
	if err != nil {
		return err
	}
	if number, err := strconv.ParseInt(port, 10, 32); err == nil {
		found := false
		for _, p := range svc.Spec.Ports {
			if int64(p.Port) == number {
				port, found = p.Name, true
				break
			}
		}
		if !found {
			return apierrors.NewServiceUnavailable(fmt.Sprintf("no service port %d found for service %q", number, name))
		}
	}
	address, err := s.services.endpoint(c.ctx(), svc, port)
	if err != nil {
		return apierrors.NewServiceUnavailable(err.Error())
	}
	to, err := s.connector.At(scheme, address, c.behind())
	return s.forward(c, to, err)
}

// nodeProxy forwards requests to a node's server, or to another port of the node.
func (s *streams) nodeProxy(c *call) error {
	if err := s.admit(c, &corev1.NodeProxyOptions{Path: c.behind()}); err != nil {
		return err
	}
	scheme, name, port, err := c.split(nodeResource)
	if err != nil {
		return err
	}
	node, err := find[*corev1.Node](c.ctx(), c.s.objects(), nodeResource, "", name)
	if err != nil {
		return err
	}
	own := node.Status.DaemonEndpoints.KubeletEndpoint.Port
	if port == "" || own != 0 && port == itoa(int64(own)) {
		to, err := s.connector.Node(node, c.behind(), nil)
		return s.forward(c, to, err)
	}
	host, err := connect.HostOf(node)
	if err != nil {
		return err
	}
	to, err := s.connector.At(scheme, net.JoinHostPort(host, port), c.behind())
	return s.forward(c, to, err)
}

func (s *streams) forward(c *call, to *connect.Target, err error) error {
	if err != nil {
		return err
	}
	s.connector.Forward(c.w, c.r, to)
	return nil
}
