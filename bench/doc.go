// Package bench measures a store: workloads that any etcd-compatible cluster can be put under, and reports.
//
// A Workload is data: a name, a key space and an operation, or a Start that prepares a run (watches, leases) and returns
// the operation. All are driven by one loop in which workers draw numbered operations. In a closed loop a worker draws
// the next when it has its answer. In an open one operation n is due at n/rate after the start, and its latency counts
// from then, however late a worker gets to it: a stall is charged to all operations that it delayed, not to one for each
// worker (coordinated omission). Latencies go into one HDR histogram for each worker, merged at the end.
//
// A run ends gently. At its deadline no operation is begun any more, those under way are waited for, and the run's length
// includes that. To cancel them would leave the server with work that nobody counts and that would slow down whatever is
// measured next.
//
// Two clusters are compared in turns (A B A B ...), so that what else the machine does hits both alike, and a turn begins
// when the servers of both have come to rest. What is reported is the ratio of each round, its median and its spread: of
// operations a second in a closed loop, of mean latencies in an open one, where the rate is given. Above 1 A is better.
//
// Workloads write only below the prefix "bench/", and leave the key space there, filled, for the next run. Leases that a
// run granted it revokes.
//
// # Concurrency
//
// A Worker and its Recorder are for one goroutine; the runner merges them when all have ended. An Env runs one workload at
// a time. Everything else is used by one goroutine at a time.
package bench
