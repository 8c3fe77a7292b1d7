// Package audit writes down who did what.
//
// # Policy
//
// A Policy (audit.k8s.io/v1) says, by the first of its rules that fits a request, how much is written: nothing, metadata, the
// request's object too, or also the response's. A rule fits by user, group, verb, and either resources with namespaces, or
// other paths. Rules may leave out stages.
//
// # Events
//
// A request goes through stages, and each writes one Event:
//
//	RequestReceived    as soon as the user is known
//	ResponseStarted    requests that take long (watch, exec, logs), when their headers are sent
//	ResponseComplete   the last one; requests whose user could not be found have only this
//	Panic              instead, if the handler failed so
//
// Two handlers make them. Log.Begin is the outermost: it gives the request an ID (header Audit-ID) and an Entry, in which
// everything behind it can note things (FromContext). Log.Handler comes when the user and the Info are in the context, before
// anybody acts for somebody else: it applies the policy.
//
// An Event is one line of JSON and one call of Write. A Log never opens, rotates or closes anything: its writer does. Lines
// are written before the request goes on, so that a stage that is over is on record; an error of the writer is counted and
// logged, and the request goes on.
//
// # Concurrency
//
// A Log is used by all requests, and calls its writer for one at a time. An Entry may be used by the goroutines of its
// request. All methods work on a nil *Entry, and do nothing.
package audit
