package fairness

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/apis/flowcontrol/bootstrap"

	"github.com/keelson-io/keelson/orchestrator/kinds"
)

// Default is an object that every cluster has.
type Default struct {
	kinds.Object
	// Mandatory objects are as they are. The others are only suggested: who changes one has it so.
	Mandatory bool
}

// Defaults returns kube-apiserver's.
func Defaults() (out []Default) {
	schemas := func(objects []*flowcontrolv1.FlowSchema, mandatory bool) {
		for _, o := range objects {
			o = o.DeepCopy()
			o.SetGroupVersionKind(flowcontrolv1.SchemeGroupVersion.WithKind("FlowSchema"))
			out = append(out, Default{o, mandatory})
		}
	}
	levels := func(objects []*flowcontrolv1.PriorityLevelConfiguration, mandatory bool) {
		for _, o := range objects {
			o = o.DeepCopy()
			o.SetGroupVersionKind(flowcontrolv1.SchemeGroupVersion.WithKind("PriorityLevelConfiguration"))
			out = append(out, Default{o, mandatory})
		}
	}
	levels(bootstrap.MandatoryPriorityLevelConfigurations, true)
	schemas(bootstrap.MandatoryFlowSchemas, true)
	levels(bootstrap.SuggestedPriorityLevelConfigurations, false)
	schemas(bootstrap.SuggestedFlowSchemas, false)
	return out
}

// automatic says whether an object follows its default: as its annotation says, otherwise if nobody changed it.
func automatic(o metav1.Object) (follows, annotated bool) {
	if v, err := strconv.ParseBool(o.GetAnnotations()[flowcontrolv1.AutoUpdateAnnotationKey]); err == nil {
		return v, true
	}
	return o.GetGeneration() == 1, false
}

// Reconcile returns what is to be stored instead of an object, nil if it is to stay.
func (d Default) Reconcile(have kinds.Object) kinds.Object {
	follows, annotated := automatic(have)
	right := annotated && (follows || !d.Mandatory)
	follows = follows || d.Mandatory
	next := have.DeepCopyObject().(kinds.Object)
	if follows {
		switch next := next.(type) {
		case *flowcontrolv1.FlowSchema:
			next.Spec = *d.Object.(*flowcontrolv1.FlowSchema).Spec.DeepCopy()
			right = right && equality.Semantic.DeepEqual(next.Spec, have.(*flowcontrolv1.FlowSchema).Spec)
		case *flowcontrolv1.PriorityLevelConfiguration:
			next.Spec = *d.Object.(*flowcontrolv1.PriorityLevelConfiguration).Spec.DeepCopy()
			right = right && equality.Semantic.DeepEqual(next.Spec, have.(*flowcontrolv1.PriorityLevelConfiguration).Spec)
		}
	}
	if right {
		return nil
	}
	annotations := map[string]string{}
	maps.Copy(annotations, have.GetAnnotations())
	annotations[flowcontrolv1.AutoUpdateAnnotationKey] = strconv.FormatBool(follows)
	next.SetAnnotations(annotations)
	return next
}

// Obsolete says that an object was a default of another version and followed it.
func Obsolete(o kinds.Object) bool {
	follows, annotated := automatic(o)
	return annotated && follows && !slices.ContainsFunc(Defaults(), func(d Default) bool {
		return d.GetName() == o.GetName() && d.GetObjectKind().GroupVersionKind().Kind == kindOf(o)
	})
}

func kindOf(o kinds.Object) string {
	if _, ok := o.(*flowcontrolv1.FlowSchema); ok {
		return "FlowSchema"
	}
	return "PriorityLevelConfiguration"
}

// Objects are the schemas and levels that were set.
func (l *Limiter) Objects() (out []kinds.Object) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, o := range l.schemas {
		out = append(out, o)
	}
	for _, o := range l.objects {
		out = append(out, o)
	}
	return out
}

// Changed holds something when objects have changed since it was last received from.
func (l *Limiter) Changed() <-chan struct{} { return l.changed }

// Dangling is a condition that a FlowSchema is to have.
type Dangling struct {
	Schema    string
	Condition flowcontrolv1.FlowSchemaCondition
}

// Danglings returns the conditions of schemas that do not have the right one, in the order of their names.
func (l *Limiter) Danglings(now time.Time) (out []Dangling) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for name, o := range l.schemas {
		level := o.Spec.PriorityLevelConfiguration.Name
		have := l.objects[level]
		c := flowcontrolv1.FlowSchemaCondition{
			Type: flowcontrolv1.FlowSchemaConditionDangling, Status: flowcontrolv1.ConditionFalse, Reason: "Found",
			Message: fmt.Sprintf("This FlowSchema references the PriorityLevelConfiguration object named %q and it exists", level),
		}
		if have == nil || !sound(have) {
			c.Status, c.Reason = flowcontrolv1.ConditionTrue, "NotFound"
			c.Message = fmt.Sprintf("This FlowSchema references the PriorityLevelConfiguration object named %q but there is no such object", level)
		}
		c.LastTransitionTime = metav1.NewTime(now)
		right := false
		for _, have := range o.Status.Conditions {
			if have.Type != c.Type {
				continue
			}
			right = have.Status == c.Status && have.Reason == c.Reason && have.Message == c.Message
			if have.Status == c.Status {
				c.LastTransitionTime = have.LastTransitionTime
			}
		}
		if !right {
			out = append(out, Dangling{name, c})
		}
	}
	slices.SortFunc(out, func(a, b Dangling) int { return cmp.Compare(a.Schema, b.Schema) })
	return out
}
