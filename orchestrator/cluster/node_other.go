//go:build !linux

package cluster

import (
	"context"
	"errors"

	"k8s.io/client-go/rest"
)

// RunNode runs the node of this machine. Nodes are Linux machines.
func RunNode(context.Context, Node, *rest.Config) error {
	return errors.New("cluster: a node needs Linux; on other systems only simulated nodes run")
}
