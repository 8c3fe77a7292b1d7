// Package rpc is the gRPC surface of a member: etcd's services over narrow interfaces that this package declares.
//
// A service checks a request (check.go), proposes or reads, and translates errors by one table (errors.go). Range and
// watch responses are spliced from stored bytes (encode.go, codec.go).
//
// # Concurrency
//
// Every method is called from any number of goroutines. Services hold no state of their own but for watch streams.
package rpc
