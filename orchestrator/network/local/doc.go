// Package local keeps addresses that every node has as its own, such as that of its DNS server: pods reach what their node
// serves under an address that is the same everywhere.
//
// # Concurrency
//
// Keep is called once for a set of addresses.
package local
