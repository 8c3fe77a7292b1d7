package access

import (
	"crypto/x509/pkix"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	resourcev1 "k8s.io/api/resource/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"k8s.io/utils/ptr"

	"github.com/keelson-io/keelson/orchestrator/apiserver/rights"
	"github.com/keelson-io/keelson/orchestrator/cluster/clustertest"
)

// defaultRoles are those of the default policy, whose test compares it with that of Kubernetes.
func defaultRoles(t *testing.T, c *clustertest.Cluster) {
	rbac := c.Client(t, nil).RbacV1()
	for _, o := range rights.Defaults() {
		switch o := o.(type) {
		case *rbacv1.ClusterRole:
			got, err := rbac.ClusterRoles().Get(t.Context(), o.Name, metav1.GetOptions{})
			require.NoError(t, err)
			require.Equal(t, o.AggregationRule, got.AggregationRule, o.Name)
			require.Equal(t, o.Labels, got.Labels, o.Name)
			if o.AggregationRule == nil {
				require.Equal(t, o.Rules, got.Rules, o.Name)
			}
		case *rbacv1.Role:
			got, err := rbac.Roles(o.Namespace).Get(t.Context(), o.Name, metav1.GetOptions{})
			require.NoError(t, err)
			require.Equal(t, o.Rules, got.Rules, o.Name)
		case *rbacv1.ClusterRoleBinding:
			got, err := rbac.ClusterRoleBindings().Get(t.Context(), o.Name, metav1.GetOptions{})
			require.NoError(t, err)
			require.Equal(t, o.RoleRef, got.RoleRef)
			require.Equal(t, o.Subjects, got.Subjects, o.Name)
		case *rbacv1.RoleBinding:
			got, err := rbac.RoleBindings(o.Namespace).Get(t.Context(), o.Name, metav1.GetOptions{})
			require.NoError(t, err)
			require.Equal(t, o.RoleRef, got.RoleRef)
			require.Equal(t, o.Subjects, got.Subjects, o.Name)
		}
	}
}

// aggregatedRoles asks what view, edit and admin allow, and adds to one of them.
func aggregatedRoles(t *testing.T, c *clustertest.Cluster) {
	client, ns := c.Client(t, nil), c.Namespace(t)
	may := func(role, verb, group, resource string) bool {
		r, err := client.AuthorizationV1().LocalSubjectAccessReviews(ns).Create(t.Context(), &authorizationv1.LocalSubjectAccessReview{
			ObjectMeta: metav1.ObjectMeta{Namespace: ns}, Spec: authorizationv1.SubjectAccessReviewSpec{
				User: ns + "-" + role, ResourceAttributes: &authorizationv1.ResourceAttributes{Namespace: ns, Verb: verb, Group: group, Resource: resource},
			},
		}, metav1.CreateOptions{})
		require.NoError(t, err)
		return r.Status.Allowed
	}
	for _, role := range []string{"view", "edit", "admin"} {
		_, err := client.RbacV1().RoleBindings(ns).Create(t.Context(), &rbacv1.RoleBinding{
			ObjectMeta: metav1.ObjectMeta{Name: role}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role},
			Subjects: []rbacv1.Subject{{Kind: rbacv1.UserKind, APIGroup: rbacv1.GroupName, Name: ns + "-" + role}},
		}, metav1.CreateOptions{})
		require.NoError(t, err)
		require.Eventually(t, func() bool { return may(role, "get", "", "pods") }, patience, 10*time.Millisecond, role)
	}
	for what, want := range map[[3]string]string{ // what the least of them may
		{"get", "", "pods/log"}: "view", {"list", "apps", "deployments"}: "view", {"get", "resource.k8s.io", "resourceclaims"}: "view",
		{"get", "", "secrets"}: "edit", {"create", "apps", "deployments"}: "edit", {"create", "resource.k8s.io", "resourceclaimtemplates"}: "edit",
		{"create", "rbac.authorization.k8s.io", "roles"}: "admin", {"create", "authorization.k8s.io", "localsubjectaccessreviews"}: "admin",
		{"create", "", "nodes"}: "", {"update", "", "resourcequotas"}: "",
	} {
		have := ""
		for _, role := range []string{"admin", "edit", "view"} {
			verb, resource := what[0], what[2]
			if resource == "pods/log" {
				resource = "pods" // the review has the subresource elsewhere
			}
			if may(role, verb, what[1], resource) {
				have = role
			}
		}
		require.Equal(t, want, have, "%v", what)
	}
	require.False(t, may("view", "get", "example.com", ns))
	grant(t, client, ns+"-more", rbacv1.Subject{Kind: rbacv1.UserKind, APIGroup: rbacv1.GroupName, Name: ns + "-nobody"}, rule("get", "example.com", ns))
	_, err := client.RbacV1().ClusterRoles().Patch(t.Context(), ns+"-more", types.MergePatchType,
		[]byte(`{"metadata":{"labels":{"rbac.authorization.k8s.io/aggregate-to-view":"true"}}}`), metav1.PatchOptions{})
	require.NoError(t, err)
	for _, role := range []string{"view", "edit", "admin"} {
		require.Eventually(t, func() bool { return may(role, "get", "example.com", ns) }, patience, 10*time.Millisecond, role)
	}
}

