package config

import (
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/spf13/pflag"
	"sigs.k8s.io/yaml"

	"github.com/keelson-io/keelson/server/tlsconfig"
)

// Security is TLS, for clients and between members, and which HTTP requests are answered.
type Security struct {
	Client, Peer           tlsconfig.Settings
	SelfSignedYears        uint // how long certificates are valid that are made automatically
	CipherSuites           []string
	MinVersion, MaxVersion string
	CORS                   []string // origins whose pages may read answers; "*" or none: all
	HostWhitelist          []string // hosts that plain HTTP requests may be for; "*" or none: all
}

func (c *Config) securityFlags(fs *pflag.FlagSet) {
	s, cl, p := &c.Security, &c.Security.Client, &c.Security.Peer
	fs.StringVar(&cl.CertFile, "cert-file", "", "Path to the certificate for clients.")
	fs.StringVar(&cl.KeyFile, "key-file", "", "Path to the key of the certificate for clients.")
	fs.StringVar(&cl.ClientCertFile, "client-cert-file", "", "Path to a certificate for connecting, if another one than cert-file is to be used.")
	fs.StringVar(&cl.ClientKeyFile, "client-key-file", "", "Path to the key of client-cert-file.")
	fs.BoolVar(&cl.ClientCertAuth, "client-cert-auth", false, "Clients must show a certificate.")
	fs.StringVar(&cl.CRLFile, "client-crl-file", "", "Path to a list of revoked certificates of clients.")
	fs.Var(list{&cl.AllowedHostnames}, "client-cert-allowed-hostname", "Comma-separated host names; clients' certificates must be valid for one of them.")
	fs.StringVar(&cl.TrustedCAFile, "trusted-ca-file", "", "Path to the authorities of clients' certificates; with it, clients must show a certificate.")
	fs.BoolVar(&cl.AutoTLS, "auto-tls", false, "Make a certificate for clients if none is given.")
	fs.StringVar(&p.CertFile, "peer-cert-file", "", "Path to the certificate for other members.")
	fs.StringVar(&p.KeyFile, "peer-key-file", "", "Path to the key of the certificate for other members.")
	fs.StringVar(&p.ClientCertFile, "peer-client-cert-file", "", "Path to a certificate for connecting to other members, if another one than peer-cert-file is to be used.")
	fs.StringVar(&p.ClientKeyFile, "peer-client-key-file", "", "Path to the key of peer-client-cert-file.")
	fs.BoolVar(&p.ClientCertAuth, "peer-client-cert-auth", false, "Other members must show a certificate.")
	fs.StringVar(&p.TrustedCAFile, "peer-trusted-ca-file", "", "Path to the authorities of members' certificates; with it, members must show a certificate.")
	fs.BoolVar(&p.AutoTLS, "peer-auto-tls", false, "Make a certificate for other members if none is given.")
	fs.UintVar(&s.SelfSignedYears, "self-signed-cert-validity", 1, "How many years certificates are valid that are made automatically.")
	fs.StringVar(&p.CRLFile, "peer-crl-file", "", "Path to a list of revoked certificates of members.")
	fs.Var(list{&p.AllowedCNs}, "peer-cert-allowed-cn", "Comma-separated common names; members' certificates must have one of them.")
	fs.Var(list{&p.AllowedHostnames}, "peer-cert-allowed-hostname", "Comma-separated host names; members' certificates must be valid for one of them.")
	fs.Var(list{&s.CipherSuites}, "cipher-suites", "Comma-separated TLS cipher suites (default: those of Go).")
	fs.BoolVar(&p.SkipClientSANVerification, "peer-skip-client-san-verification", false, "Take members' certificates from other addresses than they are made for.")
	fs.StringVar(&s.MinVersion, "tls-min-version", "TLS1.2", "Lowest TLS version: TLS1.2 or TLS1.3.")
	fs.StringVar(&s.MaxVersion, "tls-max-version", "", "Highest TLS version: TLS1.2 or TLS1.3 (default: the newest).")
	s.CORS, s.HostWhitelist = []string{"*"}, []string{"*"}
	fs.Var(list{&s.CORS}, "cors", "Comma-separated origins (scheme://host:port) whose pages may read answers over HTTP (\"*\": all).")
	fs.Var(list{&s.HostWhitelist}, "host-whitelist", "Comma-separated host names that HTTP requests without TLS may be for (\"*\": all).")
}

