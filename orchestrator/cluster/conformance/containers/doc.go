// Package containers holds the behaviours that only real containers show: those of sig-node, and some of sig-apps and sig-cli.
package containers
