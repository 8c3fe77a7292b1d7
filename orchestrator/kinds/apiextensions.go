package kinds

import (
	"context"
	"slices"
	"strings"
	"time"

	"k8s.io/apiextensions-apiserver/pkg/apihelpers"
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	crdvalidation "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// apiextensionsKinds are those of apiextensions.k8s.io.
func apiextensionsKinds() []*Kind {
	return []*Kind{with(Kind{
		GroupVersionKind: apiextensionsv1.SchemeGroupVersion.WithKind("CustomResourceDefinition"), Resource: "customresourcedefinitions",
		Singular: "customresourcedefinition", ShortNames: []string{"crd", "crds"}, Categories: []string{"api-extensions"},
		Place:   "apiextensions.k8s.io/customresourcedefinitions",
		New:     func() Object { return &apiextensionsv1.CustomResourceDefinition{} },
		NewList: func() runtime.Object { return &apiextensionsv1.CustomResourceDefinitionList{} },
		// There are no NameErrors: validation demands a name that is made of group and plural, which are checked.
		Lifecycle: Lifecycle{Generation: true},
		Columns: []metav1.TableColumnDefinition{
			nameColumn,
			{Name: "Scope", Type: "string", Description: "Cluster/Namespaced"},
			{Name: "Versions", Type: "string", Description: "Served versions"},
			{Name: "Created At", Type: "date", Description: metav1.ObjectMeta{}.SwaggerDoc()["creationTimestamp"]},
			{Name: "Group", Type: "string", Priority: 1, Description: "API group"},
			{Name: "Kind", Type: "string", Priority: 1, Description: "CustomResource kind"},
			{Name: "ShortNames", Type: "string", Priority: 1, Description: "Short names"},
			{Name: "Established", Type: "boolean", Priority: 1, Description: "Established status"},
		},
	}, Rules[*apiextensionsv1.CustomResourceDefinition]{
		Default: func(o *apiextensionsv1.CustomResourceDefinition) {
			apiextensionsv1.SetObjectDefaults_CustomResourceDefinition(o)
		},
		Create:         noteStorage,
		Update:         func(o, _ *apiextensionsv1.CustomResourceDefinition) { noteStorage(o) },
		Delete:         terminateDefinition,
		Validate:       validateDefinition,
		ValidateUpdate: validateDefinitionUpdate,
		Ratchets:       true,
		Warnings:       definitionWarnings,
		Spec:           func(o *apiextensionsv1.CustomResourceDefinition) any { return &o.Spec },
		Status:         func(o *apiextensionsv1.CustomResourceDefinition) any { return &o.Status },
		ValidateStatus: validateDefinitionStatus,
		Row:            definitionRow,
	})}
}

// noteStorage adds the version that is stored to those that ever were.
func noteStorage(o *apiextensionsv1.CustomResourceDefinition) {
	for _, v := range o.Spec.Versions {
		if v.Storage && !slices.Contains(o.Status.StoredVersions, v.Name) {
			o.Status.StoredVersions = append(o.Status.StoredVersions, v.Name)
		}
	}
}

// terminateDefinition holds a definition until its objects are gone.
func terminateDefinition(o *apiextensionsv1.CustomResourceDefinition) {
	if !slices.Contains(o.Finalizers, apiextensionsv1.CustomResourceCleanupFinalizer) {
		o.Finalizers = append(o.Finalizers, apiextensionsv1.CustomResourceCleanupFinalizer)
	}
	apihelpers.SetCRDCondition(o, apiextensionsv1.CustomResourceDefinitionCondition{
		Type: apiextensionsv1.Terminating, Status: apiextensionsv1.ConditionTrue, Reason: "InstanceDeletionPending",
		Message: "CustomResourceDefinition marked for deletion; CustomResource deletion will begin soon",
	})
}

// internalDefinition is a definition in the version that its validation is written for.
func internalDefinition(o *apiextensionsv1.CustomResourceDefinition) (*apiextensions.CustomResourceDefinition, field.ErrorList) {
	out := &apiextensions.CustomResourceDefinition{}
	// The conversion shares memory, and the validation may change its argument.
	if err := apiextensionsv1.Convert_v1_CustomResourceDefinition_To_apiextensions_CustomResourceDefinition(o.DeepCopy(), out, nil); err != nil {
		return nil, field.ErrorList{field.InternalError(nil, err)}
	}
	return out, nil
}

func validateDefinition(o *apiextensionsv1.CustomResourceDefinition) field.ErrorList {
	in, errs := internalDefinition(o)
	if errs != nil {
		return errs
	}
	return crdvalidation.ValidateCustomResourceDefinition(context.Background(), in)
}

func validateDefinitionUpdate(o, old *apiextensionsv1.CustomResourceDefinition) field.ErrorList {
	return compareDefinitions(o, old, crdvalidation.ValidateCustomResourceDefinitionUpdate)
}

func validateDefinitionStatus(o, old *apiextensionsv1.CustomResourceDefinition) field.ErrorList {
	return compareDefinitions(o, old, crdvalidation.ValidateUpdateCustomResourceDefinitionStatus)
}

func compareDefinitions(o, old *apiextensionsv1.CustomResourceDefinition,
	validate func(ctx context.Context, o, old *apiextensions.CustomResourceDefinition) field.ErrorList,
) field.ErrorList {
	in, errs := internalDefinition(o)
	if errs != nil {
		return errs
	}
	before, errs := internalDefinition(old)
	if errs != nil {
		return errs
	}
	return validate(context.Background(), in, before)
}

func definitionRow(o *apiextensionsv1.CustomResourceDefinition, _ time.Time) []any {
	var versions []string
	for _, v := range o.Spec.Versions {
		switch {
		case v.Served && v.Storage:
			versions = append(versions, v.Name+"(storage)")
		case v.Served:
			versions = append(versions, v.Name)
		}
	}
	slices.Sort(versions)
	return []any{
		o.Name, string(o.Spec.Scope), strings.Join(versions, ","), o.CreationTimestamp.UTC().Format(time.RFC3339), o.Spec.Group, o.Spec.Names.Kind,
		strings.Join(o.Spec.Names.ShortNames, ","), apihelpers.IsCRDConditionTrue(o, apiextensionsv1.Established),
	}
}
