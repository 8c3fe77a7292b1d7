//go:build linux

package nodetest

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// Options say what a cluster is.
type Options struct {
	// Args are more flags of keelson up.
	Args []string
	// Nodes are the names of more machines, each of which runs keelson node. The machine of keelson up is "one".
	Nodes []string
	// NodeArgs are more flags of all nodes, keelson up's among them.
	NodeArgs []string
	// Equip says what machines, by their names, have beside keelson. "one" has nothing.
	Equip map[string]Equipment
	// Special are machines of Nodes that are not as the others.
	Special map[string]Special
}

// Special is what is special about a machine.
type Special struct {
	Args []string // more flags of its node
	Disk int64    // size, in bytes, of the file system that the node's directory is on, in memory; 0: it has none of its own
}

// Cluster is a cluster of real nodes.
type Cluster struct {
	*Lab
	// One is the machine of Up, which is the whole platform with a node.
	One *Machine
	Up  *Program
	// Config and Client reach the API server as an administrator.
	Config *rest.Config
	Client *kubernetes.Clientset
	// Kubeconfig is a file that does so on a machine of the lab.
	Kubeconfig string

	keelson string
	relay   *relay
	nodes   map[string]*Program
}

// Machine is a machine by its name.
func (c *Cluster) Machine(name string) *Machine {
	i := slices.IndexFunc(c.machines, func(m *Machine) bool { return m.Name == name })
	return c.machines[i]
}

// Node is the program keelson node of a machine.
func (c *Cluster) Node(name string) *Program { return c.nodes[name] }

