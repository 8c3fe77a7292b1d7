package rights

import (
	"context"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/keelson-io/keelson/orchestrator/apiserver/request"
	"github.com/keelson-io/keelson/orchestrator/kinds"
)

func kubelet(node string) *request.User {
	return &request.User{Name: "system:node:" + node, Groups: []string{NodesGroup, "system:authenticated"}}
}

func ptr[T any](v T) *T { return &v }

func secretRef(name string) *corev1.LocalObjectReference {
	return &corev1.LocalObjectReference{Name: name}
}

// busyPod refers to something in every way.
func busyPod() *corev1.Pod {
	local := func(name string) corev1.LocalObjectReference { return corev1.LocalObjectReference{Name: name} }
	env := func(secret, config string) []corev1.EnvVar {
		return []corev1.EnvVar{
			{ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: local(secret)}}},
			{ValueFrom: &corev1.EnvVarSource{ConfigMapKeyRef: &corev1.ConfigMapKeySelector{LocalObjectReference: local(config)}}},
			{Name: "plain", Value: "x"},
		}
	}
	from := func(secret, config string) []corev1.EnvFromSource {
		return []corev1.EnvFromSource{{SecretRef: &corev1.SecretEnvSource{LocalObjectReference: local(secret)}},
			{ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: local(config)}}}
	}
	vol := func(name string, s corev1.VolumeSource) corev1.Volume {
		return corev1.Volume{Name: name, VolumeSource: s}
	}
	return &corev1.Pod{
		ObjectMeta: in("ns", "p"),
		Spec: corev1.PodSpec{
			NodeName: "n1", ServiceAccountName: "sa", ImagePullSecrets: []corev1.LocalObjectReference{local("pull"), local("")},
			InitContainers: []corev1.Container{{Env: env("s1", "c1")}},
			Containers:     []corev1.Container{{EnvFrom: from("s2", "c2")}, {Env: env("s1", "c1")}},
			EphemeralContainers: []corev1.EphemeralContainer{{EphemeralContainerCommon: corev1.EphemeralContainerCommon{
				Env: env("s3", "c3"), EnvFrom: from("s4", "c4")}}},
			Volumes: []corev1.Volume{
				vol("a", corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "s5"}}),
				vol("b", corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: local("c5")}}),
				vol("c", corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
					{Secret: &corev1.SecretProjection{LocalObjectReference: local("s6")}}, {ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: local("c6")}}}}}),
				vol("d", corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "pvc"}}),
				vol("e", corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{}}),
				vol("f", corev1.VolumeSource{CSI: &corev1.CSIVolumeSource{NodePublishSecretRef: secretRef("s7")}}),
				vol("g", corev1.VolumeSource{AzureFile: &corev1.AzureFileVolumeSource{SecretName: "s8"}}),
				vol("h", corev1.VolumeSource{RBD: &corev1.RBDVolumeSource{SecretRef: secretRef("s9")}}),
				vol("i", corev1.VolumeSource{CephFS: &corev1.CephFSVolumeSource{SecretRef: secretRef("s10")}}),
				vol("j", corev1.VolumeSource{Cinder: &corev1.CinderVolumeSource{SecretRef: secretRef("s11")}}),
				vol("k", corev1.VolumeSource{FlexVolume: &corev1.FlexVolumeSource{SecretRef: secretRef("s12")}}),
				vol("l", corev1.VolumeSource{ScaleIO: &corev1.ScaleIOVolumeSource{SecretRef: secretRef("s13")}}),
				vol("m", corev1.VolumeSource{ISCSI: &corev1.ISCSIVolumeSource{SecretRef: secretRef("s14")}}),
				vol("n", corev1.VolumeSource{StorageOS: &corev1.StorageOSVolumeSource{SecretRef: secretRef("s15")}}),
				vol("o", corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}),
			},
			ResourceClaims: []corev1.PodResourceClaim{{Name: "a", ResourceClaimName: ptr("rc1")}, {Name: "b", ResourceClaimTemplateName: ptr("t")}},
		},
		Status: corev1.PodStatus{
			ResourceClaimStatuses:       []corev1.PodResourceClaimStatus{{Name: "b", ResourceClaimName: ptr("rc2")}},
			ExtendedResourceClaimStatus: &corev1.PodExtendedResourceClaimStatus{ResourceClaimName: "rc3"},
		},
	}
}

