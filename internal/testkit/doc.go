// Package testkit is what tests of several packages share: places that need root, network namespaces, and a count of what a
// test leaves behind on the machine.
//
// # Concurrency
//
// A NetNS may be used by several goroutines. Do locks the goroutine to its thread for as long as it runs.
package testkit
