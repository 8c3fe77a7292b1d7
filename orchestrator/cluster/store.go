package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"go.uber.org/zap"

	"github.com/keelson-io/keelson/server"
	"github.com/keelson-io/keelson/server/config"
)

// member is an embedded store member.
type member struct {
	server   *server.Server
	endpoint string
	sockets  string // a directory of its own for the sockets, "" if they are in the data directory
}

// maxSocketPath is how long the path of a socket may be on all systems, in bytes.
const maxSocketPath = 100

// storeStop bounds an orderly stop of the member.
const storeStop = 10 * time.Second

// startMember starts a store member whose data is in a directory. It listens on sockets in it, which only its owner can reach.
func startMember(ctx context.Context, dir string, lg *zap.Logger) (*member, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("cluster: the store's directory: %w", err)
	}
	m := &member{}
	sockets := dir
	if len(filepath.Join(dir, "client.sock")) > maxSocketPath {
		if m.sockets, err = os.MkdirTemp("", "keelson-"); err != nil {
			return nil, fmt.Errorf("cluster: a directory for sockets: %w", err)
		}
		sockets = m.sockets
	}
	m.endpoint = "unix://" + filepath.Join(sockets, "client.sock")
	const advertised = "http://localhost:2380" // nobody else is in the cluster
	cfg, err := config.Parse([]string{
		"--name=keelson", "--data-dir=" + filepath.Join(dir, "member.etcd"),
		"--listen-client-urls=" + m.endpoint, "--advertise-client-urls=http://localhost:2379",
		"--listen-peer-urls=unix://" + filepath.Join(sockets, "peer.sock"), "--initial-advertise-peer-urls=" + advertised,
		"--initial-cluster=keelson=" + advertised,
	}, nil)
	if err != nil {
		return nil, fmt.Errorf("cluster: the embedded store: %w", err)
	}
	if m.server, err = server.Start(ctx, cfg, lg); err != nil {
		return nil, errors.Join(fmt.Errorf("cluster: the embedded store: %w", err), m.removeSockets())
	}
	select {
	case <-m.server.Ready():
		return m, nil
	case <-m.server.Done():
		return nil, errors.Join(fmt.Errorf("cluster: the embedded store: %w", m.server.Err()), m.stop())
	case <-ctx.Done():
		return nil, errors.Join(ctx.Err(), m.stop())
	}
}

func (m *member) stop() error {
	ctx, cancel := context.WithTimeout(context.Background(), storeStop)
	defer cancel()
	return errors.Join(m.server.Stop(ctx), m.removeSockets())
}

func (m *member) removeSockets() error {
	if m.sockets == "" {
		return nil
	}
	return os.RemoveAll(m.sockets)
}
