package main

import (
	"context"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"go.uber.org/zap"

	"github.com/keelson-io/keelson/orchestrator/cluster"
	"github.com/keelson-io/keelson/orchestrator/controllers"
	"github.com/keelson-io/keelson/server/config"
	"github.com/keelson-io/keelson/server/logging"
)

// runRole runs something until a signal comes.
func runRole(logs *config.Log, run func(ctx context.Context, lg *zap.Logger) error) error {
	lg, closeLog, err := logging.New(*logs)
	if err != nil {
		return err
	}
	defer closeLog()
	if err := routeKlog(lg); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	return run(ctx, lg)
}

// apiFlags are the flags of whatever runs an API server.
func apiFlags(fs *pflag.FlagSet, a *cluster.API) {
	fs.StringVar(&a.DataDir, "data-dir", "data", "Directory for certificates, keys and the embedded store.")
	fs.StringVar(&a.BindAddress, "bind-address", "", "IP address to listen on (default: 127.0.0.1; all, where this machine is a node, whose pods reach the API server by its address).")
	fs.StringVar(&a.AdvertiseAddress, "advertise-address", "", "IP address by which pods and other machines reach the API server (default: bind-address, or one of this machine's).")
	fs.IntVar(&a.SecurePort, "secure-port", 6443, "Port to serve HTTPS on; 0 is any free one.")
	fs.IntVar(&a.Limits.RequestsInFlight, "max-requests-inflight", 400, "With max-mutating-requests-inflight, the number of seats that API priority and fairness shares.")
	fs.IntVar(&a.Limits.MutatingInFlight, "max-mutating-requests-inflight", 200, "See max-requests-inflight.")
	fs.DurationVar(&a.Limits.RequestTime, "request-timeout", time.Minute, "Time that requests may take which are not long-running.")
	fs.DurationVar(&a.ShutdownDelay, "shutdown-delay-duration", 0, "Time for which the server serves on, but says that it is not ready, before it shuts down.")
	fs.StringVar(&a.Kubeconfig, "kubeconfig", "", "File to write the way to reach the API server to (default <data-dir>/kubeconfig).")
	settingFlags(fs, &a.Settings)
}

// settingFlags have the names that they have in kube-apiserver.
func settingFlags(fs *pflag.FlagSet, s *cluster.Settings) {
	fs.StringVar(&s.Audit.PolicyFile, "audit-policy-file", "", "File with the audit policy: what the audit log has in it.")
	fs.StringVar(&s.Audit.LogPath, "audit-log-path", "", "File to write the audit log to; '-' is the standard output.")
	fs.IntVar(&s.Audit.MaxSize, "audit-log-maxsize", 0, "Size in megabytes at which a file of the audit log is rotated; 0: never.")
	fs.IntVar(&s.Audit.MaxAge, "audit-log-maxage", 0, "Days for which rotated files of the audit log are kept; 0: for ever.")
	fs.IntVar(&s.Audit.MaxBackups, "audit-log-maxbackup", 0, "Number of rotated files of the audit log that are kept; 0: all.")
	fs.StringVar(&s.EncryptionProviderConfig, "encryption-provider-config", "", "File with an EncryptionConfiguration: which resources are encrypted in the store, and how.")
	fs.StringVar(&s.TokenAuthFile, "token-auth-file", "", `File with fixed bearer tokens, a line each: token,user,uid,"group1,group2".`)
	fs.StringVar(&s.ServiceAccountIssuer, "service-account-issuer", "", "Issuer of service account tokens, a URL (default https://kubernetes.default.svc.cluster.local).")
	fs.StringVar(&s.ServiceClusterIPRange, "service-cluster-ip-range", "", "Addresses of services in CIDR form, one range or one of each family with a comma between (default 10.96.0.0/16).")
	fs.StringVar(&s.ServiceNodePortRange, "service-node-port-range", "", "Ports of services on nodes (default 30000-32767).")
	fs.StringVar(&s.TLSCertFile, "tls-cert-file", "", "Certificate to serve HTTPS with, followed by its chain (default: one that the cluster's authority signs).")
	fs.StringVar(&s.TLSPrivateKeyFile, "tls-private-key-file", "", "Key of tls-cert-file.")
	fs.StringVar(&s.ClientCAFile, "client-ca-file", "", "Authorities of client certificates, beside the cluster's own.")
	fs.DurationVar(&s.MetricResolution, "metric-resolution", 15*time.Second, "Time between two measurements of what nodes and pods use, at least 1s.")
}

// logFlags are the flags about logging.
func logFlags(fs *pflag.FlagSet) *config.Log {
	l := &config.Log{Outputs: []string{"stderr"}}
	fs.StringVar(&l.Level, "log-level", "warn", "What is logged: debug, info, warn or error.")
	fs.StringVar(&l.Format, "log-format", "console", "How it is logged: json or console.")
	return l
}

func apiserverCommand() *cobra.Command {
	var a cluster.API
	cmd := &cobra.Command{Use: "apiserver", Short: "Run an API server", Args: cobra.NoArgs}
	apiFlags(cmd.Flags(), &a)
	cmd.Flags().StringSliceVar(&a.StoreEndpoints, "store-endpoints", []string{"http://127.0.0.1:2379"}, "Client URLs of a Keelson or etcd cluster.")
	logs := logFlags(cmd.Flags())
	cmd.RunE = func(*cobra.Command, []string) error {
		return runRole(logs, func(ctx context.Context, lg *zap.Logger) error {
			a.Logger = lg
			return cluster.Serve(ctx, a)
		})
	}
	return cmd
}

