// Package batch holds tests of jobs and cron jobs whose pods are real: how often and where they run, what of their ends counts,
// when a job is given up, and what is left of it. They run real pods; see package nodetest.
//
// # Concurrency
//
// All tests run in parallel: most of their time they wait for the pauses between tries.
package batch
