package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/keelson-io/keelson/orchestrator/cluster"
	"github.com/keelson-io/keelson/orchestrator/node/registration"
)

// nodeFlags are the flags of whatever runs a node. They are read by the function that is returned.
func nodeFlags(fs *pflag.FlagSet, n *cluster.Node, prefix string) (read func() error) {
	fs.StringVar(&n.Name, prefix+"name", "", "Name of the node (default: that of the host).")
	fs.StringVar(&n.RuntimeEndpoint, "container-runtime-endpoint", "", "CRI socket of a container runtime, as unix:///run/containerd/containerd.sock (default: the embedded runtime).")
	fs.StringVar(&n.Address, prefix+"ip", "", "IP address of the node (default: those of the machine's interfaces).")
	fs.IntVar(&n.Port, prefix+"port", 10250, "Port of the node's server.")
	labels := fs.StringSlice(prefix+"labels", nil, "Labels of the node when it is new: key=value.")
	taints := fs.StringSlice("register-with-taints", nil, "Taints of the node when it is new: key=value:effect.")
	fs.StringVar(&n.ClusterDomain, "cluster-domain", "cluster.local", "Domain of the cluster's names.")
	fs.StringVar(&n.ResolvConf, "resolv-conf", "/etc/resolv.conf", "Resolver of the node.")
	fs.StringVar(&n.CgroupDriver, "cgroup-driver", "cgroupfs", "Who makes cgroups: cgroupfs or systemd.")
	fs.StringVar(&n.CgroupRoot, "cgroup-root", "/", "Cgroup that pods are in.")
	fs.StringVar(&n.LogDir, "pod-logs-dir", "/var/log/pods", "Directory of pods' logs.")
	fs.StringVar(&n.ManifestDir, "pod-manifest-path", "", "Directory with manifests of static pods; empty: none.")
	fs.StringVar(&n.DevicePluginDir, "device-plugin-dir", "", "Directory where device plugins register, such as /var/lib/kubelet/device-plugins (default: device-plugins in the node's directory).")
	fs.Int64Var(&n.MaxPods, "max-pods", 110, "Number of pods that the node takes.")
	fs.StringVar(&n.Backend, "pod-network", "routes", "How pods of other nodes are reached: routes, or vxlan; none: the network of pods is left to the CNI plugins that the container runtime is configured with.")
	fs.StringVar(&n.CNI.ConfDir, "cni-conf-dir", "", "Directory of configurations of CNI plugins. The embedded runtime uses the first one there instead of Keelson's network of pods. With --container-runtime-endpoint it is where that runtime finds the configuration for Keelson's (default then: /etc/cni/net.d).")
	fs.StringSliceVar(&n.CNI.BinDirs, "cni-bin-dir", nil, "Directories of CNI plugins (default: /opt/cni/bin). With --container-runtime-endpoint Keelson's goes into the first one.")
	fs.StringSliceVar(&n.Handlers, "runtime-handlers", nil, "Names that RuntimeClasses may use for the embedded runtime, beside the default.")
	fs.BoolVar(&n.NoServiceProxy, "disable-service-proxy", false, "Leave services to another program, such as kube-proxy.")
	nodePorts := fs.StringSlice("nodeport-addresses", nil, "Ranges, in CIDR form, of the node's addresses that have node ports (default: all its addresses, except for loopback ones).")
	readPressure := pressureFlags(fs, &n.Pressure)
	return func() (err error) {
		if err := readPressure(); err != nil {
			return err
		}
		for _, text := range *nodePorts {
			r, err := netip.ParsePrefix(text)
			if err != nil {
				return fmt.Errorf("nodeport-addresses: %w", err)
			}
			n.NodePortAddresses = append(n.NodePortAddresses, r)
		}
		if n.Labels, err = parseLabels(*labels); err != nil {
			return err
		}
		n.Taints, err = parseTaints(*taints)
		return err
	}
}

func parseLabels(texts []string) (map[string]string, error) {
	out := map[string]string{}
	for _, text := range texts {
		k, v, ok := strings.Cut(text, "=")
		if !ok || k == "" {
			return nil, fmt.Errorf("label %q is not key=value", text)
		}
		out[k] = v
	}
	return out, nil
}

