package manager

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"
	"sigs.k8s.io/controller-runtime/pkg/webhook"

	v1 "github.com/keelson-io/keelson/peers/clients/manager/api/v1"
	"github.com/keelson-io/keelson/peers/clients/manager/api/v1beta1"
	"github.com/keelson-io/keelson/peers/platform"
)

// limit is for what must come about. It is generous: machines that run tests are busy.
const limit = 2 * time.Minute

var kubeconfig string

func TestMain(m *testing.M) {
	ctrl.SetLogger(logr.Discard())
	os.Exit(platform.Main(m, platform.Options{HollowNodes: 1}, func(p *platform.Platform) { kubeconfig = p.Kubeconfig }))
}

// suite is the program in a namespace: a manager that serves webhooks, and one or more that run the controller.
type suite struct {
	*testing.T
	client.Client // reads and writes without a cache
	config        *rest.Config
	scheme        *runtime.Scheme
	namespace     string
}

// start installs definition and webhooks as envtest does it, and runs the manager that serves the webhooks.
func start(t *testing.T) *suite {
	t.Helper()
	s := &suite{T: t, scheme: runtime.NewScheme()}
	require.NoError(t, scheme.AddToScheme(s.scheme))
	require.NoError(t, v1.AddToScheme(s.scheme))
	require.NoError(t, v1beta1.AddToScheme(s.scheme))
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	require.NoError(t, err)
	config.QPS = -1
	existing := true
	env := &envtest.Environment{
		UseExistingCluster: &existing, Config: config, Scheme: s.scheme, ErrorIfCRDPathMissing: true,
		CRDDirectoryPaths:     []string{filepath.Join("testdata", "crd.yaml")},
		WebhookInstallOptions: envtest.WebhookInstallOptions{Paths: []string{filepath.Join("testdata", "webhooks.yaml")}},
	}
	s.config, err = env.Start()
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, env.Stop()) })
	s.Client, err = client.New(s.config, client.Options{Scheme: s.scheme})
	require.NoError(t, err)
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "manager-"}}
	require.NoError(t, s.Create(t.Context(), ns))
	s.namespace = ns.Name

	w := env.WebhookInstallOptions
	m := s.manager(ctrl.Options{WebhookServer: webhook.NewServer(webhook.Options{Host: w.LocalServingHost, Port: w.LocalServingPort, CertDir: w.LocalServingCertDir})})
	require.NoError(t, AddWebhooks(m))
	s.run(m)
	require.Eventually(t, func() bool { return m.GetWebhookServer().StartedChecker()(nil) == nil }, limit, 20*time.Millisecond)
	return s
}

func (s *suite) manager(o ctrl.Options) ctrl.Manager {
	s.Helper()
	o.Scheme, o.Metrics = s.scheme, metricsserver.Options{BindAddress: "0"}
	m, err := ctrl.NewManager(s.config, o)
	require.NoError(s, err)
	return m
}

// run runs a manager until stop is called, or the test ends.
func (s *suite) run(m ctrl.Manager) (stop func()) {
	s.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- m.Start(ctx) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		require.NoError(s, <-ended)
	}
	s.Cleanup(stop)
	return stop
}

const lease = "tasks.work.example.com"

// controller runs a manager that runs the controller while it leads.
func (s *suite) controller(name string) (m ctrl.Manager, stop func()) {
	s.Helper()
	second := time.Second
	long, mid := 4*second, 3*second
	m = s.manager(ctrl.Options{
		LeaderElection: true, LeaderElectionID: lease, LeaderElectionNamespace: s.namespace, LeaderElectionReleaseOnCancel: true,
		LeaseDuration: &long, RenewDeadline: &mid, RetryPeriod: &second,
	})
	require.NoError(s, (&Controller{Name: name}).Add(s.Context(), m))
	return m, s.run(m)
}
