// Package metrics collects what nodes and pods use at present, for metrics.k8s.io: kubectl top and autoscaling.
//
// A Collector asks the server of every node for /metrics/resource, every 15 s, and keeps the last two samples in memory. What is
// used of processors is the difference of the two, by the times at which the node measured; of memory it is the last one. A node
// that was seen once only is asked again after 2 s, and a container that began after the sample before counts from its beginning.
// What a node has not told for two minutes is forgotten.
//
// Every API server has a Collector of its own, and answers from it: nothing is stored. Nodes without a server, which simulate
// their pods, are not asked.
//
// # Concurrency
//
// Run works in goroutines of its own; the other methods may be called from any goroutine.
package metrics
