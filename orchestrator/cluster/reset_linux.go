package cluster

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/keelson-io/keelson/orchestrator/network/cni"
	"github.com/keelson-io/keelson/orchestrator/network/local"
	"github.com/keelson-io/keelson/orchestrator/network/nft"
	"github.com/keelson-io/keelson/orchestrator/network/podnet"
	"github.com/keelson-io/keelson/orchestrator/node/cgroup"
	"github.com/keelson-io/keelson/orchestrator/node/volume"
)

// volumesDir is where provisioned volumes are.
const volumesDir = "/var/lib/keelson/volumes"

// resetting is a reset under way.
type resetting struct {
	Reset
	node Node
	uids []string // of pods that the node had
}

// ResetNode removes what a node left on this machine: pods, mounts, network, cgroups, files. The node's agent must not run. It goes on
// after errors, but keeps the node's directory then, so that it can be called again. With nothing to remove it does nothing.
func ResetNode(ctx context.Context, cfg Reset) (err error) {
	if os.Getuid() != 0 {
		return errors.New("cluster: what a node left belongs to root, and so have you to be")
	}
	r := &resetting{Reset: cfg, node: Node{Dir: cfg.Dir, Logger: cfg.Logger}}
	if err := r.node.defaults(); err != nil {
		return err
	}
	lock, err := r.open()
	if err != nil {
		return err
	}
	if lock != nil {
		defer func() { _ = lock.Close() }() // nothing is written to it
	}
	if err := r.clean(ctx); err != nil {
		return fmt.Errorf("%w; what is left in %s tells what there was: try again", err, r.node.Dir)
	}
	return r.forget(ctx)
}

// open learns what the node was, and keeps its agent from being started. Without a node there is no lock.
func (r *resetting) open() (lock *os.File, err error) {
	if _, err := os.Stat(r.node.Dir); errors.Is(err, fs.ErrNotExist) {
		r.say("there is no node in %s", r.node.Dir)
		return nil, nil
	}
	only := onlyNode(r.node.Dir)
	known, err := r.node.loadState()
	switch {
	case err != nil:
		return nil, err
	case !known && only != nil:
		return nil, only
	}
	return lockNode(r.node.Dir)
}

// onlyNode says what is in a directory that no node puts there. A node that never joined has not written down that it is one.
func onlyNode(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("cluster: %w", err)
	}
	for _, e := range entries {
		if !slices.Contains([]string{"bin", "cni", "images", "lock", "network", "pki", "plugins", "pods", "runtime", "seccomp"}, e.Name()) {
			return fmt.Errorf("cluster: %s is no directory of a node: there is no %s in it, but %s", dir, nodeStateFile, e.Name())
		}
	}
	return nil
}

func (r *resetting) say(format string, args ...any) {
	_, _ = fmt.Fprintf(r.Out, format+"\n", args...) // it is for people to read
}

// clean removes what is not in files, in the order in which it stands on one another.
func (r *resetting) clean(ctx context.Context) error {
	var errs []error
	for _, step := range []struct {
		what string
		do   func(context.Context) error
	}{
		{"pods", r.pods},
		{"volumes", r.volumes},
		{"network", r.network},
		{"cgroups", r.cgroups},
	} {
		r.say("removing %s", step.what)
		if err := step.do(ctx); err != nil {
			errs = append(errs, fmt.Errorf("cluster: %s: %w", step.what, err))
		}
	}
	return errors.Join(errs...)
}

// pods ends all sandboxes with their containers.
func (r *resetting) pods(ctx context.Context) error {
	if !r.node.embedded() {
		return r.foreignPods(ctx)
	}
	if _, err := os.Stat(filepath.Join(r.node.Dir, "runtime")); errors.Is(err, fs.ErrNotExist) {
		return nil // none was ever run
	}
	p := &nodeParts{Node: r.node} // without a network: all of that is removed at once
	endpoint, err := p.openRuntime()
	if err != nil {
		return err
	}
	inner, cancel := context.WithCancel(ctx)
	g := errgroup.Group{}
	g.Go(func() error { return ended(inner, p.runtime.Serve(inner)) })
	err = r.removeSandboxes(ctx, endpoint)
	cancel()
	return errors.Join(err, g.Wait(), p.runtime.Close(), p.images.Close())
}

// foreignPods ends those of a runtime that is not ours. If it uses our network, it asks the plugin, and so us, to detach them.
func (r *resetting) foreignPods(ctx context.Context) error {
	if r.node.foreign() {
		return r.removeSandboxes(ctx, r.node.RuntimeEndpoint)
	}
	inner, cancel := context.WithCancel(ctx)
	g := errgroup.Group{}
	g.Go(func() error {
		return ended(inner, cni.NewServer(nowhere{}, r.node.Logger).Serve(inner, r.node.pluginSocket()))
	})
	err := r.removeSandboxes(ctx, r.node.RuntimeEndpoint)
	cancel()
	return errors.Join(err, g.Wait(), cni.Remove(r.node.CNI.ConfDir, r.node.CNI.BinDirs[0], r.node.pluginSocket()))
}

