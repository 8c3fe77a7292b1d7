// Command keelson-shim is the shim as a program of its own: small, so that a pod costs little memory and starts fast.
package main

import (
	"fmt"
	"os"

	"github.com/keelson-io/keelson/orchestrator/node/shim"
)

func main() {
	if shim.Reexec() {
		return
	}
	fmt.Fprintln(os.Stderr, "keelson-shim is started by the node agent, and runs the containers of one pod")
	os.Exit(2)
}
