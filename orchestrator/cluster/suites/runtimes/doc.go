// Package runtimes holds tests of nodes that are not made of Keelson's own parts alone: pods that a real containerd runs and
// that are on Keelson's network, and pods of the embedded runtime whose network other CNI plugins make. They run real pods; see
// package nodetest.
//
// # Concurrency
//
// Tests run one after the other: one ends a node's program.
package runtimes
