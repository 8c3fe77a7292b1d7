package crd

import (
	"errors"
	"fmt"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/keelson-io/keelson/orchestrator/kinds"
)

var (
	errNoWebhook   = errors.New("no conversion webhooks can be called")
	errConversions = errors.New("the webhook returned another number of objects than it was given")
)

// Converter converts objects of definitions that do so by webhook.
type Converter interface {
	// Convert returns objects in another version, in their order. It does not change them. There is at least one.
	Convert(c *apiextensionsv1.CustomResourceDefinition, apiVersion string, objects []*unstructured.Unstructured) ([]*unstructured.Unstructured, error)
}

// conversion is how the versions of a definition become each other.
type conversion struct {
	definition *apiextensionsv1.CustomResourceDefinition
	versions   map[string]*version
	storage    string
	webhook    Converter
}

// fillStored prunes an object and fills in defaults, as the version has it in which it was stored.
func (c *conversion) fillStored(o kinds.Object) {
	u := content(o)
	gv, err := schema.ParseGroupVersion(u.GetAPIVersion())
	if err != nil {
		return
	}
	if v := c.versions[gv.Version]; v != nil && gv.Group == v.Group {
		v.fill(u)
		repair(u)
	}
}

// to says how objects of a version are stored as raw.
func (c *conversion) to(v *version, raw *kinds.Kind) *kinds.Conversion {
	storage := c.versions[c.storage]
	return &kinds.Conversion{
		Kind: raw,
		To: func(o kinds.Object) (kinds.Object, error) {
			out, err := c.convert(storage, []kinds.Object{o})
			if err != nil {
				return nil, err
			}
			return out[0], nil
		},
		From: func(o ...kinds.Object) ([]kinds.Object, error) { return c.convert(v, o) },
	}
}

// convert returns objects in a version. Those that are in it already are the same, the others new.
func (c *conversion) convert(v *version, objects []kinds.Object) ([]kinds.Object, error) {
	out := make([]kinds.Object, len(objects))
	var at []int
	var other []*unstructured.Unstructured
	want := v.GroupVersion().String()
	for i, o := range objects {
		if u := content(o); u.GetAPIVersion() == want {
			out[i] = u
		} else {
			at, other = append(at, i), append(other, u)
		}
	}
	if len(other) == 0 {
		return out, nil
	}
	converted, err := c.change(want, other)
	if err != nil {
		return nil, err
	}
	for i, u := range converted {
		if _, err := v.coerce(u, false); err != nil {
			return nil, fmt.Errorf("%s %s in version %s: %w", v.Kind, u.GetName(), v.Version, err)
		}
		out[at[i]] = u
	}
	return out, nil
}

// change returns new objects in another version.
func (c *conversion) change(apiVersion string, objects []*unstructured.Unstructured) ([]*unstructured.Unstructured, error) {
	if s := c.definition.Spec.Conversion; s != nil && s.Strategy == apiextensionsv1.WebhookConverter {
		if c.webhook == nil {
			return nil, errNoWebhook
		}
		out, err := c.webhook.Convert(c.definition, apiVersion, objects)
		if err == nil && len(out) != len(objects) {
			err = errConversions
		}
		return out, err
	}
	out := make([]*unstructured.Unstructured, len(objects))
	for i, u := range objects {
		out[i] = u.DeepCopy()
		out[i].SetAPIVersion(apiVersion)
	}
	return out, nil
}
