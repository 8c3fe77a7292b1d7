//go:build !linux

package main

// asPlugin does nothing: plugins are for nodes, which are Linux machines.
func asPlugin() bool { return false }
