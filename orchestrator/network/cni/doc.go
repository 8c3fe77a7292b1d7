// Package cni joins pods to networks of the Container Network Interface, in both directions.
//
// # Plugins of others
//
// A Network attaches sandboxes by the plugins of the first valid configuration in a directory, in the order of names, as
// container runtimes do. The directory is read at each call: a configuration may come later, or change. What was attached is
// in libcni's cache with the configuration it was attached by, and is detached by that one. The loopback of a sandbox needs
// no plugin. Host ports, bandwidth, DNS and annotations are passed as capabilities to plugins that ask for them.
//
// # Keelson as a plugin
//
// A runtime that is not ours, containerd for one, calls plugins itself. Main is such a plugin, and the least one that is
// possible: it sends what it was asked to the node's agent, over a unix socket that its configuration names, and prints the
// answer. The agent's side is a Server in front of its network. So there is one holder of addresses, tables and guards,
// whichever runtime asks. While the agent is down no pod can be made, which it alone would have asked for. Install
// writes the configuration and puts the program where the runtime looks for it.
//
// # Concurrency
//
// The methods of Network and Server may be called from any goroutine. Calls for one sandbox must follow one another, as
// those of a container runtime do.
package cni
