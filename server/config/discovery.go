package config

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/pflag"
	"sigs.k8s.io/yaml"
)

// Discovery says how the members of a new cluster find each other, if not by --initial-cluster.
type Discovery struct {
	Domain, Suffix string // whose SRV records name the members, and the suffix of the service's name in them

	Token     string   // of the new cluster, at a discovery service
	Endpoints []string // of the members of this service: host:port or URLs

	DialTimeout, RequestTimeout     time.Duration
	KeepAliveTime, KeepAliveTimeout time.Duration

	InsecureTransport         bool // no TLS, unless there are files or a URL that say otherwise
	InsecureSkipVerify        bool
	CertFile, KeyFile, CAFile string
	User, Password            string
}

// ByService says whether a discovery service is used.
func (d *Discovery) ByService() bool { return len(d.Endpoints) > 0 }

func defaultDiscovery() Discovery {
	return Discovery{
		DialTimeout: 2 * time.Second, RequestTimeout: 5 * time.Second, KeepAliveTime: 2 * time.Second, KeepAliveTimeout: 6 * time.Second,
		InsecureTransport: true,
	}
}

func (d *Discovery) flags(fs *pflag.FlagSet) {
	fs.StringVar(&d.Domain, "discovery-srv", "", "Domain whose SRV records name the members of the new cluster.")
	fs.StringVar(&d.Suffix, "discovery-srv-name", "", "Suffix of the service's name in these records.")
	fs.StringVar(&d.Token, "discovery-token", "", "Token of the new cluster at a discovery service.")
	fs.Var(fullList{&d.Endpoints}, "discovery-endpoints", "Comma-separated endpoints of the discovery service.")
	fs.DurationVar(&d.DialTimeout, "discovery-dial-timeout", d.DialTimeout, "How long a connection to the discovery service may take.")
	fs.DurationVar(&d.RequestTimeout, "discovery-request-timeout", d.RequestTimeout, "How long a request to the discovery service may take.")
	fs.DurationVar(&d.KeepAliveTime, "discovery-keepalive-time", d.KeepAliveTime, "Interval of pings to the discovery service.")
	fs.DurationVar(&d.KeepAliveTimeout, "discovery-keepalive-timeout", d.KeepAliveTimeout, "How long an unanswered ping keeps the connection to the discovery service open.")
	fs.BoolVar(&d.InsecureTransport, "discovery-insecure-transport", d.InsecureTransport, "Connect to the discovery service without TLS.")
	fs.BoolVar(&d.InsecureSkipVerify, "discovery-insecure-skip-tls-verify", false, "Do not verify the discovery service's certificate: for tests.")
	fs.StringVar(&d.CertFile, "discovery-cert", "", "Path to the certificate for the discovery service.")
	fs.StringVar(&d.KeyFile, "discovery-key", "", "Path to the key of the certificate for the discovery service.")
	fs.StringVar(&d.CAFile, "discovery-cacert", "", "Path to the authorities of the discovery service's certificate.")
	fs.StringVar(&d.User, "discovery-user", "", "User at the discovery service: name, or name:password.")
	fs.StringVar(&d.Password, "discovery-password", "", "Password at the discovery service, if --discovery-user has none.")
	fs.Var(exit{}, "discovery-fallback", "What to do when discovery fails; only exit.")
}

// checkDiscovery refuses more than one way to find the members, and half of one.
func (c *Config) checkDiscovery() error {
	d := &c.Bootstrap.Discovery
	ways := 0
	for _, given := range []bool{c.Bootstrap.Cluster != "", d.Domain != "", d.ByService()} {
		if given {
			ways++
		}
	}
	if ways > 1 {
		return errors.New(`multiple discovery or bootstrap flags are set. Choose one of "initial-cluster", "discovery-endpoints" or "discovery-srv"`)
	}
	if (d.Token != "") != d.ByService() {
		return errors.New("both --discovery-token and --discovery-endpoints must be set")
	}
	for _, ep := range d.Endpoints {
		if strings.TrimSpace(ep) == "" {
			return errors.New("--discovery-endpoints must not contain empty endpoints")
		}
	}
	return nil
}

// exit is the only fallback.
type exit struct{}

func (exit) String() string { return "exit" }
func (exit) Type() string   { return "string" }

// Set refuses everything but exit.
func (exit) Set(s string) error {
	switch s {
	case "exit":
		return nil
	case "proxy":
		return fmt.Errorf("v2 proxy is deprecated, and --discovery-fallback can't be configured as %q", s)
	}
	return fmt.Errorf("only %q is supported", "exit")
}

// fullList is a comma-separated list whose elements may be empty, so that this can be refused.
type fullList struct{ v *[]string }

func (l fullList) String() string { return strings.Join(*l.v, ",") }
func (l fullList) Type() string   { return "strings" }

// Set takes a comma-separated list.
func (l fullList) Set(s string) error {
	*l.v = nil
	if s != "" {
		*l.v = strings.Split(s, ",")
	}
	return nil
}

// discoveryKey is the object in a file that holds what the flags of a discovery service say. Durations count nanoseconds.
const discoveryKey = "discovery-config"

type discoverySection struct {
	Token  string `json:"token"`
	Client struct {
		Endpoints        []string      `json:"endpoints"`
		DialTimeout      time.Duration `json:"dial-timeout"`
		RequestTimeout   time.Duration `json:"request-timeout"`
		KeepAliveTime    time.Duration `json:"keepalive-time"`
		KeepAliveTimeout time.Duration `json:"keepalive-timeout"`
		Secure           struct {
			CertFile           string `json:"cert"`
			KeyFile            string `json:"key"`
			CAFile             string `json:"cacert"`
			InsecureTransport  bool   `json:"insecure-transport"`
			InsecureSkipVerify bool   `json:"insecure-skip-tls-verify"`
		} `json:"secure"`
		Auth struct {
			User     string `json:"username"`
			Password string `json:"password"`
		} `json:"auth"`
	} `json:"client"`
}

// fromSection sets what the object in a file says; the rest stays as it is.
func (d *Discovery) fromSection(value any) error {
	var in discoverySection
	c := &in.Client
	in.Token, c.Endpoints = d.Token, d.Endpoints
	c.DialTimeout, c.RequestTimeout, c.KeepAliveTime, c.KeepAliveTimeout = d.DialTimeout, d.RequestTimeout, d.KeepAliveTime, d.KeepAliveTimeout
	c.Secure.InsecureTransport = d.InsecureTransport
	data, err := json.Marshal(value)
	if err == nil {
		err = yaml.UnmarshalStrict(data, &in)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", discoveryKey, err)
	}
	d.Token, d.Endpoints = in.Token, c.Endpoints
	d.DialTimeout, d.RequestTimeout, d.KeepAliveTime, d.KeepAliveTimeout = c.DialTimeout, c.RequestTimeout, c.KeepAliveTime, c.KeepAliveTimeout
	d.CertFile, d.KeyFile, d.CAFile = c.Secure.CertFile, c.Secure.KeyFile, c.Secure.CAFile
	d.InsecureTransport, d.InsecureSkipVerify = c.Secure.InsecureTransport, c.Secure.InsecureSkipVerify
	d.User, d.Password = c.Auth.User, c.Auth.Password
	return nil
}
