// Package tlsconfig makes the TLS configurations of a member, for its listeners and for its connections to other members,
// from files that may change while it runs.
//
// # Model
//
// A Side is one of the two places where TLS is used: the client ports, or the peer ports with the connections between
// members. It holds a certificate, perhaps a second one to show to others, a bundle of authorities and a revocation list.
// Each is read from a file, and read again when a handshake finds that the file has changed; files are looked at once a
// second at most. What cannot be read or does not fit together is logged, and what was there before goes on to be used.
//
// # Invariants
//
//   - Every connection is judged by the authorities, names and revocations of the moment of its handshake: sessions are not
//     resumed where certificates of clients are asked for.
//   - A certificate is refused if its serial number, or that of one it is signed with, is in the revocation list.
//
// # Concurrency
//
// A Side may be used from any number of goroutines.
package tlsconfig
