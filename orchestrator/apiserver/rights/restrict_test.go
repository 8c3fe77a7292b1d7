package rights

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"testing"

	"github.com/stretchr/testify/require"
	authenticationv1 "k8s.io/api/authentication/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	resourcev1 "k8s.io/api/resource/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
)

// shelf is Objects in memory, by resource, namespace and name.
type shelf map[thing]runtime.Object

func onShelf[T runtime.Object](s shelf, resource, namespace, name string) (T, error) {
	o, ok := s[thing{resource, namespace, name}].(T)
	if !ok {
		return o, apierrors.NewNotFound(schema.GroupResource{Resource: resource}, name)
	}
	return o, nil
}

func (s shelf) Pod(ns, name string) (*corev1.Pod, error) {
	return onShelf[*corev1.Pod](s, "pods", ns, name)
}
func (s shelf) Node(name string) (*corev1.Node, error) {
	return onShelf[*corev1.Node](s, "nodes", "", name)
}
func (s shelf) ServiceAccount(ns, name string) (*corev1.ServiceAccount, error) {
	return onShelf[*corev1.ServiceAccount](s, "serviceaccounts", ns, name)
}
func (s shelf) Claim(ns, name string) (*corev1.PersistentVolumeClaim, error) {
	return onShelf[*corev1.PersistentVolumeClaim](s, "persistentvolumeclaims", ns, name)
}
func (s shelf) Volume(name string) (*corev1.PersistentVolume, error) {
	return onShelf[*corev1.PersistentVolume](s, "persistentvolumes", "", name)
}
func (s shelf) Driver(name string) (*storagev1.CSIDriver, error) {
	return onShelf[*storagev1.CSIDriver](s, "csidrivers", "", name)
}

func uid(m metav1.ObjectMeta, uid string) metav1.ObjectMeta {
	m.UID = types.UID(uid)
	return m
}

func newRestriction() *Restriction {
	pod := func(name, node string) *corev1.Pod {
		return &corev1.Pod{ObjectMeta: uid(in("ns", name), "u-"+name), Spec: corev1.PodSpec{NodeName: node, ServiceAccountName: "sa"}}
	}
	p := pod("p", "n1")
	p.Spec.Volumes = []corev1.Volume{
		{VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
			{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Audience: "vault"}}, {PodCertificate: &corev1.PodCertificateProjection{SignerName: "a.io/b"}}}}}},
		{VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "c"}}},
	}
	mirror := pod("m", "n1")
	mirror.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: "x"}
	s := shelf{
		{"pods", "ns", "p"}: p, {"pods", "ns", "q"}: pod("q", "n2"), {"pods", "ns", "m"}: mirror,
		{"nodes", "", "n1"}:                   &corev1.Node{ObjectMeta: uid(object("n1"), "u-n1")},
		{"serviceaccounts", "ns", "sa"}:       &corev1.ServiceAccount{ObjectMeta: uid(in("ns", "sa"), "u-sa")},
		{"persistentvolumeclaims", "ns", "c"}: &corev1.PersistentVolumeClaim{Spec: corev1.PersistentVolumeClaimSpec{VolumeName: "pv"}},
		{"persistentvolumes", "", "pv"}:       &corev1.PersistentVolume{Spec: corev1.PersistentVolumeSpec{PersistentVolumeSource: corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{Driver: "csi.io"}}}},
		{"csidrivers", "", "csi.io"}:          &storagev1.CSIDriver{Spec: storagev1.CSIDriverSpec{TokenRequests: []storagev1.TokenRequest{{Audience: "storage"}}}},
	}
	policy := NewPolicy()
	policy.Set(clusterRole("aud", does("request-serviceaccounts-token-audience", "", "special", "sa")), bindUser("system:node:n1", "aud"),
		clusterRole("sign", does("request-serviceaccounts-podcertificate-signer", "certificates.k8s.io", "c.io:d", "sa")), bindUser("system:node:n1", "sign"))
	return &Restriction{Objects: s, Authorizer: policy}
}

// attempt is a write by the kubelet of n1.
type attempt struct {
	what                         string
	operation                    string
	group, resource, subresource string
	namespace, name              string
	o, old                       runtime.Object
	want                         string // "": allowed
}

