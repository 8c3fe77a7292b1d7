// Package helm4 pins Helm 4. It has no code of its own: the program is built from this module, since its dependencies are not
// those of other peers.
package helm4
