package cni

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"
	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/keelson-io/keelson/internal/testkit"
	"github.com/keelson-io/keelson/orchestrator/network/podnet"
)

// TestMain is two plugins too, by the name that the program is called by: Keelson's, and a tiny one.
func TestMain(m *testing.M) {
	switch filepath.Base(os.Args[0]) {
	case PluginName:
		if !Invoked() {
			panic("not invoked")
		}
		Main()
	case "tiny":
		tiny()
	default:
		goleak.VerifyTestMain(m)
	}
}

// tiny is a plugin that writes down what it is asked, and gives the address that its configuration says.
func tiny() {
	type conf struct {
		types.PluginConf
		Log, Address, Fail string
		RuntimeConfig      map[string]any
	}
	run := func(command string) func(a *skel.CmdArgs) error {
		return func(a *skel.CmdArgs) error {
			var c conf
			if err := json.Unmarshal(a.StdinData, &c); err != nil {
				return err
			}
			args, _ := json.Marshal(c.RuntimeConfig)
			f, err := os.OpenFile(c.Log, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
			if err != nil {
				return err
			}
			_, _ = fmt.Fprintln(f, strings.Join([]string{command, c.Name, a.ContainerID, a.IfName, a.Args, string(args)}, " "))
			_ = f.Close()
			if c.Fail == command {
				return types.NewError(99, "as asked", "")
			}
			if command != "ADD" {
				return nil
			}
			p := netip.MustParsePrefix(c.Address)
			r := &types100.Result{CNIVersion: "1.0.0", Interfaces: []*types100.Interface{{Name: "host0"}, {Name: a.IfName, Sandbox: a.Netns}}, IPs: []*types100.IPConfig{
				{Interface: types100.Int(0), Address: net.IPNet{IP: net.IP{1, 2, 3, 4}, Mask: net.CIDRMask(32, 32)}},
				{Interface: types100.Int(1), Address: net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}},
			}}
			return types.PrintResult(r, c.CNIVersion)
		}
	}
	skel.PluginMainFuncs(skel.CNIFuncs{Add: run("ADD"), Del: run("DEL"), Check: run("CHECK"), GC: run("GC"), Status: run("STATUS")}, version.All, "tiny")
}

type world struct {
	*Network
	t       *testing.T
	log     string
	confDir string
}

func newWorld(t *testing.T) *world {
	testkit.Root(t)
	dir := t.TempDir()
	w := &world{t: t, log: filepath.Join(dir, "log"), confDir: filepath.Join(dir, "conf")}
	program, err := os.Executable()
	require.NoError(t, err)
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "bin"), 0o700))
	require.NoError(t, os.MkdirAll(w.confDir, 0o700))
	require.NoError(t, os.Symlink(program, filepath.Join(dir, "bin", "tiny")))
	w.Network, err = New(Config{ConfDir: w.confDir, BinDirs: []string{filepath.Join(dir, "bin")}, CacheDir: filepath.Join(dir, "cache")})
	require.NoError(t, err)
	return w
}

// configure writes a configuration of the tiny plugin.
func (w *world) configure(file, version, name, address, fail string) {
	plugin := map[string]any{"type": "tiny", "log": w.log, "address": address, "fail": fail, "capabilities": map[string]bool{"portMappings": true, "bandwidth": true}}
	conf := map[string]any{"cniVersion": version, "name": name, "plugins": []any{plugin}}
	if strings.HasSuffix(file, ".conf") {
		plugin["cniVersion"], plugin["name"] = version, name
		conf = plugin
	}
	b, err := json.Marshal(conf)
	require.NoError(w.t, err)
	require.NoError(w.t, os.WriteFile(filepath.Join(w.confDir, file), b, 0o600))
}

