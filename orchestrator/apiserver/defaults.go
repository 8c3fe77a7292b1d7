package apiserver

import (
	"net"
	"net/netip"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/keelson-io/keelson/orchestrator/apiserver/identity"
	"github.com/keelson-io/keelson/orchestrator/apiserver/rights"
	"github.com/keelson-io/keelson/orchestrator/kinds"
)

func namespaces() (out []kinds.Object) {
	for _, name := range []string{"default", "kube-system", "kube-public", "kube-node-lease"} {
		out = append(out, &corev1.Namespace{TypeMeta: metav1.TypeMeta{Kind: "Namespace", APIVersion: "v1"}, ObjectMeta: metav1.ObjectMeta{Name: name}})
	}
	return out
}

func priorityClasses() []kinds.Object {
	class := func(name string, value int32, text string) kinds.Object {
		return &schedulingv1.PriorityClass{
			TypeMeta:   metav1.TypeMeta{Kind: "PriorityClass", APIVersion: "scheduling.k8s.io/v1"},
			ObjectMeta: metav1.ObjectMeta{Name: name}, Value: value, Description: text,
		}
	}
	return []kinds.Object{
		class("system-node-critical", 2000001000, "Used for system critical pods that must not be moved from their current node."),
		class("system-cluster-critical", 2000000000, "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary."),
	}
}

// ownName is the name of the service that leads to the API server, in the namespace default.
const ownName = "kubernetes"

// ownService is the service by which pods reach the API server: the first address of the services' range. Its endpoints are
// kept by package advertise.
func (a *API) ownService() []kinds.Object {
	cidrs := make([]string, len(a.cfg.ServiceRanges))
	for i, r := range a.cfg.ServiceRanges {
		cidrs[i] = r.String()
	}
	labels := map[string]string{"component": "apiserver", "provider": "kubernetes"}
	meta := metav1.ObjectMeta{Name: ownName, Namespace: metav1.NamespaceDefault, Labels: labels}
	_, port := a.endpoint()
	return []kinds.Object{
		&networkingv1.ServiceCIDR{TypeMeta: metav1.TypeMeta{Kind: "ServiceCIDR", APIVersion: "networking.k8s.io/v1"},
			ObjectMeta: metav1.ObjectMeta{Name: ownName}, Spec: networkingv1.ServiceCIDRSpec{CIDRs: cidrs}},
		&corev1.Service{TypeMeta: metav1.TypeMeta{Kind: "Service", APIVersion: "v1"}, ObjectMeta: meta, Spec: corev1.ServiceSpec{
			ClusterIP: a.cfg.ServiceRanges[0].Masked().Addr().Next().String(), SessionAffinity: corev1.ServiceAffinityNone,
			Ports: []corev1.ServicePort{{Name: "https", Port: 443, Protocol: corev1.ProtocolTCP, TargetPort: intstr.FromInt32(port)}},
		}},
	}
}

// endpoint is where pods reach the server. The address is the zero one if it is a loopback address.
func (a *API) endpoint() (netip.Addr, int32) {
	host, text, err := net.SplitHostPort(a.cfg.Address)
	if err != nil {
		return netip.Addr{}, 0
	}
	port, _ := strconv.ParseInt(text, 10, 32) // 0 is no port
	ip, err := netip.ParseAddr(host)
	if err != nil || ip.IsLoopback() || ip.IsUnspecified() {
		return netip.Addr{}, int32(port)
	}
	return ip, int32(port)
}

// joining are the rights by which machines become nodes: who has a bootstrap token may have a client certificate for any node, and a
// node may renew its own, and have one for its server; and what nodes need for their network and for the volumes on their disks.
func joining() []kinds.Object {
	const serving, own = "keelson:node-autoapprove-serving", "keelson:node"
	const requests = "system:certificates.k8s.io:certificatesigningrequests:"
	bind := func(name, role, group string) kinds.Object {
		return &rbacv1.ClusterRoleBinding{
			TypeMeta:   metav1.TypeMeta{Kind: "ClusterRoleBinding", APIVersion: rbacv1.SchemeGroupVersion.String()},
			ObjectMeta: metav1.ObjectMeta{Name: name}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role},
			Subjects: []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.GroupKind, Name: group}},
		}
	}
	role := func(name string, rules ...rbacv1.PolicyRule) kinds.Object {
		return &rbacv1.ClusterRole{
			TypeMeta:   metav1.TypeMeta{Kind: "ClusterRole", APIVersion: rbacv1.SchemeGroupVersion.String()},
			ObjectMeta: metav1.ObjectMeta{Name: name}, Rules: rules,
		}
	}
	read := []string{"get", "list", "watch"}
	return []kinds.Object{
		role(serving, rbacv1.PolicyRule{Verbs: []string{"create"}, APIGroups: []string{"certificates.k8s.io"}, Resources: []string{"certificatesigningrequests/selfnodeserver"}}),
		role(own,
			rbacv1.PolicyRule{Verbs: read, APIGroups: []string{""}, Resources: []string{"namespaces", "nodes", "persistentvolumes", "pods", "services"}},
			rbacv1.PolicyRule{Verbs: read, APIGroups: []string{"discovery.k8s.io"}, Resources: []string{"endpointslices"}},
			rbacv1.PolicyRule{Verbs: read, APIGroups: []string{"networking.k8s.io"}, Resources: []string{"networkpolicies"}},
			rbacv1.PolicyRule{Verbs: []string{"patch"}, APIGroups: []string{""}, Resources: []string{"persistentvolumes"}},
		),
		bind(serving, serving, rights.NodesGroup), bind(own, own, rights.NodesGroup),
		bind("keelson:node-bootstrap", "system:node-bootstrapper", identity.Bootstrappers),
		bind("keelson:node-autoapprove-bootstrap", requests+"nodeclient", identity.Bootstrappers),
		bind("keelson:node-autoapprove-renewal", requests+"selfnodeclient", rights.NodesGroup),
	}
}
