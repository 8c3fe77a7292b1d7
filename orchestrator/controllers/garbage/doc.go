// Package garbage collects objects whose owners are gone, over every kind that the API server has, custom ones too.
//
// # Model
//
// A graph holds a node for every object that was seen, by UID, with its owners and its dependents. It is fed by an inventory
// of all objects. An owner that an object names and that was not seen yet has a virtual node, which is checked against the API
// server.
//
//	background  the owner goes; its dependents, looked at because it went, have no owner left, and go too
//	foreground  the owner carries the finalizer foregroundDeletion; its dependents are deleted first, and when none is left
//	            that blocks it, the finalizer is taken off
//	orphan      the owner carries the finalizer orphan; its dependents lose their reference to it, then it goes
//
// The graph may be behind. Hence nothing is deleted before the API server was asked for the object and for its owners, and
// the deletion names the UID and the version that were seen.
//
// # Concurrency
//
// One mutex guards the graph; it is never held over a request. Workers take objects from two queues by their UID.
package garbage
