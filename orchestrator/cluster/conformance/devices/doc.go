// Package devices holds the behaviours of sig-node that are about the API of dynamic resource allocation.
package devices
