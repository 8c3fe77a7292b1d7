// Package workers runs the pods of a node: it takes them from their spec to running containers and back, and says in their
// status what became of them. It is the heart of the node agent.
//
// # Model
//
// Every pod has a worker, and every worker one loop. It is triggered by levels, not by edges: each sync looks at the pod's spec
// and at what the container runtime has of it, computes what is missing (actions.go, a pure function), writes the status, and
// starts operations that close the gap. Events of the runtime, results of probes, changes of the spec and timers only wake the
// loop. What a sync decides never rests on what an earlier one remembers about containers:
//
//   - State lives in the runtime. Sandboxes and containers carry the labels and annotations that a kubelet would give them
//     (labels.go), among them how often a container was restarted and how long its next restart has to wait. A restarted agent
//     therefore finds its pods alive, restart counts unchanged and back-offs where they were.
//   - What the runtime cannot hold lies in the directory of the pod, next to its volumes: the resources that were allocated to it
//     and its range of users.
//   - What is remembered in memory (why a container could not be started, results of probes) may be lost at any time.
//
// Operations that last (pulling images, starting containers, stopping them) run beside the loop, so that a pod whose image is
// being pulled still reports the containers that run. At most one operation brings containers up, in the order of the spec, as
// hooks and sidecars need it; any number bring single containers down.
//
// # Life of a pod
//
// A pod is admitted (admission.go) or rejected. It lives until it is deleted, evicted, late or done; then it ends: whatever
// brings containers up is cancelled, all containers are stopped within the grace period, sidecars last and in reverse order, and
// the final status is written. An ended pod keeps its dead containers, for their logs, until it is deleted. Then all that it had
// on the node goes, and the API object last, so that who waits for its deletion finds nothing left.
//
// # Concurrency
//
// Workers is safe for use by several goroutines. Each worker's loop runs in a goroutine of its own, operations of a worker in
// goroutines that its loop starts and waits for before it ends. A worker's fields under mu are shared with these and with callers;
// the others belong to the loop. Nothing that takes time happens under a lock, and no worker waits for another: they share
// only the bound on pulls at the same time.
package workers
