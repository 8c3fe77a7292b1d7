package apiserver_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	registration "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// A connection to a container is admitted before its node is looked for.
func TestConnect(t *testing.T) {
	config := start(t)
	admin, ctx := kubernetes.NewForConfigOrDie(config(adminToken)), t.Context()
	_, err := admin.CoreV1().ServiceAccounts("default").Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, metav1.CreateOptions{})
	require.NoError(t, err)
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: corev1.PodSpec{NodeName: "n", Containers: []corev1.Container{{Name: "a", Image: "i"}, {Name: "b", Image: "i"}}}}
	_, err = admin.CoreV1().Pods("default").Create(ctx, pod, metav1.CreateOptions{})
	require.NoError(t, err)
	connect := func(c *kubernetes.Clientset, verb, subresource string, params ...string) error {
		r := c.CoreV1().RESTClient().Verb(verb).Namespace("default").Resource("pods").Name("p").SubResource(subresource)
		for i := 0; i < len(params); i += 2 {
			r = r.Param(params[i], params[i+1])
		}
		return r.Do(ctx).Error()
	}
	for _, x := range []struct {
		subresource string
		params      []string
		want        string
	}{
		{"attach", []string{"container", "a"}, "node n serves no streams"},
		{"exec", []string{"container", "a", "command", "ls"}, "node n serves no streams"},
		{"portforward", []string{"ports", "80,81"}, "node n serves no streams"},
		{"exec", nil, "a container name must be specified for pod p, choose one of: [a b]"},
		{"exec", []string{"container", "c"}, "container c is not valid for pod p"},
		{"exec", []string{"dryRun", "All"}, "dryRun is not supported"},
		{"portforward", []string{"ports", "80,x"}, `invalid port "x"`},
	} {
		require.ErrorContains(t, connect(admin, "GET", x.subresource, x.params...), x.want)
		require.ErrorContains(t, connect(admin, "POST", x.subresource, x.params...), x.want)
	}
	require.True(t, apierrors.IsMethodNotSupported(connect(admin, "DELETE", "exec")))

	_, err = admin.AdmissionregistrationV1().ValidatingAdmissionPolicies().Create(ctx, &registration.ValidatingAdmissionPolicy{
		ObjectMeta: metav1.ObjectMeta{Name: "no-shells"},
		Spec: registration.ValidatingAdmissionPolicySpec{
			Validations: []registration.Validation{{Expression: "!(object.kind == 'PodExecOptions' && has(object.stdin) && object.command == ['sh', '-i'])", Message: "no shells"}},
			MatchConstraints: &registration.MatchResources{ResourceRules: []registration.NamedRuleWithOperations{{
				RuleWithOperations: registration.RuleWithOperations{
					Operations: []registration.OperationType{registration.Connect},
					Rule:       registration.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"pods/exec"}},
				},
			}}},
		},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	_, err = admin.AdmissionregistrationV1().ValidatingAdmissionPolicyBindings().Create(ctx, &registration.ValidatingAdmissionPolicyBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "no-shells"},
		Spec:       registration.ValidatingAdmissionPolicyBindingSpec{PolicyName: "no-shells", ValidationActions: []registration.ValidationAction{registration.Deny}},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	shell := []string{"container", "a", "stdin", "true", "command", "sh", "command", "-i"}
	require.Eventually(t, func() bool {
		err := connect(admin, "POST", "exec", shell...)
		return apierrors.IsInvalid(err)
	}, time.Minute, 10*time.Millisecond)
	require.ErrorContains(t, connect(admin, "POST", "exec", shell...), "no shells")
	shell[3] = "false"
	require.ErrorContains(t, connect(admin, "POST", "exec", shell...), "serves no streams")

	// Who may get may not connect.
	_, err = admin.RbacV1().Roles("default").Create(ctx, &rbacv1.Role{
		ObjectMeta: metav1.ObjectMeta{Name: "look"}, Rules: []rbacv1.PolicyRule{{Verbs: []string{"get"}, APIGroups: []string{""}, Resources: []string{"pods/attach"}}},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	_, err = admin.RbacV1().RoleBindings("default").Create(ctx, &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "look"}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "look"},
		Subjects: []rbacv1.Subject{{Kind: "User", APIGroup: rbacv1.GroupName, Name: "jane"}},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	jane := kubernetes.NewForConfigOrDie(config(userToken))
	require.Eventually(t, func() bool {
		err := connect(jane, "GET", "attach", "container", "a")
		return err != nil && err.Error() == `pods "p" is forbidden: User "jane" cannot create resource "pods/attach" in API group "" in the namespace "default"`
	}, time.Minute, 10*time.Millisecond)
}
