// Package config is a member's configuration: its fields and defaults, the flags, environment variables and file that set
// them, and the checks that refuse what contradicts itself before anything is written.
//
// Names, defaults and meanings are etcd's. A flag --some-name is also the variable ETCD_SOME_NAME and the key some-name of
// the file given by --config-file. With a file, other flags and the environment are ignored, as in etcd.
//
// # Concurrency
//
// A Config is filled once and then only read.
package config

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/pflag"
	"golang.org/x/crypto/bcrypt"
)

// Config is the configuration of one member.
type Config struct {
	Name      string
	DataDir   string // default: <name>.etcd
	WALDir    string // default: <data-dir>/member/wal
	Listen    Listen
	Bootstrap Bootstrap
	Raft      Raft
	Backend   Backend
	Limits    Limits
	Auth      Auth
	Log       Log
	Features  Features
	Tracing   Tracing
	Upkeep    Upkeep
	Unsafe    Unsafe
	Security  Security
	idle      []string // keys of the file that make no difference
	outdated  []string // what is to be said of flags that were set
	parsed    *pflag.FlagSet
}

// Listen is where the member listens and what it tells others.
type Listen struct {
	PeerURLs            []string
	ClientURLs          []string
	ClientHTTPURLs      []string // when set, HTTP is served here and not on ClientURLs
	MetricsURLs         []string // further listeners for /metrics and /health
	AdvertisePeerURLs   []string
	AdvertiseClientURLs []string
	ReusePort           bool
	ReuseAddress        bool
}

// Bootstrap describes the cluster to found or to join.
type Bootstrap struct {
	Cluster             string // name=url,name=url
	ClusterToken        string
	Existing            bool // --initial-cluster-state existing
	StrictReconfigCheck bool
	MaxLearners         int
	AutoPromote         bool // the leader makes learners that have caught up voting members
	Discovery           Discovery
	clusterSet          bool
}

// Raft tunes consensus.
type Raft struct {
	Heartbeat              time.Duration
	Election               time.Duration
	InitialElectionAdvance bool
	PreVote                bool
	SnapshotCount          uint64
	CatchUpEntries         uint64
	MaxSnapshots           uint
	MaxWALs                uint
	ReadTimeout            time.Duration
	WriteTimeout           time.Duration
}

// ElectionTicks is the election timeout in heartbeats.
func (r Raft) ElectionTicks() int { return int(r.Election / r.Heartbeat) }

// Backend tunes the database file.
type Backend struct {
	QuotaBytes           int64
	BatchInterval        time.Duration
	BatchLimit           int
	FreelistType         string
	Mlock                bool
	DefragAtStartMB      uint
	CompactionBatchLimit int
	CompactionSleep      time.Duration
}

// Limits bounds what clients may ask for.
type Limits struct {
	MaxTxnOps            uint
	MaxRequestBytes      uint
	MaxConcurrentStreams uint32
	KeepAliveMinTime     time.Duration
	KeepAliveInterval    time.Duration
	KeepAliveTimeout     time.Duration
	Fair                 Fair
	Prefixes             []PrefixQuota
	ResponseBytes        int64 // of responses under way; 0: no bound, negative: a quarter of the memory
}

// Auth tunes authentication.
type Auth struct {
	Token      string // kind of tokens with its options: simple, jwt,..., or "" for none
	TokenTTL   time.Duration
	BcryptCost uint // outside of what bcrypt has: its default
}

// Log says what is logged where.
type Log struct {
	Level        string
	Format       string
	Outputs      []string
	WarnApply    time.Duration
	WarnUnary    time.Duration
	Rotate       bool
	Access       string  // stderr or a file for the access log; "": none
	AccessSample float64 // share of calls that it has
	RotateConfig string  // JSON: maxsize (MB), maxage (days), maxbackups, localtime, compress
}

