//go:build linux && cgo

package runtime_test

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/keelson-io/keelson/internal/testkit"
	"github.com/keelson-io/keelson/orchestrator/node/images"
	"github.com/keelson-io/keelson/orchestrator/node/runtime"
	"github.com/keelson-io/keelson/orchestrator/node/shim"
)

func TestMain(m *testing.M) {
	if shim.Reexec() {
		return
	}
	if dir := os.Getenv(crashDir); dir != "" {
		fmt.Fprintln(os.Stderr, crashing(dir))
		os.Exit(1)
	}
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("k8s.io/client-go/tools/remotecommand.(*heartbeat).start")) // it ends with its next ping
}

// mark is in the name of everything that the tests put on the machine.
const mark = "runtimetest"

// links is a network that stays inside of the pods' namespaces: eth0 is one end of a pair, the other end is its neighbour.
// Its notes are files, so that it outlives the process.
type links struct {
	dir  string
	next atomic.Int32
	hook func(what, id string) error // called before and after each step, if it is set
}

func newLinks(dir string) (*links, error) {
	return &links{dir: dir, hook: func(string, string) error { return nil }}, os.MkdirAll(dir, 0o700)
}

func (l *links) Attach(_ context.Context, id, path string, _ *runtimeapi.PodSandboxConfig) ([]netip.Addr, error) {
	if err := os.WriteFile(filepath.Join(l.dir, id), nil, 0o600); err != nil {
		return nil, err
	}
	if err := l.hook("attach", id); err != nil {
		return nil, err
	}
	ns, err := netns.GetFromPath(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = ns.Close() }()
	h, err := netlink.NewHandleAt(ns)
	if err != nil {
		return nil, err
	}
	defer h.Close()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "eth0"
	if err := h.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "peer0"}); err != nil {
		return nil, err
	}
	n := l.next.Add(1)
	return []netip.Addr{netip.AddrFrom4([4]byte{10, 99, byte(n >> 8), byte(n)}), netip.MustParseAddr(fmt.Sprintf("fd00::%x", n))}, l.hook("attached", id)
}

func (l *links) Detach(_ context.Context, id, _ string, _ *runtimeapi.PodSandboxConfig) error {
	if err := l.hook("detach", id); err != nil {
		return err
	}
	if err := os.Remove(filepath.Join(l.dir, id)); err != nil && !os.IsNotExist(err) {
		return err
	}
	return l.hook("detached", id)
}

func (l *links) GC(_ context.Context, keep []string) error {
	for _, id := range l.left() {
		if !slices.Contains(keep, id) {
			if err := os.Remove(filepath.Join(l.dir, id)); err != nil {
				return err
			}
		}
	}
	return nil
}

// left are the sandboxes that are attached.
func (l *links) left() (ids []string) {
	entries, _ := os.ReadDir(l.dir)
	for _, e := range entries {
		ids = append(ids, e.Name())
	}
	return ids
}

// node is a runtime of a test with what it stands on.
type node struct {
	*runtime.Runtime
	t       testing.TB
	dir     string
	cfg     runtime.Config
	store   *images.Store
	network *links
	stop    func()
}

// newNode opens a runtime that is closed with the test, which then counts what is left.
func newNode(t testing.TB) *node {
	t.Helper()
	testkit.Root(t)
	testkit.NoLeaks(t, mark)
	dir, err := os.MkdirTemp("", mark)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o711); err != nil { // root of a user namespace has to get through
		t.Fatal(err)
	}
	n := &node{t: t, dir: dir}
	t.Cleanup(n.gone)
	if n.network, n.store, n.cfg, err = configure(dir, zaptest.NewLogger(t)); err != nil {
		t.Fatal(err)
	}
	n.open()
	return n
}

