// Package etcd36 pins the release of etcd that a cluster can be downgraded to. It has no code of its own: the program is built
// from this module, for the long runs only, since its dependencies are not those of other peers.
package etcd36
