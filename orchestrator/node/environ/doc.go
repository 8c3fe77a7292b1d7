// Package environ makes what surrounds the processes of a container apart from its files: environment variables, the
// configuration of its resolver, its name, and /etc/hosts.
//
// # Variables
//
// In the order of weight: variables of the container (env), all keys of ConfigMaps and Secrets (envFrom; of two sources the
// later wins), and variables of services. A value may refer to variables that were declared before it. ConfigMaps and Secrets
// are read from the API server at every start of a container, so that a container that starts has what is true now.
//
// Errors are worded as Kubernetes words them, without a prefix: they become the message of a container that waits with
// CreateContainerConfigError.
//
// # Concurrency
//
// All methods of Environ may be called from any goroutine. The hosts file of a pod is replaced as a whole, so that two calls
// for the same pod do not mix.
package environ
