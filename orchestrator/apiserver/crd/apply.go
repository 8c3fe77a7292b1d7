package crd

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	generated "k8s.io/apiextensions-apiserver/pkg/generated/openapi"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/kube-openapi/pkg/validation/spec"

	"github.com/keelson-io/keelson/orchestrator/kinds"
)

// TypeConverter describes objects to server-side apply. It must know all versions of a definition: those who manage fields
// may have written another one.
func TypeConverter(versions ...*kinds.Kind) (managedfields.TypeConverter, error) {
	all := map[string]*spec.Schema{}
	for name, d := range generated.GetOpenAPIDefinitions(func(name string) spec.Ref { return spec.MustCreateRef(components + name) }) {
		if strings.HasPrefix(name, metaPackage) {
			all[name] = &d.Schema
		}
	}
	for _, k := range versions {
		maps.Copy(all, Schemas(k, false))
	}
	free := slices.ContainsFunc(versions, func(k *kinds.Kind) bool { return k.Schema == nil })
	c, err := managedfields.NewTypeConverter(all, free)
	if err != nil {
		return nil, fmt.Errorf("schemas for server-side apply: %w", err)
	}
	return c, nil
}
