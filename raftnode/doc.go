// Package raftnode is one member's part in consensus: it turns proposals into a replicated, durable, ordered log and hands
// committed entries to a state machine. The algorithm is go.etcd.io/raft with asynchronous storage writes; this package
// supplies everything around it: the loop, the log's cache, group commit, snapshots, reads, and the defence against peers.
//
// # Model
//
//	Propose, Step, ReadIndex                        transport.Send
//	         |                                        ^        ^
//	         v                         messages that  |        |  answers that had
//	  +-------------+   wait for nothing              |        |  to wait for the sync
//	  |    inbox    |---> loop (core) ----------------+        |
//	  +-------------+      |   |   ^                           |
//	    ^    ^             |   |   | durable entries           |
//	    |    |  entries to |   |   | and own answers           |
//	    |    |   write     v   |   +---------------------- appender: one Save, one sync
//	    |    |           queue-|-----------------------------> for all that has queued up
//	    |    |                 | committed entries
//	    |    +-- applied <---- applier <---- queue
//	    |                      |  StateMachine.Apply(batch), Restore, Snapshot, OpenDB
//	    +--- membership changes+
//
// A proposal is appended to the inbox; the loop gives all waiting proposals to raft as one message, so replication, the
// log write and the apply work in batches that grow by themselves with the load. There is no goroutine, timer or channel
// per proposal.
//
// # Invariants
//
//   - The loop never waits: not for the disk, not for a socket, not for another goroutine. So a tick is late only if the
//     process gets no processor.
//   - An answer that promises durability (an accepted append, a vote) leaves only after the sync that covers it. The
//     leader sends entries to followers before its own sync; its own acknowledgement counts only after it.
//   - If the log cannot be written the node ends (Done, Err) and nothing more is acknowledged.
//   - A snapshot's marker in the log follows a hard state that commits its index, and precedes the release of the log
//     before it. A received snapshot is in its file and marked before the state machine restores it and before the leader
//     hears of it.
//   - Entries that are not applied are always in memory; applied ones are as far as Limits.CacheBytes allows; older ones
//     are read back from the log in the background while the loop goes on (see logCache).
//   - ReadIndex answers only from a round of messages with a quorum that began after the question, or, for the only
//     voter, from a commit index of its own term. Never from a lease, so a process that was paused cannot read stale data.
//   - No message of a peer makes this process panic: each is checked in itself and against the state before raft sees it
//     (check.go), and dropped with an error in the log if it makes no sense.
//
// # Disks that stall
//
// The loop knows how long the oldest write is under way. When that passes the election timeout a leader gives up: it hands
// over to the follower with the longest log or else steps down in its term; and nobody whose log cannot be written becomes
// a candidate (stall.go).
//
// # Members that abstain
//
// A member that was told to (Abstain) leaves leading to others: it hands over, does not campaign, and still votes (abstain.go).
//
// # Snapshots
//
// Every SnapshotCount entries or SnapshotBytes bytes the applier takes the Data of a .snap file from the state machine.
// A goroutine of its own then makes the state durable, writes the file, has the appender mark it in the log, and lets go of the
// log up to SnapshotCatchUpEntries (and at most SnapshotBytes) before it. A follower that is behind even that gets
// the state itself: the applier opens a consistent copy between two batches, the transport streams it, and until some
// time after it has arrived no log is released, so that the follower finds its continuation.
//
// # Time and chance
//
// All time comes from Config.Clock and from ticks; with Timing.Tick 0 the owner ticks. Randomness comes from Config.Rand but for
// raft's own spreading of election timeouts, which reads crypto/rand (testing/cryptotest can seed that).
//
// # Concurrency
//
// All methods of Node may be called from any goroutine, except ApplyConfChange, which is for StateMachine.Apply. Four
// kinds of goroutines work in a Node: the loop owns raft and the log cache; the appender owns writing to the log; the applier
// owns the state machine; short-lived ones save a snapshot or read entries back. They share nothing but queues and
// the atomics in published. Stop waits for all of them.
package raftnode