// escalation: nobody gives what he has not, unless he may.
func escalation(t *testing.T, c *clustertest.Cluster) {
	ns := c.Namespace(t)
	write := []rbacv1.PolicyRule{
		rule("create", rbacv1.GroupName, "roles"), rule("create", rbacv1.GroupName, "rolebindings"), rule("create", rbacv1.GroupName, "clusterroles"), rule("get", "", "configmaps"),
	}
	writer := as(t, c, robot(t, c, ns, "writer", write...)).RbacV1()
	role := func(name string, rules ...rbacv1.PolicyRule) *rbacv1.Role {
		return &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: name}, Rules: rules}
	}
	binding := func(name, kind, role string) *rbacv1.RoleBinding {
		return &rbacv1.RoleBinding{
			ObjectMeta: metav1.ObjectMeta{Name: name}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: kind, Name: role},
			Subjects: []rbacv1.Subject{{Kind: rbacv1.UserKind, APIGroup: rbacv1.GroupName, Name: "jane"}},
		}
	}
	_, err := writer.Roles(ns).Create(t.Context(), role("mine", rule("get", "", "configmaps")), metav1.CreateOptions{})
	require.NoError(t, err)
	_, err = writer.RoleBindings(ns).Create(t.Context(), binding("mine", "Role", "mine"), metav1.CreateOptions{})
	require.NoError(t, err)
	_, err = writer.Roles(ns).Create(t.Context(), role("more", rule("get", "", "configmaps"), rule("get", "", "secrets")), metav1.CreateOptions{})
	require.True(t, apierrors.IsForbidden(err), "%v", err)
	require.ErrorContains(t, err, "is attempting to grant RBAC permissions not currently held:\n"+`{APIGroups:[""], Resources:["secrets"], Verbs:["get"]}`)
	_, err = writer.RoleBindings(ns).Create(t.Context(), binding("admin", "ClusterRole", "cluster-admin"), metav1.CreateOptions{})
	require.True(t, apierrors.IsForbidden(err), "%v", err)
	_, err = writer.ClusterRoles().Create(t.Context(), &rbacv1.ClusterRole{
		ObjectMeta:      metav1.ObjectMeta{Name: ns + "-gathering"},
		AggregationRule: &rbacv1.AggregationRule{ClusterRoleSelectors: []metav1.LabelSelector{{MatchLabels: map[string]string{"a": "b"}}}},
	}, metav1.CreateOptions{})
	require.True(t, apierrors.IsForbidden(err), "%v", err)
	require.ErrorContains(t, err, "must have cluster-admin privileges to use the aggregationRule")

	escalating := as(t, c, robot(t, c, ns, "escalating", append(write, rule("escalate", rbacv1.GroupName, "roles"))...)).RbacV1()
	_, err = escalating.Roles(ns).Create(t.Context(), role("more", rule("get", "", "secrets")), metav1.CreateOptions{})
	require.NoError(t, err)
	_, err = escalating.RoleBindings(ns).Create(t.Context(), binding("more", "Role", "more"), metav1.CreateOptions{})
	require.True(t, apierrors.IsForbidden(err), "%v", err)
	binder := as(t, c, robot(t, c, ns, "binder", append(write, rule("bind", rbacv1.GroupName, "roles", "more"))...)).RbacV1()
	_, err = binder.RoleBindings(ns).Create(t.Context(), binding("more", "Role", "more"), metav1.CreateOptions{})
	require.NoError(t, err)
	_, err = binder.RoleBindings(ns).Create(t.Context(), binding("admin", "ClusterRole", "admin"), metav1.CreateOptions{})
	require.True(t, apierrors.IsForbidden(err), "%v", err)
}

