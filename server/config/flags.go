package config

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/pflag"
	"sigs.k8s.io/yaml"
)

// Parse reads the command line (without the program's name), the environment (as os.Environ gives it) and, if
// --config-file is given, that file. The result is complete and valid.
func Parse(args, environ []string) (*Config, error) {
	c := Default()
	fs, file := c.flags()
	if err := fs.Parse(LongFlags(args)); err != nil {
		return nil, inEtcdsWords(err)
	}
	if fs.NArg() > 0 {
		return nil, fmt.Errorf("%q is not a valid flag", fs.Arg(0))
	}
	path := *file
	if path == "" {
		path = lookup(environ, envName("config-file"))
	}
	if path != "" {
		c = Default()
		fs, _ = c.flags()
		if err := c.fromFile(fs, path); err != nil {
			return nil, err
		}
	} else if err := c.fromEnv(fs, environ); err != nil {
		return nil, err
	}
	if fs.Changed("listen-client-urls") && !fs.Changed("advertise-client-urls") {
		return nil, fmt.Errorf("--advertise-client-urls is required when --listen-client-urls is set explicitly")
	}
	c.Bootstrap.clusterSet = fs.Changed("initial-cluster")
	c.noteDeprecated(fs)
	c.parsed = fs
	c.complete()
	return c, c.Validate()
}

// inEtcdsWords says what is wrong with a flag's value as etcd does.
func inEtcdsWords(err error) error {
	if bad := (*pflag.InvalidValueError)(nil); errors.As(err, &bad) {
		return fmt.Errorf("invalid value %q for flag -%s: %w", bad.GetValue(), bad.GetFlag().Name, errors.Unwrap(bad))
	}
	return err
}

// Flags is the set of all flags with their defaults, for help texts.
func Flags() *pflag.FlagSet {
	fs, _ := Default().flags()
	return fs
}

// LongFlags turns -name into --name: etcd takes both.
func LongFlags(args []string) []string {
	out := slices.Clone(args)
	for i, a := range out {
		if a == "--" {
			break
		}
		if len(a) > 2 && a[0] == '-' && a[1] != '-' {
			out[i] = "-" + a
		}
	}
	return out
}

func (c *Config) flags() (fs *pflag.FlagSet, file *string) {
	fs = pflag.NewFlagSet("server", pflag.ContinueOnError)
	fs.SortFlags = false
	fs.Usage = func() {}
	file = fs.String("config-file", "", "Path to the server configuration file. With it, other flags and the environment are ignored.")
	c.memberFlags(fs)
	c.clusterFlags(fs)
	c.backendFlags(fs)
	c.limitFlags(fs)
	c.securityFlags(fs)
	c.authFlags(fs)
	c.logFlags(fs)
	c.Tracing.flags(fs)
	c.upkeepFlags(fs)
	return fs, file
}

func (c *Config) memberFlags(fs *pflag.FlagSet) {
	fs.StringVar(&c.Name, "name", c.Name, "Human-readable name for this member.")
	fs.StringVar(&c.DataDir, "data-dir", c.DataDir, "Path to the data directory (default: <name>.etcd).")
	fs.StringVar(&c.WALDir, "wal-dir", c.WALDir, "Path to a directory for the write-ahead log alone.")
	fs.Uint64Var(&c.Raft.SnapshotCount, "snapshot-count", c.Raft.SnapshotCount, "Number of applied entries that trigger a snapshot.")
	fs.Var(millis{&c.Raft.Heartbeat}, "heartbeat-interval", "Time (in milliseconds) of a heartbeat interval.")
	fs.Var(millis{&c.Raft.Election}, "election-timeout", "Time (in milliseconds) for an election to time out.")
	fs.BoolVar(&c.Raft.InitialElectionAdvance, "initial-election-tick-advance", c.Raft.InitialElectionAdvance, "Whether to fast-forward initial election ticks on boot for a faster election.")
	fs.Var(list{&c.Listen.PeerURLs}, "listen-peer-urls", "Comma-separated URLs to listen on for peer traffic.")
	fs.Var(list{&c.Listen.ClientURLs}, "listen-client-urls", "Comma-separated URLs to listen on for client traffic.")
	fs.Var(list{&c.Listen.ClientHTTPURLs}, "listen-client-http-urls", "Comma-separated URLs to listen on for HTTP only; the client URLs then serve gRPC only.")
	fs.UintVar(&c.Raft.MaxSnapshots, "max-snapshots", c.Raft.MaxSnapshots, "Maximum number of snapshot files to retain (0 is unlimited).")
	fs.UintVar(&c.Raft.MaxWALs, "max-wals", c.Raft.MaxWALs, "Maximum number of log files to retain (0 is unlimited).")
	fs.DurationVar(&c.Raft.ReadTimeout, "raft-read-timeout", c.Raft.ReadTimeout, "Read timeout on each peer connection.")
	fs.DurationVar(&c.Raft.WriteTimeout, "raft-write-timeout", c.Raft.WriteTimeout, "Write timeout on each peer connection.")
	fs.BoolVar(&c.Listen.ReusePort, "socket-reuse-port", c.Listen.ReusePort, "Set SO_REUSEPORT on listeners.")
	fs.BoolVar(&c.Listen.ReuseAddress, "socket-reuse-address", c.Listen.ReuseAddress, "Set SO_REUSEADDR on listeners.")
}

