// Package restore makes the database of a moment in an archive: a base, and the entries of the log after it up to that moment,
// applied by the same state machine as on a member (server/replica, server/apply). So everything comes back as it was: keys
// with all their revisions since the compaction, leases, users and roles, members, alarms.
//
// # Moments
//
//	a revision    right after the entry that made it. An entry is applied whole or not at all, and makes at most one revision,
//	              so no transaction is cut
//	a time        everything that is known to have been applied by then, and nothing that was applied later
//	the latest    everything that the archive has
//
// The chain that began last is used if it has the moment; revisions of an older chain may be others of the same number.
//
// Nothing damaged is used: the first fault ends a restore, and what it made is removed.
//
// # Concurrency
//
// A restore runs on one goroutine.
package restore
