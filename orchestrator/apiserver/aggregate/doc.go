// Package aggregate makes one API of this server's and of others', as objects APIService say.
//
// # Local
//
// Every group version that this server has gets an APIService without a service. Those of custom resources come and go with
// them. They carry a label, and are left alone if somebody takes it off.
//
// # Remote
//
// An APIService with a service hands its group version over to the server behind that, whatever this server has itself; only
// apiregistration.k8s.io stays. Requests that were authenticated, audited, authorized and have a seat go there over TLS,
// with the user in headers that the server believes because of the client certificate of this one (Trust publishes whose
// certificates to believe). Connections that are upgraded go through.
//
// A remote server is looked at every half a minute, when its APIService, service or endpoints change, and more often while it
// does not answer. What was found is the condition Available; requests to those that are not are answered with 503. The
// resources that it tells of are kept for discovery, also while it does not answer.
//
// Every API server of a cluster does all of that; what they write is the same.
//
// # Concurrency
//
// An Aggregator may be used by many requests at once: they read a view that is replaced as a whole. Set and Remove, which are
// called by who follows the objects, and Run change it under a mutex. A check of a remote server has a goroutine of its own,
// of which there is one at a time for each.
package aggregate
