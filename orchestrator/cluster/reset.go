package cluster

import (
	"io"

	"go.uber.org/zap"
)

// Reset says how a machine stops to be a node.
type Reset struct {
	Dir string // the node's; "": /var/lib/keelson/node
	// Kubeconfig reaches the API server as somebody who may delete the Node object; "": that stays.
	Kubeconfig string
	// Volumes removes the files of persistent volumes, too.
	Volumes bool
	Out     io.Writer // is told what is done
	Logger  *zap.Logger
}
