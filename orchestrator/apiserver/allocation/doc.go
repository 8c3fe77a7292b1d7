// Package allocation gives services what no two of them may have: cluster IPs and node ports.
//
// # Model
//
// An address is taken by creating the IPAddress of its name, which can succeed once only, and given back by deleting it. Node
// ports are bits of one object in the store, /registry/ranges/servicenodeports, which is changed as a whole. Both are as
// kube-apiserver stores them.
//
// What a service takes is taken before the service is stored, and given back if it is not. A server that dies in between
// leaves something behind that belongs to nobody; Repair finds that, and what services have without having taken it.
//
// # Concurrency
//
// All methods may be called by many requests, and by several servers on one store, at once.
package allocation
