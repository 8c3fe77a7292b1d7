// Package scheduling holds the behaviours of sig-scheduling.
package scheduling
