// Package kinds describes the built-in kinds of the Kubernetes API: one Kind each, which is data.
//
// A Kind says what an object is called, where it is stored, what is filled in, what is refused, what a table shows of it and
// which subresources it has. Nothing else in the orchestrator knows one kind from another: the verbs, the store, discovery,
// OpenAPI and the controllers' clients are the same code for all of them.
//
// Objects are the structs of k8s.io/api, in the one version that is stored. There is no internal version. A kind that is
// served in a second group (events.k8s.io) is a Kind of its own that names the stored one and converts.
//
// A file holds the kinds of one API group, or one large kind; what kinds share (pod templates, label selectors, resource
// lists) has files of its own. Add a kind by adding it to its group's function; see docs/contributing/add-a-kind.md.
//
// # Concurrency
//
// A Kind and a Set are never changed after they were made. Functions of a Kind change only the object they were given as
// theirs, never the old one.
package kinds
