package plugins

import (
	"slices"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"
)

// nodeTerm is a parsed term of a node selector; nothing is allocated to match it.
type nodeTerm struct {
	labels []labels.Requirement
	fields []nameRequirement
	weight int64
}

// nameRequirement is the one requirement on fields that there is: on the node's name.
type nameRequirement struct {
	name string
	not  bool
}

// newNodeTerm returns false for a term that matches nothing: an empty one, or one that cannot be read.
func newNodeTerm(t *v1.NodeSelectorTerm, weight int64) (nodeTerm, bool) {
	if len(t.MatchExpressions) == 0 && len(t.MatchFields) == 0 {
		return nodeTerm{}, false
	}
	out := nodeTerm{weight: weight}
	for i := range t.MatchExpressions {
		e := &t.MatchExpressions[i]
		op, ok := operator(e.Operator)
		if !ok {
			return nodeTerm{}, false
		}
		r, err := labels.NewRequirement(e.Key, op, e.Values)
		if err != nil {
			return nodeTerm{}, false
		}
		out.labels = append(out.labels, *r)
	}
	for i := range t.MatchFields {
		f := &t.MatchFields[i]
		known := f.Operator == v1.NodeSelectorOpIn || f.Operator == v1.NodeSelectorOpNotIn
		if !known || len(f.Values) != 1 {
			return nodeTerm{}, false
		}
		r := nameRequirement{name: f.Values[0], not: f.Operator == v1.NodeSelectorOpNotIn}
		if f.Key != metav1.ObjectNameField {
			// A field that nodes do not have is empty.
			if (r.name == "") == r.not {
				return nodeTerm{}, false
			}
			continue
		}
		out.fields = append(out.fields, r)
	}
	return out, true
}

func operator(o v1.NodeSelectorOperator) (selection.Operator, bool) {
	switch o {
	case v1.NodeSelectorOpIn:
		return selection.In, true
	case v1.NodeSelectorOpNotIn:
		return selection.NotIn, true
	case v1.NodeSelectorOpExists:
		return selection.Exists, true
	case v1.NodeSelectorOpDoesNotExist:
		return selection.DoesNotExist, true
	case v1.NodeSelectorOpGt:
		return selection.GreaterThan, true
	case v1.NodeSelectorOpLt:
		return selection.LessThan, true
	}
	return "", false
}

func (t *nodeTerm) matches(node *v1.Node) bool {
	for i := range t.labels {
		if !t.labels[i].Matches(labels.Set(node.Labels)) {
			return false
		}
	}
	for i := range t.fields {
		if (node.Name == t.fields[i].name) == t.fields[i].not {
			return false
		}
	}
	return true
}

// requiredNodes is what a pod requires of its node: the labels of nodeSelector, and one of the terms.
type requiredNodes struct {
	labels   labels.Set
	terms    []nodeTerm
	hasTerms bool
}

func newRequiredNodes(pod *v1.Pod) *requiredNodes {
	r := &requiredNodes{labels: pod.Spec.NodeSelector}
	if a := requiredNodeAffinity(pod); a != nil {
		r.require(a)
	}
	return r
}

func (r *requiredNodes) require(a *v1.NodeSelector) {
	r.hasTerms = true
	for i := range a.NodeSelectorTerms {
		if t, ok := newNodeTerm(&a.NodeSelectorTerms[i], 0); ok {
			r.terms = append(r.terms, t)
		}
	}
}

// requiredBy are the nodes that a selector selects.
func requiredBy(a *v1.NodeSelector) *requiredNodes {
	r := &requiredNodes{}
	r.require(a)
	return r
}

// any tells whether every node will do.
func (r *requiredNodes) any() bool { return len(r.labels) == 0 && !r.hasTerms }

func (r *requiredNodes) matches(node *v1.Node) bool {
	for k, v := range r.labels {
		if have, ok := node.Labels[k]; !ok || have != v {
			return false
		}
	}
	return !r.hasTerms || slices.ContainsFunc(r.terms, func(t nodeTerm) bool { return t.matches(node) })
}

func requiredNodeAffinity(pod *v1.Pod) *v1.NodeSelector {
	if a := pod.Spec.Affinity; a != nil && a.NodeAffinity != nil {
		return a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution
	}
	return nil
}
