// Package listen opens a member's listeners, secures them, and shares one client port between gRPC and HTTP.
//
// # Model
//
// A connection is looked at once, and then belongs to one server alone, so that neither can starve the other:
//
//	plain, begins with the HTTP/2 preface        gRPC
//	plain, anything else                         HTTP/1
//	TLS, the client offers h2 alone              gRPC, or HTTP/2 if its first request is none of gRPC
//	TLS, the client offers h2 and http/1.1       HTTP/2, which passes on gRPC requests (see server/doors.go)
//	TLS, anything else                           HTTP/1
//
// A client of the fourth kind is a browser, curl or the like: gRPC's own clients offer h2 alone (RFC 7301). A port may have
// plain connections and TLS at the same time: a TLS connection begins with the byte 22.
//
// To see the first request of the third kind, the client must be sent a SETTINGS frame, for gRPC's clients wait for one. The
// server sends its own later. That is allowed (RFC 9113, 6.5); only the client's second acknowledgement must be kept
// from net/http, which counts them.
//
// # Invariants
//
//   - A connection that says nothing, or handshakes slowly, keeps nobody waiting: each is looked at in a goroutine of its own
//     and closed when it takes longer than helloTimeout.
//   - Errors of accepting, as when there are no file descriptors left, do not end a listener.
//
// # Concurrency
//
// A Splitter and its two listeners may be used from any number of goroutines.
package listen
