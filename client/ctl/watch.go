package ctl

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"sync"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/keelson-io/keelson/client"
)

func (c *ctl) watch() *cobra.Command {
	f := &watchFlags{}
	cmd := &cobra.Command{
		Use:   "watch [options] [key or prefix] [range_end] [--] [exec-command arg1 arg2 ...]",
		Short: "Prints the changes of keys as they happen",
		Long: `Prints the changes of a key or a range of keys as they happen. With a command behind '--', also runs it for every
event, with ETCD_WATCH_REVISION, ETCD_WATCH_EVENT_TYPE, ETCD_WATCH_KEY and ETCD_WATCH_VALUE in its environment.

With -i, reads lines from standard input: a command 'watch' with flags and arguments as above begins another watch,
'progress' asks the server how far all of them are.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			env, err := watchEnv(c.getenv)
			if err != nil {
				return exit(ExitBadArgs, err)
			}
			if f.dialog {
				return c.watchDialog(cmd, env)
			}
			target, err := parseWatch(args, cmd.ArgsLenAtDash(), env)
			if err != nil {
				return exit(ExitBadArgs, err)
			}
			return c.with(cmd, func(ctx context.Context, s *session, cl *client.Client) error {
				key, opts, err := f.options(target)
				if err != nil {
					return exit(ExitBadArgs, err)
				}
				w := &watchPrinter{s: s}
				if err := w.print(ctx, cl.Watch(client.RequireLeader(ctx), key, opts...), target.exec); err != nil {
					return err
				}
				return exit(ExitInterrupted, errors.New("watch is canceled by the server"))
			})
		},
	}
	f.register(cmd.Flags())
	return cmd
}

func (c *ctl) getenv(name string) string {
	for _, kv := range c.environ {
		if k, v, _ := strings.Cut(kv, "="); k == name {
			return v
		}
	}
	return ""
}

// watchDialog is watch -i. It ends with the input, or when a command that was to be run for an event failed.
func (c *ctl) watchDialog(cmd *cobra.Command, env []string) error {
	return c.with(cmd, func(ctx context.Context, s *session, cl *client.Client) error {
		ctx, cancel := context.WithCancelCause(ctx)
		w := &watchPrinter{s: s}
		var wg sync.WaitGroup
		defer wg.Wait()
		defer cancel(nil)
		for line, err := range linesUntil(ctx, c.in) {
			if err != nil {
				return err
			}
			target, f, ok, err := c.watchLine(line, env)
			if err != nil {
				return err
			}
			switch {
			case !ok:
			case target == nil:
				cl.RequestProgress(client.RequireLeader(ctx))
			default:
				key, opts, err := f.options(*target)
				if err != nil {
					fmt.Fprintf(c.errs, "Invalid command %s (%v)\n", line, err)
					continue
				}
				watcher := cl.Watch(client.RequireLeader(ctx), key, opts...)
				wg.Go(func() {
					if err := w.print(ctx, watcher, target.exec); err != nil {
						cancel(err)
					}
				})
			}
		}
		return context.Cause(ctx)
	})
}

// watchLine parses a line of the dialog: a watch, or no target for "progress". A line that is not understood is
// complained about (ok is false); an error ends the dialog.
func (c *ctl) watchLine(line string, env []string) (target *watchTarget, f watchFlags, ok bool, err error) {
	args, err := splitLine(line)
	if err != nil {
		return nil, f, false, err
	}
	switch {
	case len(args) == 0:
		fmt.Fprintf(c.errs, "Invalid command: %s (watch and progress supported)\n", line)
		return nil, f, false, nil
	case args[0] == "progress":
		return nil, f, true, nil
	case args[0] != "watch":
		fmt.Fprintf(c.errs, "Invalid command %s (only support watch)\n", line)
		return nil, f, false, nil
	case len(args) < 2 && len(env) == 0:
		fmt.Fprintf(c.errs, "Invalid command %s (command type or key is not provided)\n", line)
		return nil, f, false, nil
	}
	fs := pflag.NewFlagSet("watch", pflag.ContinueOnError)
	fs.SetOutput(io.Discard)
	f.register(fs)
	if err := fs.Parse(args[1:]); err != nil {
		return nil, f, false, exit(ExitBadArgs, err)
	}
	t, err := parseWatch(fs.Args(), fs.ArgsLenAtDash(), env)
	if err != nil {
		return nil, f, false, exit(ExitBadArgs, err)
	}
	return &t, f, true, nil
}

// linesUntil yields lines of in without their ends, until the input or ctx ends. The goroutine that reads may stay
// behind, blocked in the input, after ctx ended: a terminal cannot be read with a deadline.
func linesUntil(ctx context.Context, in io.Reader) func(yield func(string, error) bool) {
	type read struct {
		line string
		err  error
	}
	reads := make(chan read)
	go func() {
		r := bufio.NewReader(in)
		for {
			line, err := r.ReadString('\n')
			select {
			case reads <- read{strings.TrimSuffix(line, "\n"), err}:
			case <-ctx.Done():
				return
			}
			if err != nil {
				return
			}
		}
	}()
	return func(yield func(string, error) bool) {
		for {
			select {
			case r := <-reads:
				if r.err != nil {
					yield("", exit(ExitInvalidInput, fmt.Errorf("error reading watch request line: %w", r.err)))
					return
				}
				if !yield(r.line, nil) {
					return
				}
			case <-ctx.Done():
				return
			}
		}
	}
}

// watchPrinter prints the responses of watches, each as a whole.
type watchPrinter struct {
	s  *session
	mu sync.Mutex
}

// print prints a watch's responses, and runs the command for each event, until the watch ends. Only a failed command
// or output is an error; why the watch ended is printed.
func (p *watchPrinter) print(ctx context.Context, w *client.Watcher, command []string) error {
	defer w.Close()
	for {
		resp, err := w.Next(ctx)
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return p.ended(err)
		}
		if err := p.response(resp); err != nil {
			return err
		}
		for _, ev := range resp.Events {
			if len(command) == 0 {
				break
			}
			if err := p.run(ctx, command, resp, ev); err != nil {
				if ctx.Err() != nil { // it was ended with the watch
					return nil
				}
				fmt.Fprintf(p.s.c.errs, "command %q error (%v)\n", command, err)
				return exit(ExitError, nil)
			}
		}
	}
}

func (p *watchPrinter) response(resp *client.WatchResponse) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if resp.IsProgress() {
		fmt.Fprintf(p.s.c.out, "progress notify: %d\n", resp.Header.GetRevision())
	}
	return p.s.printer.Print(resp)
}

// ended prints the server's last word on a watch.
func (p *watchPrinter) ended(err error) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	fmt.Fprintf(p.s.c.errs, "watch was canceled (%v)\n", err)
	end := watchEnd{header: &client.ResponseHeader{}}
	var compacted *client.CompactedError
	if errors.As(err, &compacted) {
		end.compactRev, end.header = compacted.CompactRevision, compacted.Header
	}
	return p.s.printer.Print(end)
}

// run runs the command for one event.
func (p *watchPrinter) run(ctx context.Context, command []string, resp *client.WatchResponse, ev *client.Event) error {
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.Env = append(cmd.Environ(),
		fmt.Sprintf("ETCD_WATCH_REVISION=%d", resp.Header.GetRevision()),
		fmt.Sprintf("ETCD_WATCH_EVENT_TYPE=%q", ev.Type),
		fmt.Sprintf("ETCD_WATCH_KEY=%q", ev.Kv.GetKey()),
		fmt.Sprintf("ETCD_WATCH_VALUE=%q", ev.Kv.GetValue()),
	)
	cmd.Stdout, cmd.Stderr = p.s.c.out, p.s.c.errs
	return cmd.Run()
}
