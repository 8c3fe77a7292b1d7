package rights

import (
	"context"
	"fmt"
	"slices"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/selection"
)

// nodeLeases is the namespace of the leases by which kubelets are known to live.
const nodeLeases = "kube-node-lease"

// Nodes authorizes kubelets: what belongs to their node by the graph, and for the rest the rules that all kubelets have.
// What a kubelet may write into an object is for Restrict to say.
type Nodes struct {
	graph *Graph
	rules *ruleset
}

// NewNodes returns the authorizer of a graph. The rules are those of the ClusterRole system:node in Defaults.
func NewNodes(g *Graph) *Nodes {
	n := &Nodes{graph: g, rules: compile(nil)}
	for _, o := range Defaults() {
		if r, ok := o.(*rbacv1.ClusterRole); ok && r.Name == "system:node" {
			n.rules = compile(r.Rules)
		}
	}
	return n
}

// Authorize has no opinion on users that are no kubelets, and on what it does not allow.
func (n *Nodes) Authorize(_ context.Context, a Attributes) (Decision, string, error) {
	node, ok := NodeOf(a.User)
	if !ok {
		return NoOpinion, "", nil
	}
	why, decided := "", false
	if a.IsResource {
		why, decided = n.resource(node, &a)
	}
	if !decided {
		if n.rules.allows(ask(&a)) {
			return Allow, "", nil
		}
		return NoOpinion, "", nil
	}
	if why == allowed {
		return Allow, "", nil
	}
	if why == denied {
		why = ""
	}
	return NoOpinion, why, nil
}

// Answers of the functions below; any other says why not.
const (
	allowed = "+"
	denied  = "-" // for no reason that could be told
)

// resource decides on resources of which a kubelet may have only some; it is false for others.
func (n *Nodes) resource(node string, a *Attributes) (why string, decided bool) {
	type resource struct{ group, name string }
	switch (resource{a.Group, a.Resource}) {
	case resource{"", "secrets"}, resource{"", "configmaps"}:
		return n.read(node, a), true
	case resource{"", "persistentvolumeclaims"}:
		if a.Subresource == "status" {
			return n.writeStatus(node, a), true
		}
		return n.get(node, a), true
	case resource{"", "persistentvolumes"}, resource{"resource.k8s.io", "resourceclaims"}, resource{"storage.k8s.io", "volumeattachments"}:
		return n.get(node, a), true
	case resource{"", "serviceaccounts"}:
		return n.serviceAccount(node, a), true
	case resource{"coordination.k8s.io", "leases"}:
		return lease(node, a), true
	case resource{"storage.k8s.io", "csinodes"}:
		return csiNode(node, a), true
	case resource{"resource.k8s.io", "resourceslices"}:
		return n.slice(node, a), true
	case resource{"certificates.k8s.io", "podcertificaterequests"}:
		return n.podCertificate(node, a), true
	case resource{"", "nodes"}:
		return ownNode(node, a), true
	case resource{"", "pods"}:
		return n.pod(node, a), true
	}
	return "", false
}

func verbIn(a *Attributes, verbs ...string) bool { return slices.Contains(verbs, a.Verb) }

// related looks into the graph.
func (n *Nodes) related(node string, a *Attributes) string {
	if a.Name == "" {
		return "No Object name found"
	}
	if n.graph.has(node, thing{a.Resource, a.Namespace, a.Name}) {
		return allowed
	}
	return fmt.Sprintf("no relationship found between node '%s' and this object", node)
}

func (n *Nodes) get(node string, a *Attributes) string {
	switch {
	case a.Verb != "get":
		return "can only get individual resources of this type"
	case a.Subresource != "":
		return "cannot get subresource"
	}
	return n.related(node, a)
}

func (n *Nodes) read(node string, a *Attributes) string {
	switch {
	case !verbIn(a, "get", "list", "watch"):
		return "can only read resources of this type"
	case a.Subresource != "":
		return "cannot read subresource"
	case a.Namespace == "":
		return "can only read namespaced object of this type"
	}
	return n.related(node, a)
}

func (n *Nodes) writeStatus(node string, a *Attributes) string {
	if !verbIn(a, "update", "patch") {
		return "can only get/update/patch this type"
	}
	return n.related(node, a)
}

