package rights

import (
	"cmp"
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/keelson-io/keelson/orchestrator/apiserver/request"
)

// Write is a change that somebody asks for, after it was found that he may do it by verb and resource.
type Write struct {
	User        *request.User
	Operation   string // "CREATE", "UPDATE", "DELETE" or "CONNECT"
	Resource    schema.GroupVersionResource
	Subresource string
	Namespace   string
	Name        string
	Object, Old runtime.Object
}

// Objects finds what a Restriction has to look at. Errors are for the client.
type Objects interface {
	Pod(namespace, name string) (*corev1.Pod, error)
	Node(name string) (*corev1.Node, error)
	ServiceAccount(namespace, name string) (*corev1.ServiceAccount, error)
	Claim(namespace, name string) (*corev1.PersistentVolumeClaim, error)
	Volume(name string) (*corev1.PersistentVolume, error)
	Driver(name string) (*storagev1.CSIDriver, error)
}

// Restriction keeps kubelets to their own node and pods, where the verb and the resource do not tell: it is the admission
// plugin NodeRestriction.
type Restriction struct {
	Objects    Objects
	Authorizer Authorizer
}

// Check is an error, for the client, if a kubelet may not write that. Users that are no kubelets may.
func (r *Restriction) Check(ctx context.Context, w *Write) error {
	if w.User == nil || !member(w.User, NodesGroup) || !strings.HasPrefix(w.User.Name, nodePrefix) {
		return nil
	}
	node, ok := NodeOf(w.User)
	if !ok {
		return w.refuse(fmt.Errorf("could not determine node from user %q", w.User.Name))
	}
	type resource struct{ group, name string }
	var err error
	switch (resource{w.Resource.Group, w.Resource.Resource}) {
	case resource{"", "pods"}:
		err = r.pod(node, w)
	case resource{"", "nodes"}:
		err = restrictNode(node, w)
	case resource{"", "persistentvolumeclaims"}:
		err = restrictClaim(node, w)
	case resource{"", "serviceaccounts"}:
		err = r.token(ctx, node, w)
	case resource{"certificates.k8s.io", "podcertificaterequests"}:
		err = r.podCertificate(ctx, node, w)
	case resource{"coordination.k8s.io", "leases"}:
		err = restrictLease(node, w)
	case resource{"storage.k8s.io", "csinodes"}:
		err = restrictCSINode(node, w)
	case resource{"resource.k8s.io", "resourceslices"}:
		err = restrictSlice(node, w)
	case resource{"certificates.k8s.io", "certificatesigningrequests"}:
		err = restrictCSR(node, w)
	}
	var status apierrors.APIStatus
	if err == nil || errors.As(err, &status) {
		return err
	}
	return w.refuse(err)
}

// refuse makes an error for the client.
func (w *Write) refuse(err error) error {
	return apierrors.NewForbidden(w.Resource.GroupResource(), cmp.Or(w.name(), "Unknown"), err)
}

// name is the request's, or that of the object at a creation.
func (w *Write) name() string {
	if o, ok := w.Object.(metav1.Object); ok && w.Name == "" {
		return cmp.Or(o.GetName(), o.GetGenerateName())
	}
	return w.Name
}

func wrongType(o runtime.Object) error { return fmt.Errorf("unexpected type %T", o) }

func (w *Write) unexpected() error { return fmt.Errorf("unexpected operation %q", w.Operation) }

// restrictNode lets a kubelet write its own Node, without what steers pods to nodes.
func restrictNode(node string, w *Write) error {
	if name := w.name(); name != node {
		return fmt.Errorf("node %q is not allowed to modify node %q", node, name)
	}
	if w.Operation != "CREATE" && w.Operation != "UPDATE" {
		return nil
	}
	o, ok := w.Object.(*corev1.Node)
	if !ok {
		return wrongType(w.Object)
	}
	if w.Operation == "CREATE" {
		if o.Spec.ConfigSource != nil {
			return fmt.Errorf("node %q is not allowed to create pods with a non-nil configSource", node)
		}
		if bad := forbiddenLabels(o.Labels, nil); len(bad) > 0 {
			return fmt.Errorf("node %q is not allowed to set the following labels: %s", node, strings.Join(bad, ", "))
		}
		return nil
	}
	old, ok := w.Old.(*corev1.Node)
	if !ok {
		return wrongType(w.Old)
	}
	switch same := equality.Semantic.DeepEqual; {
	case o.Spec.ConfigSource != nil && !same(o.Spec.ConfigSource, old.Spec.ConfigSource):
		return fmt.Errorf("node %q is not allowed to update configSource to a new non-nil configSource", node)
	case !same(o.Spec.Taints, old.Spec.Taints):
		return fmt.Errorf("node %q is not allowed to modify taints", node)
	case !same(o.OwnerReferences, old.OwnerReferences):
		return fmt.Errorf("node %q is not allowed to modify ownerReferences", node)
	}
	if bad := forbiddenLabels(o.Labels, old.Labels); len(bad) > 0 {
		return fmt.Errorf("is not allowed to modify labels: %s", strings.Join(bad, ", "))
	}
	return nil
}

