// Package conformance runs the tests that show which of the named behaviours of a conforming Kubernetes cluster Keelson has.
// They see the cluster as users do: through client-go over HTTPS.
//
// Each area has a folder below this one. A behaviour is a function there, entered in a Behaviours literal under the name that
// Kubernetes gives it. Test runs an area on a cluster with its embedded store, then on one whose store is the real etcd, if
// that was built. Behaviours run in parallel, each in a namespace of its own; those whose names say [Serial] or [Disruptive]
// run alone, after the others.
//
// Until, Observe, Update and their kin are the steps that many behaviours have in common, Operations what the API of every kind
// can do.
//
// docs/conformance.md lists all names, and says of each whether it is held, and by which file. The package table compares it
// with the literals; with -update it rewrites the table. The names of kubectl are in the module peers, which has the real
// kubectl.
package conformance