// Main is the body of a TestMain: it starts a cluster, hands it over, runs the tests, stops it, and returns the status to exit
// with, which is not 0 either if anything is left behind.
func Main(m *testing.M, o Options, use func(*Cluster)) int {
	flag.Parse()
	keelson, err := built("keelson", "make build")
	if os.Getuid() != 0 {
		err = errors.Join(err, fmt.Errorf("nodetest: root is %w", errMissing))
	}
	switch {
	case errors.Is(err, errMissing) && os.Getenv("KEELSON_REQUIRE_BINARIES") == "":
		fmt.Println("skipped:", err)
		return 0
	case err != nil:
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if err := more(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	c, err := start(keelson, o)
	code := 1
	switch {
	case err == nil:
		use(c)
		code = m.Run()
	case errors.Is(err, errMissing) && os.Getenv("KEELSON_REQUIRE_BINARIES") == "":
		fmt.Println("skipped:", err)
		err, code = nil, 0
	}
	if err = errors.Join(err, c.close()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = max(code, 1)
	}
	if code == 0 { // otherwise the logs tell why
		_ = os.RemoveAll(c.Dir)
	} else if c.Lab != nil {
		fmt.Fprintln(os.Stderr, "what the cluster kept is in", c.Dir)
	}
	return code
}

// parallel is how many tests run at a time: pods mostly wait.
const parallel = "8"

// more lets tests run at the same time unless a flag says how many.
func more() error {
	set := false
	flag.Visit(func(f *flag.Flag) { set = set || f.Name == "test.parallel" })
	if set {
		return nil
	}
	return flag.Set("test.parallel", parallel)
}

// noRuntime is what a program says that was built without a container runtime.
const noRuntime = "this build has no container runtime"

// start starts a cluster. What there is of it is returned with an error, too.
func start(keelson string, o Options) (c *Cluster, err error) {
	c = &Cluster{keelson: keelson, nodes: map[string]*Program{}}
	if err := c.startUp(o); err != nil {
		return c, err
	}
	if err := c.connect(); err != nil {
		return c, err
	}
	for _, name := range o.Nodes {
		if err := c.join(name, o.NodeArgs, o.Equip[name], o.Special[name]); err != nil {
			return c, err
		}
	}
	for _, m := range c.machines {
		if err := c.Serves(m.Name); err != nil {
			return c, err
		}
	}
	return c, nil
}

// startUp starts keelson up on the first machine.
func (c *Cluster) startUp(o Options) (err error) {
	if c.Lab, err = newLab(); err != nil {
		return err
	}
	if c.One, err = c.machine("one"); err != nil {
		return err
	}
	if err := os.WriteFile(c.resolv(), []byte("nameserver "+Outside+"\n"), 0o644); err != nil {
		return err
	}
	if err := c.install(c.keelson, c.One.node()); err != nil {
		return err
	}
	args := slices.Concat([]string{
		"up", "--data-dir", c.One.Data(), "--bind-address", "0.0.0.0", "--advertise-address", c.One.Address, "--secure-port", "6443",
		"--node", "--node-name", c.One.Name, "--node-ip", c.One.Address,
	}, c.flags(c.One), o.NodeArgs, o.Args)
	c.Up = c.program(c.One, args)
	if err := c.Up.Start(); err != nil {
		return err
	}
	if err := c.Up.Says("ready:"); err != nil {
		if strings.Contains(err.Error(), noRuntime) {
			err = fmt.Errorf("nodetest: the container runtime is %w: bin/keelson was built without libseccomp", errMissing)
		}
		return err
	}
	return nil
}

// join starts keelson node on one more machine, by the command that keelson token create prints.
func (c *Cluster) join(name string, more []string, equip Equipment, own Special) error {
	m, err := c.machine(name)
	if err != nil {
		return err
	}
	if err := m.mountDisk(own.Disk); err != nil {
		return err
	}
	if err := c.install(c.keelson, m.node()); err != nil {
		return err
	}
	if equip != nil {
		flags, err := equip(c, m)
		if err != nil {
			return err
		}
		more = slices.Concat(more, flags)
	}
	line, err := c.Keelson(c.One, "token", "create", "--kubeconfig", c.Kubeconfig, "--ttl", "1h", "--description", "machine "+name)
	if err != nil {
		return err
	}
	args := slices.Concat(strings.Fields(line)[1:], []string{"--data-dir", m.node(), "--name", m.Name, "--ip", m.Address}, c.flags(m), more, own.Args)
	c.nodes[name] = c.program(m, args)
	return c.nodes[name].Start()
}

func (c *Cluster) program(m *Machine, args []string) *Program {
	return &Program{Log: filepath.Join(m.Dir, "log"), ns: m.NetNS, path: c.keelson, args: args}
}

// resolv is the file with the resolver of all machines.
func (c *Cluster) resolv() string { return filepath.Join(c.Dir, "resolv.conf") }

// flags are those that every node has.
func (c *Cluster) flags(m *Machine) []string {
	return []string{
		"--cgroup-root", m.Cgroup, "--pod-logs-dir", m.Logs(), "--pod-manifest-path", m.Manifests(), "--resolv-conf", c.resolv(), "--log-level", "info",
		"--eviction-hard", "", "--image-gc-high-threshold", "100", // the machine's disk may be as full as it likes
	}
}

// Serves waits until a node's server is reached by way of the API server, as exec and logs need it: it gets its certificate
// only once the node is registered.
func (c *Cluster) Serves(node string) error {
	for end := time.Now().Add(limit); ; time.Sleep(50 * time.Millisecond) {
		_, err := c.Client.CoreV1().RESTClient().Get().Resource("nodes").Name(node).SubResource("proxy").Suffix("healthz").DoRaw(context.Background())
		if err == nil {
			return nil
		}
		p := c.Up
		if other := c.nodes[node]; other != nil {
			p = other
		}
		if !p.Running() || time.Now().After(end) {
			return fmt.Errorf("nodetest: the server of node %s is not reached: %w: %s", node, err, p.tail())
		}
	}
}

// connect makes the clients.
func (c *Cluster) connect() (err error) {
	if c.relay, err = newRelay(c.One.NetNS, c.One.Address+":6443"); err != nil {
		return err
	}
	c.Kubeconfig = filepath.Join(c.One.Data(), "kubeconfig")
	if c.Config, err = clientcmd.BuildConfigFromFlags("", c.Kubeconfig); err != nil {
		return err
	}
	c.Config.Host, c.Config.QPS = "https://"+c.relay.address(), -1
	c.Client, err = kubernetes.NewForConfig(c.Config)
	return err
}

// close ends everything and tells what is left behind.
func (c *Cluster) close() error {
	if c.Lab == nil {
		return nil
	}
	var errs []error
	if c.Client != nil && c.Up.Running() {
		errs = append(errs, c.empty())
		for _, m := range c.machines {
			m.cleared()
		}
	}
	for _, n := range c.nodes {
		errs = append(errs, n.Stop())
	}
	if c.Up != nil {
		errs = append(errs, c.Up.Stop())
	}
	if c.relay != nil {
		errs = append(errs, c.relay.close())
	}
	for _, m := range c.machines {
		for _, end := range slices.Backward(m.ends) {
			errs = append(errs, end())
		}
		errs = append(errs, m.left())
	}
	return errors.Join(append(errs, c.Lab.close())...)
}

// empty deletes all pods with what would make new ones, and waits until they are gone.
func (c *Cluster) empty() error {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	for _, m := range c.machines {
		if err := clear(m.Manifests()); err != nil {
			return err
		}
	}
	all, err := c.Client.CoreV1().Namespaces().List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	for _, ns := range all.Items {
		if ns.Name != "default" && ns.Name != "kube-system" && ns.Name != "kube-public" && ns.Name != "kube-node-lease" {
			_ = c.Client.CoreV1().Namespaces().Delete(ctx, ns.Name, metav1.DeleteOptions{}) // it may be gone
		}
	}
	for {
		pods, err := c.Client.CoreV1().Pods("").List(ctx, metav1.ListOptions{})
		if err != nil {
			return fmt.Errorf("nodetest: pods that have to go: %w", err)
		}
		if len(pods.Items) == 0 {
			return nil
		}
		for _, p := range pods.Items {
			if p.DeletionTimestamp == nil {
				_ = c.Client.CoreV1().Pods(p.Namespace).Delete(ctx, p.Name, metav1.DeleteOptions{}) // it may be gone
			}
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("nodetest: pods that do not go: %s", names(pods.Items))
		}
	}
}

// clear removes what is in a directory.
func clear(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	return nil
}
