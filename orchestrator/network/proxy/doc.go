// Package proxy makes the services of a cluster reachable on a node: what is sent to an address of a service is rewritten to
// one of its endpoints.
//
// # The table inet keelson-services
//
// It is written by package nft and holds, for each family f of 4 and 6:
//
//	map services<f>            address . protocol . port -> chain     cluster IPs, external IPs, addresses of load balancers
//	map nodeports<f>           protocol . port -> chain
//	map endpoints<f>           cluster IP . protocol . port . number -> address . port
//	map unserved<f>            address . protocol . port -> chain reject or drop, for ports without endpoints
//	map unserved-nodeports<f>  protocol . port -> the same
//	map affinity<f>            client . cluster IP . protocol . port -> address . port, written by packets
//	set live<f>, livelocal<f>  endpoints that a remembered client may go on to use
//	set clusterips<f>, hairpin<f>, cluster<f>, own<f>, ranges<f>, nodeaddresses<f>
//
// A port of a service has up to four chains, whose names end with namespace/name/protocol/port:
//
//	svc<f>/...       to one of all endpoints, at random
//	local<f>/...     to one of those on this node
//	external<f>/...  for what comes by other addresses than the cluster IP: marks for masquerading, and chooses of the two above
//	sources<f>/...   for addresses of load balancers with source ranges
//
// The endpoints of a port are numbered. Those of svc begin at 0, those of local at 65536. A random number and the cluster IP,
// which is unique, are looked up in one map, so that a service costs the kernel no set of its own. Session affinity is one map
// too, from client and port to endpoint. It needs no rule per endpoint, and an endpoint that is gone is not in live.
//
// Services are looked up before routing, for what is forwarded and for what the node itself sends. What has no endpoint is
// answered there as well (a TCP reset, or "port unreachable"), behind the rewriting: a packet that was rewritten has another
// destination by then. The rest of the table masquerades what was marked, and pods that reach themselves.
//
// # What is masqueraded
//
//   - what comes to a cluster IP from no pod: from the node, or from outside;
//   - what comes to a node port, an external IP or a load balancer's address, unless the policy is Local;
//   - a pod that reaches itself by a service.
//
// The mark is bit 0x4000 of the packet's mark, as with kube-proxy. It is cleared before the packet leaves.
//
// # Node ports
//
// They are served on all addresses of the node, or those in Config.NodePortAddresses; never on 127.0.0.0/8 and ::1: a packet
// from 127.0.0.1 leaves loopback only if route_localnet is set, which lets neighbours reach what listens on 127.0.0.1 alone.
//
// # Changes
//
// State keeps what each service makes of chains and elements. A change of a service or of its slices makes that service anew,
// and the difference goes to the kernel as one transaction; what it costs does not depend on how many services there are. Run
// also looks every second whether the table is still what was written, and repairs it.
//
// Two services may claim the same key, such as an external IP and a port. The older one has it; when it goes, the other one
// gets it.
//
// UDP flows whose endpoint is gone are forgotten, so that a client that keeps its port reaches another one.
//
// # Concurrency
//
// Handlers of informers put objects into a State under its lock. Run alone takes changes out of it, writes them and serves
// health checks. Synced, Healthy and the metrics may be asked from any goroutine.
package proxy
