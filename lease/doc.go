// Package lease is the table of leases: which exist, which keys belong to each, and when each one ends.
//
// # Model
//
// A lease has an ID, a granted time to live in whole seconds, and a set of keys; a key belongs to at most one lease. All of
// that is replicated: Grant, Revoke, Attach, Detach, Checkpoint and Restore are effects of log entries and have the same
// outcome on every member. Revoke returns the keys and does not delete them: the caller does, in one mvcc transaction.
//
// Time is not replicated. Only the primary (the leader, from the first entry of its term on) knows when a lease ends.
// Its time as primary is called a reign here. When a reign begins every lease gets its whole time to live again, or what
// the last checkpoint says is left of it, plus one election timeout. When it ends, all deadlines are forgotten.
//
//	           Grant                 deadline passes                  Revoke (from the log)
//	(nothing) ------> running --------------------------> expired ---------------------> (nothing)
//	                  |    ^                                |
//	                  +----+ Renew                          | new reign
//	                       ^--------------------------------+
//
// # Invariants
//
//   - A lease never ends early: not before its time to live has passed since the latest of its grant, the last renewal
//     that was answered, and the beginning of the reign (there, the checkpointed remainder counts).
//   - A lease is never lost: once expired it is offered through Expired again and again until it is revoked or the reign ends.
//   - A lease that has expired or was revoked is never renewed. Renew of an expired one waits for the outcome.
//   - A checkpoint never outlives a renewal: before Renew answers, a recorded (or possibly recorded) remainder is cleared
//     through the log. Otherwise the next primary would end the lease by a deadline from before the renewal.
//   - In a reign every lease has exactly one valid entry in the queue, at or before the time at which something is due.
//
// # Cost
//
// Promote and Demote cost nothing: a reign has a number, a deadline counts only in the reign in which it was set, and a
// background pass over the shards gives the others theirs. Renew sets a deadline and leaves the queue alone; the entry is
// moved on when it comes up. Nothing holds a lock for longer than one of 256 shards takes.
//
// Remainders are checkpointed for every lease of more than half a minute once it has not been renewed for half of its
// time to live, or for Config.CheckpointInterval if that is less, so that a change of the leader stretches a lease by that
// much at most, while leases that are kept alive as clients do it (every third of their time) need no checkpoints.
//
// # Rows
//
// A lease is a row of the backend's lease bucket, as in etcd: the key is its ID (8 bytes, big-endian), the value a protobuf
// message of three varints, zeros left out:
//
//	1 ID, 2 TTL (granted, seconds), 3 RemainingTTL (of the last checkpoint, seconds)
//
// # Concurrency
//
// The methods marked "apply goroutine only" change the replicated part and are called by one goroutine at a time. All
// others may be called from anywhere at any time. Run feeds the channels and is called once. Time comes from a clock's
// monotonic reading, so that steps of the wall clock end nothing early.
package lease
