package match

import (
	"slices"

	"github.com/keelson-io/keelson/orchestrator/apiserver/admission"
)

// Exempt says that no webhook and no policy sees a request: those that configure them, so that a broken one can be taken
// away again, and questions that only the API server itself answers.
func Exempt(a *admission.Attributes) bool {
	switch a.Kind.Group {
	case "admissionregistration.k8s.io":
		return slices.Contains(configurations, a.Kind.Resource)
	case "authentication.k8s.io", "authorization.k8s.io":
		return slices.Contains(questions, a.Kind.Resource)
	}
	return false
}

var configurations = []string{
	"mutatingwebhookconfigurations", "validatingwebhookconfigurations", "validatingadmissionpolicies",
	"validatingadmissionpolicybindings", "mutatingadmissionpolicies", "mutatingadmissionpolicybindings",
}

var questions = []string{
	"selfsubjectreviews", "tokenreviews", "localsubjectaccessreviews", "selfsubjectaccessreviews", "selfsubjectrulesreviews",
	"subjectaccessreviews",
}
