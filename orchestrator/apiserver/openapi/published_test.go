package openapi

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/openapi/openapitest"
	"k8s.io/kube-openapi/pkg/common"
	"k8s.io/kube-openapi/pkg/spec3"
	"k8s.io/kube-openapi/pkg/validation/spec"
)

// everything defines all types of the Kubernetes API.
func everything(t *testing.T) *types {
	t.Helper()
	ts, err := newTypes()
	require.NoError(t, err)
	defineAll(ts)
	return ts
}

func defineAll(ts *types) {
	for kind, goType := range scheme.Scheme.AllKnownTypes() {
		if kind.Version != runtime.APIVersionInternal {
			ts.add(goType)
		}
	}
}

// The types of properties are those of the documents that are published with client-go. These are of an older version, so
// what was added since then is not compared.
func TestPublished(t *testing.T) {
	changed := []string{"LabelSelectorRequirement.key", "PersistentVolumeClaimSpec.resources", "PersistentVolumeClaimStatus.resizeStatus", "PodResourceClaim.source"}
	ours := everything(t).version3()
	published, err := openapitest.NewEmbeddedFileClient().Paths()
	require.NoError(t, err)
	compared := 0
	for _, gv := range published {
		text, err := gv.Schema("application/json")
		require.NoError(t, err)
		document := &spec3.OpenAPI{}
		require.NoError(t, json.Unmarshal(text, document))
		for name, theirs := range document.Components.Schemas {
			if ours[name] == nil || strings.Contains(name, "v1alpha1") {
				continue
			}
			for property, p := range theirs.Properties {
				if slices.Contains(changed, name[strings.LastIndex(name, ".")+1:]+"."+property) {
					continue
				}
				require.Contains(t, ours[name].Properties, property, name)
				got := ours[name].Properties[property]
				require.Equal(t, signature(p), signature(got), "%s.%s", name, property)
				for extension, want := range p.Extensions {
					require.Equal(t, want, got.Extensions[extension], "%s.%s", name, property)
				}
				compared++
			}
		}
	}
	require.Greater(t, compared, 1000)
}

// signature is what the values of a schema are.
func signature(s spec.Schema) string {
	kind := strings.Join(s.Type, "") + ":" + s.Format
	for _, r := range references(s) {
		kind += " of " + r
	}
	if s.Items != nil {
		kind += " of " + signature(*s.Items.Schema)
	}
	if s.AdditionalProperties != nil && s.AdditionalProperties.Schema != nil {
		kind += " of " + signature(*s.AdditionalProperties.Schema)
	}
	return kind
}

// Every line of enums.txt is about strings that there are, and the values are in the schema.
func TestEnums(t *testing.T) {
	ts := everything(t)
	require.Greater(t, len(ts.enums), 140)
	for property, values := range ts.enums {
		i := strings.LastIndex(property, ".")
		model, name := property[:i], property[i+1:]
		p, ok := ts.result[model].Schema.Properties[name]
		if !assert.True(t, ok, property) {
			continue
		}
		if p.Items != nil {
			p = *p.Items.Schema
		} else if p.AdditionalProperties != nil {
			p = *p.AdditionalProperties.Schema
		}
		require.Equal(t, spec.StringOrArray{"string"}, p.Type, property)
		require.Equal(t, values, p.Enum, property)
	}
	pull := ts.version3()["io.k8s.api.core.v1.Container"].Properties["imagePullPolicy"]
	require.Equal(t, []any{"Always", "IfNotPresent", "Never"}, pull.Enum)
}

// Every line of required.txt is about a property that there is, and says what the tags do not say.
func TestExceptions(t *testing.T) {
	exceptional, tagged := everything(t), everything(t)
	require.NotEmpty(t, exceptional.exceptions)
	tagged.exceptions, tagged.result = nil, map[string]common.OpenAPIDefinition{}
	defineAll(tagged)
	for property, required := range exceptional.exceptions {
		i := strings.LastIndex(property, ".")
		model, name := property[:i], property[i+1:]
		require.Contains(t, exceptional.result, model)
		require.Contains(t, exceptional.result[model].Schema.Properties, name, model)
		require.Equal(t, required, slices.Contains(exceptional.result[model].Schema.Required, name), property)
		require.NotEqual(t, required, slices.Contains(tagged.result[model].Schema.Required, name), property)
	}
}
