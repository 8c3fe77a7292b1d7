// Package containers holds the behaviours of sig-node that only real containers show.
package containers