func (c attempt) try(t *testing.T, r *Restriction) {
	t.Helper()
	w := &Write{User: kubelet("n1"), Operation: c.operation, Resource: schema.GroupVersionResource{Group: c.group, Version: "v1", Resource: c.resource},
		Subresource: c.subresource, Namespace: c.namespace, Name: c.name, Object: c.o, Old: c.old}
	err := r.Check(context.Background(), w)
	if c.want == "" {
		require.NoError(t, err, c.what)
	} else {
		require.ErrorContains(t, err, c.want, c.what)
		var status apierrors.APIStatus
		require.True(t, errors.As(err, &status), c.what)
	}
	w.User = bobUser()
	require.NoError(t, r.Check(context.Background(), w), "%s: for others there are no restrictions", c.what)
}

func TestRestrictNodes(t *testing.T) {
	r := newRestriction()
	node := func(change func(*corev1.Node)) *corev1.Node {
		n := &corev1.Node{ObjectMeta: object("n1")}
		n.Labels = map[string]string{"kubernetes.io/hostname": "n1", "node-role.kubernetes.io/worker": "", "mine": "x"}
		if change != nil {
			change(n)
		}
		return n
	}
	label := func(k, v string) func(*corev1.Node) { return func(n *corev1.Node) { n.Labels[k] = v } }
	for _, c := range []attempt{
		{"own", "UPDATE", "", "nodes", "", "", "n1", node(nil), node(nil), ""},
		{"another's", "UPDATE", "", "nodes", "", "", "n2", node(nil), node(nil), `node "n1" is not allowed to modify node "n2"`},
		{"another's deletion", "DELETE", "", "nodes", "", "", "n2", nil, node(nil), "is not allowed to modify node"},
		{"status", "UPDATE", "", "nodes", "status", "", "n1", node(func(n *corev1.Node) { n.Status.NodeInfo.KubeletVersion = "x" }), node(nil), ""},
		{"taints", "UPDATE", "", "nodes", "status", "", "n1", node(func(n *corev1.Node) { n.Spec.Taints = []corev1.Taint{{Key: "a"}} }), node(nil), "is not allowed to modify taints"},
		{"owners", "UPDATE", "", "nodes", "", "", "n1", node(func(n *corev1.Node) { n.OwnerReferences = []metav1.OwnerReference{{Name: "a"}} }), node(nil), "ownerReferences"},
		{"config", "UPDATE", "", "nodes", "", "", "n1", node(func(n *corev1.Node) { n.Spec.ConfigSource = &corev1.NodeConfigSource{} }), node(nil), "configSource"},
		{"taints at birth", "CREATE", "", "nodes", "", "", "", &corev1.Node{ObjectMeta: object("n1"), Spec: corev1.NodeSpec{Taints: []corev1.Taint{{Key: "a"}}}}, nil, ""},
		{"birth of another", "CREATE", "", "nodes", "", "", "", &corev1.Node{ObjectMeta: object("n2")}, nil, "is not allowed to modify node"},
		{"config at birth", "CREATE", "", "nodes", "", "", "", &corev1.Node{ObjectMeta: object("n1"), Spec: corev1.NodeSpec{ConfigSource: &corev1.NodeConfigSource{}}}, nil, "configSource"},
		{"label at birth", "CREATE", "", "nodes", "", "", "", node(nil), nil, `node "n1" is not allowed to set the following labels: node-role.kubernetes.io/worker`},
		{"no node", "UPDATE", "", "nodes", "", "", "n1", &corev1.Pod{}, node(nil), "unexpected type *v1.Pod"},
		{"free label", "UPDATE", "", "nodes", "", "", "n1", node(label("mine", "y")), node(nil), ""},
		{"zone", "UPDATE", "", "nodes", "", "", "n1", node(label("topology.kubernetes.io/zone", "y")), node(nil), ""},
		{"kubelet's", "UPDATE", "", "nodes", "", "", "n1", node(label("a.kubelet.kubernetes.io/zone", "y")), node(nil), ""},
		{"node's", "UPDATE", "", "nodes", "", "", "n1", node(label("node.kubernetes.io/zone", "y")), node(nil), ""},
		{"role", "UPDATE", "", "nodes", "", "", "n1", node(label("node-role.kubernetes.io/master", "")), node(nil), "is not allowed to modify labels: node-role.kubernetes.io/master"},
		{"role removed", "UPDATE", "", "nodes", "", "", "n1", node(func(n *corev1.Node) { delete(n.Labels, "node-role.kubernetes.io/worker") }), node(nil), "is not allowed to modify labels: node-role.kubernetes.io/worker"},
		{"restricted", "UPDATE", "", "nodes", "", "", "n1", node(label("x.node-restriction.kubernetes.io/a", "")), node(nil), "x.node-restriction.kubernetes.io/a"},
		{"k8s.io", "UPDATE", "", "nodes", "", "", "n1", node(label("x.k8s.io/a", "")), node(nil), "x.k8s.io/a"},
	} {
		c.try(t, r)
	}
}

