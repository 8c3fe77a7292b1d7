// Package fairness bounds how many requests are served at a time, and shares the bound among those who ask: Kubernetes' API
// priority and fairness.
//
// # Model
//
// The unit is a seat. A request takes one while it is served, a list of many objects takes more. FlowSchemas, in the order of
// their precedence, say to which priority level a request belongs, and to which flow in it (the schema with the user, or the
// namespace). Each level has a limit of seats:
//
//	nominal  the server's seats times the level's part of all shares, rounded up
//	lower    nominal without what it lends, upper: nominal with what it may borrow
//	current  between lower and upper; found anew every ten seconds from what each level wanted meanwhile
//
// A level without free seats queues requests, or rejects them, as its configuration says. Exempt levels have no limit.
//
// # Fairness in a level
//
// A level has many queues. The hash of a flow deals it a hand of them (shuffle sharding), and a request joins the one with the
// least work waiting: a flow that floods its hand leaves others most of theirs. Queues are served as by fair queuing with a
// virtual time R:
//
//	dR/dt = min(seats wanted, limit) / queues that have requests
//
// A queue has the virtual time at which its next request begins. It grows by seats times the expected duration with each
// dispatch, and is corrected by the true duration at the end. The waiting request whose virtual end is the earliest goes first;
// if it needs more seats than are free, all wait for it. A queue exists only while it has requests.
//
// # Configuration
//
// Set and Remove take objects as they change; a [Limiter] never has less than the mandatory schemas and levels. A level that is
// removed serves whom it has and keeps its part of the seats until it is empty.
//
// # Concurrency
//
// A Limiter is used from any number of goroutines. Classifying takes no lock. A request that finds a seat takes its level's lock
// twice, at its begin and its end. Limiter.mu is before level.mu; nothing blocks under either.
package fairness
