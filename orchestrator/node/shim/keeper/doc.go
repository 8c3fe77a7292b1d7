// Package keeper is the shim's process: it holds the namespaces of a pod sandbox, owns its containers through libcontainer,
// moves their streams and answers the clients.
//
//	socket ── one goroutine per connection ──> Keeper ──> container ──> libcontainer
//	                                                          └── stdio ──> log, attached clients
//
// It is built where there is Linux and cgo only: libcontainer joins namespaces before the runtime of Go has threads.
//
// # Concurrency
//
// A container's op lock puts the calls that change it in line. State lies under the Keeper's lock, and nothing slow happens
// under that. Processes are waited for in the poller, so no thread sleeps for any; whatever else is reparented to the shim
// (it is a subreaper) is reaped on SIGCHLD, never while libcontainer starts a process, whose helpers it waits for itself.
package keeper
