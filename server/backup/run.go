package backup

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"go.uber.org/zap"

	"github.com/keelson-io/keelson/server/backup/agent"
	"github.com/keelson-io/keelson/server/backup/archive"
	"github.com/keelson-io/keelson/server/dial"
)

// runFlags are the flags of run.
type runFlags struct {
	cfg     agent.Config
	tls     dial.TLS
	to      place
	metrics string
}

func runCommand() *cobra.Command {
	var f runFlags
	cmd := &cobra.Command{
		Use:   "run --endpoints host:2379,... --to {archive}",
		Short: "Archive a cluster until a signal comes",
		Long: `Archives a cluster until a signal comes: bases (snapshots of the database) now and then, and the log as it grows. Started again
it goes on where it was. It needs a user with the role root if authentication is enabled.`,
		Args: cobra.NoArgs,
	}
	f.bind(cmd.Flags())
	logs := logFlags(cmd.Flags(), "info")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return runUntilSignal(cmd, logs, f.run)
	}
	return cmd
}

func (f *runFlags) bind(fs *pflag.FlagSet) {
	c := &f.cfg
	fs.StringSliceVar(&c.Endpoints, "endpoints", []string{"127.0.0.1:2379"}, "Members to follow; any one is enough, more are for when it fails")
	fs.StringVar(&f.tls.CAFile, "cacert", "", "File of the authorities that servers' certificates are verified with")
	fs.StringVar(&f.tls.CertFile, "cert", "", "File of the client's certificate")
	fs.StringVar(&f.tls.KeyFile, "key", "", "File of the client's key")
	fs.BoolVar(&f.tls.InsecureSkipVerify, "insecure-skip-tls-verify", false, "Accept any server's certificate")
	fs.StringVar(&c.User, "user", "", "User with the role root: name:password, or the name with --password")
	fs.StringVar(&c.Password, "password", "", "The user's password")
	f.to.bind(fs, "to", "Archive to write")
	fs.DurationVar(&c.BaseInterval, "base-interval", 24*time.Hour, "Time between bases. More bases make restores faster, and the archive larger")
	fs.DurationVar(&c.SegmentAge, "segment-age", 10*time.Second, "For how long what has come from the log may be unarchived")
	fs.IntVar(&c.SegmentBytes, "segment-bytes", 16<<20, "Bytes of entries after which a segment is archived at once")
	keepFlags(fs, &c.Keep)
	fs.StringVar(&c.SpoolDir, "spool-dir", "", "Directory with room for a copy of the database while a base is taken (default: the system's for temporary files)")
	fs.StringVar(&f.metrics, "metrics-address", "", "IP address and port to serve /metrics on over HTTP (default: nowhere)")
}

// keepFlags are the flags of a policy.
func keepFlags(fs *pflag.FlagSet, p *archive.Policy) {
	fs.DurationVar(&p.For, "keep-for", 0, "Keep what is needed to restore every moment since so long ago, such as 168h (default: everything)")
	fs.IntVar(&p.Bases, "keep-bases", 0, "Keep the latest so many bases and what follows them. With --keep-for what either wants is kept (default: everything)")
}

// prepare completes the configuration.
func (f *runFlags) prepare() (err error) {
	c := &f.cfg
	if c.Store, err = f.to.open(); err != nil {
		return err
	}
	if err := checkPolicy(c.Keep); err != nil {
		return err
	}
	if c.User != "" && c.Password == "" {
		name, password, ok := strings.Cut(c.User, ":")
		if !ok {
			return errors.New("--user has no password: it is name:password, or the name with --password")
		}
		c.User, c.Password = name, password
	}
	if f.tls != (dial.TLS{}) {
		if c.TLS, err = f.tls.Config(""); err != nil {
			return err
		}
	}
	return nil
}

func checkPolicy(p archive.Policy) error {
	if p.For < 0 || p.Bases < 0 {
		return errors.New("--keep-for and --keep-bases are not to be negative")
	}
	return nil
}

func (f *runFlags) run(ctx context.Context, lg *zap.Logger) error {
	if err := f.prepare(); err != nil {
		return err
	}
	reg := prometheus.NewRegistry()
	reg.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	f.cfg.Registerer, f.cfg.Logger = reg, lg
	if f.metrics != "" {
		stop, err := serveMetrics(f.metrics, reg, lg)
		if err != nil {
			return err
		}
		defer stop()
	}
	return agent.Run(ctx, f.cfg)
}

// serveMetrics serves /metrics until stop is called.
func serveMetrics(addr string, reg *prometheus.Registry, lg *zap.Logger) (stop func(), err error) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("--metrics-address: %w", err)
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(reg, promhttp.HandlerOpts{}))
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute}
	go func() {
		if err := srv.Serve(l); err != nil && !errors.Is(err, http.ErrServerClosed) {
			lg.Error("metrics are no longer served", zap.Error(err))
		}
	}()
	return func() { _ = srv.Close() }, nil
}