func parseTaints(texts []string) (out []corev1.Taint, err error) {
	for _, text := range texts {
		kv, effect, ok := strings.Cut(text, ":")
		k, v, _ := strings.Cut(kv, "=")
		switch e := corev1.TaintEffect(effect); {
		case !ok || k == "":
			return nil, fmt.Errorf("taint %q is not key=value:effect", text)
		case e != corev1.TaintEffectNoSchedule && e != corev1.TaintEffectPreferNoSchedule && e != corev1.TaintEffectNoExecute:
			return nil, fmt.Errorf("taint %q has the effect %q: there are NoSchedule, PreferNoSchedule and NoExecute", text, effect)
		default:
			out = append(out, corev1.Taint{Key: k, Value: v, Effect: e})
		}
	}
	return out, nil
}

func nodeCommand() *cobra.Command {
	var n cluster.Node
	var j joinFlags
	cmd := &cobra.Command{
		Use: "node", Short: "Run the node of this machine", Args: cobra.NoArgs,
		Long: "Make this machine a node: register it, and run the pods that are bound to it. Pods run on when this ends.",
	}
	cmd.AddCommand(resetCommand())
	fs := cmd.Flags()
	j.bind(fs)
	fs.StringVar(&n.Dir, "data-dir", "/var/lib/keelson/node", "Directory of images, volumes and state.")
	fs.StringVar(&n.ServiceRange, "service-cluster-ip-range", "10.96.0.0/16", "Addresses of services, as the API server has them.")
	read := nodeFlags(fs, &n, "")
	cmd.Flags().StringSliceVar(&n.LoadBalancerAddresses, "load-balancer-addresses", nil, "Addresses of services of type LoadBalancer that the node answers for on its links: as the controllers have them.")
	logs := logFlags(fs)
	cmd.RunE = func(*cobra.Command, []string) error {
		if err := read(); err != nil {
			return err
		}
		if err := j.check(); err != nil {
			return err
		}
		if err := cluster.CheckNode(&n); err != nil {
			return err
		}
		return runRole(logs, func(ctx context.Context, lg *zap.Logger) error {
			n.Logger = lg
			config, err := j.config(ctx, n.Dir, lg)
			if err != nil {
				return err
			}
			return cluster.RunNode(ctx, n, config)
		})
	}
	return cmd
}

// joinFlags say how a machine that has no certificate yet joins a cluster.
type joinFlags struct {
	kubeconfig, server, token, caFile string
	caHashes                          []string
}

func (j *joinFlags) bind(fs *pflag.FlagSet) {
	fs.StringVar(&j.kubeconfig, "bootstrap-kubeconfig", "", "How to ask for the node's certificate.")
	fs.StringVar(&j.server, "server", "", "URL of the API server, with --token and --ca-cert-hash, as 'keelson token create' prints them, instead of --bootstrap-kubeconfig.")
	fs.StringVar(&j.token, "token", "", "Bootstrap token: id.secret.")
	fs.StringSliceVar(&j.caHashes, "ca-cert-hash", nil, "Hash of the public key of the cluster's authority, as sha256:<hexadecimal digits>: the authority itself is asked for.")
	fs.StringVar(&j.caFile, "certificate-authority", "", "File with the cluster's authority, instead of --ca-cert-hash.")
}

func (j *joinFlags) check() error {
	apart := j.server != "" || j.token != "" || j.caFile != "" || len(j.caHashes) > 0
	switch {
	case j.kubeconfig != "" && apart:
		return errors.New("either --bootstrap-kubeconfig, or --server, --token and --ca-cert-hash")
	case j.kubeconfig != "":
		return nil
	case j.server == "" || j.token == "" || j.caFile == "" && len(j.caHashes) == 0:
		return errors.New("--bootstrap-kubeconfig, or --server, --token and --ca-cert-hash, have to say how to join the cluster: 'keelson token create' prints them")
	case j.caFile != "" && len(j.caHashes) > 0:
		return errors.New("either --ca-cert-hash or --certificate-authority")
	}
	return nil
}

// config is how the API server is reached by a node that has no certificate yet.
func (j *joinFlags) config(ctx context.Context, dir string, lg *zap.Logger) (*rest.Config, error) {
	switch {
	case j.kubeconfig != "":
		return clientcmd.BuildConfigFromFlags("", j.kubeconfig)
	case j.caFile != "":
		return &rest.Config{Host: j.server, BearerToken: j.token, TLSClientConfig: rest.TLSClientConfig{CAFile: j.caFile}}, nil
	}
	return registration.Discover(ctx, registration.DiscoverConfig{Server: j.server, Token: j.token, Pins: j.caHashes, Dir: filepath.Join(dir, "pki"), Logger: lg})
}
