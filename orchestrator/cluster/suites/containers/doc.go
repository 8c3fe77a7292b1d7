// Package containers holds tests of what the containers of a pod are given and what becomes of them, seen from inside: their
// users, namespaces, limits, rights, configuration, probes, hooks and ends. They run real pods; see package nodetest.
//
// # Concurrency
//
// Tests run in parallel on one cluster, each in a namespace of its own.
package containers
