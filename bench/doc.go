// Package bench measures a store: workloads that any etcd-compatible cluster can be put under, and reports.
//
// A Workload is data: a name, a set-up and an operation, or a run of its own for those that are more than a loop of
// operations. The runner loads it in a closed loop (so many clients, each waiting for its answer) or an open one (so many
// operations a second, whether or not earlier ones have been answered; latency counts from when an operation should have
// begun, so that a stall is charged to all who would have suffered from it). Latencies go into HDR histograms.
//
// Two clusters are compared in turns (A B A B ...), so that what else the machine does hits both alike. What is reported is
// the ratio of each round, its median and its spread; figures of one run alone say little about another machine.
//
// # Concurrency
//
// A Recorder is for one goroutine; the runner merges them. Everything else is used by one goroutine at a time.
package bench
