//go:build linux

package nodetest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"

	"github.com/google/go-containerregistry/pkg/registry"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/keelson-io/keelson/orchestrator/node/runtime/crisuite/containerd"
)

// Equipment is what a machine has beside keelson. It is called before the machine's node starts, returns flags for it, and has what
// it starts ended by Machine.Ends.
type Equipment func(c *Cluster, m *Machine) (flags []string, err error)

// Ends has something done when the cluster has ended, before what is left behind is counted.
func (m *Machine) Ends(f func() error) { m.ends = append(m.ends, f) }

// Peer is the path of a program of `make peers`.
func Peer(name string) (string, error) { return built(filepath.Join("peers", name), "make peers") }

// Containerd is Equipment: a real containerd with runc, which runs the pods of the machine and has the images.
func Containerd(c *Cluster, m *Machine) (flags []string, err error) {
	conf := &containerd.Config{Dir: filepath.Join(m.Dir, "ctr"), Pause: "docker.io/library/" + Image, Handlers: []string{"runc"}}
	if conf.Program, err = Peer("containerd"); err != nil {
		return nil, err
	}
	if conf.Runc, err = Peer("runc"); err != nil {
		return nil, err
	}
	if err := os.Mkdir(conf.Dir, 0o711); err != nil {
		return nil, err
	}
	var l net.Listener
	err = m.Do(func() (err error) {
		l, err = net.Listen("tcp", "127.0.0.1:0")
		return err
	})
	if err != nil {
		return nil, err
	}
	images := &http.Server{Handler: registry.New(registry.Logger(log.New(io.Discard, "", 0)))}
	served := make(chan error, 1)
	go func() { served <- images.Serve(l) }()
	defer func() {
		err = errors.Join(err, images.Close())
		<-served
	}()
	conf.Mirror = l.Addr().String()
	running, err := containerd.Start(conf, m.start)
	if err != nil {
		return nil, err
	}
	m.Ends(running.Stop)
	if err := c.fill(m, conf); err != nil {
		return nil, fmt.Errorf("nodetest: containerd: %w: %s", err, running.Tail())
	}
	return []string{"--container-runtime-endpoint", "unix://" + conf.Socket(), "--cni-conf-dir", conf.CNIConf(), "--cni-bin-dir", conf.CNIBin()}, nil
}

// fill gives containerd the images of the machine.
func (c *Cluster) fill(m *Machine, conf *containerd.Config) error {
	conn, err := grpc.NewClient("unix://"+conf.Socket(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	m.Ends(conn.Close)
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	for _, image := range []string{Image, EchoImage} {
		if _, err := c.Keelson(m, "image", "--root", filepath.Join(m.node(), "images"), "push", image, conf.Mirror+"/library/"+image); err != nil {
			return err
		}
		pull := &runtimeapi.PullImageRequest{Image: &runtimeapi.ImageSpec{Image: image}}
		if _, err := runtimeapi.NewImageServiceClient(conn).PullImage(ctx, pull, grpc.WaitForReady(true)); err != nil {
			return err
		}
	}
	pods := runtimeapi.NewRuntimeServiceClient(conn)
	m.busy = func() bool {
		all, err := pods.ListPodSandbox(context.Background(), &runtimeapi.ListPodSandboxRequest{})
		return err == nil && len(all.Items) > 0
	}
	return nil
}
