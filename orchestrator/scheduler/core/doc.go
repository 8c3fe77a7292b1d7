// Package core decides where a pod goes: a pod, a snapshot and a profile in, a decision out.
//
// # Model
//
// A Profile is a set of plugins by extension point, built from the configuration. An attempt asks PreFilter once, then
// Filter node by node until enough nodes fit: not all of a large cluster's nodes are looked at, but a share that falls
// with its size (percentageOfNodesToScore), and the next attempt goes on where this one stopped. A pod that was
// promised a node is tried there first. Nodes that other pods of at least its priority are promised must do with and
// without them. Extenders may drop nodes. If more than one is left, PreScore and Score rank them, and chance decides
// among the best. If none is left, PostFilter may propose pods that could give way.
//
// An attempt changes nothing but its own state: the decision is carried out by somebody else. The same snapshot, pod,
// random source and history of attempts lead to the same decision, however many goroutines filter.
//
// # Concurrency
//
// A Core belongs to one goroutine; within an attempt it uses several for Filter and Score. A Decision's statuses are
// valid until the next attempt. The methods of Profile that run after the decision (Reserve to PostBind) may be called
// from any goroutine.
package core
