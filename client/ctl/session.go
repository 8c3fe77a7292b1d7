package ctl

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"google.golang.org/grpc/grpclog"

	"github.com/keelson-io/keelson/client"
)

// session is what a command works with once its arguments are known to be good.
type session struct {
	c       *ctl
	cfg     client.Config
	printer Printer
}

// open makes the flags, with what the environment adds, into a session.
func (c *ctl) open(cmd *cobra.Command) (*session, error) {
	c.log = newLogger(c.errs, false)
	flags := cmd.Root().PersistentFlags()
	if err := fromEnvironment(flags, c.environ, c.log); err != nil {
		return nil, err
	}
	g := &c.globals
	if g.debug {
		c.log = newLogger(c.errs, true)
		grpclog.SetLoggerV2(grpclog.NewLoggerV2WithVerbosity(c.errs, c.errs, c.errs, 4))
		c.showFlags(flags)
	}
	if err := g.tls.checkEmpty(flags); err != nil {
		return nil, err
	}
	printer, err := newPrinter(g.format, g.hex, c.out, c.errs)
	if err != nil {
		return nil, err
	}
	found, err := g.discovery.find(cmd.Context(), c.lookupSRV, func(msg string) { fmt.Fprintln(c.errs, msg) })
	if err != nil {
		return nil, exit(ExitError, err)
	}
	if len(found) > 0 {
		g.endpoints = found
	}
	if err := c.completeUser(); err != nil {
		return nil, err
	}
	cfg, err := g.config(c.log)
	if err != nil {
		return nil, err
	}
	return &session{c: c, cfg: cfg, printer: printer}, nil
}

// dial makes a client of all endpoints, or of those given. It does not wait for a connection.
func (s *session) dial(endpoints ...string) (*client.Client, error) {
	cfg := s.cfg
	if len(endpoints) > 0 {
		cfg.Endpoints = endpoints
	}
	return s.connect(cfg)
}

func (s *session) connect(cfg client.Config) (*client.Client, error) {
	cl, err := client.New(cfg)
	if errors.Is(err, client.ErrNoEndpoints) {
		err = errors.New("etcdclient: no available endpoints")
	}
	return cl, withCode(ExitBadConnection, err)
}

// short bounds a call by the command timeout.
func (s *session) short(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, s.c.globals.commandTimeout)
}

// plain is what is told of an error: a call that ran out of time is that, and its cause goes to the log.
func (c *ctl) plain(err error) error {
	var told *exitError
	if errors.Is(err, context.DeadlineExceeded) && err != context.DeadlineExceeded && !errors.As(err, &told) {
		c.log.Warn("call did not succeed in time", zap.Error(err))
		return context.DeadlineExceeded
	}
	return err
}

// call runs a command that is one call, within the command timeout, and prints what it returns.
func (c *ctl) call(cmd *cobra.Command, code int, f func(ctx context.Context, cl *client.Client) (any, error)) error {
	return c.with(cmd, func(ctx context.Context, s *session, cl *client.Client) error {
		ctx, cancel := s.short(ctx)
		defer cancel()
		result, err := f(ctx, cl)
		if err != nil {
			return withCode(code, c.plain(err))
		}
		return s.printer.Print(result)
	})
}

// with runs a command that needs a client.
func (c *ctl) with(cmd *cobra.Command, f func(ctx context.Context, s *session, cl *client.Client) error) error {
	s, err := c.open(cmd)
	if err != nil {
		return err
	}
	cl, err := s.dial()
	if err != nil {
		return err
	}
	defer cl.Close()
	return withCode(ExitError, f(cmd.Context(), s, cl))
}

// newLogger logs to w as etcd's tools do. Only trouble that no error of the command tells of is worth a line.
func newLogger(w io.Writer, debug bool) *zap.Logger {
	enc := zap.NewProductionEncoderConfig()
	enc.EncodeTime = func(t time.Time, a zapcore.PrimitiveArrayEncoder) {
		a.AppendString(t.Format("2006-01-02T15:04:05.000000Z0700"))
	}
	enc.EncodeDuration = zapcore.StringDurationEncoder
	level := zapcore.InfoLevel
	if debug {
		level = zapcore.DebugLevel
	}
	ws := zapcore.Lock(zapcore.AddSync(w))
	if f, ok := w.(*os.File); ok {
		ws = zapcore.Lock(f)
	}
	return zap.New(zapcore.NewCore(zapcore.NewJSONEncoder(enc), ws, level))
}
