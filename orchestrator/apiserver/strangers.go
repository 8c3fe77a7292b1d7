package apiserver

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/keelson-io/keelson/internal/jointoken"
	"github.com/keelson-io/keelson/orchestrator/kinds"
)

// strangers are the rights of everybody: to read where the cluster is and by which authority to know it.
func strangers() []kinds.Object {
	const name = "keelson:cluster-info"
	group := func(name string) rbacv1.Subject {
		return rbacv1.Subject{APIGroup: rbacv1.GroupName, Kind: rbacv1.GroupKind, Name: name}
	}
	version := rbacv1.SchemeGroupVersion.String()
	return []kinds.Object{
		&rbacv1.Role{
			TypeMeta: metav1.TypeMeta{Kind: "Role", APIVersion: version}, ObjectMeta: metav1.ObjectMeta{Namespace: jointoken.InfoNamespace, Name: name},
			Rules: []rbacv1.PolicyRule{{Verbs: []string{"get"}, APIGroups: []string{""}, Resources: []string{"configmaps"}, ResourceNames: []string{jointoken.InfoName}}},
		},
		&rbacv1.RoleBinding{
			TypeMeta: metav1.TypeMeta{Kind: "RoleBinding", APIVersion: version}, ObjectMeta: metav1.ObjectMeta{Namespace: jointoken.InfoNamespace, Name: name},
			RoleRef:  rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: name},
			Subjects: []rbacv1.Subject{group("system:unauthenticated"), group("system:authenticated")},
		},
	}
}

// keepInfo is the annotation by which an administrator keeps what is in cluster-info.
const keepInfo = "keelson.io/autoupdate"

// tellStrangers writes the ConfigMap cluster-info, unless it says that somebody else does.
func (a *API) tellStrangers(ctx context.Context) error {
	err := a.write(ctx, &corev1.ConfigMap{
		TypeMeta:   metav1.TypeMeta{Kind: "ConfigMap", APIVersion: "v1"},
		ObjectMeta: metav1.ObjectMeta{Namespace: jointoken.InfoNamespace, Name: jointoken.InfoName},
		Data:       map[string]string{jointoken.InfoKey: a.cfg.Discovery},
	}, func(existing kinds.Object) bool {
		m := existing.(*corev1.ConfigMap)
		if m.Annotations[keepInfo] == "false" || m.Data[jointoken.InfoKey] == a.cfg.Discovery {
			return false
		}
		if m.Data == nil {
			m.Data = map[string]string{}
		}
		m.Data[jointoken.InfoKey] = a.cfg.Discovery
		return true
	})
	if apierrors.IsAlreadyExists(err) {
		return nil // another API server was faster
	}
	return err
}