func TestRestrictPods(t *testing.T) {
	r := newRestriction()
	pod := func(change func(*corev1.Pod)) *corev1.Pod {
		p := &corev1.Pod{ObjectMeta: in("ns", "x"), Spec: corev1.PodSpec{NodeName: "n1"}}
		p.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: "x"}
		p.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: "n1", UID: "u-n1", Controller: ptr(true)}}
		if change != nil {
			change(p)
		}
		return p
	}
	create := func(what string, change func(*corev1.Pod), want string) attempt {
		return attempt{what, "CREATE", "", "pods", "", "ns", "", pod(change), nil, want}
	}
	volume := func(what string, s corev1.VolumeSource, want string) attempt {
		return create(what, func(p *corev1.Pod) { p.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: s}} }, want)
	}
	projected := func(what string, s corev1.VolumeProjection, want string) attempt {
		return volume(what, corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{s}}}, want)
	}
	mine := r.Objects.(shelf)[thing{"pods", "ns", "p"}].(*corev1.Pod)
	change := func(f func(*corev1.Pod)) *corev1.Pod { c := mine.DeepCopy(); f(c); return c }
	status := func(what string, f func(*corev1.Pod), want string) attempt {
		return attempt{what, "UPDATE", "", "pods", "status", "ns", "p", change(f), mine, want}
	}
	for _, c := range []attempt{
		create("mirror pod", nil, ""),
		create("no mirror pod", func(p *corev1.Pod) { p.Annotations = nil }, "can only create mirror pods"),
		create("elsewhere", func(p *corev1.Pod) { p.Spec.NodeName = "n2" }, "can only create pods with spec.nodeName set to itself"),
		create("no owner", func(p *corev1.Pod) { p.OwnerReferences = nil }, "with an owner reference set to itself"),
		create("two owners", func(p *corev1.Pod) { p.OwnerReferences = append(p.OwnerReferences, p.OwnerReferences...) }, "with a single owner reference"),
		create("another owner", func(p *corev1.Pod) { p.OwnerReferences[0].Name = "n2" }, "with an owner reference set to itself"),
		create("no controller", func(p *corev1.Pod) { p.OwnerReferences[0].Controller = nil }, "controller owner reference"),
		create("blocking", func(p *corev1.Pod) { p.OwnerReferences[0].BlockOwnerDeletion = ptr(true) }, "must not set blockOwnerDeletion"),
		create("former node", func(p *corev1.Pod) { p.OwnerReferences[0].UID = "x" }, "node n1 UID mismatch: expected x got u-n1"),
		create("account", func(p *corev1.Pod) { p.Spec.ServiceAccountName = "sa" }, "can not create pods that reference serviceaccounts"),
		create("account by its old name", func(p *corev1.Pod) { p.Spec.DeprecatedServiceAccount = "sa" }, "can not create pods that reference serviceaccounts"),
		create("secret", func(p *corev1.Pod) { p.Spec.ImagePullSecrets = []corev1.LocalObjectReference{{Name: "a"}} }, "reference secrets"),
		create("configuration", func(p *corev1.Pod) {
			p.Spec.Containers = []corev1.Container{{EnvFrom: []corev1.EnvFromSource{{ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: *secretRef("a")}}}}}
		}, "reference configmaps"),
		create("resource", func(p *corev1.Pod) { p.Spec.ResourceClaims = []corev1.PodResourceClaim{{Name: "a"}} }, "reference resourceclaims"),
		volume("host", corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{}}, ""),
		volume("nothing known", corev1.VolumeSource{}, "unknown volume type"),
		volume("secret without a name", corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{}}, "secrets (via secret volumes)"),
		volume("configuration without a name", corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{}}, "configmaps (via configmap volumes)"),
		volume("CSI", corev1.VolumeSource{CSI: &corev1.CSIVolumeSource{}}, "csidrivers"),
		volume("gluster", corev1.VolumeSource{Glusterfs: &corev1.GlusterfsVolumeSource{}}, "endpoints"),
		volume("claim", corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{}}, "persistentvolumeclaims"),
		volume("ephemeral", corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{}}, "via ephemeral volumes"),
		volume("azure", corev1.VolumeSource{AzureFile: &corev1.AzureFileVolumeSource{}}, "via azureFile volumes"),
		projected("downward", corev1.VolumeProjection{DownwardAPI: &corev1.DownwardAPIProjection{}}, ""),
		projected("token", corev1.VolumeProjection{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{}}, "serviceaccounts (via projected volumes)"),
		projected("projected secret", corev1.VolumeProjection{Secret: &corev1.SecretProjection{}}, "secrets (via projected volumes)"),
		projected("projected configuration", corev1.VolumeProjection{ConfigMap: &corev1.ConfigMapProjection{}}, "configmaps (via projected volumes)"),
		projected("bundle", corev1.VolumeProjection{ClusterTrustBundle: &corev1.ClusterTrustBundleProjection{}}, "clustertrustbundles"),
		projected("certificate", corev1.VolumeProjection{PodCertificate: &corev1.PodCertificateProjection{}}, "podcertificates"),
		projected("unknown", corev1.VolumeProjection{}, "unknown source for projected volume"),
		{"deletion", "DELETE", "", "pods", "", "ns", "p", nil, nil, ""},
		{"deletion of another's", "DELETE", "", "pods", "", "ns", "q", nil, nil, "can only delete pods with spec.nodeName set to itself"},
		{"deletion of nothing", "DELETE", "", "pods", "", "ns", "z", nil, nil, `pods "z" not found`},
		{"update", "UPDATE", "", "pods", "", "ns", "p", mine, mine, "can only create and delete mirror pods"},
		{"exec", "CONNECT", "", "pods", "exec", "ns", "p", nil, nil, "unexpected pod subresource"},
		{"eviction", "CREATE", "", "pods", "eviction", "ns", "p", &policyv1.Eviction{}, nil, ""},
		{"eviction by the object's name", "CREATE", "", "pods", "eviction", "ns", "", &policyv1.Eviction{ObjectMeta: object("q")}, nil, "can only evict pods"},
		{"eviction of nothing", "CREATE", "", "pods", "eviction", "ns", "", &policyv1.Eviction{}, nil, "could not determine pod"},
		{"eviction changed", "UPDATE", "", "pods", "eviction", "ns", "p", &policyv1.Eviction{}, nil, "unexpected operation UPDATE"},
		{"eviction of another type", "CREATE", "", "pods", "eviction", "ns", "p", mine, nil, "unexpected type"},
		status("status", func(p *corev1.Pod) { p.Status.Phase = corev1.PodRunning }, ""),
		status("labels", func(p *corev1.Pod) { p.Labels = map[string]string{"a": "b"} }, "cannot update labels through pod status"),
		status("claims", func(p *corev1.Pod) { p.Status.ResourceClaimStatuses = []corev1.PodResourceClaimStatus{{Name: "a"}} }, "cannot update resource claim statues"),
		status("extended claims", func(p *corev1.Pod) { p.Status.ExtendedResourceClaimStatus = &corev1.PodExtendedResourceClaimStatus{} }, "cannot update extended resource claim status"),
		status("allocatable claims", func(p *corev1.Pod) {
			p.Status.NodeAllocatableResourceClaimStatuses = []corev1.NodeAllocatableResourceClaimStatus{{}}
		}, "cannot update node allocatable resource claim statuses"),
		{"status of another's", "UPDATE", "", "pods", "status", "ns", "q", mine, &corev1.Pod{Spec: corev1.PodSpec{NodeName: "n2"}}, "can only update pod status for pods"},
		{"status created", "CREATE", "", "pods", "status", "ns", "p", mine, nil, `unexpected operation "CREATE"`},
	} {
		c.try(t, r)
	}
}