// said are the requests since the last call, without what is the same in all of them.
func (w *world) said() []string {
	b, _ := os.ReadFile(w.log)
	_ = os.Remove(w.log)
	var all []string
	for line := range strings.Lines(string(b)) {
		line = strings.TrimSpace(line)
		line = strings.ReplaceAll(line, " eth0 IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web;K8S_POD_INFRA_CONTAINER_ID=one;K8S_POD_UID=u", "")
		all = append(all, strings.TrimSuffix(line, " null"))
	}
	return all
}

func sandbox() *runtimeapi.PodSandboxConfig {
	return &runtimeapi.PodSandboxConfig{Metadata: &runtimeapi.PodSandboxMetadata{Name: "web", Namespace: "default", Uid: "u"}}
}

func TestPlugins(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	ns := testkit.NewNetNS(t)
	require.ErrorContains(t, w.Ready(), "no valid configuration")
	_, err := w.Attach(ctx, "one", ns.Path(), sandbox())
	require.ErrorContains(t, err, "no valid configuration")

	require.NoError(t, os.WriteFile(filepath.Join(w.confDir, "00-broken.conflist"), []byte(`{"plugins":`), 0o600))
	w.configure("10-a.conflist", "1.1.0", "a", "10.9.0.5/16", "")
	w.configure("20-b.conflist", "1.1.0", "b", "10.9.0.6/16", "")
	require.NoError(t, w.Ready())
	require.Equal(t, []string{"STATUS a"}, trim(w.said()))

	c := sandbox()
	c.Annotations = map[string]string{ingressAnnotation: "10M"}
	c.PortMappings = []*runtimeapi.PortMapping{{ContainerPort: 80}, {ContainerPort: 80, HostPort: 8080, HostIp: "1.2.3.4", Protocol: runtimeapi.Protocol_UDP}}
	got, err := w.Attach(ctx, "one", ns.Path(), c)
	require.NoError(t, err)
	require.Equal(t, []netip.Addr{netip.MustParseAddr("10.9.0.5")}, got)
	caps := `{"bandwidth":{"ingressBurst":2147483647,"ingressRate":10000000},"portMappings":[{"containerPort":80,"hostIP":"1.2.3.4","hostPort":8080,"protocol":"udp"}]}`
	require.Equal(t, []string{"ADD a one " + caps}, w.said())

	// Once more: it is looked at, and stays.
	again, err := w.Attach(ctx, "one", ns.Path(), c)
	require.NoError(t, err)
	require.Equal(t, got, again)
	require.Equal(t, []string{"CHECK a one " + caps}, w.said())

	// When the configuration changes it is detached by the one that it was attached by.
	require.NoError(t, os.Remove(filepath.Join(w.confDir, "10-a.conflist")))
	again, err = w.Attach(ctx, "one", ns.Path(), c)
	require.NoError(t, err)
	require.Equal(t, "10.9.0.6", again[0].String())
	require.Equal(t, []string{"DEL a one " + caps, "ADD b one " + caps}, w.said())
	require.NoError(t, os.Remove(filepath.Join(w.confDir, "20-b.conflist")))
	require.NoError(t, w.Detach(ctx, "one", ns.Path(), c))
	require.Equal(t, []string{"DEL b one " + caps}, w.said())
	require.NoError(t, w.Detach(ctx, "one", ns.Path(), c))
	require.Empty(t, w.said())
}

func trim(all []string) (out []string) {
	for _, s := range all {
		out = append(out, strings.TrimSpace(s))
	}
	return out
}

