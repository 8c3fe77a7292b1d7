// Package isolation tests network policies with real pods on a whole cluster: objects in, packets out.
//
// # Concurrency
//
// There is nothing in it but tests.
package isolation
