// Package kube measures a Kubernetes API server, and the scheduler behind it, as clients see them: through client-go, by a
// kubeconfig. It works on any Kubernetes.
//
// [API] runs phases: objects are created, read, updated, patched and listed in turns of one verb, then many watches follow many
// updates. [Schedule] creates pods as fast as the server takes them, and follows their bindings. [Lives] starts and ends pods, and
// waits until they are ready and gone.
//
// Bodies are encoded before a phase begins, and answers are read but not decoded, so that the measuring program takes as
// little as possible of the processors that it shares with the server.
//
// # What the server takes
//
// Processor time and memory are what the server says of itself at /metrics (process_cpu_seconds_total and
// process_resident_memory_bytes), so they can be measured from afar. They are those of one process: with `keelson up` the
// store, the controllers and the scheduler are in it, with kube-apiserver they and etcd are not.
//
// # Concurrency
//
// A Target may be used by many goroutines; one measurement runs at a time.
package kube
