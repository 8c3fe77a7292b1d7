// Package dns is the DNS server of a node. It answers names of the cluster from what informers have seen, and asks servers
// upstream for all others.
//
// # Names of the cluster
//
// The zone (usually cluster.local) is that of the specification of Kubernetes DNS, version 1.1: A and AAAA of services, of the
// endpoints of headless ones and of their hosts, SRV of named ports, CNAME of external names, PTR of cluster addresses and of
// hosts of headless services, A and AAAA of pods by their address (a-b-c-d.namespace.pod), and dns-version.
//
// Every event of a service or of one of its slices makes the records of that service anew (recordsOf, a pure function), and
// the difference goes into an index. The index maps a name, as it is on the wire and in lower case, to the answers of each
// type, already packed: since the question comes first in a message, its name is always at the same offset, and so is
// everything that points to it. To answer is to look the name up, and to copy. It allocates nothing.
//
// # The search path in one trip
//
// A pod's resolver that looks for example.com first asks for example.com.<namespace>.svc.cluster.local, then for two more
// names of the cluster, then for those of the node's search domains. The server knows the pod by its address. When it sees the
// first of these questions, it walks through the rest of the path itself, and answers with a CNAME to the first name that
// exists.
//
// # Other names
//
// They are answered from the cache, or upstream. A question goes to the first server upstream that is well; if there is no
// answer within a moment it goes to the next one as well, and the first answer counts. In any case there is an answer well
// before resolvers lose patience (5 s): an old one if there is one, else SERVFAIL. Equal questions wait for one answer. Servers
// that fail are probed until they are well again, and one that sends our own questions back to us is not used.
//
// # Concurrency
//
// All methods of Server may be called from any goroutine. One goroutine per socket reads questions and answers what can be
// answered at once; what has to wait is carried on by a goroutine of its own, of which there is a bounded number. The index,
// the table of pods and the cache have locks, held for a look-up or for the change of one service.
package dns
