// Package architecture holds the behaviours of sig-architecture.
package architecture