// Features are the rest.
type Features struct {
	WatchProgressInterval time.Duration
	EnablePprof           bool
	EnableGateway         bool   // the JSON gateway
	EnableReflection      bool   // gRPC's description of the services
	EnableUI              bool   // the page for people
	Metrics               string // basic or extensive
	Gates                 Gates
}

// Unsafe options trade data for something else.
type Unsafe struct {
	ForceNewCluster bool
	NoFsync         bool
}

const (
	defaultName      = "default"
	defaultPeerURL   = "http://localhost:2380"
	defaultClientURL = "http://localhost:2379"
	maxElection      = 50 * time.Second
)

// Default is the configuration without any flag.
func Default() *Config {
	return &Config{
		Name: defaultName,
		Listen: Listen{
			PeerURLs:            []string{defaultPeerURL},
			ClientURLs:          []string{defaultClientURL},
			AdvertisePeerURLs:   []string{defaultPeerURL},
			AdvertiseClientURLs: []string{defaultClientURL},
		},
		Bootstrap: Bootstrap{ClusterToken: "etcd-cluster", StrictReconfigCheck: true, MaxLearners: 1, Discovery: defaultDiscovery()},
		Raft: Raft{
			Heartbeat: 100 * time.Millisecond, Election: time.Second, InitialElectionAdvance: true, PreVote: true,
			SnapshotCount: 10_000, CatchUpEntries: 5_000, MaxSnapshots: 5, MaxWALs: 5,
			ReadTimeout: 5 * time.Second, WriteTimeout: 5 * time.Second,
		},
		Backend: Backend{
			BatchInterval: 100 * time.Millisecond, BatchLimit: 10_000, FreelistType: "map",
			CompactionBatchLimit: 1_000, CompactionSleep: 10 * time.Millisecond,
		},
		Limits: Limits{
			MaxTxnOps: 128, MaxRequestBytes: 3 << 19, MaxConcurrentStreams: 1<<32 - 1,
			KeepAliveMinTime: 5 * time.Second, KeepAliveInterval: 2 * time.Hour, KeepAliveTimeout: 20 * time.Second,
			Fair: defaultFair(), ResponseBytes: -1,
		},
		Auth: Auth{Token: "simple", TokenTTL: 300 * time.Second, BcryptCost: uint(bcrypt.DefaultCost)},
		Log: Log{
			Level: "info", Format: "json", Outputs: []string{"default"},
			AccessSample: 1,
			WarnApply:    100 * time.Millisecond, WarnUnary: 300 * time.Millisecond,
			RotateConfig: `{"maxsize": 100, "maxage": 0, "maxbackups": 0, "localtime": false, "compress": false}`,
		},
		Features: Features{WatchProgressInterval: 10 * time.Minute, EnableGateway: true, Metrics: "basic"},
		Upkeep:   Upkeep{AutoCompaction: AutoCompaction{Mode: CompactPeriodic, Retention: "0"}, CompactHashCheckTime: time.Minute, DowngradeCheckTime: 5 * time.Second, IntegrityInterval: time.Second},
		Tracing:  Tracing{Address: "localhost:4317", Service: "etcd"},
	}
}

// RequestTimeout is how long a request through the log may take: 5 s for the work and two election timeouts.
func (c *Config) RequestTimeout() time.Duration { return 5*time.Second + 2*c.Raft.Election }

// PeerSource is the address that connections to other members come from, with the gate SetMemberLocalAddr: the first advertised one
// that others can see. It is nil if the system is to choose.
func (c *Config) PeerSource() net.Addr {
	if !c.Features.Gates.Enabled(SetMemberLocalAddr) {
		return nil
	}
	for _, raw := range c.Listen.AdvertisePeerURLs {
		u, err := url.Parse(raw)
		if err != nil {
			continue
		}
		if ip, err := netip.ParseAddr(u.Hostname()); err == nil && !ip.IsLoopback() && !ip.IsUnspecified() {
			return net.TCPAddrFromAddrPort(netip.AddrPortFrom(ip, 0))
		}
	}
	return nil
}