// configure says how a runtime works in a folder.
func configure(dir string, log *zap.Logger) (*links, *images.Store, runtime.Config, error) {
	network, err := newLinks(filepath.Join(dir, "net"))
	if err != nil {
		return nil, nil, runtime.Config{}, err
	}
	store, err := images.Open(filepath.Join(dir, "images"), images.Config{})
	if err != nil {
		return nil, nil, runtime.Config{}, err
	}
	return network, store, runtime.Config{
		Root: filepath.Join(dir, "root"), State: filepath.Join(dir, "state"), Socket: filepath.Join(dir, "cri.sock"), Network: network,
		CDIDirs: []string{filepath.Join(dir, "cdi")}, Images: runtime.FromStore(store), ImageService: images.NewService(store), CgroupParent: "/" + filepath.Base(dir), Handlers: []string{"other"},
		Version: "1.2.3", Logger: log,
	}, nil
}

// open opens and serves.
func (n *node) open() {
	n.t.Helper()
	var err error
	if n.Runtime, err = runtime.Open(n.cfg); err != nil {
		n.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- n.Serve(ctx) }()
	n.stop = func() {
		cancel()
		if err := <-served; err != nil {
			n.t.Error(err)
		}
		if err := n.Close(); err != nil {
			n.t.Error(err)
		}
		n.stop = func() {}
	}
}

// gone closes everything and fails the test for what is left.
func (n *node) gone() {
	if n.t.Failed() && n.Runtime != nil { // what such a test has not removed is no leak
		all, _ := n.ListPodSandbox(context.Background(), &runtimeapi.ListPodSandboxRequest{})
		for _, p := range all.GetItems() {
			_, _ = n.RemovePodSandbox(context.Background(), &runtimeapi.RemovePodSandboxRequest{PodSandboxId: p.Id})
		}
	}
	if n.stop != nil {
		n.stop()
	}
	if n.store != nil {
		if keys := n.store.Mounted(); len(keys) > 0 {
			n.t.Errorf("left behind: file systems %v", keys)
		}
		if err := n.store.Close(); err != nil {
			n.t.Error(err)
		}
	}
	if n.network == nil {
		return
	}
	if ids := n.network.left(); len(ids) > 0 {
		n.t.Errorf("left behind: attached to the network %v", ids)
	}
	for _, sub := range []string{"state/netns", "state/shims", "state/sandboxes", "state/bundles", "root/sandboxes", "root/containers"} {
		entries, _ := os.ReadDir(filepath.Join(n.dir, sub))
		for _, e := range entries {
			n.t.Errorf("left behind: %s/%s", sub, e.Name())
		}
	}
	var running []string
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if running = processes(n.dir); len(running) == 0 || time.Now().After(deadline) {
			break
		}
	}
	for _, p := range running {
		n.t.Errorf("left behind: process %s", p)
	}
	roots, _ := filepath.Glob("/sys/fs/cgroup/*/" + filepath.Base(n.dir))
	for _, root := range append(roots, "/sys/fs/cgroup/"+filepath.Base(n.dir)) {
		_ = os.Remove(filepath.Join(root, "shims"))
		if err := os.Remove(root); err != nil && !os.IsNotExist(err) {
			n.t.Errorf("left behind: cgroup: %v", err)
		}
	}
	if err := os.RemoveAll(n.dir); err != nil {
		n.t.Error(err)
	}
}

// processes lists the shims of a runtime, and the processes of containers below its cgroup.
func processes(dir string) (all []string) {
	commands, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, c := range commands {
		line, err := os.ReadFile(c)
		if err != nil || len(line) == 0 { // it is gone, and only waits for its parent
			continue
		}
		environ, _ := os.ReadFile(filepath.Dir(c) + "/environ")
		groups, _ := os.ReadFile(filepath.Dir(c) + "/cgroup")
		if strings.Contains(string(groups), "/"+filepath.Base(dir)+"/") || strings.Contains(string(environ), `KEELSON_SHIM={"Dir":"`+dir) {
			all = append(all, filepath.Base(filepath.Dir(c))+" "+strings.ReplaceAll(string(line), "\x00", " "))
		}
	}
	return all
}