func TestGraph(t *testing.T) {
	g := NewGraph()
	n := NewNodes(g)
	may := func(node, verb, group, resource, ns, name string) bool {
		d, _, err := n.Authorize(context.Background(), Attributes{User: kubelet(node), IsResource: true, Verb: verb, Group: group, Resource: resource, Namespace: ns, Name: name})
		require.NoError(t, err)
		return d == Allow
	}
	p := busyPod()
	volumes := []kinds.Object{
		&corev1.PersistentVolume{ObjectMeta: object("pv"), Spec: corev1.PersistentVolumeSpec{ClaimRef: &corev1.ObjectReference{Namespace: "ns", Name: "pvc"},
			PersistentVolumeSource: corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{
				NodeStageSecretRef: &corev1.SecretReference{Namespace: "storage", Name: "stage"}, NodePublishSecretRef: &corev1.SecretReference{Namespace: "storage", Name: "publish"},
				NodeExpandSecretRef: &corev1.SecretReference{Namespace: "storage", Name: "expand"}, ControllerExpandSecretRef: &corev1.SecretReference{Namespace: "storage", Name: "controller"}}}}},
		&corev1.PersistentVolume{ObjectMeta: object("rbd"), Spec: corev1.PersistentVolumeSpec{ClaimRef: &corev1.ObjectReference{Namespace: "ns", Name: "p-e"},
			PersistentVolumeSource: corev1.PersistentVolumeSource{RBD: &corev1.RBDPersistentVolumeSource{SecretRef: &corev1.SecretReference{Name: "here"}}}}},
		&corev1.PersistentVolume{ObjectMeta: object("free")},
	}
	others := []kinds.Object{
		&storagev1.VolumeAttachment{ObjectMeta: object("va"), Spec: storagev1.VolumeAttachmentSpec{NodeName: "n1"}},
		&resourcev1.ResourceSlice{ObjectMeta: object("slice"), Spec: resourcev1.ResourceSliceSpec{NodeName: ptr("n1")}},
		&certificatesv1.PodCertificateRequest{ObjectMeta: in("ns", "pcr"), Spec: certificatesv1.PodCertificateRequestSpec{NodeName: types.NodeName("n1")}},
		&corev1.Secret{ObjectMeta: in("ns", "ignored")},
	}
	g.Set(volumes...)
	g.Set(others...)
	require.False(t, may("n1", "get", "", "persistentvolumes", "", "pv"), "no pod uses it yet")
	g.Set(p, p.DeepCopy())

	type item struct{ verb, group, resource, ns, name string }
	has := []item{
		{"get", "", "pods", "ns", "p"}, {"get", "", "serviceaccounts", "ns", "sa"},
		{"get", "", "persistentvolumeclaims", "ns", "pvc"}, {"get", "", "persistentvolumeclaims", "ns", "p-e"},
		{"get", "", "persistentvolumes", "", "pv"}, {"get", "", "persistentvolumes", "", "rbd"},
		{"get", "", "secrets", "storage", "stage"}, {"get", "", "secrets", "storage", "publish"}, {"get", "", "secrets", "storage", "expand"}, {"get", "", "secrets", "ns", "here"},
		{"get", "resource.k8s.io", "resourceclaims", "ns", "rc1"}, {"get", "resource.k8s.io", "resourceclaims", "ns", "rc2"}, {"get", "resource.k8s.io", "resourceclaims", "ns", "rc3"},
		{"get", "storage.k8s.io", "volumeattachments", "", "va"}, {"delete", "resource.k8s.io", "resourceslices", "", "slice"},
		{"get", "certificates.k8s.io", "podcertificaterequests", "ns", "pcr"}, {"watch", "", "secrets", "ns", "pull"}, {"list", "", "configmaps", "ns", "c1"},
	}
	for _, s := range vocabulary("pull s1 s2 s3 s4 s5 s6 s7 s8 s9 s10 s11 s12 s13 s14 s15") {
		has = append(has, item{"get", "", "secrets", "ns", s})
	}
	for _, c := range vocabulary("c1 c2 c3 c4 c5 c6") {
		has = append(has, item{"get", "", "configmaps", "ns", c})
	}
	for _, i := range has {
		require.True(t, may("n1", i.verb, i.group, i.resource, i.ns, i.name), "%+v", i)
		require.False(t, may("n2", i.verb, i.group, i.resource, i.ns, i.name), "%+v of another node", i)
		require.False(t, may("n1", i.verb, i.group, i.resource, "other", i.name) && i.ns != "", "%+v elsewhere", i)
		require.False(t, may("n1", "update", i.group, i.resource, i.ns, i.name) && i.resource != "resourceslices", "%+v", i)
	}
	for _, i := range []item{{"get", "", "secrets", "storage", "controller"}, {"get", "", "persistentvolumes", "", "free"}, {"get", "", "secrets", "ns", "ignored"},
		{"get", "", "secrets", "ns", ""}, {"list", "", "secrets", "", "s1"}, {"get", "", "pods", "ns", "q"}} {
		require.False(t, may("n1", i.verb, i.group, i.resource, i.ns, i.name), "%+v", i)
	}

	// A second pod keeps what both need.
	q := &corev1.Pod{ObjectMeta: in("ns", "q"), Spec: corev1.PodSpec{NodeName: "n1", ServiceAccountName: "sa"}}
	g.Set(q)
	g.Remove(p)
	require.True(t, may("n1", "get", "", "serviceaccounts", "ns", "sa"))
	require.False(t, may("n1", "get", "", "secrets", "ns", "s1"))
	require.False(t, may("n1", "get", "", "secrets", "storage", "stage"))
	require.False(t, may("n1", "get", "", "persistentvolumes", "", "pv"))
	mirror := busyPod()
	mirror.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: "x"}
	g.Set(mirror)
	require.True(t, may("n1", "get", "", "pods", "ns", "p"))
	require.False(t, may("n1", "get", "", "secrets", "ns", "s1"), "a kubelet gives itself nothing")
	g.Remove(mirror, q)
	g.Remove(volumes...)
	g.Remove(others...)
	require.Equal(t, NewGraph(), g, "nothing is left")
}

