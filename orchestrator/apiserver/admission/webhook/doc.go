// Package webhook asks programs outside of the API server about requests: admission webhooks.
//
// # The model
//
// A MutatingWebhookConfiguration or ValidatingWebhookConfiguration is a list of webhooks. Each is compiled once per version
// of its configuration into a hook: criteria, match conditions, a client, and what to do when the call fails. Mutating calls
// the mutating hooks one after the other, in the order of their configurations' names, and applies their JSON patches.
// Validating calls all hooks that match at the same time.
//
//	match (package match) -> AdmissionReview over HTTPS -> verify the answer -> warnings, annotations -> patch or refusal
//
// A hook that refuses is always heeded. One that cannot be reached, or whose answer makes no sense, fails the request or is
// passed over, as its failurePolicy says.
//
// When a hook changed the object, the whole mutating chain has a second round, in which hooks with the reinvocationPolicy
// IfNeeded are called again if the object changed after their call.
//
// # Concurrency
//
// Mutating and Validating are used by many requests at once. A hook does not change; connections are shared by all hooks of
// one server.
package webhook