// MemberDir, SnapDir and WALPath are the directories of the member's files.
func (c *Config) MemberDir() string { return filepath.Join(c.DataDir, "member") }

// SnapDir is described at MemberDir.
func (c *Config) SnapDir() string { return filepath.Join(c.MemberDir(), "snap") }

// BackendPath is the database file.
func (c *Config) BackendPath() string { return filepath.Join(c.SnapDir(), "db") }

// WALPath is described at MemberDir.
func (c *Config) WALPath() string {
	if c.WALDir != "" {
		return c.WALDir
	}
	return filepath.Join(c.MemberDir(), "wal")
}

// complete fills in what follows from other fields.
func (c *Config) complete() {
	if c.DataDir == "" {
		c.DataDir = c.Name + ".etcd"
	}
	d := &c.Bootstrap.Discovery
	if !c.Bootstrap.clusterSet && d.Domain == "" && d.Suffix == "" && !d.ByService() {
		c.Bootstrap.Cluster = c.Alone()
	}
	if d.Domain != "" && c.Security.Peer.TrustedCAFile == "" {
		c.Security.Peer.ServerName = d.Domain
	}
}

// Alone is a cluster of this member alone, as name=url,...
func (c *Config) Alone() string {
	parts := make([]string, len(c.Listen.AdvertisePeerURLs))
	for i, u := range c.Listen.AdvertisePeerURLs {
		parts[i] = c.Name + "=" + u
	}
	return strings.Join(parts, ",")
}

// Validate refuses a configuration that cannot work. It touches nothing.
func (c *Config) Validate() error {
	checks := []func() error{
		c.checkURLs, c.checkDiscovery, c.checkSecurity, c.checkTimes, c.checkBackend, c.checkFair, c.checkUI, c.checkLog, c.checkUpkeep, c.checkTracing,
	}
	for _, check := range checks {
		if err := check(); err != nil {
			return err
		}
	}
	return nil
}

func (c *Config) checkURLs() error {
	for _, l := range []struct {
		flag string
		urls []string
		bind bool
	}{
		{"listen-peer-urls", c.Listen.PeerURLs, true},
		{"listen-client-urls", c.Listen.ClientURLs, true},
		{"listen-client-http-urls", c.Listen.ClientHTTPURLs, true},
		{"listen-metrics-urls", c.Listen.MetricsURLs, true},
		{"initial-advertise-peer-urls", c.Listen.AdvertisePeerURLs, false},
		{"advertise-client-urls", c.Listen.AdvertiseClientURLs, false},
	} {
		for _, u := range l.urls {
			if err := checkURL(u, l.bind); err != nil {
				return fmt.Errorf("--%s: %w", l.flag, err)
			}
		}
	}
	switch {
	case len(c.Listen.PeerURLs) == 0:
		return fmt.Errorf("--listen-peer-urls must name at least one URL")
	case len(c.Listen.ClientURLs) == 0:
		return fmt.Errorf("--listen-client-urls must name at least one URL")
	case len(c.Listen.AdvertisePeerURLs) == 0:
		return fmt.Errorf("--initial-advertise-peer-urls must name at least one URL")
	case len(c.Listen.AdvertiseClientURLs) == 0:
		return fmt.Errorf("--advertise-client-urls is required when --listen-client-urls is set explicitly")
	}
	return nil
}

// checkUI refuses the page without what it is a client of.
func (c *Config) checkUI() error {
	if c.Features.EnableUI && !c.Features.EnableGateway {
		return errors.New("--enable-ui needs the JSON gateway, which --enable-grpc-gateway=false turns off")
	}
	return nil
}

