package kinds

import (
	"fmt"
	"slices"
	"strings"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/labels"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"
)

// Limits of jobs. Those with indexes list them in their status, which must not grow too long.
const (
	maxIndexedPods       = 100_000
	manyCompletions      = 100_000
	maxWithMany          = 10_000
	maxFailureRules      = 20
	maxFailureExitCodes  = 255
	maxConditionPatterns = 20
	maxSuccessRules      = 20
	maxIndexesBytes      = 64 * 1024
	maxManagerBytes      = 63
)

func isIndexed(s *batchv1.JobSpec) bool {
	return ptr.Deref(s.CompletionMode, batchv1.NonIndexedCompletion) == batchv1.IndexedCompletion
}

// validateJob checks a new job.
func validateJob(o *batchv1.Job) field.ErrorList {
	var p problems
	p.ownSelector(o)
	p.wholeJob(o, false)
	return p.list
}

// validateJobUpdate checks a changed job. A selector may have bad values if it had them before.
func validateJobUpdate(o, old *batchv1.Job) field.ErrorList {
	var p problems
	p.wholeJob(o, metav1validation.LabelSelectorHasInvalidLabelValue(old.Spec.Selector))
	s, was, at := &o.Spec, &old.Spec, field.NewPath("spec")
	switch {
	case !isIndexed(s):
		p.immutable(at.Child("completions"), s.Completions, was.Completions)
	case s.Completions != nil && !equality.Semantic.DeepEqual(s.Completions, was.Completions) && *s.Completions != ptr.Deref(s.Parallelism, 0):
		p.invalid(at.Child("completions"), *s.Completions, "can only be modified in tandem with spec.parallelism")
	}
	p.immutable(at.Child("selector"), s.Selector, was.Selector)
	p.jobTemplateChange(at, o, old)
	p.immutable(at.Child("completionMode"), s.CompletionMode, was.CompletionMode)
	p.immutable(at.Child("podFailurePolicy"), s.PodFailurePolicy, was.PodFailurePolicy)
	p.immutable(at.Child("backoffLimitPerIndex"), s.BackoffLimitPerIndex, was.BackoffLimitPerIndex)
	p.immutable(at.Child("managedBy"), s.ManagedBy, was.ManagedBy)
	p.immutable(at.Child("successPolicy"), s.SuccessPolicy, was.SuccessPolicy)
	return p.list
}

// wholeJob checks a job with its selector and its name.
func (p *problems) wholeJob(o *batchv1.Job, badValues bool) {
	s, at := &o.Spec, field.NewPath("spec")
	p.jobSpec(at, s)
	if s.Selector == nil {
		p.required(at.Child("selector"), "")
	} else {
		options := metav1validation.LabelSelectorValidationOptions{AllowInvalidLabelValueInSelector: badValues}
		p.add(metav1validation.ValidateLabelSelector(s.Selector, options, at.Child("selector"))...)
	}
	if selector, err := metav1.LabelSelectorAsSelector(s.Selector); err == nil && !selector.Matches(labels.Set(s.Template.Labels)) {
		p.invalid(at.Child("template", "metadata", "labels"), s.Template.Labels, "`selector` does not match template `labels`")
	}
	if n := ptr.Deref(s.Completions, 0); isIndexed(s) && n > 0 {
		if host := fmt.Sprintf("%s-%d", o.Name, n-1); len(utilvalidation.IsDNS1123Label(host)) > 0 {
			p.invalid(field.NewPath("metadata", "name"), o.Name, "will not able to create pod with invalid DNS label: "+host)
		}
	}
}

// ownSelector checks that a job selects its own pods, unless it says how.
func (p *problems) ownSelector(o *batchv1.Job) {
	if ptr.Deref(o.Spec.ManualSelector, false) || o.Spec.Selector == nil {
		return
	}
	if o.UID == "" {
		p.required(field.NewPath("metadata", "uid"), "")
	}
	want := labels.Set{}
	for _, l := range []struct{ key, value string }{
		{oldControllerUIDLabel, string(o.UID)}, {oldJobNameLabel, o.Name},
		{batchv1.ControllerUidLabel, string(o.UID)}, {batchv1.JobNameLabel, o.Name},
	} {
		want[l.key] = l.value
		at := field.NewPath("spec", "template", "metadata", "labels").Key(l.key)
		if value, ok := o.Spec.Template.Labels[l.key]; !ok {
			p.required(at, "must be '"+l.value+"'")
		} else if value != l.value {
			p.invalid(at, o.Spec.Template.Labels, "must be '"+l.value+"'")
		}
	}
	if selector, err := metav1.LabelSelectorAsSelector(o.Spec.Selector); err == nil && !selector.Matches(want) {
		p.invalid(field.NewPath("spec", "selector"), o.Spec.Selector, "`selector` not auto-generated")
	}
}

