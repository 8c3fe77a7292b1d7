package kinds

import (
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

const eventsPlace = "events"

// eventLifecycle: an event is kept for an hour after it was last written.
func eventLifecycle() Lifecycle {
	return Lifecycle{Unconditional: true, CreateOnUpdate: true, TTL: time.Hour}
}

func eventKind() *Kind {
	return with(Kind{
		GroupVersionKind: corev1.SchemeGroupVersion.WithKind("Event"), Resource: "events", Singular: "event", ShortNames: []string{"ev"}, Namespaced: true,
		Place: eventsPlace, New: func() Object { return &corev1.Event{} }, NewList: func() runtime.Object { return &corev1.EventList{} },
		NameErrors: validation.NameIsDNSSubdomain, Lifecycle: eventLifecycle(), Columns: eventColumns(),
		FieldNames: []string{
			"involvedObject.kind", "involvedObject.namespace", "involvedObject.name", "involvedObject.uid", "involvedObject.apiVersion",
			"involvedObject.resourceVersion", "involvedObject.fieldPath", "reason", "reportingComponent", "source", "type",
		},
	}, Rules[*corev1.Event]{
		Validate: validateCoreEvent,
		Fields: func(o *corev1.Event) map[string]string {
			f := referenceFields("involvedObject", &o.InvolvedObject)
			f["reason"], f["type"] = o.Reason, o.Type
			f["reportingComponent"], f["source"] = o.ReportingController, orText(o.Source.Component, o.ReportingController)
			return f
		},
		Row: eventRow,
	})
}

// eventsKinds are the events of the core group, and those of events.k8s.io: the same under new names.
func eventsKinds() []*Kind {
	stored := eventKind()
	return []*Kind{stored, with(Kind{
		GroupVersionKind: eventsv1.SchemeGroupVersion.WithKind("Event"), Resource: "events", Singular: "event", ShortNames: []string{"ev"}, Namespaced: true,
		Place: eventsPlace, New: func() Object { return &eventsv1.Event{} }, NewList: func() runtime.Object { return &eventsv1.EventList{} },
		NameErrors: validation.NameIsDNSSubdomain, Lifecycle: eventLifecycle(), Columns: eventColumns(),
		Stored: &Conversion{
			Kind: stored,
			To:   func(o Object) (Object, error) { return eventToCore(o.(*eventsv1.Event).DeepCopy()), nil },
			From: func(o ...Object) ([]Object, error) {
				out := make([]Object, len(o))
				for i, e := range o {
					out[i] = eventFromCore(e.(*corev1.Event).DeepCopy())
				}
				return out, nil
			},
		},
		FieldNames: []string{
			"regarding.kind", "regarding.namespace", "regarding.name", "regarding.uid", "regarding.apiVersion", "regarding.resourceVersion",
			"regarding.fieldPath", "reason", "reportingController", "type",
		},
	}, Rules[*eventsv1.Event]{
		Validate: validateEvent, ValidateUpdate: validateEventUpdate, Ratchets: true,
		Fields: func(o *eventsv1.Event) map[string]string {
			f := referenceFields("regarding", &o.Regarding)
			f["reason"], f["type"], f["reportingController"] = o.Reason, o.Type, o.ReportingController
			return f
		},
		Row: func(o *eventsv1.Event, now time.Time) []any { return eventRow(eventToCore(o), now) },
	})}
}

func referenceFields(at string, r *corev1.ObjectReference) map[string]string {
	return map[string]string{
		at + ".kind": r.Kind, at + ".namespace": r.Namespace, at + ".name": r.Name, at + ".uid": string(r.UID), at + ".apiVersion": r.APIVersion,
		at + ".resourceVersion": r.ResourceVersion, at + ".fieldPath": r.FieldPath,
	}
}

// eventToCore returns an event with its parts, not copies of them, as one of the core group.
func eventToCore(o *eventsv1.Event) *corev1.Event {
	e := &corev1.Event{
		TypeMeta:       metav1.TypeMeta{APIVersion: corev1.SchemeGroupVersion.String(), Kind: "Event"},
		ObjectMeta:     o.ObjectMeta,
		InvolvedObject: o.Regarding, Related: o.Related, Reason: o.Reason, Message: o.Note, Type: o.Type, Action: o.Action, EventTime: o.EventTime,
		Source: o.DeprecatedSource, FirstTimestamp: o.DeprecatedFirstTimestamp, LastTimestamp: o.DeprecatedLastTimestamp, Count: o.DeprecatedCount,
		ReportingController: o.ReportingController, ReportingInstance: o.ReportingInstance,
	}
	if s := o.Series; s != nil {
		e.Series = &corev1.EventSeries{Count: s.Count, LastObservedTime: s.LastObservedTime}
	}
	return e
}

// eventFromCore is the reverse of eventToCore.
func eventFromCore(o *corev1.Event) *eventsv1.Event {
	e := &eventsv1.Event{
		TypeMeta:   metav1.TypeMeta{APIVersion: eventsv1.SchemeGroupVersion.String(), Kind: "Event"},
		ObjectMeta: o.ObjectMeta,
		Regarding:  o.InvolvedObject, Related: o.Related, Reason: o.Reason, Note: o.Message, Type: o.Type, Action: o.Action, EventTime: o.EventTime,
		DeprecatedSource: o.Source, DeprecatedFirstTimestamp: o.FirstTimestamp, DeprecatedLastTimestamp: o.LastTimestamp, DeprecatedCount: o.Count,
		ReportingController: o.ReportingController, ReportingInstance: o.ReportingInstance,
	}
	if s := o.Series; s != nil {
		e.Series = &eventsv1.EventSeries{Count: s.Count, LastObservedTime: s.LastObservedTime}
	}
	return e
}

func eventColumns() []metav1.TableColumnDefinition {
	doc := corev1.Event{}.SwaggerDoc()
	name := nameColumn
	name.Priority = 1
	return []metav1.TableColumnDefinition{
		textColumn("Last Seen", doc["lastTimestamp"]), textColumn("Type", doc["type"]), textColumn("Reason", doc["reason"]),
		textColumn("Object", doc["involvedObject"]), wideColumn("Subobject", corev1.ObjectReference{}.SwaggerDoc()["fieldPath"]),
		wideColumn("Source", doc["source"]), textColumn("Message", doc["message"]), wideColumn("First Seen", doc["firstTimestamp"]),
		wideColumn("Count", doc["count"]), name,
	}
}

func eventRow(o *corev1.Event, now time.Time) []any {
	first := since(o.FirstTimestamp.Time, now)
	if o.FirstTimestamp.IsZero() {
		first = since(o.EventTime.Time, now)
	}
	last := since(o.LastTimestamp.Time, now)
	if o.LastTimestamp.IsZero() {
		last = first
	}
	count := o.Count
	switch {
	case o.Series != nil:
		last, count = since(o.Series.LastObservedTime.Time, now), o.Series.Count
	case count == 0:
		count = 1
	}
	object := strings.ToLower(o.InvolvedObject.Kind)
	if o.InvolvedObject.Name != "" {
		object += "/" + o.InvolvedObject.Name
	}
	source := orText(o.Source.Component, o.ReportingController)
	if instance := orText(o.Source.Host, o.ReportingInstance); instance != "" {
		source += ", " + instance
	}
	return []any{last, o.Type, o.Reason, object, o.InvolvedObject.FieldPath, source, strings.TrimSpace(o.Message), first, int64(count), o.Name}
}
