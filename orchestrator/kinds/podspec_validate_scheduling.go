package kinds

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/sets"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

const (
	requiredTerms  = "requiredDuringSchedulingIgnoredDuringExecution"
	preferredTerms = "preferredDuringSchedulingIgnoredDuringExecution"
)

// podAffinities checks where a pod wants to be.
func (p *podCheck) podAffinities(at *field.Path) {
	a := p.spec.Affinity
	if a == nil {
		return
	}
	if n := a.NodeAffinity; n != nil {
		at := at.Child("nodeAffinity")
		if n.RequiredDuringSchedulingIgnoredDuringExecution != nil {
			p.nodeSelector(at.Child(requiredTerms), n.RequiredDuringSchedulingIgnoredDuringExecution)
		}
		for i := range n.PreferredDuringSchedulingIgnoredDuringExecution {
			t, at := &n.PreferredDuringSchedulingIgnoredDuringExecution[i], at.Child(preferredTerms).Index(i)
			p.weight(at.Child("weight"), t.Weight)
			p.preferredNodes(at.Child("preference"), &t.Preference)
		}
	}
	if o := a.PodAffinity; o != nil {
		p.affinityTerms(o.RequiredDuringSchedulingIgnoredDuringExecution, o.PreferredDuringSchedulingIgnoredDuringExecution, at.Child("podAffinity"))
	}
	if o := a.PodAntiAffinity; o != nil {
		p.affinityTerms(o.RequiredDuringSchedulingIgnoredDuringExecution, o.PreferredDuringSchedulingIgnoredDuringExecution, at.Child("podAntiAffinity"))
	}
}

// preferredNodes is nodeSelectorTerm, but for the values, which were never checked here.
func (p *podCheck) preferredNodes(at *field.Path, t *corev1.NodeSelectorTerm) {
	t = t.DeepCopy()
	for i := range t.MatchExpressions {
		for j := range t.MatchExpressions[i].Values {
			t.MatchExpressions[i].Values[j] = ""
		}
	}
	p.nodeSelectorTerm(at, t)
}

func (p *podCheck) weight(at *field.Path, n int32) {
	if n <= 0 || n > 100 {
		p.invalid(at, n, "must be in the range 1-100")
	}
}

func (p *podCheck) affinityTerms(required []corev1.PodAffinityTerm, preferred []corev1.WeightedPodAffinityTerm, at *field.Path) {
	for i := range required {
		p.affinityTerm(&required[i], at.Child(requiredTerms).Index(i))
	}
	for i := range preferred {
		at := at.Child(preferredTerms).Index(i)
		p.weight(at.Child("weight"), preferred[i].Weight)
		p.affinityTerm(&preferred[i].PodAffinityTerm, at.Child("podAffinityTerm"))
	}
}

func (p *podCheck) affinityTerm(t *corev1.PodAffinityTerm, at *field.Path) {
	p.labelSelector(at.Child("labelSelector"), t.LabelSelector)
	p.labelSelector(at.Child("namespaceSelector"), t.NamespaceSelector)
	for _, n := range t.Namespaces {
		p.each(at.Child("namespace"), n, validation.ValidateNamespaceName(n, false))
	}
	p.ownLabelKeys(at, t.MatchLabelKeys, t.MismatchLabelKeys, t.LabelSelector)
	if t.TopologyKey == "" {
		p.required(at.Child("topologyKey"), "can not be empty")
	}
	p.labelKey(at.Child("topologyKey"), t.TopologyKey)
}

func (p *problems) labelSelector(at *field.Path, s *metav1.LabelSelector) {
	p.add(metav1validation.ValidateLabelSelector(s, metav1validation.LabelSelectorValidationOptions{}, at)...)
}

// ownLabelKeys checks keys of the pod's own labels that a selector is completed by. The selector was completed already.
func (p *podCheck) ownLabelKeys(at *field.Path, match, mismatch []string, selector *metav1.LabelSelector) {
	p.labelKeys(at.Child("matchLabelKeys"), match, selector)
	p.labelKeys(at.Child("mismatchLabelKeys"), mismatch, selector)
	if selector != nil {
		index := make(map[string]int, len(match))
		for i, key := range match {
			index[key] = i
		}
		seen := sets.KeySet(selector.MatchLabels)
		for _, e := range selector.MatchExpressions {
			if i, ok := index[e.Key]; ok && seen.Has(e.Key) {
				p.invalid(at.Index(i), e.Key, "exists in both matchLabelKeys and labelSelector")
			}
			seen.Insert(e.Key)
		}
	}
	other := sets.New(mismatch...)
	for i, key := range match {
		if other.Has(key) {
			p.invalid(at.Child("matchLabelKeys").Index(i), key, "exists in both matchLabelKeys and mismatchLabelKeys")
		}
	}
}

