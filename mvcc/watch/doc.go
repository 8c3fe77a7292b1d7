// Package watch tells clients what happens to keys: many watchers over one shared event log.
//
// A watcher is a range, filters and the revision it goes on from. It is in one of two states:
//
//	current   it is in the hub's index of ranges. The dispatcher, one goroutine, reads the log once and gives each event to
//	          the watchers whose range holds its key: a pointer in the watcher's bounded list.
//	behind    its start is in the past, or its list was full. It reads the log itself from its own revision on, or the
//	          store's history if the log does not reach back that far, a piece at a time and only as fast as its client
//	          takes it. Once it has caught up with the dispatcher it is current again.
//
// A slow client so costs a revision number, not a copy of what it has not read, and never delays a write.
//
// # Invariants
//
//   - A watcher gets every event of its range from its start revision on that its filters let through, once, in order.
//   - The events of one revision come in one response.
//   - Nothing comes for an ID before the response that says it was created, or after the one that says it was cancelled.
//   - A progress response with revision R comes only after everything up to R.
//   - A watcher whose revision is compacted before it could read it is cancelled, with the compact revision.
//
// # Concurrency
//
// A Hub and its streams may be used from many goroutines; Next of one stream from one at a time. Locks are taken in the
// order hub, stream.
package watch
