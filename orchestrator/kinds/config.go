package kinds

import (
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

func configMapKind() *Kind {
	return with(Kind{
		GroupVersionKind: corev1.SchemeGroupVersion.WithKind("ConfigMap"), Resource: "configmaps", Singular: "configmap", ShortNames: []string{"cm"},
		Namespaced: true, Place: "configmaps",
		New: func() Object { return &corev1.ConfigMap{} }, NewList: func() runtime.Object { return &corev1.ConfigMapList{} },
		NameErrors: validation.NameIsDNSSubdomain, Lifecycle: Lifecycle{Unconditional: true},
		Columns: []metav1.TableColumnDefinition{nameColumn, textColumn("Data", corev1.ConfigMap{}.SwaggerDoc()["data"]), ageColumn},
	}, Rules[*corev1.ConfigMap]{
		Validate: validateConfigMap, ValidateUpdate: validateConfigMapUpdate,
		Row: func(o *corev1.ConfigMap, now time.Time) []any {
			return []any{o.Name, int64(len(o.Data) + len(o.BinaryData)), age(o, now)}
		},
	})
}

func secretKind() *Kind {
	doc := corev1.Secret{}.SwaggerDoc()
	return with(Kind{
		GroupVersionKind: corev1.SchemeGroupVersion.WithKind("Secret"), Resource: "secrets", Singular: "secret", Namespaced: true, Place: "secrets",
		New: func() Object { return &corev1.Secret{} }, NewList: func() runtime.Object { return &corev1.SecretList{} },
		NameErrors: validation.NameIsDNSSubdomain, Lifecycle: Lifecycle{Unconditional: true}, FieldNames: []string{"type"},
		Columns: []metav1.TableColumnDefinition{nameColumn, textColumn("Type", doc["type"]), textColumn("Data", doc["data"]), ageColumn},
	}, Rules[*corev1.Secret]{
		Default: defaultSecret, Validate: validateSecret, ValidateUpdate: validateSecretUpdate, Warnings: warnOfSecret,
		Fields: func(o *corev1.Secret) map[string]string { return map[string]string{"type": string(o.Type)} },
		Row: func(o *corev1.Secret, now time.Time) []any {
			return []any{o.Name, string(o.Type), int64(len(o.Data)), age(o, now)}
		},
	})
}

// defaultSecret gives a secret a type, and moves the data that was written as text to the rest.
func defaultSecret(o *corev1.Secret) {
	o.Type = corev1.SecretType(orText(string(o.Type), string(corev1.SecretTypeOpaque)))
	if len(o.StringData) > 0 && o.Data == nil {
		o.Data = make(map[string][]byte, len(o.StringData))
	}
	for k, v := range o.StringData {
		o.Data[k] = []byte(v)
	}
	o.StringData = nil
}

func serviceAccountKind() *Kind {
	return with(Kind{
		GroupVersionKind: corev1.SchemeGroupVersion.WithKind("ServiceAccount"), Resource: "serviceaccounts", Singular: "serviceaccount",
		ShortNames: []string{"sa"}, Namespaced: true, Place: "serviceaccounts",
		New: func() Object { return &corev1.ServiceAccount{} }, NewList: func() runtime.Object { return &corev1.ServiceAccountList{} },
		NameErrors: validation.ValidateServiceAccountName, Lifecycle: Lifecycle{Unconditional: true, ReturnDeleted: true},
		Subresources: []Subresource{{Name: "token", Kind: authenticationv1.SchemeGroupVersion.WithKind("TokenRequest"), Verbs: []string{"create"}}},
		Columns:      []metav1.TableColumnDefinition{nameColumn, ageColumn},
	}, Rules[*corev1.ServiceAccount]{
		Create: namesOfSecrets, Warnings: warnOfServiceAccount,
		Update: func(o, _ *corev1.ServiceAccount) { namesOfSecrets(o) },
		Row:    func(o *corev1.ServiceAccount, now time.Time) []any { return []any{o.Name, age(o, now)} },
	})
}

// namesOfSecrets keeps of references to secrets, which are in the same namespace, the names.
func namesOfSecrets(o *corev1.ServiceAccount) {
	for i, s := range o.Secrets {
		o.Secrets[i] = corev1.ObjectReference{Name: s.Name}
	}
}
