// Package upstream is a proxy's connection to the members of a cluster.
//
// # Model
//
// A Conn is one gRPC connection that spreads calls over all endpoints in turn and leaves out those that cannot be reached.
// Endpoints may be with TLS and without, side by side.
//
// A Caller is who calls: what identifies a client of the proxy to the members. Forward takes it, and what else members
// look at, from an incoming call to an outgoing one, so that members judge every call by the client's own identity.
//
// # Concurrency
//
// Everything may be used from any number of goroutines.
package upstream
