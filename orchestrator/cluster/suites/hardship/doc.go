// Package hardship holds tests of nodes that run out of disk or memory or lose their power, and of a workload under load: pods are
// evicted, replaced, begun again, made more, and afterwards all is as before. They run real pods; see package nodetest.
//
// Each test has a node of its own: "disk", whose directory is on a small file system, "memory", whose pods get little of it, "power",
// and "one", which is none of these.
//
// # Concurrency
//
// All tests run in parallel.
package hardship
