package kinds

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

const (
	maxParameters     = 512
	maxParameterBytes = 256 * 1024
)

// fixed refuses a change in the words of Kubernetes' declarative validation, which does not repeat the value.
func (p *problems) fixed(at *field.Path, is, was any) {
	if !equality.Semantic.DeepEqual(is, was) {
		p.invalid(at, nil, validation.FieldImmutableErrorMsg)
	}
}

func validateStorageClass(o *storagev1.StorageClass) field.ErrorList {
	var p problems
	if at := field.NewPath("provisioner"); p.have(at, o.Provisioner) {
		p.qualifiedName(at, strings.ToLower(o.Provisioner))
	}
	p.parameters(field.NewPath("parameters"), o.Parameters)
	if r := o.ReclaimPolicy; r != nil && *r != "" {
		oneOf(&p, field.NewPath("reclaimPolicy"), *r, corev1.PersistentVolumeReclaimDelete, corev1.PersistentVolumeReclaimRetain)
	}
	if m := o.VolumeBindingMode; m == nil {
		p.required(field.NewPath("volumeBindingMode"), "")
	} else {
		oneOf(&p, field.NewPath("volumeBindingMode"), *m, storagev1.VolumeBindingImmediate, storagev1.VolumeBindingWaitForFirstConsumer)
	}
	var before []map[string]sets.Set[string]
	for i := range o.AllowedTopologies {
		at := field.NewPath("allowedTopologies").Index(i).Child("matchLabelExpressions")
		term := p.topology(at, &o.AllowedTopologies[i])
		if slices.ContainsFunc(before, func(b map[string]sets.Set[string]) bool { return equality.Semantic.DeepEqual(b, term) }) {
			p.duplicate(at, "")
		}
		before = append(before, term)
	}
	return p.list
}

func (p *problems) parameters(at *field.Path, parameters map[string]string) {
	if len(parameters) > maxParameters {
		p.add(field.TooLong(at, "", maxParameters))
		return
	}
	size := 0
	for k, v := range parameters {
		if k == "" {
			p.invalid(at, k, "field can not be empty.")
		}
		size += len(k) + len(v)
	}
	if size > maxParameterBytes {
		p.add(field.TooLong(at, "", maxParameterBytes))
	}
}

// topology checks where volumes may be, and returns the values by their labels.
func (p *problems) topology(at *field.Path, t *corev1.TopologySelectorTerm) map[string]sets.Set[string] {
	term := map[string]sets.Set[string]{}
	for i, e := range t.MatchLabelExpressions {
		at := at.Index(i)
		if len(e.Values) == 0 {
			p.required(at.Child("values"), "")
		}
		seen := map[string]bool{}
		for j, v := range e.Values {
			unique(p, seen, at.Child("values").Index(j), v)
		}
		p.labelKey(at.Child("key"), e.Key)
		if _, ok := term[e.Key]; ok {
			p.duplicate(at.Child("key"), e.Key)
		}
		term[e.Key] = sets.New(e.Values...)
	}
	return term
}

func validateStorageClassUpdate(o, old *storagev1.StorageClass) field.ErrorList {
	var p problems
	p.fixed(field.NewPath("provisioner"), o.Provisioner, old.Provisioner)
	p.fixed(field.NewPath("parameters"), o.Parameters, old.Parameters)
	p.fixed(field.NewPath("reclaimPolicy"), o.ReclaimPolicy, old.ReclaimPolicy)
	p.fixed(field.NewPath("volumeBindingMode"), o.VolumeBindingMode, old.VolumeBindingMode)
	return p.list
}

func storageClassWarnings(o, _ *storagev1.StorageClass) (l []string) {
	for i, t := range o.AllowedTopologies {
		for j, e := range t.MatchLabelExpressions {
			if advice := deprecatedNodeLabels()[e.Key]; advice != "" {
				l = append(l, field.NewPath("allowedTopologies").Index(i).Child("matchLabelExpressions").Index(j).Child("key").String()+": "+advice)
			}
		}
	}
	return l
}

func validateRuntimeClass(o *nodev1.RuntimeClass) field.ErrorList {
	var p problems
	if at := field.NewPath("handler"); p.have(at, o.Handler) {
		p.label(at, o.Handler)
	}
	if o.Overhead != nil {
		c := podCheck{}
		c.resources(&corev1.ResourceRequirements{Limits: o.Overhead.PodFixed}, field.NewPath("overhead"), c.containerResourceName)
		p.add(c.list...)
	}
	if s := o.Scheduling; s != nil {
		at := field.NewPath("scheduling")
		p.labels(at.Child("nodeSelector"), s.NodeSelector)
		p.tolerations(at.Child("tolerations"), s.Tolerations)
		seen := map[corev1.Toleration]bool{}
		for i, t := range s.Tolerations {
			key := corev1.Toleration{Key: t.Key, Operator: t.Operator, Value: t.Value, Effect: t.Effect}
			if seen[key] {
				p.duplicate(at.Child("tolerations").Index(i), t)
			}
			seen[key] = true
		}
	}
	return p.list
}

func runtimeClassWarnings(o, _ *nodev1.RuntimeClass) (l []string) {
	if o.Scheduling == nil {
		return nil
	}
	for key := range o.Scheduling.NodeSelector {
		if advice := deprecatedNodeLabels()[key]; advice != "" {
			l = append(l, "scheduling.nodeSelector: "+advice)
		}
	}
	slices.Sort(l)
	return l
}