func (n *Nodes) serviceAccount(node string, a *Attributes) string {
	switch {
	case a.Verb == "get" && a.Subresource == "":
		return n.read(node, a)
	case a.Verb != "create" || a.Name == "":
		return "can only create tokens for individual service accounts"
	case a.Subresource != "token":
		return "can only create token subresource of serviceaccount"
	}
	return n.related(node, a)
}

func lease(node string, a *Attributes) string {
	switch {
	case !verbIn(a, "get", "create", "update", "patch", "delete"):
		return "can only get, create, update, patch, or delete a node lease"
	case a.Namespace != nodeLeases:
		return fmt.Sprintf("can only access leases in the %q system namespace", nodeLeases)
	case a.Verb != "create" && a.Name != node:
		return "can only access node lease with the same name as the requesting node"
	}
	return allowed
}

func csiNode(node string, a *Attributes) string {
	switch {
	case a.Subresource == "status":
		return "CSINode status access requires CSIVolumeHealth feature"
	case a.Subresource != "":
		return "cannot authorize CSINode subresources"
	case !verbIn(a, "get", "create", "update", "patch", "delete"):
		return "can only get, create, update, patch, or delete a CSINode"
	case a.Verb != "create" && a.Name != node:
		return "can only access CSINode with the same name as the requesting node"
	}
	return allowed
}

// selects reports whether a field selector narrows a collection to a node's part.
func selects(a *Attributes, field, node string) bool {
	for _, r := range a.Fields {
		if r.Field == field && (r.Operator == selection.Equals || r.Operator == selection.DoubleEquals) && r.Value == node {
			return true
		}
	}
	return false
}

func (n *Nodes) slice(node string, a *Attributes) string {
	switch {
	case a.Subresource != "":
		return "cannot authorize ResourceSlice subresources"
	case a.Verb == "create":
		return allowed
	case verbIn(a, "get", "update", "patch", "delete"):
		return n.related(node, a)
	case !verbIn(a, "watch", "list", "deletecollection"):
		return "only the following verbs are allowed for a ResourceSlice: get, watch, list, create, update, patch, delete, deletecollection"
	case selects(a, "spec.nodeName", node):
		return allowed
	}
	return "can only list/watch/deletecollection resourceslices with nodeName field selector"
}

func (n *Nodes) podCertificate(node string, a *Attributes) string {
	switch {
	case a.Subresource != "":
		return "nodes may not access the status subresource of PodCertificateRequests"
	case a.Verb == "create":
		return allowed
	case a.Verb == "get":
		return n.related(node, a)
	case !verbIn(a, "list", "watch"):
		return fmt.Sprintf("nodes may not %s podcertificaterequests", a.Verb)
	case selects(a, "spec.nodeName", node):
		return allowed
	}
	return "can only list/watch podcertificaterequests with nodeName field selector"
}

// ownNode compares names instead of looking into the graph: kubelets read their Node before it exists.
func ownNode(node string, a *Attributes) string {
	switch a.Subresource {
	case "status":
		if verbIn(a, "update", "patch") {
			return allowed
		}
		return denied
	case "":
	default:
		return denied
	}
	switch {
	case verbIn(a, "create", "update", "patch"):
		return allowed
	case !verbIn(a, "get", "list", "watch"):
		return denied
	case a.Name == node:
		return allowed
	case a.Name == "":
		return fmt.Sprintf("node '%s' cannot read all nodes, only its own Node object", node)
	}
	return fmt.Sprintf("node '%s' cannot read '%s', only its own Node object", node, a.Name)
}

func (n *Nodes) pod(node string, a *Attributes) string {
	ok := false
	switch a.Subresource {
	case "":
		switch a.Verb {
		case "get":
			return n.get(node, a)
		case "list", "watch":
			if selects(a, "spec.nodeName", node) {
				return allowed
			}
			if a.Name != "" {
				return n.related(node, a)
			}
			return "can only list/watch pods with spec.nodeName field selector"
		}
		ok = verbIn(a, "create", "delete") // mirror pods
	case "status":
		ok = verbIn(a, "update", "patch")
	case "eviction":
		ok = a.Verb == "create"
	}
	if ok {
		return allowed
	}
	return denied
}
