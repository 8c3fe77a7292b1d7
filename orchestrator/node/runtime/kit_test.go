//go:build linux && cgo

package runtime_test

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"go.uber.org/goleak"
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
	goleak.VerifyTestMain(m)
}

// mark is in the name of everything that the tests put on the machine.
const mark = "runtimetest"

// links is a network that stays inside of the pods' namespaces: eth0 is one end of a pair, the other end is its neighbour.
type links struct {
	next atomic.Int32

	mu       sync.Mutex
	attached map[string]bool
	fail     func(id string) error // of Attach
	detach   func(id string) error // of Detach
}

func newLinks() *links { return &links{attached: map[string]bool{}} }

func (l *links) Attach(_ context.Context, id, path string, _ *runtimeapi.PodSandboxConfig) ([]netip.Addr, error) {
	l.mu.Lock()
	l.attached[id] = true
	fail := l.fail
	l.mu.Unlock()
	if fail != nil {
		if err := fail(id); err != nil {
			return nil, err
		}
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
	return []netip.Addr{netip.AddrFrom4([4]byte{10, 99, byte(n >> 8), byte(n)}), netip.MustParseAddr(fmt.Sprintf("fd00::%x", n))}, nil
}

func (l *links) Detach(_ context.Context, id, _ string, _ *runtimeapi.PodSandboxConfig) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.detach != nil {
		if err := l.detach(id); err != nil {
			return err
		}
	}
	delete(l.attached, id)
	return nil
}

// left are the sandboxes that are attached.
func (l *links) left() (ids []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for id := range l.attached {
		ids = append(ids, id)
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
	n := &node{t: t, dir: dir, network: newLinks()}
	t.Cleanup(n.gone)
	if n.store, err = images.Open(filepath.Join(dir, "images"), images.Config{}); err != nil {
		t.Fatal(err)
	}
	n.cfg = runtime.Config{
		Root: filepath.Join(dir, "root"), State: filepath.Join(dir, "state"), Socket: filepath.Join(dir, "cri.sock"), Network: n.network,
		Images: runtime.FromStore(n.store), ImageService: images.NewService(n.store), CgroupParent: "/" + filepath.Base(dir), Handlers: []string{"other"}, Version: "1.2.3",
		Logger: zaptest.NewLogger(t, zaptest.Level(zaptest.NewLogger(t).Level())),
	}
	n.open()
	return n
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
	if ids := n.network.left(); len(ids) > 0 {
		n.t.Errorf("left behind: attached to the network %v", ids)
	}
	for _, sub := range []string{"state/netns", "state/shims", "state/sandboxes", "state/bundles", "root/sandboxes", "root/containers"} {
		entries, _ := os.ReadDir(filepath.Join(n.dir, sub))
		for _, e := range entries {
			n.t.Errorf("left behind: %s/%s", sub, e.Name())
		}
	}
	for _, p := range processes(n.dir) {
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

// processes lists those of containers and shims.
func processes(dir string) (all []string) {
	deadline := time.Now().Add(5 * time.Second)
	for {
		all = nil
		commands, _ := filepath.Glob("/proc/[0-9]*/cmdline")
		for _, c := range commands {
			line, _ := os.ReadFile(c)
			environ, _ := os.ReadFile(filepath.Dir(c) + "/environ")
			if strings.HasPrefix(string(line), "/box\x00") || strings.Contains(string(environ), "KEELSON_SHIM="+`{"Dir":"`+dir) {
				all = append(all, filepath.Base(filepath.Dir(c))+" "+strings.ReplaceAll(string(line), "\x00", " "))
			}
		}
		if len(all) == 0 || time.Now().After(deadline) {
			return all
		}
		time.Sleep(20 * time.Millisecond)
	}
}
