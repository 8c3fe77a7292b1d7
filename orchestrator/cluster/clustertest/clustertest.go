// Package clustertest runs the whole platform in the process of a test: store member, API server, controllers, scheduler and
// hollow nodes, reached over HTTPS on a free port of the loopback interface.
package clustertest

import (
	"bytes"
	"context"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	apiextensions "k8s.io/apiextensions-apiserver/pkg/client/clientset/clientset"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/keelson-io/keelson/client"
	"github.com/keelson-io/keelson/orchestrator/cluster"
)

// startTimeout bounds a start. It is generous: machines that run tests are busy.
const startTimeout = 2 * time.Minute

// Cluster is a running cluster.
type Cluster struct {
	// Kubeconfig is the path of a file that says how to reach the API server as an administrator, and URL where it is.
	Kubeconfig, URL string
	// Config reaches the API server as an administrator, in JSON, without a limit on the client's side.
	Config *rest.Config
	// DataDir is the cluster's data directory.
	DataDir string

	store []string // client URLs of an external store
	stop  func()
}

// Option changes what is started.
type Option func(*cluster.Options)

// HollowNodes is the number of nodes; without it there are two.
func HollowNodes(n int) Option { return func(o *cluster.Options) { o.HollowNodes = n } }

// Store makes the cluster use an external store, of these client URLs.
func Store(endpoints ...string) Option {
	return func(o *cluster.Options) { o.StoreEndpoints = endpoints }
}

// Advertise makes the API server say that pods reach it by an address.
func Advertise(address string) Option {
	return func(o *cluster.Options) { o.AdvertiseAddress = address }
}

// DataDir makes the cluster use a directory, in which one ran before.
func DataDir(dir string) Option { return func(o *cluster.Options) { o.DataDir = dir } }

// Start starts a cluster that ends with the test.
func Start(t testing.TB, options ...Option) *Cluster {
	t.Helper()
	o := cluster.Options{HollowNodes: 2, Out: &output{t: t}}
	o.API = cluster.API{DataDir: t.TempDir(), BindAddress: "127.0.0.1", Logger: zap.NewNop()}
	for _, f := range options {
		f(&o)
	}
	c, err := Run(o)
	require.NoError(t, err)
	t.Cleanup(c.Stop)
	return c
}

// Run starts a cluster that ends with Stop, for a TestMain.
func Run(o cluster.Options) (*Cluster, error) {
	c := &Cluster{DataDir: o.DataDir, store: o.StoreEndpoints}
	ctx, cancel := context.WithCancel(context.Background())
	ready, ended := make(chan struct{}), make(chan error, 1)
	o.Ready = func(url, kubeconfig string) {
		c.URL, c.Kubeconfig = url, kubeconfig
		close(ready)
	}
	go func() { ended <- cluster.Up(ctx, o) }()
	c.stop = sync.OnceFunc(func() {
		cancel()
		<-ended
	})
	select {
	case <-ready:
	case err := <-ended:
		ended <- nil
		c.stop()
		return nil, err
	case <-time.After(startTimeout):
		c.stop()
		return nil, context.DeadlineExceeded
	}
	var err error
	if c.Config, err = clientcmd.BuildConfigFromFlags("", c.Kubeconfig); err != nil {
		c.stop()
		return nil, err
	}
	c.Config.QPS = -1
	return c, nil
}

// Stop stops the cluster in order. Its data directory stays.
func (c *Cluster) Stop() { c.stop() }

// Client is a client of the built-in kinds. change, if not nil, may change how it reaches the API server.
func (c *Cluster) Client(t testing.TB, change func(*rest.Config)) *kubernetes.Clientset {
	t.Helper()
	rc := rest.CopyConfig(c.Config)
	if change != nil {
		change(rc)
	}
	cs, err := kubernetes.NewForConfig(rc)
	require.NoError(t, err)
	return cs
}

// Dynamic is a client of any kind.
func (c *Cluster) Dynamic(t testing.TB) *dynamic.DynamicClient {
	t.Helper()
	d, err := dynamic.NewForConfig(c.Config)
	require.NoError(t, err)
	return d
}

// Extensions is a client of custom resource definitions.
func (c *Cluster) Extensions(t testing.TB) *apiextensions.Clientset {
	t.Helper()
	e, err := apiextensions.NewForConfig(c.Config)
	require.NoError(t, err)
	return e
}

// Store is a client of the cluster's store.
func (c *Cluster) Store(t testing.TB) *client.Client {
	t.Helper()
	endpoints := c.store
	if len(endpoints) == 0 {
		socket := filepath.Join(c.DataDir, "store", "client.sock")
		require.FileExists(t, socket)
		endpoints = []string{"unix://" + socket}
	}
	s, err := client.New(client.Config{Endpoints: endpoints})
	require.NoError(t, err)
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// Namespace makes a namespace for a test, with its service account. It is deleted after the test, without waiting for it to be
// gone.
func (c *Cluster) Namespace(t testing.TB) string {
	t.Helper()
	core := c.Client(t, nil).CoreV1()
	namespaces := core.Namespaces()
	ns, err := namespaces.Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "test-"}}, metav1.CreateOptions{})
	require.NoError(t, err)
	t.Cleanup(func() {
		_ = namespaces.Delete(context.Background(), ns.Name, metav1.DeleteOptions{}) // the cluster may be gone
	})
	require.Eventually(t, func() bool {
		_, err := core.ServiceAccounts(ns.Name).Get(t.Context(), "default", metav1.GetOptions{})
		return err == nil
	}, startTimeout, 10*time.Millisecond, "pods need it")
	return ns.Name
}

// output writes lines to the log of a test.
type output struct{ t testing.TB }

func (o *output) Write(p []byte) (int, error) {
	o.t.Logf("%s", bytes.TrimSpace(p))
	return len(p), nil
}
