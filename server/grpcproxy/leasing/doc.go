// Package leasing answers linearizable reads of single keys without asking the members, as long as the proxy owns them.
//
// # Model
//
// Who owns the key k is said by the key prefix+k, the leasing key, which hangs on a lease of its owner: one at a time, of proxies or
// of clients that do the same (go.etcd.io/etcd/client/v3/leasing, whose protocol this is).
//
//	acquire   a transaction makes the leasing key, if there is none and k hangs on no lease itself
//	write     a transaction is made if the leasing key is no younger than the writer's own, or if there is none
//	revoke    who cannot write puts REVOKE into the leasing key, and waits until its owner, or the end of the owner's lease,
//	          deletes it
//
// An owner keeps the last answer for its key. Its own writes drop it, and the next read fetches it again. One watch of the whole
// prefix tells of everything that happens to leasing keys.
//
// # Invariants
//
//   - An answer is given only while the lease is alive for certain: the members' lease begins when they renew it, the proxy's clock
//     runs from before it asked for that.
//   - When it is not known whether a write was made, its key is not owned any more: it may still be made.
//   - Keys that hang on leases are never owned: they go without a write.
//   - Only clients without a token are answered here: others may not be allowed to read.
//
// All who write must keep to the protocol, so they must use a proxy or client with the same prefix.
//
// # Concurrency
//
// A KV may be used from any number of goroutines.
package leasing
