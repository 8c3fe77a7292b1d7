// Package cgroup keeps the cgroups above those of containers, and translates requests and limits into what the kernel knows.
//
// # The tree
//
//	kubepods                        what the node has, without what is reserved for others than pods
//	kubepods/pod<uid>               Guaranteed pods
//	kubepods/burstable              shares of the sum of its pods' requests
//	kubepods/burstable/pod<uid>
//	kubepods/besteffort             least shares
//	kubepods/besteffort/pod<uid>
//
// With the systemd driver the same nodes are slices: kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod<uid>.slice,
// dashes of the UID as underscores. The runtime puts sandboxes and containers below the pod's node. Both versions of cgroups
// are served; with version 1 a node of the tree is a directory in each controller's hierarchy.
//
// A pod's own limits are the sums over its containers, as far as all of them have one, and its overhead on top; what it asks
// for at the level of the pod counts instead. A missing capability of the machine (a controller that is not there, a value that
// the kernel refuses) costs the limit, not the pod: it is logged.
//
// # Concurrency
//
// A Tree is safe for use by several goroutines. Calls for different pods wait for each other only while the shares of a class are
// set.
package cgroup