func (c *Config) clusterFlags(fs *pflag.FlagSet) {
	fs.Var(list{&c.Listen.AdvertisePeerURLs}, "initial-advertise-peer-urls", "Comma-separated peer URLs of this member to tell the rest of the cluster.")
	fs.StringVar(&c.Bootstrap.Cluster, "initial-cluster", c.Bootstrap.Cluster, "Initial cluster for bootstrapping: name=url,name=url.")
	fs.Var(state{&c.Bootstrap.Existing}, "initial-cluster-state", "Initial cluster state: new or existing.")
	c.Bootstrap.Discovery.flags(fs)
	fs.StringVar(&c.Bootstrap.ClusterToken, "initial-cluster-token", c.Bootstrap.ClusterToken, "Initial cluster token during bootstrap.")
	fs.Var(list{&c.Listen.AdvertiseClientURLs}, "advertise-client-urls", "Comma-separated client URLs of this member to tell clients.")
	fs.BoolVar(&c.Bootstrap.StrictReconfigCheck, "strict-reconfig-check", c.Bootstrap.StrictReconfigCheck, "Reject reconfiguration that would lose the quorum.")
	fs.BoolVar(&c.Raft.PreVote, "pre-vote", c.Raft.PreVote, "Ask before an election, so that a member that comes back does not disrupt the leader.")
	fs.IntVar(&c.Bootstrap.MaxLearners, "max-learners", c.Bootstrap.MaxLearners, "Maximum number of learners in the cluster.")
	fs.BoolVar(&c.Bootstrap.AutoPromote, "learner-auto-promote", c.Bootstrap.AutoPromote, "As leader, make learners that have caught up voting members.")
	fs.Uint64Var(&c.Raft.CatchUpEntries, "snapshot-catchup-entries", c.Raft.CatchUpEntries, "Log entries kept for a slow follower after a snapshot.")
}

func (c *Config) backendFlags(fs *pflag.FlagSet) {
	b := &c.Backend
	fs.Int64Var(&b.QuotaBytes, "quota-backend-bytes", b.QuotaBytes, "Bytes that the keyspace may use before the NOSPACE alarm (0: 2 GiB, negative: no quota).")
	fs.StringVar(&b.FreelistType, "backend-bbolt-freelist-type", b.FreelistType, "Freelist of the backend: map or array.")
	fs.DurationVar(&b.BatchInterval, "backend-batch-interval", b.BatchInterval, "Maximum time before buffered writes go to the backend file.")
	fs.IntVar(&b.BatchLimit, "backend-batch-limit", b.BatchLimit, "Maximum operations before buffered writes go to the backend file.")
	fs.BoolVar(&b.Mlock, "memory-mlock", b.Mlock, "Keep the backend's pages in memory.")
	fs.UintVar(&b.DefragAtStartMB, "bootstrap-defrag-threshold-megabytes", b.DefragAtStartMB, "Defragment at start if that frees at least so many megabytes (0: never).")
	fs.IntVar(&b.CompactionBatchLimit, "compaction-batch-limit", b.CompactionBatchLimit, "Maximum revisions deleted in one step of a compaction.")
	fs.DurationVar(&b.CompactionSleep, "compaction-sleep-interval", b.CompactionSleep, "Pause between the steps of a compaction.")
	fs.BoolVar(&c.Unsafe.ForceNewCluster, "force-new-cluster", c.Unsafe.ForceNewCluster, "Make this member the only one of its cluster, when the others are lost: what it has not heard of is lost.")
	fs.BoolVar(&c.Unsafe.NoFsync, "unsafe-no-fsync", c.Unsafe.NoFsync, "Do not sync files: unsafe, loses data.")
}

