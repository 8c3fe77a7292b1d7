// Package node is the agent of a node: it registers the node, runs the pods that are bound to it, and serves what users ask of
// them.
//
// # Parts
//
//	registration  the node's certificates, its Node object and its heartbeats
//	workers       a worker per pod, which brings it from its spec to running containers through CRI
//	cgroup        the tree of cgroups that pods are in
//	volume        what containers mount
//	environ       their variables, resolver and names
//	probe         their startup, readiness and liveness
//	logs          their logs: reading and rotation
//	serve         the HTTPS server of the node
//	eviction      who has to go when the node runs out of something
//	devices       devices of plugins
//	collect       images that nobody uses
//	images        the image store of the embedded runtime
//	runtime       the embedded runtime, which serves CRI
//	shim          a process per pod that its containers belong to
//
// An Agent composes all but the last three, which are behind a CRI socket: its own, or that of another runtime.
//
// # Concurrency
//
// An Agent is run once. What it starts has ended when Run returns; pods run on.
package node
