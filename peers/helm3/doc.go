// Package helm3 pins Helm 3. It has no code of its own: the program is built from this module, since its dependencies are not
// those of other peers.
package helm3