// signers: who approves, signs or attests needs a right on the signer.
func signers(t *testing.T, c *clustertest.Cluster) {
	client, ns := c.Client(t, nil), c.Namespace(t)
	signer := "example.com/" + ns
	text, _ := request(t, pkix.Name{CommonName: "jane"})
	csr, err := client.CertificatesV1().CertificateSigningRequests().Create(t.Context(), &certificatesv1.CertificateSigningRequest{
		ObjectMeta: metav1.ObjectMeta{Name: ns},
		Spec:       certificatesv1.CertificateSigningRequestSpec{Request: text, SignerName: signer, Usages: []certificatesv1.KeyUsage{certificatesv1.UsageClientAuth}},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	require.Equal(t, "kubernetes-admin", csr.Spec.Username)
	rules := []rbacv1.PolicyRule{
		rule("update", "certificates.k8s.io", "certificatesigningrequests/approval"), rule("create", "certificates.k8s.io", "clustertrustbundles"),
	}
	csr.Status.Conditions = []certificatesv1.CertificateSigningRequestCondition{{Type: certificatesv1.CertificateApproved, Status: corev1.ConditionTrue}}
	bundle := &certificatesv1.ClusterTrustBundle{
		ObjectMeta: metav1.ObjectMeta{Name: "example.com:" + ns + ":a"},
		Spec:       certificatesv1.ClusterTrustBundleSpec{SignerName: signer, TrustBundle: string(newAuthority(t).pem)},
	}
	t.Cleanup(func() {
		_ = client.CertificatesV1().ClusterTrustBundles().Delete(t.Context(), bundle.Name, metav1.DeleteOptions{})
	})
	without := as(t, c, robot(t, c, ns, "without", rules...)).CertificatesV1()
	_, err = without.CertificateSigningRequests().UpdateApproval(t.Context(), csr.Name, csr, metav1.UpdateOptions{})
	require.True(t, apierrors.IsForbidden(err), "%v", err)
	require.ErrorContains(t, err, "user not permitted to approve requests with signerName")
	_, err = without.ClusterTrustBundles().Create(t.Context(), bundle, metav1.CreateOptions{})
	require.True(t, apierrors.IsForbidden(err), "%v", err)
	require.ErrorContains(t, err, "user not permitted to attest for signerName")
	with := as(t, c, robot(t, c, ns, "with", append(rules,
		rule("attest", "certificates.k8s.io", "signers", "example.com/*"), rule("approve", "certificates.k8s.io", "signers", signer))...)).CertificatesV1()
	_, err = with.CertificateSigningRequests().UpdateApproval(t.Context(), csr.Name, csr, metav1.UpdateOptions{})
	require.NoError(t, err)
	_, err = with.ClusterTrustBundles().Create(t.Context(), bundle, metav1.CreateOptions{})
	require.NoError(t, err)
}

// kubelet is a node with a certificate: it may have what belongs to the node, and change what is its own.
func kubelet(t *testing.T, c *clustertest.Cluster) {
	client, ns := c.Client(t, nil), c.Namespace(t)
	be := certified(t, c, certificatesv1.KubeAPIServerClientKubeletSignerName, pkix.Name{CommonName: "system:node:hollow-0", Organization: []string{"system:nodes"}})
	node := as(t, c, be)
	for name, on := range map[string]string{"mine": "hollow-0", "theirs": "hollow-1"} {
		newAccount(t, client, ns, name)
		_, err := client.CoreV1().Secrets(ns).Create(t.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
		require.NoError(t, err)
		_, err = client.CoreV1().Pods(ns).Create(t.Context(), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PodSpec{
			NodeName: on, ServiceAccountName: name,
			Containers: []corev1.Container{{Name: "c", Image: "i", EnvFrom: []corev1.EnvFromSource{{SecretRef: &corev1.SecretEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: name}}}}}},
		}}, metav1.CreateOptions{})
		require.NoError(t, err)
		va := &storagev1.VolumeAttachment{ObjectMeta: metav1.ObjectMeta{Name: ns + name}, Spec: storagev1.VolumeAttachmentSpec{
			Attacher: "example.com", NodeName: on, Source: storagev1.VolumeAttachmentSource{PersistentVolumeName: ptr.To("v")},
		}}
		_, err = client.StorageV1().VolumeAttachments().Create(t.Context(), va, metav1.CreateOptions{})
		require.NoError(t, err)
		t.Cleanup(func() {
			_ = client.StorageV1().VolumeAttachments().Delete(t.Context(), va.Name, metav1.DeleteOptions{})
		})
	}
	reads := map[string]func(name string) error{
		"secret": func(name string) error {
			_, err := node.CoreV1().Secrets(ns).Get(t.Context(), name, metav1.GetOptions{})
			return err
		},
		"attachment": func(name string) error {
			_, err := node.StorageV1().VolumeAttachments().Get(t.Context(), ns+name, metav1.GetOptions{})
			return err
		},
		"token": func(name string) error {
			pod, err := client.CoreV1().Pods(ns).Get(t.Context(), name, metav1.GetOptions{})
			require.NoError(t, err)
			_, err = node.CoreV1().ServiceAccounts(ns).CreateToken(t.Context(), name, &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
				BoundObjectRef: &authenticationv1.BoundObjectReference{Kind: "Pod", APIVersion: "v1", Name: name, UID: pod.UID},
			}}, metav1.CreateOptions{})
			return err
		},
	}
	for what, read := range reads {
		var err error
		if !assert.Eventually(t, func() bool { err = read("mine"); return err == nil }, patience, 10*time.Millisecond, what) {
			require.NoError(t, err)
		}
		err = read("theirs")
		require.True(t, apierrors.IsForbidden(err), "%s: %v", what, err)
		require.ErrorContains(t, err, "no relationship found between node 'hollow-0' and this object", what)
	}
	_, err := node.CoreV1().Secrets(ns).List(t.Context(), metav1.ListOptions{})
	require.True(t, apierrors.IsForbidden(err), "%v", err)
	kubeletWrites(t, c, be)
}

