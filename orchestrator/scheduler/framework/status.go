package framework

import (
	"errors"
	"slices"
	"strings"
)

// Code is the outcome of a plugin's call.
type Code int8

const (
	// Success lets the pod pass. A nil Status is Success, too.
	Success Code = iota
	// Error is an unexpected failure: the pod is tried again after a pause.
	Error
	// Unschedulable is a rejection that the removal of other pods may lift.
	Unschedulable
	// UnschedulableAndUnresolvable is a rejection that preemption cannot lift.
	UnschedulableAndUnresolvable
	// Wait is Permit's answer when the pod is to wait before it is bound.
	Wait
	// Skip is PreFilter's, PreScore's and Bind's answer when the plugin has nothing to say about the pod.
	Skip
	// Pending is a rejection by a plugin that waits for something outside of the scheduler.
	Pending
)

// String is the name of the code as Kubernetes writes it in metrics.
func (c Code) String() string {
	return [...]string{"Success", "Error", "Unschedulable", "UnschedulableAndUnresolvable", "Wait", "Skip", "Pending"}[c]
}

// Status is the answer of a plugin. It must not be changed after it was handed out.
type Status struct {
	code    Code
	reasons []string
	plugin  string
	err     error
}

// NewStatus makes a status with the reasons that users are shown.
func NewStatus(c Code, reasons ...string) *Status {
	s := &Status{code: c, reasons: reasons}
	return s
}

// AsStatus wraps an error; nil gives nil.
func AsStatus(err error) *Status {
	if err == nil {
		return nil
	}
	return &Status{code: Error, reasons: []string{err.Error()}, err: err}
}

// By returns the status with the name of the plugin that it came from.
func (s *Status) By(plugin string) *Status {
	if s == nil || s.plugin == plugin {
		return s
	}
	c := *s
	c.plugin = plugin
	return &c
}

// Code is Success for a nil status.
func (s *Status) Code() Code {
	if s == nil {
		return Success
	}
	return s.code
}

// Plugin is the name of the plugin that answered, or "".
func (s *Status) Plugin() string {
	if s == nil {
		return ""
	}
	return s.plugin
}

// Reasons are shared: do not change them.
func (s *Status) Reasons() []string {
	if s == nil {
		return nil
	}
	return s.reasons
}

// Message joins the reasons.
func (s *Status) Message() string {
	if s == nil {
		return ""
	}
	return strings.Join(s.reasons, ", ")
}

// IsSuccess tells whether the call succeeded.
func (s *Status) IsSuccess() bool { return s.Code() == Success }

// IsSkip tells whether the plugin passes.
func (s *Status) IsSkip() bool { return s.Code() == Skip }

// IsWait tells whether the pod is to wait.
func (s *Status) IsWait() bool { return s.Code() == Wait }

// IsRejected tells whether the pod does not fit, as opposed to an error.
func (s *Status) IsRejected() bool {
	switch s.Code() {
	case Unschedulable, UnschedulableAndUnresolvable, Pending:
		return true
	}
	return false
}

// Err is nil for a successful, skipping or waiting status, and the status as an error otherwise.
func (s *Status) Err() error {
	switch {
	case s == nil || s.code == Success || s.code == Skip || s.code == Wait:
		return nil
	case s.err != nil:
		return s.err
	}
	return errors.New(s.Message())
}

// Equal tells whether two statuses say the same; for tests.
func (s *Status) Equal(o *Status) bool {
	return s.Code() == o.Code() && s.Plugin() == o.Plugin() && slices.Equal(s.Reasons(), o.Reasons())
}
