// Package replica is the state machine that consensus drives: committed entries in, results out.
//
// A batch of entries is applied to the replicated state (keys, leases, alarms, members), then published once, together
// with the index of its last entry (the consistent index, which the backend stores in the same transaction), and only
// then do the clients that wait learn the results. Entries that the backend already held when the member started are
// skipped, so applying is exactly once over crashes.
//
// A snapshot from the leader replaces the whole state at once (Machine.Restore). So does a copy of another member's database, between
// the last entry that it holds and the next (Machine.Swap).
//
// # Concurrency
//
// Apply, Restore, Snapshot and OpenDB are called from the apply goroutine only. ConfWaiters, Hold and the getters may be used
// from anywhere; Swap belongs to who holds the machine.
package replica
