package grpcproxy

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"time"

	"github.com/spf13/pflag"
	"go.uber.org/zap"

	"github.com/keelson-io/keelson/internal/srv"
	"github.com/keelson-io/keelson/server/tlsconfig"
)

// Options are a proxy's, as Flags names them.
type Options struct {
	Listen      string // host:port
	MetricsAddr string // URL of a further listener, for monitoring alone; "": none
	DataDir     string // where a certificate is made, if one is

	Endpoints    []string
	SyncInterval time.Duration // 0: the endpoints stay
	SRV          Discovery

	Member  Dial   // towards the members
	Clients Doors  // towards the clients
	Naming  Naming // what clients get to know of proxies

	Namespace string
	Leasing   string // prefix of the keys that say who may answer reads
	Ordered   bool

	Pprof, LogCalls, Debug bool
}

// Discovery finds endpoints by SRV records.
type Discovery struct {
	Domain, Suffix string
	Insecure       bool       // take endpoints of these records unseen; otherwise only those whose certificate is for Domain
	Lookup         srv.Lookup // nil: the system's
}

// Dial says how to connect to members.
type Dial struct {
	CAFile, CertFile, KeyFile string
	InsecureSkipVerify        bool
	KeepAliveTime             time.Duration
	KeepAliveTimeout          time.Duration
	PermitWithoutStream       bool
	MaxSend, MaxRecv          int // bytes
}

// Doors say how clients connect.
type Doors struct {
	CertFile, KeyFile, CAFile, CRLFile string
	AutoTLS                            bool
	SelfSignedYears                    uint
	Ciphers                            []string
	MinVersion, MaxVersion             string
	KeepAliveMinTime                   time.Duration
	KeepAliveInterval                  time.Duration
	KeepAliveTimeout                   time.Duration
	MaxStreams                         uint32
}

// Naming says where proxies are registered.
type Naming struct {
	Prefix    string
	Advertise string // host:port or URL
	TTL       int    // seconds
}

// Flags binds options to flags with etcd's names and defaults.
func (o *Options) Flags(fs *pflag.FlagSet) {
	fs.StringVar(&o.Listen, "listen-addr", "127.0.0.1:23790", "address to listen on")
	fs.StringVar(&o.MetricsAddr, "metrics-addr", "", "URL of a further listener for metrics and health")
	fs.StringVar(&o.DataDir, "data-dir", "default.proxy", "directory for a certificate that is made by --auto-tls")
	fs.StringSliceVar(&o.Endpoints, "endpoints", []string{"127.0.0.1:2379"}, "comma-separated endpoints of the cluster")
	fs.DurationVar(&o.SyncInterval, "endpoints-auto-sync-interval", 0, "how often the endpoints are replaced by those that the members advertise (default: never)")
	fs.StringVar(&o.SRV.Domain, "discovery-srv", "", "domain whose SRV records name the endpoints, instead of --endpoints")
	fs.StringVar(&o.SRV.Suffix, "discovery-srv-name", "", "suffix of the service's name in these records")
	fs.BoolVar(&o.SRV.Insecure, "insecure-discovery", false, "take endpoints of these records unseen, also those without TLS")

	d := &o.Member
	fs.StringVar(&d.CAFile, "cacert", "", "path to the authorities of the members' certificates")
	fs.StringVar(&d.CertFile, "cert", "", "path to the certificate that is shown to members; its common name must be empty")
	fs.StringVar(&d.KeyFile, "key", "", "path to the key of this certificate")
	fs.BoolVar(&d.InsecureSkipVerify, "insecure-skip-tls-verify", false, "do not verify the members' certificates (for tests only)")
	fs.DurationVar(&d.KeepAliveTime, "dial-keepalive-time", 0, "how often members are pinged (default 0: never)")
	fs.DurationVar(&d.KeepAliveTimeout, "dial-keepalive-timeout", 20*time.Second, "how long a member may take to answer a ping")
	fs.BoolVar(&d.PermitWithoutStream, "permit-without-stream", false, "ping members while no call is under way, too")
	fs.IntVar(&d.MaxSend, "max-send-bytes", 3<<19, "largest message that is sent to members, in bytes")
	fs.IntVar(&d.MaxRecv, "max-recv-bytes", math.MaxInt32, "largest message that is taken from members, in bytes")

	c := &o.Clients
	fs.StringVar(&c.CertFile, "cert-file", "", "path to the certificate that is shown to clients")
	fs.StringVar(&c.KeyFile, "key-file", "", "path to the key of this certificate")
	fs.StringVar(&c.CAFile, "trusted-ca-file", "", "path to the authorities of clients' certificates, which are asked for then")
	fs.StringVar(&c.CRLFile, "client-crl-file", "", "path to the list of clients' certificates that are revoked")
	fs.BoolVar(&c.AutoTLS, "auto-tls", false, "make a certificate, if none is given")
	fs.UintVar(&c.SelfSignedYears, "self-signed-cert-validity", 1, "years until that certificate expires")
	fs.StringSliceVar(&c.Ciphers, "listen-cipher-suites", nil, "comma-separated TLS cipher suites of clients' connections (empty: Go's)")
	fs.StringVar(&c.MinVersion, "tls-min-version", "TLS1.2", "lowest TLS version of clients' connections: TLS1.2 or TLS1.3")
	fs.StringVar(&c.MaxVersion, "tls-max-version", "", "highest TLS version of clients' connections: TLS1.2 or TLS1.3 (empty: Go's)")
	fs.DurationVar(&c.KeepAliveMinTime, "grpc-keepalive-min-time", 5*time.Second, "how long clients must wait between pings")
	fs.DurationVar(&c.KeepAliveInterval, "grpc-keepalive-interval", 2*time.Hour, "how often quiet clients are pinged (0: gRPC's default)")
	fs.DurationVar(&c.KeepAliveTimeout, "grpc-keepalive-timeout", 20*time.Second, "how long a client may take to answer a ping (0: gRPC's default)")
	fs.Uint32Var(&c.MaxStreams, "max-concurrent-streams", math.MaxUint32, "largest number of streams that a client can have open at a time")

	fs.StringVar(&o.Naming.Advertise, "advertise-client-url", "127.0.0.1:23790", "address that clients reach this proxy at, to be registered")
	fs.StringVar(&o.Naming.Prefix, "resolver-prefix", "", "prefix to register proxies under, the same for all of them")
	fs.IntVar(&o.Naming.TTL, "resolver-ttl", 0, "seconds that a registration outlives its proxy")

	fs.StringVar(&o.Namespace, "namespace", "", "prefix that all keys of clients are put under")
	fs.StringVar(&o.Leasing, "experimental-leasing-prefix", "", "prefix of the keys by which proxies agree who answers linearizable reads by itself")
	fs.BoolVar(&o.Ordered, "experimental-serializable-ordering", false, "never answer with an older revision than before, whichever member is asked")
	fs.BoolVar(&o.LogCalls, "experimental-enable-grpc-logging", false, "log every call, without keys and values")
	fs.BoolVar(&o.Pprof, "enable-pprof", false, `serve runtime profiles under "/debug/pprof/"`)
	fs.BoolVar(&o.Debug, "debug", false, "log at level debug")
}