func (p *podCheck) labelKeys(at *field.Path, keys []string, selector *metav1.LabelSelector) {
	if len(keys) > 0 && selector == nil {
		p.forbidden(at, "must not be specified when labelSelector is not set")
		return
	}
	for i, key := range keys {
		p.labelKey(at.Index(i), key)
	}
}

// spread checks how pods are spread over topologies.
func (p *podCheck) spread(at *field.Path) {
	all := p.spec.TopologySpreadConstraints
	for i := range all {
		c, at := &all[i], at.Index(i)
		p.positive(at.Child("maxSkew"), c.MaxSkew)
		if c.TopologyKey == "" {
			p.required(at.Child("topologyKey"), "can not be empty")
		}
		oneOf(&p.problems, at.Child("whenUnsatisfiable"), c.WhenUnsatisfiable, corev1.DoNotSchedule, corev1.ScheduleAnyway)
		for j := i + 1; j < len(all); j++ {
			if all[j].TopologyKey == c.TopologyKey && all[j].WhenUnsatisfiable == c.WhenUnsatisfiable {
				p.duplicate(at.Child("{topologyKey, whenUnsatisfiable}"), fmt.Sprintf("{%v, %v}", c.TopologyKey, c.WhenUnsatisfiable))
				break
			}
		}
		if c.MinDomains != nil {
			p.positive(at.Child("minDomains"), *c.MinDomains)
			if c.WhenUnsatisfiable != corev1.DoNotSchedule {
				p.invalid(at.Child("minDomains"), c.MinDomains,
					fmt.Sprintf("can only use minDomains if whenUnsatisfiable=%s, not %s", corev1.DoNotSchedule, c.WhenUnsatisfiable))
			}
		}
		optionalOneOf(&p.problems, at.Child("nodeAffinityPolicy"), c.NodeAffinityPolicy, corev1.NodeInclusionPolicyHonor, corev1.NodeInclusionPolicyIgnore)
		optionalOneOf(&p.problems, at.Child("nodeTaintsPolicy"), c.NodeTaintsPolicy, corev1.NodeInclusionPolicyHonor, corev1.NodeInclusionPolicyIgnore)
		p.ownLabelKeys(at, c.MatchLabelKeys, nil, c.LabelSelector)
		p.labelSelector(at.Child("labelSelector"), c.LabelSelector)
	}
}

func (p *problems) positive(at *field.Path, n int32) {
	if n <= 0 {
		p.invalid(at, int64(n), "must be greater than zero")
	}
}

// tolerations checks which taints a pod stands.
func (p *problems) tolerations(at *field.Path, all []corev1.Toleration) {
	for i := range all {
		t, at := &all[i], at.Index(i)
		if t.Key != "" {
			p.labelKey(at.Child("key"), t.Key)
		} else if t.Operator != corev1.TolerationOpExists {
			p.invalid(at.Child("operator"), t.Operator, "operator must be Exists when `key` is empty, which means \"match all values and all keys\"")
		}
		if t.TolerationSeconds != nil && t.Effect != corev1.TaintEffectNoExecute {
			p.invalid(at.Child("effect"), t.Effect, "effect must be 'NoExecute' when `tolerationSeconds` is set")
		}
		switch op := at.Child("operator"); t.Operator {
		case corev1.TolerationOpEqual, "":
			if m := utilvalidation.IsValidLabelValue(t.Value); len(m) > 0 {
				p.invalid(op, t.Value, strings.Join(m, ";"))
			}
		case corev1.TolerationOpExists:
			if t.Value != "" {
				p.invalid(op, t.Value, "value must be empty when `operator` is 'Exists'")
			}
		case corev1.TolerationOpLt, corev1.TolerationOpGt: // known, but off
			p.add(field.NotSupported(op, t.Operator,
				[]corev1.TolerationOperator{corev1.TolerationOpEqual, corev1.TolerationOpExists, corev1.TolerationOpLt, corev1.TolerationOpGt}))
		default:
			oneOf(p, op, t.Operator, corev1.TolerationOpEqual, corev1.TolerationOpExists)
		}
		if t.Effect != "" {
			oneOf(p, at.Child("effect"), t.Effect, corev1.TaintEffectNoSchedule, corev1.TaintEffectPreferNoSchedule, corev1.TaintEffectNoExecute)
		}
	}
}

// gates checks what must be before a pod is scheduled.
func (p *podCheck) gates(at *field.Path) {
	seen := map[string]bool{}
	for i, g := range p.spec.SchedulingGates {
		p.qualifiedName(at.Index(i), g.Name)
		unique(&p.problems, seen, at.Index(i), g.Name)
	}
}
