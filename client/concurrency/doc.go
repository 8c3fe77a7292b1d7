// Package concurrency coordinates processes through a store: sessions, locks, elections, and transactions that retry.
//
// # Model
//
// A [Session] is a lease that is kept alive. What is bound to it goes away with the process that holds it.
//
// A [Mutex] and an [Election] are queues. Each contender puts a key `<prefix>/<lease in hex>` with its session's lease;
// the key with the lowest creation revision is the owner's. A contender waits for the deletion of the key created just
// before its own, so that an owner's leaving wakes one contender and not all. The layout is that of etcd's own client
// and of its lock and election services: both sides can contend for the same lock.
//
// A lock held is only as good as the session: guard writes that must not happen without it by [Mutex.IsOwner] in
// their transaction.
//
// [STM] runs a function whose reads and writes become one transaction, and runs it again when what it read has
// changed meanwhile.
//
// # Uncertain writes
//
// The transactions of locks and elections have the same effect when repeated by the same session. They are repeated
// when their outcome is not known, so that a lock survives a change of leader. An STM commit is not repeatable, and
// returns client.ErrUncertain.
//
// # Concurrency
//
// A Session may be used by many goroutines. A Mutex, an Election or a Tx is for one at a time.
package concurrency
