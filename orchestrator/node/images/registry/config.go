package registry

import (
	"encoding/base64"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"sigs.k8s.io/yaml"
)

// Config says how registries are reached.
type Config struct {
	// Hosts by name with port if it has one ("docker.io", "registry.example:5000"), "*" for all that are not named.
	Hosts map[string]Host
	// Stall is for how long a registry may send nothing; 30 s.
	Stall time.Duration
	// Retries of what failed in passing; 3. Negative: none.
	Retries int
	// Pause is the first one between retries, each later one is twice as long; 200 ms.
	Pause time.Duration
}

// Host is a registry, or a mirror of one.
type Host struct {
	// Mirrors are tried first, in this order: "host[:port][/prefix]". The prefix is put before the repository's name.
	Mirrors []string `json:"mirrors,omitempty"`
	// PlainHTTP: speak http and not https. Loopback addresses are tried with both without it.
	PlainHTTP bool `json:"plainHTTP,omitempty"`
	// SkipVerify: any certificate will do.
	SkipVerify bool `json:"skipVerify,omitempty"`
	// CA is a file with certificates, in PEM, that are trusted besides those of the system.
	CA string `json:"ca,omitempty"`
	// Username and Password are used when a pull brings none.
	Username string `json:"username,omitempty"`
	Password string `json:"password,omitempty"`
}

// ParseHosts reads the hosts of a configuration file, in YAML or JSON:
//
//	docker.io:
//	  mirrors: [mirror.example:5000/hub]
//	mirror.example:5000:
//	  plainHTTP: true
func ParseHosts(b []byte) (map[string]Host, error) {
	var hosts map[string]Host
	if err := yaml.UnmarshalStrict(b, &hosts); err != nil {
		return nil, fmt.Errorf("registry: the file of registries: %w", err)
	}
	for name, h := range hosts {
		if name == "" || strings.Contains(name, "/") {
			return nil, fmt.Errorf("registry: %q is no host of a registry: want name or name:port", name)
		}
		for _, m := range h.Mirrors {
			if host, _, _ := strings.Cut(m, "/"); host == "" || strings.Contains(m, "://") {
				return nil, fmt.Errorf("registry: %q is no mirror: want host[:port][/prefix]", m)
			}
		}
	}
	return hosts, nil
}

// host returns the configuration of a registry.
func (c *Config) host(name string) Host {
	if h, ok := c.Hosts[name]; ok {
		return h
	}
	return c.Hosts["*"]
}

// Auth are credentials. At most one kind is looked at, in the order RegistryToken, IdentityToken, Username, Auth.
type Auth struct {
	Username, Password string
	// Auth is "username:password" in base64.
	Auth string
	// IdentityToken is exchanged for a token of access.
	IdentityToken string
	// RegistryToken is sent as it is.
	RegistryToken string
	// ServerAddress is the registry that the credentials are for; empty: whichever is asked.
	ServerAddress string
}

// None tells whether there are no credentials.
func (a *Auth) None() bool {
	return a == nil || a.Username == "" && a.Password == "" && a.Auth == "" && a.IdentityToken == "" && a.RegistryToken == ""
}

// authenticator returns what the credentials mean for a host.
func (a *Auth) authenticator(host string) (authn.Authenticator, error) {
	if a.None() || a.ServerAddress != "" && !sameHost(a.ServerAddress, host) {
		return authn.Anonymous, nil
	}
	c := authn.AuthConfig{Username: a.Username, Password: a.Password}
	switch {
	case a.RegistryToken != "":
		c = authn.AuthConfig{RegistryToken: a.RegistryToken}
	case a.IdentityToken != "":
		c = authn.AuthConfig{IdentityToken: a.IdentityToken}
	case a.Username == "" && a.Auth != "":
		b, err := base64.StdEncoding.DecodeString(strings.TrimSpace(a.Auth))
		if err != nil {
			b, err = base64.RawStdEncoding.DecodeString(strings.TrimSpace(a.Auth))
		}
		user, password, ok := strings.Cut(strings.TrimRight(string(b), "\x00"), ":")
		if err != nil || !ok {
			return nil, &failure{kind: ErrInvalid, text: `the credentials' auth is not "user:password" in base64`, err: ErrInvalid}
		}
		c.Username, c.Password = user, password
	}
	return authn.FromConfig(c), nil
}

// sameHost compares an address as files of credentials have it (https://index.docker.io/v1/) with a host.
func sameHost(address, host string) bool {
	address = strings.TrimPrefix(strings.TrimPrefix(address, "https://"), "http://")
	address, _, _ = strings.Cut(address, "/")
	return canonical(address) == canonical(host)
}

func canonical(host string) string {
	switch host {
	case "index.docker.io", "registry-1.docker.io", "registry.hub.docker.com":
		return "docker.io"
	}
	return host
}

// loopback tells whether a host is on this machine.
func loopback(host string) bool {
	name := host
	if h, _, err := net.SplitHostPort(host); err == nil {
		name = h
	}
	if name == "localhost" || strings.HasSuffix(name, ".localhost") {
		return true
	}
	ip, err := netip.ParseAddr(strings.Trim(name, "[]"))
	return err == nil && ip.IsLoopback()
}
