package kinds

import (
	"fmt"
	"reflect"
	"time"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// How long texts of events may be, in bytes.
const (
	maxEventText = 128
	maxEventNote = 1024
)

// validateCoreEvent is all that was ever checked of events of the core group.
func validateCoreEvent(o *corev1.Event) field.ErrorList {
	var p problems
	p.event(o, "reportingComponent")
	return p.list
}

// event checks an event. controller is the field that names the reporting controller.
func (p *problems) event(o *corev1.Event, controller string) {
	at, in := field.NewPath("involvedObject", "namespace"), o.InvolvedObject.Namespace
	const differs = "does not match event.namespace"
	if o.EventTime.IsZero() { // an event of the old sort
		if in != o.Namespace && (in != "" || o.Namespace != metav1.NamespaceDefault) {
			p.invalid(at, in, differs)
		}
		return
	}
	if in == "" && o.Namespace != metav1.NamespaceDefault && o.Namespace != metav1.NamespaceSystem {
		p.invalid(at, in, differs)
	}
	p.have(field.NewPath(controller), o.ReportingController)
	p.qualifiedName(field.NewPath(controller), o.ReportingController)
	for _, t := range []struct{ name, text string }{{"reportingInstance", o.ReportingInstance}, {"action", o.Action}, {"reason", o.Reason}} {
		p.have(field.NewPath(t.name), t.text)
		p.atMost(t.name, t.text, maxEventText)
	}
	p.atMost("message", o.Message, maxEventNote)
}

func (p *problems) atMost(name, text string, n int) {
	if len(text) > n {
		p.invalid(field.NewPath(name), "", fmt.Sprintf("can have at most %v characters", n))
	}
}

// validateEvent is what is checked of events of events.k8s.io, whose problems are told with the names of the core group's fields.
func validateEvent(e *eventsv1.Event) field.ErrorList {
	var p problems
	o := eventToCore(e)
	p.event(o, "reportingController")
	p.series(o)
	if o.EventTime.IsZero() {
		p.required(field.NewPath("eventTime"), "")
	}
	if o.Type != corev1.EventTypeNormal && o.Type != corev1.EventTypeWarning {
		p.invalid(field.NewPath("type"), "", fmt.Sprintf("has invalid value: %v", o.Type))
	}
	for _, f := range []struct {
		name string
		set  bool
	}{
		{"firstTimestamp", !o.FirstTimestamp.IsZero()}, {"lastTimestamp", !o.LastTimestamp.IsZero()}, {"count", o.Count != 0},
		{"source", o.Source != corev1.EventSource{}},
	} {
		if f.set {
			p.invalid(field.NewPath(f.name), "", "needs to be unset")
		}
	}
	return p.list
}

func (p *problems) series(o *corev1.Event) {
	if o.Series == nil {
		return
	}
	if o.Series.Count < 2 {
		p.invalid(field.NewPath("series.count"), "", "should be at least 2")
	}
	if o.Series.LastObservedTime.IsZero() {
		p.required(field.NewPath("series.lastObservedTime"), "")
	}
}

// validateEventUpdate lets an event change in its series alone.
func validateEventUpdate(e, was *eventsv1.Event) field.ErrorList {
	var p problems
	o, old := eventToCore(e), eventToCore(was)
	p.event(o, "reportingController")
	if !reflect.DeepEqual(o.Series, old.Series) {
		p.series(o)
	}
	for _, f := range []struct {
		name    string
		is, was any
	}{
		{"involvedObject", o.InvolvedObject, old.InvolvedObject}, {"reason", o.Reason, old.Reason}, {"message", o.Message, old.Message},
		{"source", o.Source, old.Source}, {"firstTimestamp", o.FirstTimestamp, old.FirstTimestamp},
		{"lastTimestamp", o.LastTimestamp, old.LastTimestamp}, {"count", o.Count, old.Count}, {"reason", o.Reason, old.Reason}, {"type", o.Type, old.Type},
	} {
		p.add(validation.ValidateImmutableField(f.is, f.was, field.NewPath(f.name))...)
	}
	if !o.EventTime.Truncate(time.Microsecond).Equal(old.EventTime.Truncate(time.Microsecond)) { // finer than what is stored
		p.add(validation.ValidateImmutableField(o.EventTime, old.EventTime, field.NewPath("eventTime"))...)
	}
	for _, f := range []struct {
		name    string
		is, was any
	}{
		{"action", o.Action, old.Action}, {"related", o.Related, old.Related},
		{"reportingController", o.ReportingController, old.ReportingController}, {"reportingInstance", o.ReportingInstance, old.ReportingInstance},
	} {
		p.add(validation.ValidateImmutableField(f.is, f.was, field.NewPath(f.name))...)
	}
	return p.list
}
