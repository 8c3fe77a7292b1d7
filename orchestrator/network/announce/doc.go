// Package announce makes a node answer for addresses of load balancers: neighbours on its links learn that they are reached by
// this node, whose service proxy knows what to do with them.
//
// # Who answers
//
// One node per address, so that neighbours see one answer. Nodes that announce say so by an annotation on their Node object. Of
// those that are ready, and are not excluded by the label node.kubernetes.io/exclude-from-external-load-balancers, the one with
// the highest hash of its name and the address is meant (rendezvous hashing: when a node comes or goes, only its addresses
// move). With externalTrafficPolicy Local it is one that has endpoints. Every node decides for itself, from the same objects;
// while they see different ones two may answer for a moment, and who announces later is believed.
//
// # How
//
// The kernel answers, by an entry of its list of proxied neighbours on the link whose prefix holds the address, or else on that
// of the default route. The address is not made one of the node's, whose other ports would be reached by it. IPv4 wants a route to
// the address by another link before it answers for it; it goes to Config.Sink, where packets to ports that no service has
// end. What is new is told to all neighbours by a gratuitous ARP or an unsolicited neighbour advertisement. An address
// that the node has anyhow is left alone.
//
// # Concurrency
//
// Run does everything, in one goroutine; handlers of informers wake it.
package announce