func (c *Config) limitFlags(fs *pflag.FlagSet) {
	l := &c.Limits
	fs.UintVar(&l.MaxTxnOps, "max-txn-ops", l.MaxTxnOps, "Maximum number of operations in a transaction.")
	fs.UintVar(&l.MaxRequestBytes, "max-request-bytes", l.MaxRequestBytes, "Maximum size of a client request in bytes.")
	fs.Uint32Var(&l.MaxConcurrentStreams, "max-concurrent-streams", l.MaxConcurrentStreams, "Maximum concurrent streams of one client.")
	fs.DurationVar(&l.KeepAliveMinTime, "grpc-keepalive-min-time", l.KeepAliveMinTime, "Minimum interval between the pings of a client.")
	fs.DurationVar(&l.KeepAliveInterval, "grpc-keepalive-interval", l.KeepAliveInterval, "Interval of the server's pings to a client (0: none).")
	fs.DurationVar(&l.KeepAliveTimeout, "grpc-keepalive-timeout", l.KeepAliveTimeout, "How long an unanswered ping keeps a connection open.")
	l.Fair.flags(fs)
	fs.Var(prefixQuotas{&l.Prefixes}, "prefix-quota", "Bound on the keys under a prefix, such as /app1/=100MiB,10000keys. May be given several times.")
	fs.Var(byteSize{&l.ResponseBytes}, "response-bytes-budget", "Bytes of responses that may be encoded and not yet written: a size such as 512MiB, auto (a quarter of the memory), or 0 for no bound.")
}

func (c *Config) authFlags(fs *pflag.FlagSet) {
	a := &c.Auth
	fs.StringVar(&a.Token, "auth-token", a.Token, "Kind of the tokens of users, with its options: simple, or jwt,sign-method=...,pub-key=...,priv-key=...,ttl=...")
	fs.UintVar(&a.BcryptCost, "bcrypt-cost", a.BcryptCost, "Cost of hashing passwords with bcrypt, from 4 to 31.")
	fs.Var(seconds{&a.TokenTTL}, "auth-token-ttl", "Time (in seconds) for which a simple token that is not used is good.")
}

func (c *Config) logFlags(fs *pflag.FlagSet) {
	l := &c.Log
	fs.Var(only{"zap"}, "logger", "Kind of logger; only zap.")
	fs.Var(list{&l.Outputs}, "log-outputs", "Comma-separated outputs: default (stderr), stdout, stderr, systemd/journal, or paths of files.")
	fs.StringVar(&l.Level, "log-level", l.Level, "Log level: debug, info, warn, error, panic, fatal.")
	fs.StringVar(&l.Format, "log-format", l.Format, "Log format: json or console.")
	fs.BoolVar(&l.Rotate, "enable-log-rotation", l.Rotate, "Rotate a log file given in --log-outputs.")
	fs.StringVar(&l.RotateConfig, "log-rotation-config-json", l.RotateConfig, "Configures log rotation, as JSON.")
	fs.StringVar(&l.Access, "access-log", l.Access, "Write a line for each call to stderr or to a file (default: nowhere).")
	fs.Float64Var(&l.AccessSample, "access-log-sample", l.AccessSample, "Share of calls that have a line in the access log.")
	fs.DurationVar(&l.WarnApply, "warning-apply-duration", l.WarnApply, "Warn when applying a command takes longer.")
	fs.DurationVar(&l.WarnUnary, "warning-unary-request-duration", l.WarnUnary, "Warn when a unary request takes longer.")
	f := &c.Features
	fs.DurationVar(&f.WatchProgressInterval, "watch-progress-notify-interval", f.WatchProgressInterval, "Interval of progress notifications on idle watches.")
	fs.BoolVar(&f.EnableGateway, "enable-grpc-gateway", f.EnableGateway, "Serve the JSON gateway under /v3/.")
	fs.BoolVar(&f.EnableReflection, "enable-grpc-reflection", f.EnableReflection, "Describe the services to gRPC clients that ask.")
	fs.BoolVar(&f.EnableUI, "enable-ui", false, "Serve a page for people under /ui/.")
	fs.BoolVar(&f.EnablePprof, "enable-pprof", f.EnablePprof, "Serve runtime profiles under /debug/pprof/.")
	fs.StringVar(&f.Metrics, "metrics", f.Metrics, "Detail of metrics: basic, or extensive with gRPC latency histograms.")
	fs.Var(list{&c.Listen.MetricsURLs}, "listen-metrics-urls", "Comma-separated further URLs to serve /metrics and /health on.")
}

