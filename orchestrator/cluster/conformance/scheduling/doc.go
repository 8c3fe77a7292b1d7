// Package scheduling holds the behaviours of sig-scheduling: where pods go, and what they may ask for.
package scheduling
