// Package feed is a member's side of backups: it streams the log, entry by entry, as it is applied.
//
// A stream waits until something is applied and then sends all of it; it never holds up the apply path, and what has left
// memory is read from the files of the log, as long as they are there (--max-wals says how many are kept). Entries are
// the same on all members, so a stream that ends may be continued at another one.
//
// # Time
//
// The log knows no time. A timeline notes, once a second and with every chunk that is sent, how far the log was applied
// and which revision that left. A chunk never goes over a note, and carries the note's time: its entries were applied then or
// before. So what is read late, after the reader was away, still has its time; after a restart of the member the time
// is that of the restart.
//
// # Histories
//
// A reader says which entry it had last, by term and checksum. A member whose entry is another one, or that has none once it has
// caught up with the leader, has another history (it was restored from a backup, say), and nothing it has continues what
// the reader has.
//
// # Concurrency
//
// A Service serves any number of streams. Run runs on one goroutine.
package feed
