// Package grpcproxy stands between clients and the members of a cluster, speaks gRPC with both, and asks the members once for
// what many clients want.
//
// # Model
//
//	cache       answers of ranges, for serializable reads (package cache)
//	watch       watches of one range share one watch at the members
//	keepalive   renewals of one lease are sent once for all who ask at the same time
//	members     proxies are registered, and shown to clients as the members
//	namespace   all keys of clients are moved below a prefix
//	relay       every other call is passed on as it is, undecoded
//	upstream    the connection to the members, and the identity of clients
//
// A read or write goes through a stack of KVs, each of which is there only if it is configured: cache, leases of keys, namespace,
// order, members.
//
// # Invariants
//
//   - Members judge every call by the identity of the client that made it. What is shared is shared by clients of one identity: a
//     client without a token has that of the proxy.
//   - A client gets the errors of the members, code and text.
//   - A client loses nothing when a member fails: its watches go on from where they were, and so do its renewals.
//
// # Concurrency
//
// Open and Serve are called once, one after the other.
package grpcproxy
