// Package agent archives a cluster as it works: it follows the log of any of its members, and takes a base now and then.
//
//	member's feed --chunks--> follower --segments--> store
//	Maintenance.Snapshot ---> base taker --bases---> store, then what the policy lets go is deleted
//
// A segment is closed when it is old enough or large enough, and when the stream ends; only then is it durable. While the
// store cannot be written nothing more is read from the member, which holds nothing up there: the log is kept as long as
// the member keeps it anyway. If that is not long enough, or the cluster has another history (it was restored), the agent begins a
// new chain, and says so. A new chain begins with the stream; its base is taken while the stream goes on, so that however large the
// database is no entry is missed behind it.
//
// A base is put into the archive once the log is there up to the base's entry, which has to have the same term: so a base is never
// ahead of its chain.
//
// After a restart the agent goes on with the chain: what it had received and not archived is read from a member again.
//
// # Concurrency
//
// Run runs a follower and a base taker on two goroutines. They share progress, which has a lock, and the store.
package agent
