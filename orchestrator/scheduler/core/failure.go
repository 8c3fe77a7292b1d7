package core

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"

	"github.com/keelson-io/keelson/orchestrator/scheduler/framework"
)

// Failure tells why a pod has no node. It is an error whose text is the message of the pod's condition and event.
type Failure struct {
	// Nodes is the number of nodes that there were.
	Nodes int
	// RejectedBy and PendingBy are the plugins that stood in the way; both are empty after an error.
	RejectedBy, PendingBy map[string]struct{}
	// PreFilter and PostFilter are what those had to say.
	PreFilter, PostFilter string
	// Reasons count nodes.
	Reasons map[string]int
	// Err is set if something failed that should not, or if there are no nodes at all.
	Err error
	// rejected is set if the pod does not fit, as opposed to an error.
	rejected bool
}

func newFailure(nodes int) *Failure {
	return &Failure{Nodes: nodes, RejectedBy: map[string]struct{}{}, PendingBy: map[string]struct{}{}, Reasons: map[string]int{}, rejected: true}
}

func failed(err error) *Failure { return &Failure{Err: err} }

// FailureOf makes a Failure of a rejection, or an error, by a plugin after a node was chosen. It is nil for a success.
func FailureOf(s *framework.Status) *Failure {
	switch {
	case s.IsSuccess():
		return nil
	case !s.IsRejected():
		return failed(s.Err())
	}
	f := newFailure(1)
	f.blame(s)
	f.count(s)
	return f
}

// Rejected tells a pod that does not fit from an error.
func (f *Failure) Rejected() bool { return f.rejected }

// Reason is that of the condition PodScheduled.
func (f *Failure) Reason() string {
	if f.rejected {
		return v1.PodReasonUnschedulable
	}
	return v1.PodReasonSchedulerError
}

// blame notes the plugin of a status.
func (f *Failure) blame(s *framework.Status) {
	switch {
	case s.Plugin() == "":
	case s.Code() == framework.Pending:
		f.PendingBy[s.Plugin()] = struct{}{}
	default:
		f.RejectedBy[s.Plugin()] = struct{}{}
	}
}

func (f *Failure) count(s *framework.Status) {
	for _, r := range s.Reasons() {
		f.Reasons[r]++
	}
}

// Error is the message.
func (f *Failure) Error() string {
	if f.Err != nil {
		return f.Err.Error()
	}
	var b strings.Builder
	fmt.Fprintf(&b, "0/%d nodes are available:", f.Nodes)
	if f.PreFilter != "" {
		fmt.Fprintf(&b, " %s.", f.PreFilter)
	} else if len(f.Reasons) > 0 {
		lines := make([]string, 0, len(f.Reasons))
		for reason, n := range maps.All(f.Reasons) {
			lines = append(lines, fmt.Sprintf("%d %s", n, reason))
		}
		slices.Sort(lines)
		fmt.Fprintf(&b, " %s.", strings.Join(lines, ", "))
	}
	if f.PostFilter != "" {
		b.WriteString(" " + f.PostFilter)
	}
	return b.String()
}

// Unwrap gives the error behind.
func (f *Failure) Unwrap() error { return f.Err }
