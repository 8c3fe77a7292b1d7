package main

import "github.com/keelson-io/keelson/orchestrator/network/cni"

// asPlugin does what a container runtime wants that calls this program by the name of Keelson's CNI plugin.
func asPlugin() bool {
	if !cni.Invoked() {
		return false
	}
	cni.Main()
	return true
}
