// Package registration makes a machine a node of the cluster, and keeps its Node object true.
//
// # Discovery
//
// A machine that has a bootstrap token and the hash of the cluster's authority, but not the authority itself, asks the cluster for it
// (see package jointoken): first whoever answers at the address, then, once the authority is known, only who has a certificate by it.
// The authority is kept, since tokens do not live long.
//
// # Certificates
//
// A machine that joins has a bootstrap token or any other right to ask for a node's certificate. Join makes a key, asks for a
// client certificate (user system:node:<name>, group system:nodes), and waits until the cluster has signed it. From then on the
// node asks for new ones by itself, at 70 to 90 % of the life of the one that it has. Connections to the API server are closed when
// there is a new one, so that all use it; nothing has to be restarted. The certificate of the node's server is had in the same way,
// for the addresses that the Node object has; until it is signed the server shows one that it signed itself.
//
//	client-<time>.pem  client-current.pem  server-<time>.pem  server-current.pem
//
// A file holds a key with its certificate; the current one is a link, which changes in one step.
//
// # The Node object
//
// It is made, or brought up to date: labels and annotations of others stay. Then its lease is renewed every 10 s, and its status
// is written when it has changed, or every 5 min. Whether the runtime is ready is looked at every second, and ten times a second
// until it was for the first time. If the object is deleted it is made anew.
//
// # Concurrency
//
// Run of a Registration, and of the parts of Credentials, have goroutines of their own; all other methods may be called from any
// goroutine. Node returns an object that is shared and must not be changed.
package registration
