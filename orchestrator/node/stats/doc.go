// Package stats measures the node, its pods and their containers.
//
// What pods and containers use is the runtime's to tell (CRI ListPodSandboxStats, or ListContainerStats from a runtime that does
// not have that); what the node uses is read from /proc. Nothing is kept but the last measurement of each, from which the present
// use of processors is computed where the runtime does not tell it.
//
// The same numbers are shown in three forms: as a Summary (/stats/summary), as the metrics that autoscaling and kubectl top are
// made from (/metrics/resource), and as those that dashboards know by the names of cAdvisor (/metrics/cadvisor).
//
// # Concurrency
//
// All methods may be called from any goroutine. Every call measures anew.
package stats
