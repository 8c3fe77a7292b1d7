// Package policy decides about requests by rules in CEL: admission policies.
//
// # The model
//
// A ValidatingAdmissionPolicy or MutatingAdmissionPolicy does nothing until a binding refers to it. A binding narrows what the
// policy is about, and may name parameters: objects of any kind that expressions see as params. So one request makes one
// invocation for each policy, binding of it, and parameter.
//
//	policy matches -> binding matches -> parameters -> match conditions -> expressions
//
// A validating invocation refuses, warns, or leaves a note in the audit log, as its binding says. A mutating one changes the
// object by JSON patches or apply configurations, one after the other; when something changed, the whole mutating chain has
// a second round, in which the invocations of policies with the reinvocationPolicy IfNeeded are done again.
//
// Expressions are compiled once for each version of a policy, by k8s.io/apiserver's compiler: types, libraries, cost limits
// and errors are those of kube-apiserver. An error counts as a refusal, or as nothing, as the policy's failurePolicy says.
//
// # Concurrency
//
// Mutating and Validating are used by many requests at once; what is compiled does not change.
package policy