// section is client-transport-security or peer-transport-security in a file.
type section struct {
	CertFile            string   `json:"cert-file"`
	KeyFile             string   `json:"key-file"`
	ClientCertFile      string   `json:"client-cert-file"`
	ClientKeyFile       string   `json:"client-key-file"`
	ClientCertAuth      bool     `json:"client-cert-auth"`
	TrustedCAFile       string   `json:"trusted-ca-file"`
	CRLFile             string   `json:"crl-file"`
	AutoTLS             bool     `json:"auto-tls"`
	AllowedCNs          []string `json:"allowed-cn"`
	AllowedHostnames    []string `json:"allowed-hostname"`
	SkipClientSANVerify bool     `json:"skip-client-san-verification"`
}

// fromSection sets the TLS settings of one side from its object in the file. ok says whether the key is that of one.
func (s *Security) fromSection(key string, value any) (ok bool, err error) {
	side := map[string]*tlsconfig.Settings{"client-transport-security": &s.Client, "peer-transport-security": &s.Peer}[key]
	if side == nil {
		return false, nil
	}
	if _, ok := value.(map[string]any); !ok {
		return true, fmt.Errorf("invalid %s", key)
	}
	data, err := json.Marshal(value)
	if err != nil {
		return true, err
	}
	var in section
	if err := yaml.UnmarshalStrict(data, &in); err != nil {
		return true, fmt.Errorf("%s: %w", key, err)
	}
	side.CertFile, side.KeyFile = in.CertFile, in.KeyFile
	side.ClientCertFile, side.ClientKeyFile = in.ClientCertFile, in.ClientKeyFile
	side.ClientCertAuth, side.TrustedCAFile, side.AutoTLS = in.ClientCertAuth, in.TrustedCAFile, in.AutoTLS
	side.AllowedCNs, side.AllowedHostnames = in.AllowedCNs, in.AllowedHostnames
	side.SkipClientSANVerification = in.SkipClientSANVerify
	if in.CRLFile != "" {
		side.CRLFile = in.CRLFile
	}
	return true, nil
}

// checkSecurity refuses TLS settings that contradict each other or the URLs.
func (c *Config) checkSecurity() error {
	s := &c.Security
	if err := tlsconfig.CheckVersions(s.MinVersion, s.MaxVersion, s.CipherSuites); err != nil {
		return err
	}
	suites, err := tlsconfig.CipherSuites(s.CipherSuites)
	if err != nil {
		return err
	}
	for _, side := range []*tlsconfig.Settings{&s.Client, &s.Peer} {
		side.CipherSuites = suites
		side.MinVersion, _ = tlsconfig.Version(s.MinVersion)
		side.MaxVersion, _ = tlsconfig.Version(s.MaxVersion)
	}
	for _, l := range []struct {
		urls []string
		side *tlsconfig.Settings
		err  string
	}{
		{c.Listen.PeerURLs, &s.Peer, "cannot listen on TLS for %s: KeyFile and CertFile are not presented"},
		{slices.Concat(c.Listen.ClientURLs, c.Listen.ClientHTTPURLs), &s.Client, "TLS key/cert (--cert-file, --key-file) must be provided for client url %s with HTTPS scheme"},
		{c.Listen.MetricsURLs, &s.Client, "client TLS key/cert (--cert-file, --key-file) must be provided for metrics secure url %s"},
	} {
		for _, u := range l.urls {
			if secure := strings.HasPrefix(u, "https:") || strings.HasPrefix(u, "unixs:"); secure && l.side.Empty() && !l.side.AutoTLS {
				return fmt.Errorf(l.err, u)
			}
		}
	}
	if err := checkOrigins(s.CORS); err != nil {
		return err
	}
	return c.checkSplit()
}

// checkOrigins refuses what no page's origin can be.
func checkOrigins(origins []string) error {
	for _, o := range origins {
		if o == "*" {
			continue
		}
		u, err := url.Parse(o)
		switch {
		case err != nil:
			return fmt.Errorf("--cors: %w", err)
		case u.Scheme != "http" && u.Scheme != "https":
			return fmt.Errorf("--cors: URL scheme must be http or https: %s", o)
		case u.Host == "":
			return fmt.Errorf("--cors: URL must have a host: %s", o)
		case u.Path != "":
			return fmt.Errorf("--cors: URL must not contain a path: %s", o)
		}
	}
	return nil
}

// checkSplit refuses an address that is to serve both gRPC alone and HTTP alone.
func (c *Config) checkSplit() error {
	where := func(s string) string {
		u, err := url.Parse(s)
		if err != nil {
			return s
		}
		return u.Host + u.Path
	}
	for _, h := range c.Listen.ClientHTTPURLs {
		for _, u := range c.Listen.ClientURLs {
			if where(u) == where(h) {
				return fmt.Errorf("cannot bind both --listen-client-urls and --listen-client-http-urls on the same url %s", h)
			}
		}
	}
	return nil
}