// jobSpec checks what a job and the template of a CronJob have.
func (p *problems) jobSpec(at *field.Path, s *batchv1.JobSpec) {
	optionalNotNegative(p, at.Child("parallelism"), s.Parallelism)
	optionalNotNegative(p, at.Child("completions"), s.Completions)
	optionalNotNegative(p, at.Child("activeDeadlineSeconds"), s.ActiveDeadlineSeconds)
	optionalNotNegative(p, at.Child("backoffLimit"), s.BackoffLimit)
	optionalNotNegative(p, at.Child("ttlSecondsAfterFinished"), s.TTLSecondsAfterFinished)
	optionalNotNegative(p, at.Child("backoffLimitPerIndex"), s.BackoffLimitPerIndex)
	optionalNotNegative(p, at.Child("maxFailedIndexes"), s.MaxFailedIndexes)
	if s.MaxFailedIndexes != nil && s.BackoffLimitPerIndex == nil {
		p.required(at.Child("backoffLimitPerIndex"), "when maxFailedIndexes is specified")
	}
	if m := s.ManagedBy; m != nil {
		p.add(utilvalidation.IsDomainPrefixedPath(at.Child("managedBy"), *m)...)
		if len(*m) > maxManagerBytes {
			p.add(field.TooLong(at.Child("managedBy"), "", maxManagerBytes))
		}
	}
	if m := s.CompletionMode; m != nil {
		oneOf(p, at.Child("completionMode"), *m, batchv1.NonIndexedCompletion, batchv1.IndexedCompletion)
	}
	p.indexes(at, s)
	if s.PodFailurePolicy != nil {
		p.failurePolicy(at.Child("podFailurePolicy", "rules"), s)
	}
	switch {
	case s.SuccessPolicy == nil:
	case !isIndexed(s):
		p.invalid(at.Child("successPolicy"), *s.SuccessPolicy, "requires indexed completion mode")
	default:
		p.successPolicy(at.Child("successPolicy", "rules"), s)
	}
	switch r := s.PodReplacementPolicy; {
	case r == nil:
	case s.PodFailurePolicy != nil:
		oneOf(p, at.Child("podReplacementPolicy"), *r, batchv1.Failed)
	default:
		oneOf(p, at.Child("podReplacementPolicy"), *r, batchv1.Failed, batchv1.TerminatingOrFailed)
	}
	p.template(at.Child("template"), &s.Template)
	p.jobRestarts(at.Child("template", "spec", "restartPolicy"), s)
}

// indexes checks the numbers of a job that counts its pods by their index, or that does not.
func (p *problems) indexes(at *field.Path, s *batchv1.JobSpec) {
	limit, failed := s.BackoffLimitPerIndex, s.MaxFailedIndexes
	if !isIndexed(s) {
		if s.CompletionMode != nil && *s.CompletionMode != batchv1.NonIndexedCompletion {
			return
		}
		if limit != nil {
			p.invalid(at.Child("backoffLimitPerIndex"), *limit, "requires indexed completion mode")
		}
		if failed != nil {
			p.invalid(at.Child("maxFailedIndexes"), *failed, "requires indexed completion mode")
		}
		return
	}
	parallel, parallelism := ptr.Deref(s.Parallelism, 0), at.Child("parallelism")
	if s.Completions == nil {
		p.required(at.Child("completions"), "when completion mode is Indexed")
	}
	if parallel > maxIndexedPods {
		p.invalid(parallelism, parallel, fmt.Sprintf("must be less than or equal to %d when completion mode is Indexed", maxIndexedPods))
	}
	if s.Completions != nil && failed != nil && *failed > *s.Completions {
		p.invalid(at.Child("maxFailedIndexes"), *failed, "must be less than or equal to completions")
	}
	if failed != nil && *failed > maxIndexedPods {
		p.invalid(at.Child("maxFailedIndexes"), *failed, fmt.Sprintf("must be less than or equal to %d", maxIndexedPods))
	}
	if ptr.Deref(s.Completions, 0) <= manyCompletions || limit == nil {
		return
	}
	tooMany := fmt.Sprintf("must be less than or equal to %d when completions are above %d and used with backoff limit per index", maxWithMany, manyCompletions)
	if failed == nil {
		p.required(at.Child("maxFailedIndexes"), fmt.Sprintf("must be specified when completions is above %d", manyCompletions))
	}
	if parallel > maxWithMany {
		p.invalid(parallelism, parallel, tooMany)
	}
	if failed != nil && *failed > maxWithMany {
		p.invalid(at.Child("maxFailedIndexes"), *failed, tooMany)
	}
}

