// Package conformance holds the tests that show which of the named behaviours of a conforming Kubernetes cluster Keelson's
// has. They see the cluster as users do: through client-go over HTTPS.
//
// A behaviour is a function in the file of its area, entered in the area's list under the name that Kubernetes gives it. The
// whole suite runs on a cluster with its embedded store, then on one whose store is the real etcd, if that was built.
// Behaviours run in parallel, each in a namespace of its own; those whose names say [Serial] or [Disruptive] run alone, after
// the others.
//
// docs/conformance.md lists all names, and says of each whether it is held, and by which file. TestTable compares it with the
// lists; with -update it rewrites the table. The names of kubectl are in the module peers, which has the real kubectl.
package conformance