// workerFlags are the flags of what is a client of the API server. metrics is where its metrics are unless a flag says so.
func workerFlags(fs *pflag.FlagSet, w *cluster.Worker, metrics string) {
	fs.StringVar(&w.Kubeconfig, "kubeconfig", "data/kubeconfig", "How to reach the API server. A file that is not there yet is waited for.")
	fs.BoolVar(&w.LeaderElect, "leader-elect", true, "Work only while holding a lease, so that several processes can run.")
	fs.StringVar(&w.MetricsAddress, "metrics-address", metrics, "IP address and port to serve /metrics, /healthz and /readyz on over HTTP; empty: nowhere.")
}

// loopFlags are settings of controllers.
func loopFlags(fs *pflag.FlagSet, l *cluster.Loops) {
	l.Disruption, l.Autoscaler = controllers.DefaultDisruption(), controllers.DefaultAutoscaler()
	fs.StringSliceVar(&l.LoadBalancerAddresses, "load-balancer-addresses", nil, "Addresses of services of type LoadBalancer: ranges such as 192.0.2.10-192.0.2.20 or 192.0.2.0/28.")
	fs.StringVar(&l.ClusterCIDR, "cluster-cidr", "10.244.0.0/16", "Addresses of pods in CIDR form, one range or one of each family with a comma between. A node gets a /24, and a /64.")
	disruptionFlags(fs, &l.Disruption)
	autoscalerFlags(fs, &l.Autoscaler)
}

// autoscalerFlags have the names that they have in kube-controller-manager.
func autoscalerFlags(fs *pflag.FlagSet, a *controllers.AutoscalerConfig) {
	fs.DurationVar(&a.Every, "horizontal-pod-autoscaler-sync-period", a.Every, "Time between two looks of a HorizontalPodAutoscaler at its metrics.")
	fs.IntVar(&a.Workers, "concurrent-horizontal-pod-autoscaler-syncs", a.Workers, "Number of HorizontalPodAutoscalers that are looked at at once.")
	fs.Float64Var(&a.Tolerance, "horizontal-pod-autoscaler-tolerance", a.Tolerance, "Part of its target by which a metric may be off without anything being done.")
	fs.DurationVar(&a.CPUInitialization, "horizontal-pod-autoscaler-cpu-initialization-period", a.CPUInitialization, "Time after a pod's start in which its use of processors counts only if it was measured while it was ready.")
	fs.DurationVar(&a.InitialReadiness, "horizontal-pod-autoscaler-initial-readiness-delay", a.InitialReadiness, "Time after a pod's start in which a change of its readiness is its first.")
	fs.DurationVar(&a.DownStabilization, "horizontal-pod-autoscaler-downscale-stabilization", a.DownStabilization, "Time for which the highest recommendation holds, unless a HorizontalPodAutoscaler's behavior says it.")
}

// disruptionFlags have the names that they have in kube-controller-manager.
func disruptionFlags(fs *pflag.FlagSet, d *controllers.Disruption) {
	fs.Float64Var(&d.EvictionRate, "node-eviction-rate", d.EvictionRate, "Nodes per second whose pods are evicted, in a healthy zone.")
	fs.Float64Var(&d.SecondaryRate, "secondary-node-eviction-rate", d.SecondaryRate, "The same in an unhealthy zone that is large; in others none are evicted.")
	fs.Float64Var(&d.UnhealthyShare, "unhealthy-zone-threshold", d.UnhealthyShare, "Share of a zone's nodes, at least 3, that have to be not ready for the zone to be unhealthy.")
	fs.DurationVar(&d.Period, "node-monitor-period", d.Period, "Time between two looks at all nodes.")
	fs.DurationVar(&d.Grace, "node-monitor-grace-period", d.Grace, "Time of silence after which a node is not ready any more. Nodes are heard every 10s.")
	fs.DurationVar(&d.StartupGrace, "node-startup-grace-period", d.StartupGrace, "The same for a node that has not been heard from yet.")
	fs.IntVar(&d.LargeZone, "large-cluster-size-threshold", d.LargeZone, "A zone with more nodes is large.")
}

func controllersCommand() *cobra.Command {
	var w cluster.Worker
	var pkiDir string
	var l cluster.Loops
	cmd := &cobra.Command{Use: "controllers", Short: "Run the controllers", Args: cobra.NoArgs}
	workerFlags(cmd.Flags(), &w, "127.0.0.1:10257")
	cmd.Flags().StringVar(&pkiDir, "pki-dir", "data/pki", "Directory of the cluster's authority, with which certificates are signed.")
	loopFlags(cmd.Flags(), &l)
	logs := logFlags(cmd.Flags())
	cmd.RunE = func(*cobra.Command, []string) error {
		return runRole(logs, func(ctx context.Context, lg *zap.Logger) error {
			w.Logger = lg
			return cluster.RunControllers(ctx, w, pkiDir, l)
		})
	}
	return cmd
}