func (p *problems) jobRestarts(at *field.Path, s *batchv1.JobSpec) {
	onFailure, never := corev1.RestartPolicyOnFailure, corev1.RestartPolicyNever
	switch r := s.Template.Spec.RestartPolicy; {
	case r == "" || r == corev1.RestartPolicyAlways:
		p.required(at, fmt.Sprintf("valid values: %q, %q", onFailure, never))
	case r != onFailure && r != never:
		p.add(field.NotSupported(at, r, []corev1.RestartPolicy{onFailure, never}))
	case s.PodFailurePolicy != nil && r != never:
		p.invalid(at, string(r), fmt.Sprintf("only %q is supported when podFailurePolicy is specified", never))
	}
}

func (p *problems) failurePolicy(at *field.Path, s *batchv1.JobSpec) {
	rules := s.PodFailurePolicy.Rules
	if len(rules) > maxFailureRules {
		p.add(field.TooMany(at, len(rules), maxFailureRules))
	}
	var containers []string
	for _, l := range [][]corev1.Container{s.Template.Spec.Containers, s.Template.Spec.InitContainers} {
		for i := range l {
			containers = append(containers, l[i].Name)
		}
	}
	actions := []batchv1.PodFailurePolicyAction{
		batchv1.PodFailurePolicyActionCount, batchv1.PodFailurePolicyActionFailIndex,
		batchv1.PodFailurePolicyActionFailJob, batchv1.PodFailurePolicyActionIgnore,
	}
	for i := range rules {
		r, at := &rules[i], at.Index(i)
		switch {
		case r.Action == "":
			p.required(at.Child("action"), fmt.Sprintf("valid values: %q", actions))
		case r.Action == batchv1.PodFailurePolicyActionFailIndex && s.BackoffLimitPerIndex == nil:
			p.invalid(at.Child("action"), string(r.Action), "requires the backoffLimitPerIndex to be set")
		default:
			oneOf(p, at.Child("action"), r.Action, actions...)
		}
		if r.OnExitCodes != nil {
			p.exitCodes(at.Child("onExitCodes"), r.OnExitCodes, containers)
		}
		p.conditionPatterns(at.Child("onPodConditions"), r.OnPodConditions)
		switch both := len(r.OnPodConditions) > 0; {
		case r.OnExitCodes != nil && both:
			p.invalid(at, field.OmitValueType{}, "specifying both OnExitCodes and OnPodConditions is not supported")
		case r.OnExitCodes == nil && !both:
			p.invalid(at, field.OmitValueType{}, "specifying one of OnExitCodes and OnPodConditions is required")
		}
	}
}

func (p *problems) exitCodes(at *field.Path, r *batchv1.PodFailurePolicyOnExitCodesRequirement, containers []string) {
	operators := []batchv1.PodFailurePolicyOnExitCodesOperator{batchv1.PodFailurePolicyOnExitCodesOpIn, batchv1.PodFailurePolicyOnExitCodesOpNotIn}
	if r.Operator == "" {
		p.required(at.Child("operator"), fmt.Sprintf("valid values: %q", operators))
	} else {
		oneOf(p, at.Child("operator"), r.Operator, operators...)
	}
	if n := r.ContainerName; n != nil && !slices.Contains(containers, *n) {
		p.invalid(at.Child("containerName"), *n, "must be one of the container or initContainer names in the pod template")
	}
	at = at.Child("values")
	switch n := len(r.Values); {
	case n == 0:
		p.invalid(at, r.Values, "at least one value is required")
	case n > maxFailureExitCodes:
		p.add(field.TooMany(at, n, maxFailureExitCodes))
	}
	seen := map[int32]bool{}
	for i, v := range r.Values {
		if v == 0 && r.Operator == batchv1.PodFailurePolicyOnExitCodesOpIn {
			p.invalid(at.Index(i), v, "must not be 0 for the In operator")
		}
		unique(p, seen, at.Index(i), v)
	}
	if !slices.IsSorted(r.Values) {
		p.invalid(at, r.Values, "must be ordered")
	}
}