// checkURL accepts http://host:port, unix://path and the same with TLS; an address to bind must be an IP address or localhost.
func checkURL(s string, bind bool) error {
	u, err := url.Parse(s)
	if err != nil {
		return err
	}
	switch u.Scheme {
	case "http", "https":
	case "unix", "unixs":
		if u.Host+u.Path == "" {
			return fmt.Errorf("URL does not name a socket: %q", s)
		}
		return nil
	default:
		return fmt.Errorf("URL scheme must be http, https, unix, or unixs: %q", s)
	}
	host, _, err := net.SplitHostPort(u.Host)
	if err != nil {
		return fmt.Errorf("URL address does not have the form \"host:port\": %q", s)
	}
	if u.Path != "" {
		return fmt.Errorf("URL must not contain a path: %q", s)
	}
	if bind && host != "localhost" && host != "" && net.ParseIP(host) == nil {
		return fmt.Errorf("expected IP in URL for binding (%q)", s)
	}
	return nil
}

func (c *Config) checkTimes() error {
	r := c.Raft
	switch {
	case r.Heartbeat <= 0:
		return fmt.Errorf("--heartbeat-interval must be >0 (set to %v)", r.Heartbeat)
	case r.Election <= 0:
		return fmt.Errorf("--election-timeout must be >0 (set to %v)", r.Election)
	case 5*r.Heartbeat > r.Election:
		return fmt.Errorf("--election-timeout[%v] should be at least as 5 times as --heartbeat-interval[%v]", r.Election, r.Heartbeat)
	case r.Election > maxElection:
		return fmt.Errorf("--election-timeout[%v] is too long, and should be set less than %v", r.Election, maxElection)
	case r.SnapshotCount == 0:
		return fmt.Errorf("--snapshot-count must be >0")
	}
	return nil
}

func (c *Config) checkBackend() error {
	b := c.Backend
	switch {
	case !slices.Contains([]string{"map", "array"}, b.FreelistType):
		return fmt.Errorf("--backend-bbolt-freelist-type must be map or array (set to %q)", b.FreelistType)
	case b.BatchInterval < 0 || b.BatchLimit < 0:
		return fmt.Errorf("--backend-batch-interval and --backend-batch-limit must not be negative")
	case b.CompactionBatchLimit <= 0:
		return fmt.Errorf("--compaction-batch-limit must be >0 (set to %d)", b.CompactionBatchLimit)
	case c.Limits.MaxRequestBytes == 0:
		return fmt.Errorf("--max-request-bytes must be >0")
	}
	return nil
}

// files is how many of the outputs are files.
func (l *Log) files() int {
	n := 0
	for _, out := range l.Outputs {
		if !slices.Contains([]string{"default", "stderr", "stdout", "systemd/journal"}, out) {
			n++
		}
	}
	return n
}

func (c *Config) checkLog() error {
	switch {
	case !(c.Log.AccessSample > 0 && c.Log.AccessSample <= 1):
		return fmt.Errorf("--access-log-sample must be above 0 and at most 1 (set to %v)", c.Log.AccessSample)
	case !slices.Contains([]string{"debug", "info", "warn", "error", "panic", "fatal"}, c.Log.Level):
		return fmt.Errorf("--log-level must be one of debug, info, warn, error, panic, fatal (set to %q)", c.Log.Level)
	case !slices.Contains([]string{"json", "console"}, c.Log.Format):
		return fmt.Errorf("--log-format must be json or console (set to %q)", c.Log.Format)
	case len(c.Log.Outputs) > 1 && slices.Contains(c.Log.Outputs, "default"):
		return fmt.Errorf("--log-outputs: \"default\" cannot be combined with others")
	case c.Log.Rotate && c.Log.files() != 1:
		return fmt.Errorf("--log-outputs requires a single file path when --enable-log-rotation is set")
	case c.Log.Rotate && !json.Valid([]byte(c.Log.RotateConfig)):
		return fmt.Errorf("--log-rotation-config-json: improperly formatted log rotation config")
	case !slices.Contains([]string{"basic", "extensive"}, c.Features.Metrics):
		return fmt.Errorf("--metrics must be basic or extensive (set to %q)", c.Features.Metrics)
	}
	return nil
}
