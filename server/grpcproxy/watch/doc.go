// Package watch serves the watches of a proxy's clients from few watches of the members.
//
// # Model
//
// Everything belongs to a link: the clients of one identity (upstream.Caller) and one stream of watches to the members.
//
//	client streams ── watchers ── feeds ── link ── stream of watches ── a member
//
// A feed is one watch at the members: a range, whether with previous values, and the revision that it goes on from. Below that
// it has delivered everything. A watcher is a client's watch: it takes what a feed delivers from its own next revision on, and
// through its own filters. A watcher joins a feed that is at its next revision, or one that is at the head and not yet beyond
// it; otherwise it gets a feed of its own. A feed gets to the head when the members say so by a progress response, which is
// asked for while there is one that may not be. The feeds of a range that are at the head become one.
//
// When the stream breaks, the link opens another one, and every feed goes on from its next revision. When a client does not read
// what is sent to it, its watchers leave their feeds, and come back to their next revision, in the past, once the client has
// read on. So a slow client costs a revision number, and delays nobody.
//
// Before a watcher is made, the members are asked to count its range, for its identity: that says whether it may read there,
// and what the revision is that it begins from.
//
// # Invariants
//
//   - A watcher gets each event of its range from its start revision on that passes its filters, once, in order, and all of one
//     revision in one response (unless it asked for fragments).
//   - A progress response with revision R comes after all events up to R.
//   - Watchers of different identities share nothing.
//   - A progress response of the members tells of a feed only if the feed's creation was known before the request, or if its
//     revision is larger than that of the creation: the members answer creations and requests on separate ways.
//
// # Concurrency
//
// A Hub may be used from any number of goroutines. Locks are taken in the order hub, link, stream. Nothing is sent or received
// under a lock. A link has a goroutine that receives from the members, and one that sends to them; a client's stream has one
// that receives and one that sends.
package watch