func kubeletWrites(t *testing.T, c *clustertest.Cluster, be func(r *rest.Config)) {
	node := as(t, c, be)
	label := func(name, label string) error {
		_, err := node.CoreV1().Nodes().Patch(t.Context(), name, types.MergePatchType, []byte(`{"metadata":{"labels":{"`+label+`":"x"}}}`), metav1.PatchOptions{})
		return err
	}
	require.NoError(t, label("hollow-0", "node.kubernetes.io/access-test"))
	for _, bad := range [][2]string{{"hollow-1", "node.kubernetes.io/access-test"}, {"hollow-0", "node-restriction.kubernetes.io/access-test"}, {"hollow-0", "node-role.kubernetes.io/master"}} {
		err := label(bad[0], bad[1])
		require.True(t, apierrors.IsForbidden(err), "%v: %v", bad, err)
	}
	_, err := node.CoreV1().Nodes().Patch(t.Context(), "hollow-0", types.MergePatchType, []byte(`{"spec":{"taints":[{"key":"a","effect":"NoSchedule"}]}}`), metav1.PatchOptions{})
	require.True(t, apierrors.IsForbidden(err), "%v", err)
	require.ErrorContains(t, err, "is not allowed to modify taints")

	slice := func(name, on string) error {
		_, err := node.ResourceV1().ResourceSlices().Create(t.Context(), &resourcev1.ResourceSlice{
			ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: resourcev1.ResourceSliceSpec{
				Driver: "example.com", NodeName: &on, Pool: resourcev1.ResourcePool{Name: on, ResourceSliceCount: 1},
			},
		}, metav1.CreateOptions{})
		return err
	}
	require.NoError(t, slice("access-mine", "hollow-0"))
	err = slice("access-theirs", "hollow-1")
	require.True(t, apierrors.IsForbidden(err), "%v", err)
	l, err := node.ResourceV1().ResourceSlices().List(t.Context(), metav1.ListOptions{FieldSelector: "spec.nodeName=hollow-0"})
	require.NoError(t, err)
	require.Len(t, l.Items, 1)
	_, err = node.ResourceV1().ResourceSlices().List(t.Context(), metav1.ListOptions{})
	require.True(t, apierrors.IsForbidden(err), "%v", err)
	require.Eventually(t, func() bool {
		return node.ResourceV1().ResourceSlices().Delete(t.Context(), "access-mine", metav1.DeleteOptions{}) == nil
	}, patience, 10*time.Millisecond, "the graph learns of it")
}
