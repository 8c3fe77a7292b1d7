package ctl

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/keelson-io/keelson/client/ctl/survey"
	"github.com/keelson-io/keelson/client/ctl/top"
)

// answerTimeout is how long the table waits for a member at least, so that one that is down does not hold it up for long.
const answerTimeout = 2 * time.Second

// topFlags are those of the command top.
type topFlags struct {
	cluster    bool
	interval   time.Duration
	iterations int
	once       bool
}

func (c *ctl) top() *cobra.Command {
	f := &topFlags{}
	cmd := &cobra.Command{
		Use:   "top",
		Short: "Shows what the members do, again and again",
		Long: `Shows what the members do: calls per second and how long they take, consensus, watches, leases, the database,
and the prefixes of keys that are used most and that are largest. On a terminal the screen is drawn anew after each
interval until q is pressed; elsewhere, or with --once, the tables follow one another. With -w json each of them is a
line of JSON. Members of etcd show what their status and metrics tell.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return c.runTop(cmd, f) },
	}
	fs := cmd.Flags()
	fs.BoolVar(&f.cluster, "cluster", false, "show all members of the cluster, not the given endpoints")
	fs.DurationVar(&f.interval, "interval", time.Second, "time between two looks")
	fs.IntVarP(&f.iterations, "iterations", "n", 0, "how many tables to show (0 is until interrupted)")
	fs.BoolVar(&f.once, "once", false, "show one table")
	return cmd
}

func (c *ctl) runTop(cmd *cobra.Command, f *topFlags) error {
	if f.interval <= 0 || f.iterations < 0 {
		return badArgs("--interval must be positive, --iterations not negative")
	}
	if f.once {
		f.iterations = 1
	}
	asJSON := c.globals.format == "json"
	if !asJSON && c.globals.format != "simple" {
		return unsupported(c.globals.format)
	}
	s, eps, err := c.openEndpoints(cmd, f.cluster)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	sv := survey.New(survey.Config{Client: s.cfg, Endpoints: eps, Timeout: min(c.globals.commandTimeout, max(f.interval, answerTimeout))})
	defer sv.Close()
	if asJSON {
		enc := json.NewEncoder(c.out)
		return f.watch(ctx, sv, nil, func(frame *top.Frame) error { return enc.Encode(frame) })
	}
	out, isFile := c.out.(*os.File)
	if f.once || !isFile || !term.IsTerminal(int(out.Fd())) {
		return f.watch(ctx, sv, nil, func(frame *top.Frame) error {
			var b bytes.Buffer
			frame.Draw(&b, top.Size{}, false, "\n")
			_, err := c.out.Write(append(b.Bytes(), '\n'))
			return err
		})
	}
	return c.topOnScreen(ctx, f, sv, out)
}

// watch shows a frame after each interval. quit ends it, as ctx does; nil: only that.
func (f *topFlags) watch(ctx context.Context, sv *survey.Survey, quit <-chan struct{}, show func(*top.Frame) error) error {
	tick := time.NewTicker(f.interval)
	defer tick.Stop()
	before := sv.Look(ctx)
	for n := 0; f.iterations == 0 || n < f.iterations; n++ {
		select {
		case <-tick.C:
		case <-quit:
			return nil
		case <-ctx.Done():
			return nil
		}
		now := sv.Look(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err := show(top.NewFrame(before, now, time.Now())); err != nil {
			return err
		}
		before = now
	}
	return nil
}

// Control sequences (ECMA-48, and xterm's alternate screen).
const (
	enterScreen = "\x1b[?1049h\x1b[?25l\x1b[2J"
	leaveScreen = "\x1b[?25h\x1b[?1049l"
	beginFrame  = "\x1b[H"
	endFrame    = "\x1b[J"
)

// topOnScreen draws on the terminal until q or ctrl-C is pressed.
func (c *ctl) topOnScreen(ctx context.Context, f *topFlags, sv *survey.Survey, out *os.File) (err error) {
	newline, quit := "\n", make(chan struct{})
	if in, ok := c.in.(*os.File); ok && term.IsTerminal(int(in.Fd())) {
		before, err := term.MakeRaw(int(in.Fd()))
		if err != nil {
			return err
		}
		defer func() { _ = term.Restore(int(in.Fd()), before) }()
		newline = "\r\n"
		go awaitQuit(in, quit)
	}
	_, err = io.WriteString(out, enterScreen)
	defer func() {
		_, left := io.WriteString(out, leaveScreen)
		err = errors.Join(err, left)
	}()
	if err != nil {
		return err
	}
	return f.watch(ctx, sv, quit, func(frame *top.Frame) error {
		width, height, err := term.GetSize(int(out.Fd()))
		if err != nil {
			return err
		}
		var b bytes.Buffer
		b.WriteString(beginFrame)
		frame.Draw(&b, top.Size{Width: width, Height: height}, true, newline)
		b.WriteString(endFrame)
		_, err = out.Write(b.Bytes())
		return err
	})
}

// awaitQuit closes quit when q, ctrl-C or ctrl-D is pressed. It goes on reading after the end of the command.
func awaitQuit(in io.Reader, quit chan<- struct{}) {
	key := make([]byte, 1)
	for {
		if _, err := in.Read(key); err != nil {
			return
		}
		switch key[0] {
		case 'q', 'Q', 3, 4:
			close(quit)
			return
		}
	}
}