// check refuses what contradicts itself, in etcd's words.
func (o *Options) check() error {
	n := &o.Naming
	switch {
	case n.Prefix != "" && n.TTL < 1:
		return fmt.Errorf("invalid resolver-ttl %d", n.TTL)
	case n.Prefix == "" && n.TTL > 0:
		return fmt.Errorf("invalid resolver-prefix %q", n.Prefix)
	case n.Prefix != "" && n.Advertise == "":
		return fmt.Errorf("invalid advertise-client-url %q", n.Advertise)
	case o.Clients.AutoTLS && o.Clients.SelfSignedYears == 0:
		return errors.New("selfSignedCertValidity is invalid,it should be greater than 0")
	}
	for _, v := range []struct{ flag, name string }{{"min", o.Clients.MinVersion}, {"max", o.Clients.MaxVersion}} {
		if _, err := tlsconfig.Version(v.name); err != nil {
			return fmt.Errorf("tls-%s-version is invalid: %w", v.flag, err)
		}
	}
	return tlsconfig.CheckVersions(o.Clients.MinVersion, o.Clients.MaxVersion, o.Clients.Ciphers)
}

// endpoints finds the endpoints to begin with.
func (o *Options) endpoints(ctx context.Context, lg *zap.Logger) ([]string, error) {
	if o.SRV.Domain == "" {
		return o.Endpoints, nil
	}
	lookup := o.SRV.Lookup
	if lookup == nil {
		lookup = net.DefaultResolver.LookupSRV
	}
	found, err := srv.Clients(ctx, lookup, o.SRV.Domain, o.SRV.Suffix)
	if err != nil {
		return nil, err
	}
	if !o.SRV.Insecure {
		found, err = srv.Trusted(ctx, found, o.SRV.Domain, o.Member.CAFile, func(e srv.Endpoint, err error) {
			lg.Warn("failed to validate a discovered endpoint", zap.String("endpoint", e.URL()), zap.Error(err))
		})
		if err != nil {
			return nil, fmt.Errorf("--cacert: %w", err)
		}
	}
	var out []string
	for _, e := range found {
		out = append(out, e.URL())
	}
	if len(out) == 0 {
		lg.Warn("no endpoint was discovered that can be used; using the given ones", zap.Strings("endpoints", o.Endpoints))
		return o.Endpoints, nil
	}
	lg.Info("discovered the endpoints from SRV", zap.String("srv-server", o.SRV.Domain), zap.Strings("endpoints", out))
	return out, nil
}
