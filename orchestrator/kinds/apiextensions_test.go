package kinds

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

func crontabs() *apiextensionsv1.CustomResourceDefinition {
	return &apiextensionsv1.CustomResourceDefinition{
		ObjectMeta: metav1.ObjectMeta{Name: "crontabs.example.com", CreationTimestamp: metav1.NewTime(time.Unix(0, 0))},
		Spec: apiextensionsv1.CustomResourceDefinitionSpec{
			Group: "example.com", Names: apiextensionsv1.CustomResourceDefinitionNames{Plural: "crontabs", Kind: "CronTab", ShortNames: []string{"ct", "cts"}},
			Scope: apiextensionsv1.NamespaceScoped,
			Versions: []apiextensionsv1.CustomResourceDefinitionVersion{{
				Name: "v1", Served: true, Storage: true,
				Schema: &apiextensionsv1.CustomResourceValidation{OpenAPIV3Schema: &apiextensionsv1.JSONSchemaProps{
					Type: "object", Properties: map[string]apiextensionsv1.JSONSchemaProps{"spec": {Type: "object"}},
				}},
			}},
		},
	}
}

func TestDefinition(t *testing.T) {
	k := apiextensionsKinds()[0]
	o := crontabs()
	k.Default(o)
	k.Create(o)
	o.ResourceVersion = "1"
	require.Empty(t, k.Validate(o))
	require.Equal(t, "CronTabList", o.Spec.Names.ListKind)
	require.Equal(t, "crontab", o.Spec.Names.Singular)
	require.Equal(t, []string{"v1"}, o.Status.StoredVersions)
	require.Equal(t, []any{"crontabs.example.com", "Namespaced", "v1(storage)", "1970-01-01T00:00:00Z", "example.com", "CronTab", "ct,cts", false}, k.Row(o, time.Now()))

	bad := crontabs()
	bad.Name = "other"
	bad.Spec.Versions[0].Schema.OpenAPIV3Schema.Properties["spec"] = apiextensionsv1.JSONSchemaProps{
		Type: "object", XValidations: apiextensionsv1.ValidationRules{{Rule: "self.nonsense > 1"}},
	}
	k.Default(bad)
	errs := k.Validate(bad).ToAggregate()
	require.ErrorContains(t, errs, `metadata.name: Invalid value: "other": must be spec.names.plural+"."+spec.group`)
	require.ErrorContains(t, errs, "undefined field 'nonsense'")

	next := o.DeepCopy()
	next.Spec.Versions[0].Storage = false
	next.Spec.Versions = append(next.Spec.Versions, *o.Spec.Versions[0].DeepCopy())
	next.Spec.Versions[1].Name = "v2"
	k.Update(next, o)
	require.Equal(t, []string{"v1", "v2"}, next.Status.StoredVersions)
	require.Empty(t, k.ValidateUpdate(next, o))
	gone := next.DeepCopy()
	gone.Spec.Versions = gone.Spec.Versions[1:]
	require.ErrorContains(t, k.ValidateUpdate(gone, next).ToAggregate(), "missing from spec.versions; v1 was previously a storage version")
	gone.Status.StoredVersions = []string{"v2"}
	require.Empty(t, k.ValidateStatus(gone, next))

	k.Delete(o)
	k.Delete(o)
	require.Equal(t, []string{"customresourcecleanup.apiextensions.k8s.io"}, o.Finalizers)
	require.Len(t, o.Status.Conditions, 1)
}

// A rule may cost only so much, at the worst.
func TestCostsOfRules(t *testing.T) {
	k := apiextensionsKinds()[0]
	with := func(rule string, items *int64) *apiextensionsv1.CustomResourceDefinition {
		o := crontabs()
		list := apiextensionsv1.JSONSchemaProps{Type: "array", MaxItems: items, Items: &apiextensionsv1.JSONSchemaPropsOrArray{
			Schema: &apiextensionsv1.JSONSchemaProps{Type: "string", MaxLength: ptr.To[int64](10)},
		}}
		o.Spec.Versions[0].Schema.OpenAPIV3Schema.Properties["spec"] = apiextensionsv1.JSONSchemaProps{
			Type: "object", Properties: map[string]apiextensionsv1.JSONSchemaProps{"list": list}, XValidations: apiextensionsv1.ValidationRules{{Rule: rule}},
		}
		k.Default(o)
		k.Create(o)
		o.ResourceVersion = "1"
		return o
	}
	const square = "self.list.all(x, self.list.all(y, x == y))"
	require.Empty(t, k.Validate(with(square, ptr.To[int64](100))))
	dear := with(square, nil)
	errs := k.Validate(dear).ToAggregate()
	require.ErrorContains(t, errs, "estimated rule cost exceeds budget by factor of more than 100x")
	require.ErrorContains(t, errs, "spec.validation.openAPIV3Schema.properties[spec].x-kubernetes-validations[0].rule: Forbidden")
	require.ErrorContains(t, k.Validate(with(square, ptr.To[int64](2000))).ToAggregate(), "estimated rule cost exceeds budget by factor of")
}

func TestDefinitionWarnings(t *testing.T) {
	k := apiextensionsKinds()[0]
	o := crontabs()
	o.Spec.Versions[0].Schema.OpenAPIV3Schema.Properties["spec"] = apiextensionsv1.JSONSchemaProps{
		Type: "object", Properties: map[string]apiextensionsv1.JSONSchemaProps{
			"when": {Type: "string", Format: "moonphase"},
			"list": {Type: "array", XListType: ptr.To("set"), Items: &apiextensionsv1.JSONSchemaPropsOrArray{Schema: &apiextensionsv1.JSONSchemaProps{Type: "object"}}},
		},
	}
	require.Equal(t, []string{
		`unrecognized format "moonphase"`,
		`x-kubernetes-list-type: set for items of type "object" is not supported by server-side apply or CEL validation rules`,
	}, k.Warnings(o, nil))
	require.Empty(t, k.Warnings(o, o.DeepCopy()))
	require.Len(t, k.Warnings(o, crontabs()), 2)
}
