// Package fairness shares a capacity among those who ask for it, so that nobody can starve the others.
//
// A Lane has a capacity in units: calls at once, or bytes. While all of it is not in use and nobody waits, Try is a look at
// two counters: nothing is queued, nobody is identified. Only when it is used up do callers say who they are and wait, each
// identity in a flow of its own, first come, first served. Room that becomes free goes to the flow that has had the least so
// far for its weight: start-time fair queueing (Goyal, Vin, Cheng: "Start-time Fair Queueing", SIGCOMM 1996). Every flow has
// a tag, the virtual time at which its next request begins; serving one moves the tag on by cost/weight; the flow with the
// smallest tag is next, and the lane's virtual time is the tag of what was served last. A flow that comes back after a rest
// begins at that time: it neither saves up what it did not use nor pays for it. What a request really cost is often known
// only afterwards; Leave charges the rest then.
//
//	flow a, weight 1, requests of 1:  tags 0 1 2 3 ...       served: a0 b0 b.5 a1 b1 b1.5 a2 ...
//	flow b, weight 2, requests of 1:  tags 0 .5 1 1.5 ...    two of b for one of a
//
// Where what is taken is held for as long as a client likes, Share keeps one identity from holding all of it: above that, its
// requests wait until it returns something, and others pass them.
//
// A request that is larger than the capacity counts as the whole capacity: it passes, alone. The one whose turn it is waits
// until it fits, and nobody overtakes it, so that large ones are not starved by small ones.
//
// # Invariants
//
// The units in use are never more than the capacity. While there is room for the one whose turn it is, it is let in.
//
// # Concurrency
//
// All methods may be called from any goroutine. A nil Lane is one without bounds.
package fairness
