// Package cache keeps what the scheduler knows of nodes and of the pods on them, and brings snapshots up to it.
//
// # Model
//
// A pod is on a node because the API server said so, or because the scheduler assumes it: from the moment a node is
// chosen until the binding is seen in a watch (Add confirms it), or failed (Forget), or the pod was deleted. There is
// no time after which an assumption lapses: the watch ends it in every case, and room that may be taken must not be
// given away.
//
// Update brings a snapshot up to the cache. It costs as much as changed since the last time: only nodes with a change
// are copied, and the list of nodes is made anew only if a node came, went, or moved to another zone. Nodes are listed
// zone by zone in turn, so that a search that stops early has seen all zones.
//
// # Concurrency
//
// A Cache belongs to one goroutine, and so do the snapshots that it updates. A cache serves one snapshot.
package cache
