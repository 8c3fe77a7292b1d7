package crd

import (
	"k8s.io/apiextensions-apiserver/pkg/apihelpers"
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// judge sets the conditions that follow from the definition alone.
func judge(c *apiextensionsv1.CustomResourceDefinition) {
	if errs := nonStructural(c); len(errs) > 0 {
		apihelpers.SetCRDCondition(c, apiextensionsv1.CustomResourceDefinitionCondition{
			Type: apiextensionsv1.NonStructuralSchema, Status: apiextensionsv1.ConditionTrue, Reason: "Violations", Message: errs.ToAggregate().Error(),
		})
	} else {
		apihelpers.RemoveCRDCondition(c, apiextensionsv1.NonStructuralSchema)
	}
	if apihelpers.IsProtectedCommunityGroup(c.Spec.Group) {
		apihelpers.SetCRDCondition(c, approval(c))
	}
}

// nonStructural returns why the schemas of a definition are not structural. Only definitions that are older than v1 can have
// such schemas.
func nonStructural(c *apiextensionsv1.CustomResourceDefinition) (errs field.ErrorList) {
	if c.Spec.PreserveUnknownFields {
		errs = append(errs, field.Invalid(field.NewPath("spec", "preserveUnknownFields"), true, "must be false"))
	}
	for i, v := range c.Spec.Versions {
		if v.Schema == nil || v.Schema.OpenAPIV3Schema == nil {
			continue
		}
		at := field.NewPath("spec", "versions").Index(i).Child("schema", "openAPIV3Schema")
		props := &apiextensions.JSONSchemaProps{}
		if err := apiextensionsv1.Convert_v1_JSONSchemaProps_To_apiextensions_JSONSchemaProps(v.Schema.OpenAPIV3Schema.DeepCopy(), props, nil); err != nil {
			errs = append(errs, field.Invalid(at, "", err.Error()))
			continue
		}
		s, err := schema.NewStructural(props)
		if err != nil {
			errs = append(errs, field.Invalid(at, "", err.Error()))
			continue
		}
		errs = append(errs, schema.ValidateStructural(at, s)...)
	}
	return errs
}

// approval says whether a definition in a group of Kubernetes' own was approved.
func approval(c *apiextensionsv1.CustomResourceDefinition) apiextensionsv1.CustomResourceDefinitionCondition {
	out := apiextensionsv1.CustomResourceDefinitionCondition{Type: apiextensionsv1.KubernetesAPIApprovalPolicyConformant, Status: apiextensionsv1.ConditionFalse}
	state, text := apihelpers.GetAPIApprovalState(c.Annotations)
	out.Message = text
	switch state {
	case apihelpers.APIApproved:
		out.Status, out.Reason = apiextensionsv1.ConditionTrue, "ApprovedAnnotation"
	case apihelpers.APIApprovalBypassed:
		out.Reason = "UnapprovedAnnotation"
	case apihelpers.APIApprovalMissing:
		out.Reason = "MissingAnnotation"
	default:
		out.Reason = "InvalidAnnotation"
	}
	return out
}