func TestNodeRules(t *testing.T) {
	n := NewNodes(NewGraph())
	ask := func(u *request.User, verb, group, resource, sub, ns, name, fields string) (Decision, string) {
		a := Attributes{User: u, IsResource: true, Verb: verb, Group: group, Resource: resource, Subresource: sub, Namespace: ns, Name: name}
		a.Select(fields, "")
		d, reason, err := n.Authorize(context.Background(), a)
		require.NoError(t, err)
		return d, reason
	}
	for _, c := range []struct {
		verb, group, resource, sub, ns, name, fields string
		want                                         string // "": allowed, "-": not, for no reason
	}{
		{"get", "", "nodes", "", "", "n1", "", ""},
		{"get", "", "nodes", "", "", "n2", "", "node 'n1' cannot read 'n2', only its own Node object"},
		{"list", "", "nodes", "", "", "", "", "node 'n1' cannot read all nodes, only its own Node object"},
		{"create", "", "nodes", "", "", "", "", ""},
		{"patch", "", "nodes", "status", "", "n1", "", ""},
		{"delete", "", "nodes", "", "", "n1", "", "-"},
		{"get", "", "nodes", "proxy", "", "n1", "", "-"},
		{"get", "", "nodes", "status", "", "n1", "", "-"},
		{"list", "", "pods", "", "", "", "spec.nodeName=n1", ""},
		{"watch", "", "pods", "", "", "", "spec.nodeName==n1,metadata.name!=x", ""},
		{"list", "", "pods", "", "", "", "spec.nodeName=n2", "can only list/watch pods with spec.nodeName field selector"},
		{"list", "", "pods", "", "", "", "spec.nodeName!=n1", "can only list/watch pods with spec.nodeName field selector"},
		{"list", "", "pods", "", "", "", "=", "can only list/watch pods with spec.nodeName field selector"},
		{"list", "", "pods", "", "ns", "p", "", "no relationship found between node 'n1' and this object"},
		{"create", "", "pods", "", "ns", "", "", ""},
		{"delete", "", "pods", "", "ns", "p", "", ""},
		{"update", "", "pods", "", "ns", "p", "", "-"},
		{"patch", "", "pods", "status", "ns", "p", "", ""},
		{"create", "", "pods", "eviction", "ns", "p", "", ""},
		{"create", "", "pods", "exec", "ns", "p", "", "-"},
		{"get", "coordination.k8s.io", "leases", "", "kube-node-lease", "n1", "", ""},
		{"create", "coordination.k8s.io", "leases", "", "kube-node-lease", "", "", ""},
		{"update", "coordination.k8s.io", "leases", "", "kube-node-lease", "n2", "", "can only access node lease with the same name as the requesting node"},
		{"update", "coordination.k8s.io", "leases", "", "ns", "n1", "", `can only access leases in the "kube-node-lease" system namespace`},
		{"list", "coordination.k8s.io", "leases", "", "kube-node-lease", "", "", "can only get, create, update, patch, or delete a node lease"},
		{"update", "storage.k8s.io", "csinodes", "", "", "n1", "", ""},
		{"update", "storage.k8s.io", "csinodes", "", "", "n2", "", "can only access CSINode with the same name as the requesting node"},
		{"update", "storage.k8s.io", "csinodes", "status", "", "n1", "", "CSINode status access requires CSIVolumeHealth feature"},
		{"list", "storage.k8s.io", "csinodes", "", "", "", "", "can only get, create, update, patch, or delete a CSINode"},
		{"get", "storage.k8s.io", "csinodes", "x", "", "n1", "", "cannot authorize CSINode subresources"},
		{"create", "resource.k8s.io", "resourceslices", "", "", "", "", ""},
		{"deletecollection", "resource.k8s.io", "resourceslices", "", "", "", "spec.nodeName=n1", ""},
		{"list", "resource.k8s.io", "resourceslices", "", "", "", "", "can only list/watch/deletecollection resourceslices with nodeName field selector"},
		{"use", "resource.k8s.io", "resourceslices", "", "", "", "", "only the following verbs are allowed for a ResourceSlice: get, watch, list, create, update, patch, delete, deletecollection"},
		{"get", "resource.k8s.io", "resourceslices", "x", "", "s", "", "cannot authorize ResourceSlice subresources"},
		{"create", "certificates.k8s.io", "podcertificaterequests", "", "ns", "", "", ""},
		{"list", "certificates.k8s.io", "podcertificaterequests", "", "", "", "spec.nodeName=n1", ""},
		{"list", "certificates.k8s.io", "podcertificaterequests", "", "", "", "", "can only list/watch podcertificaterequests with nodeName field selector"},
		{"delete", "certificates.k8s.io", "podcertificaterequests", "", "ns", "a", "", "nodes may not delete podcertificaterequests"},
		{"update", "certificates.k8s.io", "podcertificaterequests", "status", "ns", "a", "", "nodes may not access the status subresource of PodCertificateRequests"},
		{"create", "", "serviceaccounts", "token", "ns", "sa", "", "no relationship found between node 'n1' and this object"},
		{"create", "", "serviceaccounts", "", "ns", "sa", "", "can only create token subresource of serviceaccount"},
		{"list", "", "serviceaccounts", "", "ns", "", "", "can only create tokens for individual service accounts"},
		{"update", "", "secrets", "", "ns", "s", "", "can only read resources of this type"},
		{"get", "", "secrets", "x", "ns", "s", "", "cannot read subresource"},
		{"list", "", "secrets", "", "ns", "", "", "No Object name found"},
		{"list", "", "secrets", "", "", "s", "", "can only read namespaced object of this type"},
		{"list", "", "persistentvolumes", "", "", "", "", "can only get individual resources of this type"},
		{"get", "", "persistentvolumes", "status", "", "pv", "", "cannot get subresource"},
		{"get", "", "persistentvolumeclaims", "status", "ns", "c", "", "can only get/update/patch this type"},
		// The rules of all kubelets.
		{"list", "", "services", "", "", "", "", ""},
		{"create", "", "events", "", "ns", "", "", ""},
		{"create", "authentication.k8s.io", "tokenreviews", "", "", "", "", ""},
		{"create", "certificates.k8s.io", "certificatesigningrequests", "", "", "", "", ""},
		{"list", "apps", "deployments", "", "", "", "", "-"},
	} {
		d, reason := ask(kubelet("n1"), c.verb, c.group, c.resource, c.sub, c.ns, c.name, c.fields)
		require.Equal(t, c.want == "", d == Allow, "%+v: %s", c, reason)
		if c.want != "" && c.want != "-" {
			require.Equal(t, c.want, reason)
		}
		for _, u := range []*request.User{{Name: "system:node:n1"}, {Name: "n1", Groups: []string{NodesGroup}}, {Name: "system:node:", Groups: []string{NodesGroup}}, nil} {
			d, _ := ask(u, c.verb, c.group, c.resource, c.sub, c.ns, c.name, c.fields)
			require.Equal(t, NoOpinion, d, "no kubelet: %v", u)
		}
	}
	d, _, _ := n.Authorize(context.Background(), Attributes{User: kubelet("n1"), Verb: "get", Path: "/healthz"})
	require.Equal(t, NoOpinion, d)
}

// TestConcurrentGraph is for the race detector.
func TestConcurrentGraph(t *testing.T) {
	g := NewGraph()
	var wg sync.WaitGroup
	for seed := range uint64(4) {
		wg.Go(func() {
			r := random{rand.New(rand.NewPCG(seed, 6))}
			for range 300 {
				p := busyPod()
				p.Name, p.Spec.NodeName = r.one(vocabulary("a b c")), r.one(vocabulary("n1 n2"))
				if r.IntN(3) == 0 {
					g.Remove(p)
				} else {
					g.Set(p)
				}
				g.has("n1", thing{secretThing, "ns", "s1"})
			}
		})
	}
	wg.Wait()
	g.Remove(&corev1.Pod{ObjectMeta: in("ns", "a")}, &corev1.Pod{ObjectMeta: in("ns", "b")}, &corev1.Pod{ObjectMeta: in("ns", "c")})
	require.Equal(t, NewGraph(), g)
}
