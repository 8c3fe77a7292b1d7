// Package mvcc is the multi-version store: every change of a key is a revision, and reads are of a revision.
//
// # Revisions
//
// A write transaction that changes anything has the next main revision; its changes are numbered by sub revisions. The
// stored value of a revision is a marshalled mvccpb.KeyValue (of a deletion: one with the key only), keyed by the revision
// in the backend. An empty store is at revision 1.
//
// # A batch
//
//	Begin -> Write, Write, ... Compact ... -> Publish
//
// The applier executes a batch of log entries and then publishes once: the new root of the key index, the records behind
// it and the consistent index become visible with one pointer swap, and then the events in the event log. A read
// transaction is that pointer: it sees one published state, takes no lock, and never waits.
//
// # Reads of the past
//
// The index answers for the present revision in O(log n) for counts and O(log n + limit) for limited ranges. For an older
// revision it walks the range. So that pages of a long list cost no more than the first one, the roots of the last
// few limited reads that left something over are kept, and a read at exactly their revision uses them.
//
// # Compaction
//
// Compact records the revision at once, and from the next Publish on reads below it fail. The index is then shortened
// in small steps between batches, each removing from the file what it dropped. A step visits only keys with more than one
// revision or deleted ones. A compaction that a restart interrupts is taken up again.
//
// # Concurrency
//
// Begin takes a lock that Publish releases: between them the store belongs to one goroutine, outside of them compaction
// steps and Restore may take it. Everything else may be called from anywhere. What a read transaction returns is valid
// until its Close.
package mvcc
