// Package policy enforces NetworkPolicies (networking.k8s.io/v1) on the node of the pods that they select.
//
// # The model
//
// A policy selects pods and isolates them for traffic that comes to them, that leaves them, or both. What several policies let
// through adds up; what none lets through is dropped. Each direction is enforced on the node of the pod that is isolated for
// it, for new connections: a packet from one node to another is looked at twice, and what belongs to a connection that was let
// through is not looked at again.
//
//	leaving   forward       from a pod, by the link it came in on:  its own rules, or on
//	coming    forward + 1   to a pod, by the link it goes out on:   its own rules, or on
//	to-node   input         from a pod to an address of its node:   as leaving
//
// A pod that is isolated for a direction has a chain of it: whoever it is itself is accepted, then the chain of each policy that
// selects it is run, then the packet is dropped. The chain of a policy has a rule for each way to be a peer together with each
// way to be a port. Peers are sets of addresses: those of the pods that a selector finds (pods-…), shared by all rules with that
// selector, and ranges (block-…). Ports are sets of protocols and ranges (ports-…) and, for a port with a name, of the addresses,
// protocols and numbers of all pods that have it (port-…), so that a name means what it means in the pod that is spoken to. A
// set that is named by a digest of what it says never changes; sets of pods change by the elements of the pods that changed.
//
// Only policies that select a pod of this node, and the sets that they refer to, are in the table.
//
// # What is matched
//
// The forward hook comes after the destination of a service was rewritten and before a source is: peers are matched by what a
// packet's ends really are. Pods are found by their links, not by their addresses, so that no other source address gets around
// what isolates a pod. Pods that use the network of their node are not selected, neither by a policy nor as a peer, and pods
// that are over are no peers.
//
// A node always reaches its own pods: what it sends passes the output hook, where nothing is dropped. What a pod sends to its node
// is another matter. Kubernetes' pages let it through; here it is traffic that leaves the pod like any other, because else no
// policy keeps a pod from the agent and the API server of its own node, though it does from those of other ones.
//
// The node itself answers DNS (Config.DNS), where other clusters have pods. The rule by which everybody allows DNS selects them: so
// a peer that would match pods of kube-system with the label k8s-app=kube-dns also matches the DNS addresses, at port 53 of UDP and
// TCP, which have the names dns and dns-tcp. DNS is not open to a pod that no rule opens it to.
//
// # Pods that come and go
//
// An Enforcer is the guard of a podnet.Network. It is asked before a pod's link is made. Then a pod of which nothing is known, and
// that policies of its namespace might select, has a chain that drops everything, until its object is seen; that is waited for,
// but not for long. A pod is known by its UID: the object of a namesake that went before says nothing about it. As long as it is
// attached, what its object said last holds, even if the object is gone.
//
// When an agent starts, the table of the one before it is in the kernel and is left alone until pods, namespaces and policies
// are known. Pods that are attached before that are cut off by a small table of their own, keelson-policies-waiting. With the
// first write of the table that is removed.
//
// # Invariants
//
//   - The table is what table() makes of the state, which does not depend on the order in which things came.
//   - A pod that is attached while a policy selects it, or may, has no packet that the policy does not allow.
//   - A table that somebody changed is written anew within a second or so.
//
// # Concurrency
//
// The methods of an Enforcer may be called from any goroutine. The state has one lock, under which the table is also written, so
// that the last write is of the last state.
package policy
