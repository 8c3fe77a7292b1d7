// Package verbs is what can be done with the objects of a kind: the same code for every kind.
//
// A Resource joins a kind's descriptor, its collection in the store and the admission chain. Each verb is a method with one
// file: it takes a decoded object, a patch or a query, and returns items. HTTP, negotiation and rights are the business of
// the API server around it.
//
// # The order of a write
//
//	create: metadata filled in, Kind.Create, defaults -> mutating admission -> defaults -> validation -> validating
//	        admission -> one store transaction
//	update: what the client may not change is carried over from the current object (Kind.Update), then as for create, in
//	        the function that objectstore.Collection.Update repeats when it lost a race
//	delete: preconditions, grace and finalizers decide between a mark (deletionTimestamp) and the removal
//
// # Concurrency
//
// A Resource is used by many requests at once. Items that come from the store are shared and never changed: whatever is to
// be changed is a copy.
package verbs
