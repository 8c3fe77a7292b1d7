// Package podnet is the network of the pods of a node, and the ways between the pods of all nodes.
//
// # Between a pod and its node
//
// A pod is on its node by a pair of veths: eth0 in the pod, an interface whose name starts with LinkPrefix on the node. The
// pod's address is alone in its prefix (/32, /128), and everything it sends goes to its node, which routes it. Pods of one
// node are therefore not switched to one another at layer 2, and this is on purpose: a switched packet passes the
// netfilter hooks of IP only where br_netfilter is loaded and switched on in that very namespace, and where it is, a
// service's rewritten destination is short-circuited inside the bridge. NetworkPolicies and services between two pods of one
// node would hold by luck. Routed, every packet passes the hooks once, in every namespace, and comes in on an interface that
// tells which pod has sent it, so that a wrong source address is seen and dropped.
//
// The bridge (Config.Bridge) carries the node's gateway addresses, the first of each of its ranges. It has no ports; it is
// there so that these addresses exist before the first pod does, whatever else comes and goes.
//
// Neighbours are entered on both sides when a pod is attached, and IPv6 addresses skip their check for duplicates: the first
// packet of a pod leaves at once.
//
// # Addresses
//
// A node's ranges are those of its Node object (spec.podCIDRs): one, or one of each family. A pod gets an address of each. An
// address that was given back is the last to be given out again. What is attached is written to a file of Config.Dir per
// sandbox before anything is made in the kernel, and removed after all of it is gone, so that an agent that was killed knows
// what there is; see Network.GC for what it forgets.
//
// # Between nodes
//
// The backend "routes" has a route to the ranges of each other node by way of that node's internal address. Where that
// address is not on the same link, and always with the backend "vxlan", packets are carried in a VXLAN whose entries
// (forwarding, neighbours, routes) are written per node: nothing is learned or flooded. The MAC of a node's end is made from
// its name. All nodes of a cluster have the same backend, VNI and port.
//
// # The table inet keelson-pods
//
// It drops what pods send under a wrong source, maps host ports to pods, and masquerades what leaves the ranges of the
// cluster. A pod that talks to a pod is seen under its own address, on whatever node. The forward hook is left alone: an
// accept there does not override what another table drops.
//
// A host port also answers on 127.0.0.1 of its node. That needs net.ipv4.conf.<link>.route_localnet, which would let the
// pod behind that link reach what listens on the node's loopback only; it is therefore set for links of pods with host
// ports only, never for all interfaces, and the table drops what comes from a pod and is meant for 127.0.0.0/8.
//
// # Repair
//
// Run compares the bridge, the sysctls, routes, neighbours, the pods' links and the table with what should be: when
// nodes change, when somebody changes links or routes, and every few seconds.
//
// # Concurrency
//
// All methods of a Network may be called from any goroutine. Calls for one sandbox follow one another; those for different
// sandboxes overlap except where they change the table or the list of addresses. Every handle, and every sysctl that is
// written, is bound to the network namespace of Config.NetNS.
package podnet
