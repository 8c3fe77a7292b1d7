// Package pause is the pid 1 of a PID namespace that the containers of a pod share. It holds the namespaces and reaps what is
// orphaned, and costs next to nothing: it is a loop in C that a constructor enters before the runtime of Go starts, in a
// process that was started with the environment variable Env.
//
// # Concurrency
//
// There is nothing to call: the import is enough.
package pause

// Env is the environment variable that makes a program which imports this package pause.
const Env = "KEELSON_SHIM_PAUSE"