// nowhere is a network that is about to go: what is attached to it needs no care.
type nowhere struct{}

var errNowhere = errors.New("the node is being taken out of service")

func (nowhere) Attach(context.Context, string, string, *runtimeapi.PodSandboxConfig) ([]netip.Addr, error) {
	return nil, errNowhere
}
func (nowhere) Detach(context.Context, string, string, *runtimeapi.PodSandboxConfig) error {
	return nil
}
func (nowhere) Check(string) error                 { return errNowhere }
func (nowhere) GC(context.Context, []string) error { return nil }
func (nowhere) Ready() error                       { return errNowhere }
func (nowhere) Gateways() []netip.Addr             { return nil }

func (r *resetting) removeSandboxes(ctx context.Context, endpoint string) error {
	conn, err := grpc.NewClient(endpoint, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	c := runtimeapi.NewRuntimeServiceClient(conn)
	all, err := c.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{}, grpc.WaitForReady(true))
	if err != nil {
		return err
	}
	var errs []error
	for _, s := range all.Items {
		r.uids = append(r.uids, s.Metadata.Uid)
		_, err := c.StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: s.Id})
		if err == nil {
			_, err = c.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: s.Id})
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s/%s: %w", s.Metadata.Namespace, s.Metadata.Name, err))
		}
	}
	return errors.Join(errs...)
}

// volumes unmounts what pods had, and lets go of persistent volumes.
func (r *resetting) volumes(context.Context) error {
	pods := filepath.Join(r.node.Dir, "pods")
	uids, err := volume.PodUIDs(pods)
	r.uids = append(r.uids, uids...)
	return errors.Join(err, volume.Wipe(pods), volume.Wipe(filepath.Join(r.node.Dir, "plugins")), volume.Detach(volumesDir))
}

// tables is how the names of all our tables begin.
const tables = "keelson-"

func (r *resetting) network(context.Context) error {
	servers, err := dnsServers(r.node.ServiceRange)
	if err != nil {
		servers = []netip.Addr{}
	}
	return errors.Join(err, podnet.Wipe(""), nft.RemoveAll(tables, 0), local.Take(servers))
}

// cgroups removes the tree of pods, and the one that the runtime's own processes were in.
func (r *resetting) cgroups(context.Context) error {
	var errs []error
	for _, name := range []string{"kubepods", "keelson"} {
		errs = append(errs, cgroup.Wipe(cgroup.Config{Driver: cgroup.Driver(r.node.CgroupDriver), Root: r.node.CgroupRoot, Name: name, Logger: r.node.Logger}))
	}
	return errors.Join(errs...)
}

// forget removes files, and the Node object.
func (r *resetting) forget(ctx context.Context) error {
	r.say("removing files")
	errs := []error{r.logs(), volume.Wipe(r.node.StateDir())}
	if r.Volumes {
		errs = append(errs, volume.Wipe(volumesDir))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if err := r.deleteNode(ctx); err != nil { // while its name is known
		return err
	}
	if err := volume.Wipe(r.node.Dir); err != nil {
		return err
	}
	if left, err := os.ReadDir(volumesDir); err == nil && len(left) > 0 {
		r.say("%s stays: it has %d persistent volumes", volumesDir, len(left))
	}
	return nil
}

// logs removes those of the node's pods; others may keep theirs in the same directory.
func (r *resetting) logs() error {
	dir := r.node.LogDir
	if dir == "" {
		dir = "/var/log/pods"
	}
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cluster: %w", err)
	}
	var errs []error
	for _, e := range entries { // <namespace>_<name>_<uid>
		if uid := e.Name()[strings.LastIndexByte(e.Name(), '_')+1:]; slices.Contains(r.uids, uid) {
			errs = append(errs, os.RemoveAll(filepath.Join(dir, e.Name())))
		}
	}
	return errors.Join(errs...)
}

func (r *resetting) deleteNode(ctx context.Context) error {
	if r.Kubeconfig == "" {
		return nil
	}
	config, err := clientcmd.BuildConfigFromFlags("", r.Kubeconfig)
	if err != nil {
		return fmt.Errorf("cluster: %w", err)
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return fmt.Errorf("cluster: %w", err)
	}
	err = client.CoreV1().Nodes().Delete(ctx, r.node.Name, metav1.DeleteOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("cluster: the node %s: %w", r.node.Name, err)
	}
	r.say("the node %s is deleted", r.node.Name)
	return nil
}