func TestRestrictTokens(t *testing.T) {
	r := newRestriction()
	token := func(what, name, uid, audience, want string) attempt {
		req := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
			BoundObjectRef: &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: name, UID: types.UID(uid)}}}
		if audience != "" {
			req.Spec.Audiences = vocabulary(audience)
		}
		return attempt{what, "CREATE", "", "serviceaccounts", "token", "ns", "sa", req, nil, want}
	}
	for _, c := range []attempt{
		token("projected", "p", "u-p", "vault", ""),
		token("of the driver", "p", "u-p", "storage", ""),
		token("by a rule", "p", "u-p", "special", ""),
		token("audience", "p", "u-p", "other", `system:node:n1 is not authorized to request tokens for audience "other"`),
		token("the server's", "p", "u-p", "", `is not authorized to request tokens for audience ""`),
		token("two", "p", "u-p", "vault storage", "node may only request 0 or 1 audiences"),
		token("another node's", "q", "u-q", "vault", "bound to a pod scheduled on a different node"),
		token("former pod", "p", "x", "vault", "the UID in the bound object reference (x) does not match"),
		token("no UID", "p", "", "vault", "without a uid"),
		token("no pod", "z", "x", "vault", `pods "z" not found`),
		token("no name", "", "x", "vault", "not bound to a pod"),
		{"unbound", "CREATE", "", "serviceaccounts", "token", "ns", "sa", &authenticationv1.TokenRequest{}, nil, "not bound to a pod"},
	} {
		c.try(t, r)
	}
	delete(r.Objects.(shelf), thing{"csidrivers", "", "csi.io"})
	token("unknown driver", "p", "u-p", "storage", `error validating audience "storage": csidrivers "csi.io" not found`).try(t, r)
	token("it does not matter", "p", "u-p", "vault", "").try(t, r)
	require.Equal(t, "ebs.csi.aws.com", migrated(true))
	require.Empty(t, migrated(false, false))
}