// forbiddenLabels returns the keys of the labels that differ and that kubelets may not write, sorted.
func forbiddenLabels(labels, old map[string]string) []string {
	changed := map[string]bool{}
	for k, v := range labels {
		if before, ok := old[k]; !ok || before != v {
			changed[k] = true
		}
	}
	for k := range old {
		if _, ok := labels[k]; !ok {
			changed[k] = true
		}
	}
	var bad []string
	for _, k := range slices.Sorted(maps.Keys(changed)) {
		prefix, _, ok := strings.Cut(k, "/")
		if !ok {
			continue
		}
		kubernetes := inDomain(prefix, "kubernetes.io") || inDomain(prefix, "k8s.io")
		if inDomain(prefix, "node-restriction.kubernetes.io") || kubernetes && !kubeletLabel(k, prefix) {
			bad = append(bad, k)
		}
	}
	return bad
}

func inDomain(name, domain string) bool { return name == domain || strings.HasSuffix(name, "."+domain) }

// kubeletLabel reports whether a label of Kubernetes is for kubelets to write.
func kubeletLabel(key, prefix string) bool {
	switch key {
	case "kubernetes.io/hostname", "kubernetes.io/os", "kubernetes.io/arch", "beta.kubernetes.io/os", "beta.kubernetes.io/arch",
		"beta.kubernetes.io/instance-type", "node.kubernetes.io/instance-type",
		"topology.kubernetes.io/zone", "topology.kubernetes.io/region",
		"failure-domain.beta.kubernetes.io/zone", "failure-domain.beta.kubernetes.io/region":
		return true
	}
	return inDomain(prefix, "kubelet.kubernetes.io") || inDomain(prefix, "node.kubernetes.io")
}

// restrictClaim lets a kubelet tell how large a volume has become.
func restrictClaim(node string, w *Write) error {
	switch {
	case w.Subresource != "status":
		return errors.New("may only update PVC status")
	case w.Operation != "UPDATE":
		return w.unexpected()
	}
	var parts [2]*corev1.PersistentVolumeClaim
	for i, o := range []runtime.Object{w.Object, w.Old} {
		c, ok := o.(*corev1.PersistentVolumeClaim)
		if !ok {
			return wrongType(o)
		}
		c = c.DeepCopy()
		c.ResourceVersion, c.ManagedFields = "", nil
		c.Status.Capacity, c.Status.Conditions = nil, nil
		c.Status.AllocatedResources, c.Status.AllocatedResourceStatuses = nil, nil
		parts[i] = c
	}
	if !equality.Semantic.DeepEqual(parts[0], parts[1]) {
		return fmt.Errorf("node %q is not allowed to update fields other than status.quantity and status.conditions", node)
	}
	return nil
}

func restrictLease(node string, w *Write) error {
	if w.Namespace != nodeLeases {
		return fmt.Errorf("can only access leases in the %q system namespace", nodeLeases)
	}
	if w.name() != node {
		return errors.New("can only access node lease with the same name as the requesting node")
	}
	return nil
}

func restrictCSINode(node string, w *Write) error {
	if w.name() != node {
		return errors.New("can only access CSINode with the same name as the requesting node")
	}
	if w.Subresource == "status" {
		return errors.New("CSIVolumeHealth feature gate is disabled")
	}
	return nil
}

// restrictSlice looks at creations, whose object the authorizer has not seen, and at each deletion of a collection's.
func restrictSlice(node string, w *Write) error {
	o, doing := w.Object, "create"
	switch w.Operation {
	case "CREATE":
	case "DELETE":
		o, doing = w.Old, "delete"
	default:
		return nil
	}
	s, ok := o.(*resourcev1.ResourceSlice)
	if !ok {
		return wrongType(o)
	}
	if s.Spec.NodeName == nil || *s.Spec.NodeName != node {
		return fmt.Errorf("can only %s ResourceSlice with the same NodeName as the requesting node", doing)
	}
	return nil
}

// restrictCSR lets a kubelet ask for certificates of its own name only.
func restrictCSR(node string, w *Write) error {
	if w.Operation != "CREATE" {
		return nil
	}
	o, ok := w.Object.(*certificatesv1.CertificateSigningRequest)
	if !ok {
		return wrongType(w.Object)
	}
	if o.Spec.SignerName != certificatesv1.KubeletServingSignerName && o.Spec.SignerName != certificatesv1.KubeAPIServerClientKubeletSignerName {
		return nil
	}
	block, _ := pem.Decode(o.Spec.Request)
	if block == nil || block.Type != "CERTIFICATE REQUEST" {
		return errors.New("unable to parse csr: PEM block type must be CERTIFICATE REQUEST")
	}
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return fmt.Errorf("unable to parse csr: %w", err)
	}
	if csr.Subject.CommonName != nodePrefix+node {
		return fmt.Errorf("can only create a node CSR with CN=%s%s", nodePrefix, node)
	}
	return nil
}
