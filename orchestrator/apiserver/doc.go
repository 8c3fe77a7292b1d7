// Package apiserver serves the Kubernetes API over HTTP.
//
// # A request
//
//	measure and recover (meter) -> time limit -> who (identity) -> audit -> for whom -> a seat (fairness) -> may he (rights) -> another API server (aggregate) or dispatch
//	dispatch: a resource's verb (package verbs), a subresource of its own, a virtual resource (reviews), discovery, OpenAPI,
//	health, metrics
//
// A verb is called with decoded things and returns items; this package reads bodies and options, negotiates formats and
// writes answers. Every error becomes a Status in the negotiated format.
//
// What is served is a table that can be read without a lock and is replaced as a whole when custom resources come and go.
//
// # Concurrency
//
// A Server is used by many requests at once. A request is served in the goroutine that it came in; its time limit is its context's
// deadline. Retire makes readiness fail, Drain ends watches. Shutdown ends watches with the end of their stream, then waits for requests.
package apiserver
