// Package client is the Go client of a Keelson store, and of etcd 3.4 and later, whose API it speaks.
//
// # Model
//
// A [Client] keeps connections to all endpoints open (Config.Connections to each) and deals calls out in turn over
// those that are ready. An endpoint that answered "unavailable" is passed over for a short, doubling time while there
// are others. Calls wait for a connection as long as their context lets them.
//
// Requests and responses are the messages of go.etcd.io/etcd/api/v3. Options are typed: what fits a read does not
// compile on a put.
//
// # Retries
//
// Reads are repeated, on the next endpoint, whenever the server was unavailable. Writes are repeated only when it is
// certain that no server had them: no stream was opened for them, the server said that it did not process the stream,
// or a learner or a stale token made it refuse at the door. Every other write whose answer is missing fails with an
// error that matches [ErrUncertain]. Lease grants are safe to repeat because the client chooses the ID.
//
// # Watches
//
// All watches of a client share one stream (one for each set of call metadata, times Config.Connections). When it
// breaks, the next one registers all watches at once, each from its resume point, which is
//
//   - the start revision asked for, until something was delivered;
//   - one past the revision at which a member confirmed a watch from "now";
//   - one past the newest event delivered, or the newest progress response, from then on.
//
// The resume point moves in whole revisions only: the fragments of a response count when the last one is there. An
// event at or below the newest revision delivered is dropped. Hence every event is delivered once and in order, or
// the watch ends with a [CompactedError].
//
// A watch whose consumer is behind holds Config.WatchBuffer events. Then it is cancelled on the server and registered
// again, from its resume point, when the consumer has emptied the buffer: memory stays bounded, other watches of the
// stream do not wait, and nothing is lost.
//
// # Leases
//
// All keep-alives of a client share one stream, which sends each lease's renewal after a third of its time to live.
// An unanswered renewal makes the client change to another member. A lease that could not be renewed within its time
// to live, counted from when the last confirmed renewal was sent, is reported as lost.
//
// # Errors
//
// Errors of the server are values of go.etcd.io/etcd/api/v3/v3rpc/rpctypes, for errors.Is. A call that ended with its
// context matches the context's error, and names the last failure before it if there was one.
//
// # Concurrency
//
// A Client, its views, and an Op may be used from any number of goroutines. A Txn and a Watcher's Next are for one
// goroutine at a time. Picking a connection takes no lock. The lock order is watchHub.mu, watchStream.mu, Watcher.mu;
// keeper.mu is before KeepAlive.mu. Callers' code never runs under a lock.
package client