func TestPluginsFail(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	ns := testkit.NewNetNS(t)
	w.configure("10-a.conf", "0.4.0", "a", "10.9.0.5/16", "ADD")
	_, err := w.Attach(ctx, "one", ns.Path(), sandbox())
	require.ErrorContains(t, err, "as asked")
	require.Equal(t, []string{"ADD a one", "DEL a one"}, w.said())

	// It is not as it was: away with it, and anew.
	w.configure("10-a.conf", "0.4.0", "a", "10.9.0.5/16", "")
	_, err = w.Attach(ctx, "one", ns.Path(), sandbox())
	require.NoError(t, err)
	w.configure("10-a.conf", "0.4.0", "a", "10.9.0.7/16", "CHECK")
	got, err := w.Attach(ctx, "one", ns.Path(), sandbox())
	require.NoError(t, err)
	require.Equal(t, "10.9.0.7", got[0].String())
	require.Equal(t, []string{"ADD a one", "CHECK a one", "DEL a one", "ADD a one"}, w.said())

	// What is not kept goes, and the plugins hear of the rest where they understand.
	require.NoError(t, w.GC(ctx, []string{"one"}))
	require.Empty(t, w.said())
	w.configure("00-new.conflist", "1.1.0", "new", "10.9.0.8/16", "")
	require.NoError(t, w.GC(ctx, nil))
	said := w.said()
	require.Len(t, said, 2)
	require.Equal(t, "DEL a one", said[0])
	require.Equal(t, "GC new", strings.TrimSpace(said[1]))

	// One that was on its way when the agent was killed.
	require.NoError(t, w.Detach(ctx, "one", "/gone", sandbox()))
	require.Equal(t, []string{"DEL new one"}, w.said())

	c := sandbox()
	c.Annotations = map[string]string{egressAnnotation: "fast"}
	_, err = w.Attach(ctx, "one", ns.Path(), c)
	require.ErrorContains(t, err, "egress-bandwidth")
	_, err = w.Attach(ctx, "one", "", sandbox())
	require.ErrorContains(t, err, "no network namespace of its own")
	_, err = New(Config{})
	require.Error(t, err)
}

// A runtime calls Keelson's plugin, which asks the agent's pod network: everything but the runtime is real.
func TestKeelsonAsAPlugin(t *testing.T) {
	node, pod := testkit.NewNetNS(t), testkit.NewNetNS(t)
	dir := t.TempDir()
	client := fake.NewClientset(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}, Spec: corev1.NodeSpec{PodCIDRs: []string{"10.244.1.0/24", "fd00:1::/64"}}})
	f := informers.NewSharedInformerFactory(client, 0)
	network, err := podnet.New(podnet.Config{Nodes: f.Core().V1().Nodes(), Node: "n", Dir: filepath.Join(dir, "net"), NetNS: node.Path()})
	require.NoError(t, err)
	defer network.Close()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{}, 2)
	socket := filepath.Join(dir, "run", "cni.sock")
	go func() { _ = network.Run(ctx); done <- struct{}{} }()
	go func() { _ = NewServer(network, nil).Serve(ctx, socket); done <- struct{}{} }()
	f.Start(ctx.Done())
	defer func() { cancel(); <-done; <-done; f.Shutdown() }()

	program, err := os.Executable()
	require.NoError(t, err)
	require.NoError(t, Install(filepath.Join(dir, "conf"), filepath.Join(dir, "bin"), program, socket))
	require.NoError(t, Install(filepath.Join(dir, "conf"), filepath.Join(dir, "bin"), program, socket))
	runtime, err := New(Config{ConfDir: filepath.Join(dir, "conf"), BinDirs: []string{filepath.Join(dir, "bin")}, CacheDir: filepath.Join(dir, "cache")})
	require.NoError(t, err)
	c := sandbox()
	c.PortMappings = []*runtimeapi.PortMapping{{ContainerPort: 80, HostPort: 8080}}
	c.Annotations = map[string]string{ingressAnnotation: "100M"}
	var got []netip.Addr
	require.Eventually(t, func() bool { got, err = runtime.Attach(ctx, "one", pod.Path(), c); return err == nil }, 10*time.Second, 20*time.Millisecond)
	require.Equal(t, []netip.Addr{netip.MustParseAddr("10.244.1.2"), netip.MustParseAddr("fd00:1::2")}, got)
	require.Equal(t, "web", network.Pods()[0].Name)
	again, err := runtime.Attach(ctx, "one", pod.Path(), c)
	require.NoError(t, err)
	require.Equal(t, got, again)
	answers(t, node, pod, got[0], 80, 80)
	answers(t, node, pod, got[1], 80, 80)
	answers(t, node, pod, network.Gateways()[0], 80, 8080)

	// Somebody removed the link: CHECK says so, and the pod gets another one.
	h := handle(t, node)
	links, err := h.LinkList()
	require.NoError(t, err)
	for _, l := range links {
		if strings.HasPrefix(l.Attrs().Name, podnet.LinkPrefix) {
			require.NoError(t, h.LinkDel(l))
		}
	}
	_, err = runtime.Attach(ctx, "one", pod.Path(), c)
	require.NoError(t, err)
	got = network.Pods()[0].Addresses
	answers(t, node, pod, got[0], 80, 80)

	c.PortMappings[0].HostPort = 70000
	_, err = runtime.Attach(ctx, "two", pod.Path(), c)
	require.ErrorContains(t, err, "host port 70000")
	require.NoError(t, runtime.Detach(ctx, "one", pod.Path(), c))
	require.Empty(t, network.Pods())

	require.NoError(t, Install(filepath.Join(dir, "conf"), filepath.Join(dir, "bin"), program, "/nowhere"))
	c.PortMappings = nil
	_, err = runtime.Attach(ctx, "two", pod.Path(), c)
	require.ErrorContains(t, err, "the node's agent does not answer")

	require.NoError(t, Remove(filepath.Join(dir, "conf"), filepath.Join(dir, "bin"), socket))
	require.NoError(t, runtime.Ready(), "it was installed for another agent, and is gone")
	for range 2 {
		require.NoError(t, Remove(filepath.Join(dir, "conf"), filepath.Join(dir, "bin"), "/nowhere"))
		require.ErrorContains(t, runtime.Ready(), "no valid configuration")
		require.NoFileExists(t, filepath.Join(dir, "bin", PluginName))
	}
}

