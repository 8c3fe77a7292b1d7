// Package local keeps addresses that every node has as its own, such as that of its DNS server: pods reach what their node
// serves under an address that is the same everywhere.
//
// It also keeps a last way to ranges of addresses that nobody has, such as those of services. The service proxy rewrites what the
// node sends to them, but a program that connects needs a route before that, and a machine without a default route has none.
// The way leads to the loopback interface, where nobody takes what was not rewritten. It stands in a table of its own, which
// is asked after the main one.
//
// # Concurrency
//
// Keep is called once for a set of addresses and ranges.
package local
