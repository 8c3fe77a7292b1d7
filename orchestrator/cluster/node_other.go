//go:build !linux

package cluster

import (
	"context"
	"errors"

	"k8s.io/client-go/rest"
)

var errLinux = errors.New("cluster: a node needs Linux; on other systems only simulated nodes run")

// CheckNode says why this process cannot run the node of its machine.
func CheckNode(*Node) error { return errLinux }

// RunNode runs the node of this machine. Nodes are Linux machines.
func RunNode(context.Context, Node, *rest.Config) error { return errLinux }

// ResetNode removes what a node left on this machine. Nodes are Linux machines.
func ResetNode(context.Context, Reset) error { return errLinux }
