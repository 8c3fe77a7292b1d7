// Package shim runs the containers of a pod in a process of their own, one per pod sandbox, so that they outlive the agent.
//
// Start spawns the process and returns a Client; Connect finds one that runs. The shim owns what it made: it pins the pod's
// namespaces, runs containers with libcontainer, writes their logs, keeps their exit codes and answers over a unix socket in
// its folder. It is light: the program in keelson-shim holds libcontainer and little else, and package program puts it where
// it can be run. A binary that calls Reexec first thing in main can serve as its own shim.
//
// When a shim is killed, its containers' logs and streams are lost, so nothing of it can be taken over: Connect answers
// ErrGone, and Clean kills and removes what it left.
//
// # Concurrency
//
// All methods of Client may be called from several goroutines; each call has a connection of its own. Calls on one container
// are served one after the other, except that Signal, State and the end of the container never wait for another call.
package shim