func handle(t *testing.T, ns *testkit.NetNS) *netlink.Handle {
	f, err := netns.GetFromPath(ns.Path())
	require.NoError(t, err)
	defer f.Close()
	h, err := netlink.NewHandleAt(f)
	require.NoError(t, err)
	t.Cleanup(h.Close)
	return h
}

// answers lets a pod listen on a port, and the node ask an address and a port for it.
func answers(t *testing.T, node, pod *testkit.NetNS, to netip.Addr, listen, port int) {
	t.Helper()
	var l net.Listener
	require.NoError(t, pod.Do(func() (err error) {
		l, err = net.Listen("tcp", fmt.Sprintf(":%d", listen))
		return err
	}))
	done := make(chan struct{})
	go func() {
		defer close(done)
		if c, err := l.Accept(); err == nil {
			_, _ = io.WriteString(c, "pod")
			_ = c.Close()
		}
	}()
	require.NoError(t, node.Do(func() error {
		c, err := net.DialTimeout("tcp", netip.AddrPortFrom(to, uint16(port)).String(), 3*time.Second)
		if err != nil {
			return err
		}
		defer func() { _ = c.Close() }()
		b, err := io.ReadAll(c)
		if string(b) != "pod" {
			return fmt.Errorf("%q, %w", b, err)
		}
		return nil
	}))
	_ = l.Close()
	<-done
}

func FuzzRequests(f *testing.F) {
	f.Add(`{"runtimeConfig":{"portMappings":[{"hostPort":1,"containerPort":2,"protocol":"tcp"}]}}`, "K8S_POD_NAME=a;K8S_POD_NAMESPACE=b")
	f.Add(`{"runtimeConfig":{"bandwidth":{"ingressRate":5}}}`, ";=;")
	f.Fuzz(func(t *testing.T, conf, args string) {
		var c pluginConf
		if json.Unmarshal([]byte(conf), &c) != nil {
			return
		}
		s := sandboxOf(args, &c)
		if len(s.PortMappings) != len(c.RuntimeConfig.PortMappings) {
			t.Error("mappings are missing")
		}
	})
}
