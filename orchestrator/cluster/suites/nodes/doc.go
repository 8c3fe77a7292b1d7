// Package nodes holds tests of a cluster of two nodes: pods reach one another and their services across nodes; a node whose
// agent is killed keeps its pods; one that vanishes loses them to the other, and has nothing left of them when it is back. They
// run real pods; see package nodetest.
//
// # Concurrency
//
// Tests run one after the other: some end the second node's program, or cut the node off.
package nodes