func (p *problems) conditionPatterns(at *field.Path, patterns []batchv1.PodFailurePolicyOnPodConditionsPattern) {
	if len(patterns) > maxConditionPatterns {
		p.add(field.TooMany(at, len(patterns), maxConditionPatterns))
	}
	states := []corev1.ConditionStatus{corev1.ConditionFalse, corev1.ConditionTrue, corev1.ConditionUnknown}
	for i, c := range patterns {
		p.qualifiedName(at.Index(i).Child("type"), string(c.Type))
		if c.Status == "" {
			p.required(at.Index(i).Child("status"), fmt.Sprintf("valid values: %q", states))
		} else {
			oneOf(p, at.Index(i).Child("status"), c.Status, states...)
		}
	}
}

func (p *problems) successPolicy(at *field.Path, s *batchv1.JobSpec) {
	rules := s.SuccessPolicy.Rules
	if len(rules) == 0 {
		p.required(at, "at least one rules must be specified when the successPolicy is specified")
	}
	if len(rules) > maxSuccessRules {
		p.add(field.TooMany(at, len(rules), maxSuccessRules))
	}
	completions := ptr.Deref(s.Completions, 0)
	for i, r := range rules {
		at := at.Index(i)
		if r.SucceededCount == nil && r.SucceededIndexes == nil {
			p.required(at, "at least one of succeededCount or succeededIndexes must be specified")
		}
		var listed int32
		if text := r.SucceededIndexes; text != nil {
			at := at.Child("succeededIndexes")
			if len(*text) > maxIndexesBytes {
				p.add(field.TooLong(at, "", maxIndexesBytes))
			}
			l, err := parseIndexes(*text, completions)
			if err != nil {
				p.invalid(at, *text, "error parsing succeededIndexes: "+err.Error())
			}
			listed = l.size()
		}
		if n := r.SucceededCount; n != nil {
			at := at.Child("succeededCount")
			p.notNegative(at, int64(*n))
			p.notAbove(at, *n, completions, fmt.Sprintf("must be less than or equal to %d (the number of specified completions)", completions))
			if r.SucceededIndexes != nil {
				p.notAbove(at, *n, listed, fmt.Sprintf("must be less than or equal to %d (the number of indexes in the specified succeededIndexes field)", listed))
			}
		}
	}
}

// jobTemplateChange allows the template of a job to change only while it is suspended and has no pods: where they run, and what
// they get.
func (p *problems) jobTemplateChange(at *field.Path, o, old *batchv1.Job) {
	s, was := &o.Spec.Template, old.Spec.Template.DeepCopy()
	suspended := ptr.Deref(old.Spec.Suspend, false)
	idle := suspended && old.Status.Active == 0 && (old.Status.StartTime == nil || jobIs(old, batchv1.JobSuspended))
	if !idle {
		p.immutable(at.Child("template"), s, was)
		return
	}
	allowScheduling(s, was)
	allowResources(s.Spec.Containers, was.Spec.Containers)
	allowResources(s.Spec.InitContainers, was.Spec.InitContainers)
	p.immutable(at.Child("template.spec"), s.Spec, was.Spec)
}

// allowScheduling makes an old template like a new one in what says where pods run.
func allowScheduling(s, was *corev1.PodTemplateSpec) {
	switch a, b := s.Spec.Affinity, was.Spec.Affinity; {
	case a == nil && b != nil:
		if b.NodeAffinity = nil; *b == (corev1.Affinity{}) {
			was.Spec.Affinity = nil
		}
	case a != nil && b == nil:
		was.Spec.Affinity = &corev1.Affinity{NodeAffinity: a.NodeAffinity}
	case a != nil:
		b.NodeAffinity = a.NodeAffinity
	}
	was.Spec.NodeSelector, was.Spec.Tolerations, was.Spec.SchedulingGates = s.Spec.NodeSelector, s.Spec.Tolerations, s.Spec.SchedulingGates
	was.Annotations, was.Labels = s.Annotations, s.Labels
}

func allowResources(s, was []corev1.Container) {
	if len(s) != len(was) {
		return
	}
	for i := range s {
		if s[i].Name == was[i].Name {
			was[i].Resources = s[i].Resources
		}
	}
}

// isTimeZonePart says whether a text may be a part of the name of a time zone.
func isTimeZonePart(part string) bool {
	const longest = 14
	odd := func(r rune) bool {
		return !strings.ContainsRune(".-_+", r) && (r < '0' || r > '9') && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z')
	}
	return part != "" && len(part) <= longest && part != "." && part != ".." && !strings.HasPrefix(part, "-") && !strings.ContainsFunc(part, odd)
}
