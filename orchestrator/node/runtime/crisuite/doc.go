// Package crisuite is a suite for container runtimes, written against CRI and nothing else: it runs against the embedded
// runtime and against containerd.
//
// # Model
//
// Run connects to an endpoint, pulls the suite's images from a registry that Registry has started, and runs each case as a
// subtest. Containers run the program in folder box, which does what it is told or tells what it sees (package facts), so
// that facts are checked from inside. What a case makes is removed when it ends; that nothing else is left on the machine is
// for the caller to check, who knows what the runtime holds.
//
// # Concurrency
//
// Cases run in parallel. A Suite is not modified while they do.
package crisuite
