// Package apply executes the commands of the replicated log.
//
// It is one exhaustive switch over the command (Applier.execute), with a file for each family: kv.go, txn.go, range.go,
// lease.go, auth.go. Alarms, permissions and the quota are checks before the switch. Everything here is deterministic and equal to etcd 3.7:
// the same log gives the same revisions, the same rows and the same hashes on every member, whichever program it runs.
// So a check may depend on replicated state only (keys, leases, alarms, users and roles), never on time, on load or on the size of a file;
// the quota decides only about the answer (ErrNoSpace after the command was executed) and about raising an alarm, which
// is a command itself.
//
// A transaction is checked along its chosen branches before it changes anything, so it happens whole or not at all.
//
// Range is shared with the read path: server/rpc calls it with a read transaction, Applier with the write transaction.
//
// # Concurrency
//
// One goroutine, the apply goroutine, owns an Applier and is the only writer of the store, the lease table and the alarms.
// Range and ReadOnlyTxn work on the reader that they are given and may run anywhere.
package apply