func envName(flag string) string {
	return "ETCD_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

func lookup(environ []string, name string) string {
	for _, kv := range environ {
		if v, ok := strings.CutPrefix(kv, name+"="); ok {
			return v
		}
	}
	return ""
}

// fromEnv sets the flags that the command line did not set. What else begins with ETCD_ is noted, by its name: a value may be a secret.
func (c *Config) fromEnv(fs *pflag.FlagSet, environ []string) error {
	known := map[string]*pflag.Flag{}
	fs.VisitAll(func(f *pflag.Flag) { known[envName(f.Name)] = f })
	var unknown, shadowed []string
	for _, kv := range environ {
		name, v, _ := strings.Cut(kv, "=")
		f := known[name]
		switch {
		case !strings.HasPrefix(name, "ETCD_") || v == "":
		case f == nil:
			unknown = append(unknown, name)
		case f.Changed:
			shadowed = append(shadowed, name)
		default:
			if err := fs.Set(f.Name, v); err != nil {
				return fmt.Errorf("invalid value %q for %s: %w", v, name, err)
			}
		}
	}
	c.say("unrecognized environment variables: ", unknown)
	c.say("environment variables that flags take the place of: ", shadowed)
	return nil
}

// say has something said of names, if there are any.
func (c *Config) say(what string, names []string) {
	if len(names) > 0 {
		slices.Sort(names)
		c.outdated = append(c.outdated, what+strings.Join(names, ", "))
	}
}

func (c *Config) fromFile(fs *pflag.FlagSet, path string) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("configuration file: %w", err)
	}
	values := map[string]any{}
	if err := yaml.Unmarshal(data, &values); err != nil {
		return fmt.Errorf("configuration file %s: %w", path, err)
	}
	names := make([]string, 0, len(values))
	for name := range values {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		if values[name] == nil {
			continue
		}
		if slices.Contains(forgotten, name) {
			c.idle = append(c.idle, name)
			continue
		}
		if ok, err := c.Security.fromSection(name, values[name]); ok {
			if err != nil {
				return fmt.Errorf("configuration file %s: %w", path, err)
			}
			continue
		}
		if name == discoveryKey {
			if err := c.Bootstrap.Discovery.fromSection(values[name]); err != nil {
				return fmt.Errorf("configuration file %s: %w", path, err)
			}
			continue
		}
		f := fs.Lookup(name)
		if f == nil || name == "config-file" {
			return fmt.Errorf("configuration file %s: unknown key %q", path, name)
		}
		if err := fs.Set(name, fileValue(f, values[name])); err != nil {
			return fmt.Errorf("configuration file %s: %s: %w", path, name, err)
		}
	}
	return nil
}

// fileValue writes a YAML value as a flag's value. A number for a duration counts nanoseconds, as in etcd's file.
func fileValue(f *pflag.Flag, v any) string {
	switch v := v.(type) {
	case []any:
		parts := make([]string, len(v))
		for i, p := range v {
			parts[i] = fmt.Sprint(p)
		}
		return strings.Join(parts, ",")
	case float64:
		if f.Value.Type() == "duration" {
			return time.Duration(v).String()
		}
		return fmt.Sprintf("%.0f", v)
	}
	return fmt.Sprint(v)
}
