package extension

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	apiextensions "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"

	"github.com/keelson-io/keelson/orchestrator/cluster/conformance"
)

// manifest is an object in JSON, with more fields.
func manifest(c *apiextensions.CustomResourceDefinition, fields string) string {
	return fmt.Sprintf(`{"apiVersion": "%s/%s", "kind": "%s", "metadata": {"name": "test"}, %s}`,
		c.Spec.Group, c.Spec.Versions[0].Name, c.Spec.Names.Kind, fields)
}

// accepts creates and applies an object with kubectl, which validates it.
func accepts(t *testing.T, e *conformance.Env, c *apiextensions.CustomResourceDefinition, fields string) {
	t.Helper()
	for _, verb := range []string{"create", "apply"} {
		_, err := kubectlFile(t, e, manifest(c, fields), verb)
		require.NoError(t, err)
		_, err = kubectl(t, e, "delete", c.Spec.Names.Plural, "test")
		require.NoError(t, err)
	}
}

// rejects checks that neither creation nor apply is accepted, and what is said about it.
func rejects(t *testing.T, e *conformance.Env, c *apiextensions.CustomResourceDefinition, fields, want string) {
	t.Helper()
	for _, verb := range []string{"create", "apply"} {
		_, err := kubectlFile(t, e, manifest(c, fields), verb)
		require.ErrorContains(t, err, want)
	}
}

// explains checks what `kubectl explain` says.
func explains(t *testing.T, e *conformance.Env, what, pattern string) {
	t.Helper()
	text, err := kubectl(t, e, "explain", what)
	require.NoError(t, err)
	require.Regexp(t, `(?s)`+pattern, text)
}

func publishSchema(t *testing.T, e *conformance.Env) {
	d := newDocuments(t, e)
	c := publish(t, e, "", schemaFoo, "v1")
	d.published(c, "v1", schemaFoo)
	accepts(t, e, c, `"spec": {"bars": [{"name": "test-bar"}]}`)
	rejects(t, e, c, `"spec": {"bars": [{"name": "test-bar", "feeling": "NonExistentValue"}]}`, `Unsupported value: "NonExistentValue"`)
	rejects(t, e, c, `"spec": {"foo": true}`, `unknown field "spec.foo"`)
	rejects(t, e, c, `"spec": {"bars": [{"age": "10"}]}`, `spec.bars[0].name: Required value`)

	plural := c.Spec.Names.Plural
	explains(t, e, plural, `DESCRIPTION:.*Foo CRD for Testing.*FIELDS:.*apiVersion.*<string>.*APIVersion defines.*spec.*<Object>.*Specification of Foo`)
	explains(t, e, plural+".metadata", `DESCRIPTION:.*Standard object's metadata.*FIELDS:.*creationTimestamp.*<string>.*CreationTimestamp is a timestamp`)
	explains(t, e, plural+".spec", `DESCRIPTION:.*Specification of Foo.*FIELDS:.*bars.*<\[\]Object>.*List of Bars and their specs`)
	explains(t, e, plural+".spec.bars",
		`(FIELD|RESOURCE):.*bars.*<\[\]Object>.*DESCRIPTION:.*List of Bars and their specs.*FIELDS:.*bazs.*<\[\]string>.*List of Bazs.*name.*<string>.*Name of Bar`)
	_, err := kubectl(t, e, "explain", plural+".spec.bars2")
	require.ErrorContains(t, err, `field "bars2" does not exist`)
}

func publishNothing(t *testing.T, e *conformance.Env) {
	d := newDocuments(t, e)
	c := publish(t, e, "", "", "v1")
	d.published(c, "v1", "{type: object, x-kubernetes-preserve-unknown-fields: true}", "{type: object}")
	accepts(t, e, c, `"a": {"b": [{"c": "d"}]}`)
	explains(t, e, c.Spec.Names.Plural, `DESCRIPTION:.*<empty>`)
}

func publishOpenRoot(t *testing.T, e *conformance.Env) {
	d := newDocuments(t, e)
	c := publish(t, e, "", schemaOpenRoot, "v1")
	d.published(c, "v1", schemaOpenRoot, "{type: object}")
	accepts(t, e, c, `"a": {"b": [{"c": "d"}]}`)
	explains(t, e, c.Spec.Names.Plural, `KIND:.*`+c.Spec.Names.Kind)
}

func publishOpenPart(t *testing.T, e *conformance.Env) {
	d := newDocuments(t, e)
	c := publish(t, e, "", schemaOpenPart, "v1")
	d.published(c, "v1", schemaOpenPart, "")
	accepts(t, e, c, `"spec": {"a": null, "b": [{"c": "d"}]}`)
	explains(t, e, c.Spec.Names.Plural, `DESCRIPTION:.*preserve-unknown-properties in nested field for Testing`)
}

const schemaFoo = `
description: Foo CRD for Testing
type: object
properties:
  spec:
    type: object
    description: Specification of Foo
    properties:
      bars:
        description: List of Bars and their specs.
        type: array
        items:
          type: object
          required: [name]
          properties:
            name: {description: Name of Bar., type: string}
            age: {description: Age of Bar., type: string}
            feeling: {description: Whether Bar is feeling great., type: string, enum: [Great, Down]}
            bazs: {description: List of Bazs., type: array, items: {type: string}}
  status:
    description: Status of Foo
    type: object
    properties:
      bars:
        description: List of Bars and their statuses.
        type: array
        items:
          type: object
          properties:
            name: {description: Name of Bar., type: string}
            available: {description: Whether the Bar is installed., type: boolean}
            quxType: {description: Indicates to external qux type., pattern: in-tree|out-of-tree, type: string}
`

const waldoProperties = `
properties:
  spec:
    description: Specification of Waldo
    type: object
    properties:
      dummy: {description: Dummy property., type: object}
  status:
    description: Status of Waldo
    type: object
    properties:
      bars: {description: List of Bars and their statuses., type: array, items: {type: object}}
`

const schemaWaldo = `
description: Waldo CRD for Testing
type: object` + waldoProperties

const schemaOpenRoot = `
description: preserve-unknown-properties at root for Testing
x-kubernetes-preserve-unknown-fields: true
type: object` + waldoProperties

const schemaOpenPart = `
description: preserve-unknown-properties in nested field for Testing
type: object
properties:
  spec:
    description: Specification of Waldo
    type: object
    x-kubernetes-preserve-unknown-fields: true
    properties:
      dummy: {description: Dummy property., type: object}
  status:
    description: Status of Waldo
    type: object
    properties:
      bars: {description: List of Bars and their statuses., type: array, items: {type: object}}
`
