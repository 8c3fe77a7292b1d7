// Package framework is the vocabulary of the scheduler: what a plugin may be asked, what it is shown, and what it may
// answer.
//
// # Model
//
// A scheduling attempt looks at a Snapshot: a list of NodeInfo with what is on them, and an Index over the pods of
// all nodes. Plugins are asked at extension points, each a small interface: PreEnqueue, QueueSort, PreFilter, Filter,
// PostFilter, PreScore, Score (with NormalizeScore), Reserve, Permit, PreBind, Bind, PostBind. Up to Score they only
// compute. What a plugin works out in PreFilter or PreScore it keeps in the attempt's CycleState.
//
// A nil *Status is success. A rejection carries the reasons that users read; plugins share one Status for all nodes
// that fail for the same reason, so a Status is never changed once others can see it.
//
// # The index
//
// Every node of a snapshot has a slot, a small number that stays the same as long as the node does. A Topology gives
// for each slot the number of the domain (the value of one node label) that it lies in. Pods of one namespace with
// equal labels form a Class, equal affinity terms of pods form a TermGroup, and both count their pods per slot and,
// for the topology keys that somebody asked for, per domain. The index is derived from the nodes alone and kept up
// with them node by node; a snapshot built from scratch has an equal index.
//
// # Concurrency
//
// A Snapshot with its Index belongs to one goroutine. While it runs an attempt, Filter and Score are called from
// several goroutines and must only read. CycleState is written in PreFilter and PreScore only, which run one after
// another.
package framework
