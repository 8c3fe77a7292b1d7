// Package node holds the behaviours of sig-node.
package node
