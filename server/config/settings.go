package config

import (
	"strconv"
	"strings"

	"github.com/spf13/pflag"
)

// secret are the flags whose values are nobody's business.
var secret = map[string]bool{"discovery-user": true, "discovery-password": true}

// Settings calls yield with the name of each flag and its value, in the flags' order: an int64, a bool, a []string, or the text that
// the flag would take. Secrets are left out. There are none in a configuration that was not parsed.
func (c *Config) Settings(yield func(name string, value any)) {
	if c.parsed == nil {
		return
	}
	c.parsed.VisitAll(func(f *pflag.Flag) {
		if !secret[f.Name] && f.Name != "config-file" {
			yield(f.Name, typed(f.Value))
		}
	})
}

func typed(v pflag.Value) any {
	switch text := v.String(); v.Type() {
	case "bool":
		return text == "true"
	case "int", "int64", "uint", "uint32", "uint64":
		if n, err := strconv.ParseInt(text, 10, 64); err == nil {
			return n
		}
		return text
	case "strings":
		if text == "" {
			return []string{}
		}
		return strings.Split(text, ",")
	default:
		return text
	}
}

// deprecated is what etcd says of flags that will go.
var deprecated = map[string]string{
	"max-snapshots":  "--max-snapshots is deprecated in 3.6 and will be decommissioned in 3.8.",
	"v2-deprecation": "--v2-deprecation is deprecated and scheduled for removal in v3.8. The default value is enforced, ignoring user input.",
}

// Deprecated returns a sentence for each flag that was set and will go in a later version of etcd, and for variables of the environment that
// had no effect.
func (c *Config) Deprecated() []string { return c.outdated }

func (c *Config) noteDeprecated(fs *pflag.FlagSet) {
	fs.Visit(func(f *pflag.Flag) {
		if why, ok := deprecated[f.Name]; ok {
			c.outdated = append(c.outdated, why)
		}
	})
}

// forgotten are keys that files written for earlier versions of etcd have, its sample among them. etcd passes over them.
var forgotten = []string{
	"discovery", "discovery-fallback", "discovery-proxy", "proxy", "proxy-dial-timeout", "proxy-failure-wait", "proxy-read-timeout",
	"proxy-refresh-interval", "proxy-write-timeout",
}
