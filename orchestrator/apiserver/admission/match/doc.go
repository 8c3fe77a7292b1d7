// Package match finds out which requests a webhook or an admission policy is about, and shows it a request in the API version
// that it asks for.
//
// # The model
//
// Criteria are compiled selectors and rules. A Matcher compares a request with them and returns the Version in which the
// request is to be shown: the request's own, or an equivalent one if only that one is in the rules (matchPolicy Equivalent).
// Views makes a View of the request for each Version that is needed: its objects converted, with apiVersion and kind, and in
// the form that package k8s.io/apiserver/pkg/admission/plugin/cel evaluates.
//
// # Concurrency
//
// Criteria and Matcher do not change and may be used by many requests. Views belong to one request, and to one goroutine.
package match