func csr(t *testing.T, name string) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: name}}, key)
	require.NoError(t, err)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
}

func TestRestrictOthers(t *testing.T) {
	r := newRestriction()
	claim := func(change func(*corev1.PersistentVolumeClaim)) *corev1.PersistentVolumeClaim {
		c := &corev1.PersistentVolumeClaim{ObjectMeta: in("ns", "c")}
		if change != nil {
			change(c)
		}
		return c
	}
	grown := claim(func(c *corev1.PersistentVolumeClaim) {
		c.ResourceVersion = "7"
		c.Status.Capacity = corev1.ResourceList{"storage": resource.MustParse("1Gi")}
	})
	lease := func(name string) *coordinationv1.Lease { return &coordinationv1.Lease{ObjectMeta: object(name)} }
	slice := func(node string) *resourcev1.ResourceSlice {
		return &resourcev1.ResourceSlice{Spec: resourcev1.ResourceSliceSpec{NodeName: &node}}
	}
	request := func(signer string, pem []byte) *certificatesv1.CertificateSigningRequest {
		return &certificatesv1.CertificateSigningRequest{Spec: certificatesv1.CertificateSigningRequestSpec{SignerName: signer, Request: pem}}
	}
	serving := certificatesv1.KubeletServingSignerName
	certificate := func(what string, change func(*certificatesv1.PodCertificateRequestSpec), want string) attempt {
		o := &certificatesv1.PodCertificateRequest{Spec: certificatesv1.PodCertificateRequestSpec{
			SignerName: "a.io/b", PodName: "p", PodUID: "u-p", NodeName: "n1", NodeUID: "u-n1", ServiceAccountName: "sa", ServiceAccountUID: "u-sa"}}
		if change != nil {
			change(&o.Spec)
		}
		return attempt{what, "CREATE", "certificates.k8s.io", "podcertificaterequests", "", "ns", "", o, nil, want}
	}
	type spec = certificatesv1.PodCertificateRequestSpec
	for _, c := range []attempt{
		{"size", "UPDATE", "", "persistentvolumeclaims", "status", "ns", "c", grown, claim(nil), ""},
		{"phase", "UPDATE", "", "persistentvolumeclaims", "status", "ns", "c", claim(func(c *corev1.PersistentVolumeClaim) { c.Status.Phase = "Lost" }), claim(nil), "not allowed to update fields other than"},
		{"claim", "UPDATE", "", "persistentvolumeclaims", "", "ns", "c", grown, claim(nil), "may only update PVC status"},
		{"claim created", "CREATE", "", "persistentvolumeclaims", "status", "ns", "c", grown, nil, "unexpected operation"},
		{"own lease", "CREATE", "coordination.k8s.io", "leases", "", "kube-node-lease", "", lease("n1"), nil, ""},
		{"another lease", "CREATE", "coordination.k8s.io", "leases", "", "kube-node-lease", "", lease("n2"), nil, "can only access node lease"},
		{"another's lease", "UPDATE", "coordination.k8s.io", "leases", "", "kube-node-lease", "n2", lease("n1"), nil, "can only access node lease"},
		{"lease elsewhere", "CREATE", "coordination.k8s.io", "leases", "", "ns", "", lease("n1"), nil, "can only access leases in"},
		{"own CSINode", "CREATE", "storage.k8s.io", "csinodes", "", "", "", &storagev1.CSINode{ObjectMeta: object("n1")}, nil, ""},
		{"another CSINode", "CREATE", "storage.k8s.io", "csinodes", "", "", "", &storagev1.CSINode{ObjectMeta: object("n2")}, nil, "can only access CSINode"},
		{"status of CSINode", "UPDATE", "storage.k8s.io", "csinodes", "status", "", "n1", nil, nil, "CSIVolumeHealth feature gate is disabled"},
		{"own slice", "CREATE", "resource.k8s.io", "resourceslices", "", "", "", slice("n1"), nil, ""},
		{"another slice", "CREATE", "resource.k8s.io", "resourceslices", "", "", "", slice("n2"), nil, "can only create ResourceSlice"},
		{"own slice deleted", "DELETE", "resource.k8s.io", "resourceslices", "", "", "s", nil, slice("n1"), ""},
		{"another slice deleted", "DELETE", "resource.k8s.io", "resourceslices", "", "", "s", nil, slice("n2"), "can only delete ResourceSlice"},
		{"slice of all", "CREATE", "resource.k8s.io", "resourceslices", "", "", "", &resourcev1.ResourceSlice{}, nil, "can only create ResourceSlice"},
		{"own CSR", "CREATE", "certificates.k8s.io", "certificatesigningrequests", "", "", "", request(serving, csr(t, "system:node:n1")), nil, ""},
		{"another CSR", "CREATE", "certificates.k8s.io", "certificatesigningrequests", "", "", "", request(serving, csr(t, "system:node:n2")), nil, "can only create a node CSR with CN=system:node:n1"},
		{"CSR for another signer", "CREATE", "certificates.k8s.io", "certificatesigningrequests", "", "", "", request("a.io/b", csr(t, "x")), nil, ""},
		{"broken CSR", "CREATE", "certificates.k8s.io", "certificatesigningrequests", "", "", "", request(serving, []byte("x")), nil, "unable to parse csr"},
		{"CSR changed", "UPDATE", "certificates.k8s.io", "certificatesigningrequests", "", "", "c", nil, nil, ""},
		certificate("certificate", nil, ""),
		certificate("certificate by a rule", func(s *spec) { s.SignerName = "c.io/d" }, ""),
		certificate("other signer", func(s *spec) { s.SignerName = "e.io/f" }, `pod "ns/p" does not mount a podCertificate projected volume for signer "e.io/f"`),
		certificate("other node", func(s *spec) { s.NodeName = "n2" }, "which is not the requesting node"),
		certificate("former node", func(s *spec) { s.NodeUID = "x" }, "names node UID"),
		certificate("other pod", func(s *spec) { s.PodName, s.PodUID = "q", "u-q" }, "is not running on node"),
		certificate("former pod", func(s *spec) { s.PodUID = "x" }, "names pod UID"),
		certificate("no pod", func(s *spec) { s.PodName = "z" }, `while retrieving pod "ns/z"`),
		certificate("mirror pod", func(s *spec) { s.PodName, s.PodUID = "m", "u-m" }, "is a mirror pod"),
		certificate("other account", func(s *spec) { s.ServiceAccountName = "x" }, "differs from running pod"),
		certificate("former account", func(s *spec) { s.ServiceAccountUID = "x" }, "names service account UID"),
		{"certificate changed", "UPDATE", "certificates.k8s.io", "podcertificaterequests", "", "ns", "c", nil, nil, "unexpected operation UPDATE"},
		{"status of a certificate", "CREATE", "certificates.k8s.io", "podcertificaterequests", "status", "ns", "c", nil, nil, "unexpected subresource status"},
		{"something else", "CREATE", "", "events", "", "ns", "e", nil, nil, ""},
	} {
		c.try(t, r)
	}
	w := &Write{User: kubelet(""), Operation: "CREATE", Resource: schema.GroupVersionResource{Resource: "events"}}
	require.ErrorContains(t, r.Check(context.Background(), w), `could not determine node from user "system:node:"`)
}
