// Package crd makes kinds of custom resource definitions.
//
// # The model
//
// A definition becomes one [kinds.Kind] for each version that it serves. Their objects are unstructured; what the fields of
// Go's types and hand-written functions are for other kinds comes from the version's schema here: what is dropped, filled in
// and refused, also by rules in CEL, which are compiled when they are first needed.
//
// All versions are stored as one kind that is never served. Its objects have the apiVersion in which they were stored, and
// are pruned and defaulted as that version has it. Each version is a conversion from that: nothing, if it is the version
// that was stored, otherwise another apiVersion, or what the definition's webhook makes of it, pruned as this version has it.
//
// The [Manager] follows the definitions, writes their status and says which kinds are to be served.
//
//	written -> names accepted -> served here -> established
//	deleted -> closed for new objects -> objects deleted -> finalizer removed -> no longer served
//
// # Concurrency
//
// Kinds are used by many requests at once. A Manager runs once, in Run; its callback is called from there.
package crd
