package kinds

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
)

// noCell is the cell of what is not there.
const noCell = "<none>"

// fill sets what was left out.
func fill[T any](p **T, value T) {
	if *p == nil {
		*p = &value
	}
}

// fillZero sets what has its zero value.
func fillZero[T comparable](p *T, value T) {
	var zero T
	if *p == zero {
		*p = value
	}
}

// countColumn is a column of numbers.
func countColumn(name, doc string) metav1.TableColumnDefinition {
	return metav1.TableColumnDefinition{Name: name, Type: "integer", Description: doc}
}

// podsColumns are the last columns of what makes pods: containers, images and the selector.
func podsColumns(selectorDoc string) []metav1.TableColumnDefinition {
	return []metav1.TableColumnDefinition{
		wideColumn("Containers", "Names of each container in the template."),
		wideColumn("Images", "Images referenced by each container in the template."),
		wideColumn("Selector", selectorDoc),
	}
}

// templateCells are the cells of a template's containers.
func templateCells(t *corev1.PodTemplateSpec) (names, images string) {
	var n, i []string
	for _, c := range t.Spec.Containers {
		n, i = append(n, c.Name), append(i, c.Image)
	}
	return strings.Join(n, ","), strings.Join(i, ",")
}

// selectorText is a label selector in its string form.
func selectorText(s *metav1.LabelSelector) string {
	selector, err := metav1.LabelSelectorAsSelector(s)
	if err != nil {
		return "<invalid>"
	}
	return selector.String()
}

// controllerCell names the controller of an object.
func controllerCell(o metav1.Object) string {
	r := metav1.GetControllerOf(o)
	if r == nil {
		return noCell
	}
	kind := strings.ToLower(r.Kind)
	if gv, err := schema.ParseGroupVersion(r.APIVersion); err == nil && gv.Group != "" {
		kind += "." + gv.Group
	}
	return kind + "/" + r.Name
}

// podNameWarnings tells of a new object whose name makes poor names of pods.
func podNameWarnings(o metav1.Object, created bool) []string {
	if !created {
		return nil
	}
	if m := utilvalidation.IsDNS1123Label(o.GetName()); len(m) != 0 {
		return []string{fmt.Sprintf(
			"metadata.name: this is used in Pod names and hostnames, which can result in surprising behavior; a DNS label is recommended: %v", m)}
	}
	return nil
}
