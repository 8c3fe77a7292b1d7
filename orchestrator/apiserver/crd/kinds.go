package crd

import (
	"fmt"
	"slices"
	"strings"

	"k8s.io/apiextensions-apiserver/pkg/apihelpers"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	kversion "k8s.io/apimachinery/pkg/version"

	"github.com/keelson-io/keelson/orchestrator/kinds"
)

// Kinds returns the kinds that a definition serves, in the order of its versions, under the names that were accepted. They
// are stored as one kind that is none of them.
func Kinds(c *apiextensionsv1.CustomResourceDefinition, conv Converter) ([]*kinds.Kind, error) {
	d, err := compile(c, conv)
	if err != nil {
		return nil, err
	}
	return d.served, nil
}

// compiled is the kinds of a definition.
type compiled struct {
	served []*kinds.Kind
	stored *kinds.Kind // what they are stored as
}

// closed returns the same kinds open or closed for new objects.
func (d *compiled) closed(closed bool) *compiled {
	if d == nil {
		return nil
	}
	out := &compiled{stored: d.stored}
	for _, k := range d.served {
		other := *k
		other.Closed = closed
		out.served = append(out.served, &other)
	}
	return out
}

func compile(c *apiextensionsv1.CustomResourceDefinition, conv Converter) (*compiled, error) {
	storage, err := apihelpers.GetCRDStorageVersion(c)
	if err != nil {
		return nil, fmt.Errorf("definition %s: %w", c.Name, err)
	}
	names := c.Status.AcceptedNames
	versions := map[string]*version{}
	for i := range c.Spec.Versions {
		spec := &c.Spec.Versions[i]
		gvk := schema.GroupVersionKind{Group: c.Spec.Group, Version: spec.Name, Kind: names.Kind}
		if versions[spec.Name], err = newVersion(gvk, spec, c.Spec.PreserveUnknownFields); err != nil {
			return nil, fmt.Errorf("definition %s: %w", c.Name, err)
		}
	}
	change := &conversion{definition: c, versions: versions, storage: storage, webhook: conv}
	raw := kind(c, versions[storage])
	raw.Default = change.fillStored
	out := &compiled{stored: raw}
	for i := range c.Spec.Versions {
		v := versions[c.Spec.Versions[i].Name]
		if v.spec.Served {
			k := kind(c, v)
			k.Stored = change.to(v, raw)
			out.served = append(out.served, k)
		}
	}
	return out, nil
}

// kind describes the objects of a version, but not how they are stored.
func kind(c *apiextensionsv1.CustomResourceDefinition, v *version) *kinds.Kind {
	names := c.Status.AcceptedNames
	fields, find := selectable(v.spec.SelectableFields)
	columns, row := table(v.spec.AdditionalPrinterColumns)
	k := &kinds.Kind{
		GroupVersionKind: v.GroupVersionKind,
		Resource:         names.Plural, Singular: names.Singular, ListKind: names.ListKind,
		ShortNames: names.ShortNames, Categories: names.Categories,
		Namespaced: c.Spec.Scope == apiextensionsv1.NamespaceScoped, Place: c.Spec.Group + "/" + names.Plural,
		New: func() kinds.Object {
			u := &unstructured.Unstructured{}
			u.SetGroupVersionKind(v.GroupVersionKind)
			return u
		},
		NewList: func() runtime.Object {
			l := &unstructured.UnstructuredList{}
			l.SetGroupVersionKind(v.GroupVersion().WithKind(names.ListKind))
			return l
		},
		NameErrors: validation.NameIsDNSSubdomain,
		Strategy: kinds.Strategy{
			Default:  func(o kinds.Object) { v.fill(content(o)) },
			Coerce:   func(o kinds.Object) ([]string, error) { return v.coerce(content(o), false) },
			Validate: func(o kinds.Object) fieldErrors { return v.validate(content(o)) },
			ValidateUpdate: func(o, old kinds.Object) fieldErrors {
				return v.validateUpdate(content(o), content(old))
			},
			Ratchets: true,
			Warnings: warnings,
			Spec:     desired{status: !v.hasStatus()},
			Fields:   find,
			Row:      row,
		},
		Lifecycle:  kinds.Lifecycle{Generation: true, Closed: terminating(c), Deprecation: deprecation(c, v.spec)},
		FieldNames: fields,
		Columns:    columns,
	}
	if v.spec.Schema != nil && !v.preserve {
		k.Schema = v.spec.Schema.OpenAPIV3Schema
	}
	if v.hasStatus() {
		k.Status, k.UpdateStatus = status{}, keepMetadata
		k.ValidateStatus = func(o, old kinds.Object) fieldErrors { return v.validateStatus(content(o), content(old)) }
	}
	if s := v.scale(); s != nil {
		k.Scale = scale(s)
	}
	return k
}

// content is an object of these kinds.
func content(o kinds.Object) *unstructured.Unstructured { return o.(*unstructured.Unstructured) }

func terminating(c *apiextensionsv1.CustomResourceDefinition) bool {
	return c.DeletionTimestamp != nil || apihelpers.IsCRDConditionTrue(c, apiextensionsv1.Terminating)
}

// deprecation is the warning for requests for a version, "" if there is none.
func deprecation(c *apiextensionsv1.CustomResourceDefinition, v *apiextensionsv1.CustomResourceDefinitionVersion) string {
	switch {
	case !v.Deprecated:
		return ""
	case v.DeprecationWarning != nil:
		return *v.DeprecationWarning
	}
	text := fmt.Sprintf("%s/%s %s is deprecated", c.Spec.Group, v.Name, c.Spec.Names.Kind)
	var better []string
	for _, other := range c.Spec.Versions {
		if other.Served && !other.Deprecated && kversion.CompareKubeAwareVersionStrings(v.Name, other.Name) < 0 {
			better = append(better, other.Name)
		}
	}
	if len(better) == 0 {
		return text
	}
	best := slices.MaxFunc(better, kversion.CompareKubeAwareVersionStrings)
	return text + fmt.Sprintf("; use %s/%s %s", c.Spec.Group, best, c.Spec.Names.Kind)
}

// path is the fields of a simple JSON path, ".spec.replicas".
func path(p string) []string { return strings.Split(strings.TrimPrefix(p, "."), ".") }
