package ctl

import (
	"crypto/tls"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/pflag"
	"go.uber.org/zap"

	"github.com/keelson-io/keelson/client"
)

// globals are the flags of every command.
type globals struct {
	endpoints []string
	format    string
	hex       bool
	debug     bool

	dialTimeout, commandTimeout     time.Duration
	keepAliveTime, keepAliveTimeout time.Duration
	maxSend, maxRecv                int

	tls                   tlsFlags
	discovery             discoveryFlags
	user, password, token string
}

// tlsFlags say how a connection is secured.
type tlsFlags struct {
	insecure, skipVerify bool
	cert, key, cacert    string
	serverName           string // that servers' certificates must be for; "" is that of their addresses
}

func (g *globals) register(fs *pflag.FlagSet) {
	fs.StringSliceVar(&g.endpoints, "endpoints", []string{"127.0.0.1:2379"}, "addresses of members")
	fs.BoolVar(&g.debug, "debug", false, "log what the client does")
	fs.StringVarP(&g.format, "write-out", "w", "simple", "output format: "+strings.Join(formats(), ", "))
	fs.BoolVar(&g.hex, "hex", false, "write keys, values and IDs in hexadecimal")
	fs.DurationVar(&g.dialTimeout, "dial-timeout", 2*time.Second, "limit of one attempt to connect")
	fs.DurationVar(&g.commandTimeout, "command-timeout", 5*time.Second, "limit of a command that is expected to be short")
	fs.DurationVar(&g.keepAliveTime, "keepalive-time", 2*time.Second, "silence after which a connection is pinged")
	fs.DurationVar(&g.keepAliveTimeout, "keepalive-timeout", 6*time.Second, "how long the answer to a ping may take")
	fs.IntVar(&g.maxSend, "max-request-bytes", 0, "largest request (0 is 2 MiB)")
	fs.IntVar(&g.maxRecv, "max-recv-bytes", 0, "largest response (0 is 2 GiB)")
	fs.BoolVar(&g.tls.insecure, "insecure-transport", true, "connect without TLS unless TLS flags or addresses ask for it")
	fs.BoolVar(&g.tls.skipVerify, "insecure-skip-tls-verify", false, "accept every server certificate (for tests only)")
	fs.StringVar(&g.tls.cert, "cert", "", "file of the client's TLS certificate")
	fs.StringVar(&g.tls.key, "key", "", "file of the client's TLS key")
	fs.StringVar(&g.tls.cacert, "cacert", "", "file of the certificates that servers' certificates are verified with")
	g.discovery.register(fs)
	fs.StringVar(&g.token, "auth-jwt-token", "", "token to authenticate with, instead of --user and --password")
	fs.StringVar(&g.user, "user", "", "user to authenticate as: name:password, or the name with --password")
	fs.StringVar(&g.password, "password", "", "the user's password")
}

// fromEnvironment sets the flags that were not given from variables. What was given twice is an error.
func fromEnvironment(fs *pflag.FlagSet, environ []string, log *zap.Logger) error {
	flags := map[string]*pflag.Flag{}
	fs.VisitAll(func(f *pflag.Flag) { flags[envName(f.Name)] = f })
	for _, kv := range environ {
		name, value, _ := strings.Cut(kv, "=")
		f := flags[name]
		switch {
		case !strings.HasPrefix(name, "ETCDCTL_"):
		case name == "ETCDCTL_API", name == envWatchKey, name == envWatchRangeEnd: // no flags
		case f == nil:
			log.Warn("unrecognized environment variable", zap.String("environment-variable", kv))
		case f.Changed:
			return exit(ExitError, fmt.Errorf("%s is set and --%s is given: unset the one or leave out the other", name, f.Name))
		case value == "":
		default:
			if err := fs.Set(f.Name, value); err != nil {
				log.Warn("ignored environment variable", zap.String("environment-variable", kv), zap.Error(err))
			}
		}
	}
	return nil
}

func envName(flag string) string {
	return "ETCDCTL_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// config is the client's configuration that the flags ask for.
func (g *globals) config(log *zap.Logger) (client.Config, error) {
	cfg := client.Config{
		DialTimeout:      g.dialTimeout,
		KeepAliveTime:    g.keepAliveTime,
		KeepAliveTimeout: g.keepAliveTimeout,
		MaxSendBytes:     g.maxSend,
		MaxRecvBytes:     g.maxRecv,
		Token:            g.token,
		Logger:           log,
	}
	for _, ep := range g.endpoints {
		cfg.Endpoints = append(cfg.Endpoints, strings.TrimSpace(ep))
	}
	var err error
	if cfg.Username, cfg.Password, err = credentials("user", g.user, g.password); err != nil {
		return cfg, err
	}
	secure := g.tls
	secure.serverName = g.discovery.serverName()
	cfg.TLS, err = secure.config()
	return cfg, err
}

// credentials takes the password out of "name:password", unless it was given by itself.
func credentials(flag, user, password string) (string, string, error) {
	if user == "" || password != "" {
		return user, password, nil
	}
	name, password, ok := strings.Cut(user, ":")
	if !ok {
		return "", "", badArgs(fmt.Sprintf("no password given: use --%s name:password or the flag for the password", flag))
	}
	return name, password, nil
}

// config returns the TLS configuration, or nil for plain connections.
func (t *tlsFlags) config() (*tls.Config, error) {
	if t.cert == "" && t.key == "" && t.cacert == "" && t.serverName == "" && t.insecure && !t.skipVerify {
		return nil, nil
	}
	files := client.TLSFiles{CACert: t.cacert, Cert: t.cert, Key: t.key, ServerName: t.serverName, SkipVerify: t.skipVerify}
	cfg, err := files.Config()
	if err != nil {
		return nil, exit(ExitBadArgs, err)
	}
	return cfg, nil
}

// checkEmpty refuses flags for files that were given empty, which is mostly an unset shell variable.
func (t *tlsFlags) checkEmpty(fs *pflag.FlagSet) error {
	for _, name := range []string{"cert", "key", "cacert"} {
		if f := fs.Lookup(name); f != nil && f.Changed && f.Value.String() == "" {
			return badArgs("empty string is passed to --" + name + " option")
		}
	}
	return nil
}
