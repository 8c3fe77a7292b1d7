package kinds

import (
	"time"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// Defaults of flow control.
const (
	defaultPrecedence  = 1000
	defaultShares      = 30
	defaultHandSize    = 8
	defaultQueues      = 64
	defaultQueueLength = 50
)

// flowcontrolKinds are those of flowcontrol.apiserver.k8s.io.
func flowcontrolKinds() []*Kind { return []*Kind{flowSchemaKind(), priorityLevelKind()} }

func flowSchemaKind() *Kind {
	doc := flowcontrolv1.FlowSchemaSpec{}.SwaggerDoc()
	return with(Kind{
		GroupVersionKind: flowcontrolv1.SchemeGroupVersion.WithKind("FlowSchema"), Resource: "flowschemas", Singular: "flowschema",
		Place: "flowschemas", New: func() Object { return &flowcontrolv1.FlowSchema{} }, NewList: func() runtime.Object { return &flowcontrolv1.FlowSchemaList{} },
		NameErrors: validation.NameIsDNSSubdomain, Lifecycle: Lifecycle{Generation: true, Unconditional: true},
		Columns: []metav1.TableColumnDefinition{
			nameColumn,
			textColumn("PriorityLevel", flowcontrolv1.PriorityLevelConfigurationReference{}.SwaggerDoc()["name"]),
			textColumn("MatchingPrecedence", doc["matchingPrecedence"]),
			textColumn("DistinguisherMethod", doc["distinguisherMethod"]),
			ageColumn,
			textColumn("MissingPL", "references a broken or non-existent PriorityLevelConfiguration"),
		},
	}, Rules[*flowcontrolv1.FlowSchema]{
		Default:  func(o *flowcontrolv1.FlowSchema) { fillZero(&o.Spec.MatchingPrecedence, defaultPrecedence) },
		Validate: validateFlowSchema, ValidateStatus: validateFlowSchemaStatus,
		Spec: func(o *flowcontrolv1.FlowSchema) any { return &o.Spec }, Status: func(o *flowcontrolv1.FlowSchema) any { return &o.Status },
		UpdateStatus: func(o, old *flowcontrolv1.FlowSchema) { keepMetadata(&o.ObjectMeta, &old.ObjectMeta) },
		Row: func(o *flowcontrolv1.FlowSchema, now time.Time) []any {
			method := noCell
			if m := o.Spec.DistinguisherMethod; m != nil {
				method = string(m.Type)
			}
			dangling := "?"
			for _, c := range o.Status.Conditions {
				if c.Type == flowcontrolv1.FlowSchemaConditionDangling {
					dangling = string(c.Status)
					break
				}
			}
			return []any{o.Name, o.Spec.PriorityLevelConfiguration.Name, int64(o.Spec.MatchingPrecedence), method, age(o, now), dangling}
		},
	})
}

// keepMetadata restores all metadata but who manages what.
func keepMetadata(m, old *metav1.ObjectMeta) {
	managed := m.ManagedFields
	old.DeepCopyInto(m)
	m.ManagedFields = managed
}

func priorityLevelKind() *Kind {
	limited, queuing := flowcontrolv1.LimitedPriorityLevelConfiguration{}.SwaggerDoc(), flowcontrolv1.QueuingConfiguration{}.SwaggerDoc()
	return with(Kind{
		GroupVersionKind: flowcontrolv1.SchemeGroupVersion.WithKind("PriorityLevelConfiguration"),
		Resource:         "prioritylevelconfigurations", Singular: "prioritylevelconfiguration", Place: "prioritylevelconfigurations",
		New:        func() Object { return &flowcontrolv1.PriorityLevelConfiguration{} },
		NewList:    func() runtime.Object { return &flowcontrolv1.PriorityLevelConfigurationList{} },
		NameErrors: validation.NameIsDNSSubdomain, Lifecycle: Lifecycle{Generation: true, Unconditional: true},
		Columns: []metav1.TableColumnDefinition{
			nameColumn,
			textColumn("Type", flowcontrolv1.PriorityLevelConfigurationSpec{}.SwaggerDoc()["type"]),
			textColumn("NominalConcurrencyShares", limited["nominalConcurrencyShares"]),
			textColumn("Queues", queuing["queues"]),
			textColumn("HandSize", queuing["handSize"]),
			textColumn("QueueLengthLimit", queuing["queueLengthLimit"]),
			ageColumn,
		},
	}, Rules[*flowcontrolv1.PriorityLevelConfiguration]{
		Default:  defaultPriorityLevel,
		Validate: validatePriorityLevel, ValidateStatus: validatePriorityLevelStatus,
		Spec:   func(o *flowcontrolv1.PriorityLevelConfiguration) any { return &o.Spec },
		Status: func(o *flowcontrolv1.PriorityLevelConfiguration) any { return &o.Status },
		UpdateStatus: func(o, old *flowcontrolv1.PriorityLevelConfiguration) {
			keepMetadata(&o.ObjectMeta, &old.ObjectMeta)
		},
		Row: priorityLevelRow,
	})
}

func defaultPriorityLevel(o *flowcontrolv1.PriorityLevelConfiguration) {
	if e := o.Spec.Exempt; e != nil {
		fill(&e.NominalConcurrencyShares, 0)
		fill(&e.LendablePercent, 0)
	}
	l := o.Spec.Limited
	if l == nil {
		return
	}
	fill(&l.NominalConcurrencyShares, defaultShares)
	fill(&l.LendablePercent, 0)
	if q := l.LimitResponse.Queuing; q != nil {
		fillZero(&q.HandSize, defaultHandSize)
		fillZero(&q.Queues, defaultQueues)
		fillZero(&q.QueueLengthLimit, defaultQueueLength)
	}
}

func priorityLevelRow(o *flowcontrolv1.PriorityLevelConfiguration, now time.Time) []any {
	var shares, queues, hand, length any = noCell, noCell, noCell, noCell
	if l := o.Spec.Limited; l != nil {
		shares = int64(0)
		if n := l.NominalConcurrencyShares; n != nil {
			shares = int64(*n)
		}
		if q := l.LimitResponse.Queuing; q != nil {
			queues, hand, length = int64(q.Queues), int64(q.HandSize), int64(q.QueueLengthLimit)
		}
	}
	return []any{o.Name, string(o.Spec.Type), shares, queues, hand, length, age(o, now)}
}
