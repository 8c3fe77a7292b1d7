// Package containerd pins the versions of the container runtime's rivals and of the clients that drive it.
package containerd
