// Package network holds the behaviours of sig-network.
package network
