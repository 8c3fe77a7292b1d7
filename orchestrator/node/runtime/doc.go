// Package runtime is the embedded container runtime: CRI's RuntimeService without a daemon, on shims, the image store and a
// network.
//
// # Model
//
// A sandbox is a shim (a process that holds the pod's namespaces and owns its containers), a network namespace under
// State/netns with an attachment to the network, and a few files under State/sandboxes. A container is a root file system
// mounted by the image store and a configuration under State/bundles; its process is created and started in its sandbox's
// shim by StartContainer, as a command that cannot be run is the failure of a start.
//
// What exists is written down in one small JSON file per sandbox and container under Root, replaced atomically. A record goes
// through phases: making, made, ending. It is written before the first thing is made and removed after the last thing is
// gone, so that whatever happens in between is found again: Open undoes what was being made, finishes what was being ended,
// asks the shims that still run how their containers are, and gives containers whose shim is gone the exit code 137. What the
// machine holds without a record (file systems, namespaces, shims, folders) is removed.
//
// # Limits
//
// Checkpoints are left out. Volumes that an image declares are folders of the writable layer. AppArmor's
// RuntimeDefault confines nothing.
//
// # Concurrency
//
// All methods of Runtime may be called by several goroutines. A sandbox has a gate: what happens to one of its containers
// passes together, stopping and removing the sandbox passes alone. A container has a lock that one operation holds; the wait
// of StopContainer does not. What lists and status calls read is behind locks of its own that are never held over a call to
// a shim, the network or the disk's slow side. A goroutine per running sandbox follows its shim's events.
package runtime
