package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/keelson-io/keelson/bench"
	"github.com/keelson-io/keelson/client"
)

// benchFlags are what the bench commands share.
type benchFlags struct {
	options bench.Options
	vs      []string
	vsPids  []int
	tls     client.TLSFiles
	user    string
	rounds  int
	json    bool
	html    string
	quiet   bool
}

func benchCommand() *cobra.Command {
	f := &benchFlags{}
	cmd := &cobra.Command{
		Use:   "bench WORKLOAD...",
		Short: "Measure a cluster, or compare two",
		Long: `Measure a cluster, or with --vs compare two in turns. Ctrl-C ends early, and prints what was measured.
Keys are written below the prefix bench/, and left there. The workloads, or "all":

` + workloadList(),
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, stop := interruptible(cmd.Context())
			defer stop()
			ws, err := bench.Find(args)
			if err != nil {
				return err
			}
			f.prepare()
			if err := f.secure(); err != nil {
				return err
			}
			if len(f.vs) > 0 {
				return f.versus(ctx, cmd.OutOrStdout(), ws)
			}
			return f.run(ctx, cmd.OutOrStdout(), ws)
		},
	}
	f.register(cmd)
	cmd.AddCommand(f.compareCommand(), f.apiCommand(), f.scheduleCommand(), f.podsCommand(), f.networkCommand(), networkServerCommand(), f.dnsCommand())
	return cmd
}

func (f *benchFlags) register(cmd *cobra.Command) {
	fl := cmd.PersistentFlags()
	fl.IntVar(&f.options.Clients, "clients", 64, "clients that work at the same time")
	fl.IntVar(&f.options.Connections, "conns", 4, "connections to each endpoint")
	fl.DurationVar(&f.options.Duration, "duration", 5*time.Second, "of a run")
	fl.Int64Var(&f.options.Total, "total", 0, "so many operations, instead of --duration")
	fl.Float64Var(&f.options.Rate, "rate", 0, "operations a second, open loop (default: the workload's own, mostly a closed loop)")
	fl.IntVar(&f.options.Keys, "keys", 0, "size of the key space (default: the workload's own)")
	fl.IntVar(&f.options.ValueBytes, "value-bytes", 256, "size of values")
	fl.IntVar(&f.rounds, "rounds", 3, "of a comparison")
	fl.BoolVar(&f.quiet, "quiet", false, "no progress line (there is none either if standard error is no terminal)")
	fl.BoolVar(&f.json, "json", false, "print JSON")
	fl.StringVar(&f.html, "html", "", "also write a page with charts to this file")
	fl = cmd.Flags()
	fl.StringSliceVar(&f.options.Endpoints, "endpoints", []string{"127.0.0.1:2379"}, "the cluster")
	fl.IntSliceVar(&f.options.Pids, "pids", nil, "process ids of the servers, to count their CPU and memory")
	fl.StringVar(&f.tls.CACert, "cacert", "", "authorities of the servers' certificates")
	fl.StringVar(&f.tls.Cert, "cert", "", "certificate to show to the servers")
	fl.StringVar(&f.tls.Key, "key", "", "its key")
	fl.BoolVar(&f.tls.SkipVerify, "insecure-skip-tls-verify", false, "take every certificate of servers")
	fl.StringVar(&f.user, "user", "", "user to authenticate as: name:password")
	fl.StringSliceVar(&f.vs, "vs", nil, "endpoints of a second cluster to compare with")
	fl.IntSliceVar(&f.vsPids, "vs-pids", nil, "process ids of its servers")
}

// secure sets how to connect.
func (f *benchFlags) secure() (err error) {
	if f.tls != (client.TLSFiles{}) {
		if f.options.TLS, err = f.tls.Config(); err != nil {
			return err
		}
	}
	var ok bool
	if f.options.User, f.options.Password, ok = strings.Cut(f.user, ":"); !ok && f.user != "" {
		return errors.New("--user wants name:password")
	}
	return nil
}

// interruptible ends with Ctrl-C or SIGTERM.
func interruptible(ctx context.Context) (context.Context, context.CancelFunc) {
	return signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
}

func workloadList() string {
	var b strings.Builder
	for _, w := range bench.Workloads() {
		fmt.Fprintf(&b, "  %-18s %s\n", w.Name, w.Doc)
	}
	return b.String()
}

// benchGC makes garbage collections rare: the clients are not to take processor time from servers on the same machine.
const benchGC = 400

// prepare sets what is not a flag.
func (f *benchFlags) prepare() {
	debug.SetGCPercent(benchGC)
	if info, err := os.Stderr.Stat(); err == nil && info.Mode()&os.ModeCharDevice != 0 && !f.quiet {
		f.options.Progress = os.Stderr
	}
}

func (f *benchFlags) run(ctx context.Context, out io.Writer, ws []bench.Workload) error {
	var results []*bench.Result
	var failed error
	for _, w := range ws {
		var r *bench.Result
		if r, failed = f.one(ctx, w); r != nil {
			results = append(results, r)
		}
		if failed != nil || ctx.Err() != nil {
			break
		}
	}
	if len(results) == 0 {
		return failed
	}
	write := func(w io.Writer) error { return bench.Text(w, results) }
	if f.json {
		write = func(w io.Writer) error { return bench.JSON(w, results) }
	}
	return errors.Join(failed, write(out), f.page(func(w io.Writer) error { return bench.HTML(w, "Benchmark", results) }))
}

func (f *benchFlags) one(ctx context.Context, w bench.Workload) (*bench.Result, error) {
	e, err := bench.Open(ctx, w, f.options)
	if err != nil {
		return nil, err
	}
	r, err := bench.Run(ctx, e, w)
	return r, errors.Join(err, e.Close())
}

// page writes the page with charts, if it is wanted.
func (f *benchFlags) page(write func(w io.Writer) error) error {
	if f.html == "" {
		return nil
	}
	return writeFile(f.html, write)
}

func writeFile(path string, write func(w io.Writer) error) error {
	var b bytes.Buffer
	if err := write(&b); err != nil {
		return err
	}
	return os.WriteFile(path, b.Bytes(), 0o644)
}

func (f *benchFlags) versus(ctx context.Context, out io.Writer, ws []bench.Workload) error {
	a, b := f.options, f.options
	b.Endpoints, b.Pids = f.vs, f.vsPids
	all, err := f.inTurns(ctx, out, ws, a, b, "A", "B", 0)
	return errors.Join(err, f.reportVersus(out, all, "A", "B"))
}

// inTurns compares two clusters, and says what it finds as it goes on. What was measured before an error is returned too.
func (f *benchFlags) inTurns(ctx context.Context, out io.Writer, ws []bench.Workload, a, b bench.Options, nameA, nameB string, members int) (all []*bench.Versus, err error) {
	for _, w := range ws {
		v, err := bench.Compare(ctx, w, a, b, f.rounds)
		if ctx.Err() != nil && v == nil {
			return all, nil // interrupted before there was anything to tell
		}
		if err != nil {
			return all, err
		}
		v.Members = members
		all = append(all, v)
		if !f.json {
			v.Say(out, nameA, nameB)
		}
		if ctx.Err() != nil {
			break
		}
	}
	return all, nil
}

// reportVersus writes the reports that are made when all is done.
func (f *benchFlags) reportVersus(out io.Writer, all []*bench.Versus, a, b string) error {
	if len(all) == 0 {
		return nil
	}
	if f.json {
		if err := bench.JSON(out, all); err != nil {
			return err
		}
	}
	return f.page(func(w io.Writer) error { return bench.HTMLVersus(w, a+" and "+b, all, a, b) })
}

// rivals is the comparison of Keelson with the real etcd.
type rivals struct {
	*benchFlags
	etcd, out, dir string
	secure         bool
	members        []int
	workloads      []string
}

func (f *benchFlags) compareCommand() *cobra.Command {
	r := &rivals{benchFlags: f}
	cmd := &cobra.Command{
		Use:   "compare",
		Short: "Start Keelson and the real etcd side by side and compare them",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, stop := interruptible(cmd.Context())
			defer stop()
			f.prepare()
			return r.run(ctx, cmd.OutOrStdout())
		},
	}
	cmd.Flags().StringVar(&r.etcd, "etcd", "bin/peers/etcd", "the real etcd's binary")
	cmd.Flags().StringVar(&r.out, "out", "", "write the table to this file too")
	cmd.Flags().StringVar(&r.dir, "dir", "", "where data and logs go, and stay (default: a temporary directory)")
	cmd.Flags().BoolVar(&r.secure, "secure", false, "with TLS on all ports, and users")
	cmd.Flags().IntSliceVar(&r.members, "members", []int{1, 3}, "sizes of clusters")
	cmd.Flags().StringSliceVar(&r.workloads, "workloads", []string{"all"}, "what to run")
	return cmd
}

func (r *rivals) run(ctx context.Context, out io.Writer) (err error) {
	ws, err := bench.Find(r.workloads)
	if err != nil {
		return err
	}
	if slices.Min(append([]int{1}, r.members...)) < 1 {
		return fmt.Errorf("clusters of %v members cannot be", r.members)
	}
	dir := r.dir
	if dir == "" {
		if dir, err = os.MkdirTemp("", "keelson-bench-"); err != nil {
			return err
		}
		defer func() {
			if err == nil { // the logs tell why otherwise
				err = os.RemoveAll(dir)
			}
		}()
	}
	var all []*bench.Versus
	for _, size := range r.members {
		var vs []*bench.Versus
		vs, err = r.size(ctx, out, ws, filepath.Join(dir, fmt.Sprint(size)), size)
		all = append(all, vs...)
		if err != nil || ctx.Err() != nil {
			break
		}
	}
	if err != nil {
		err = fmt.Errorf("%w (data and logs are in %s)", err, dir)
	}
	return errors.Join(err, r.report(out, all))
}

// size compares clusters of one size.
func (r *rivals) size(ctx context.Context, out io.Writer, ws []bench.Workload, dir string, size int) (all []*bench.Versus, err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	programs := [2][]string{{self, "server"}, {r.etcd}}
	options := [2]bench.Options{r.options, r.options}
	for i, name := range []string{"keelson", "etcd"} {
		c, lerr := bench.Launch(ctx, bench.Spec{Dir: filepath.Join(dir, name), Size: size, Program: programs[i], Secure: r.secure})
		if ctx.Err() != nil && lerr != nil {
			return nil, nil // interrupted
		}
		if lerr != nil {
			return nil, fmt.Errorf("%s: %w", name, lerr)
		}
		defer func() { err = errors.Join(err, c.Stop()) }()
		c.Connect(&options[i])
	}
	if !r.json {
		fmt.Fprintf(out, "members: %d\n", size)
	}
	return r.inTurns(ctx, out, ws, options[0], options[1], "keelson", "etcd", size)
}

func (r *rivals) report(out io.Writer, all []*bench.Versus) error {
	if len(all) == 0 {
		return nil
	}
	table := func(w io.Writer) error {
		fmt.Fprintf(w, "%d processors, %s/%s, %s. Both clusters on one machine, loaded in turns%s: %d rounds, %d clients, %s each.\n\n",
			runtime.NumCPU(), runtime.GOOS, runtime.GOARCH, time.Now().Format(time.DateOnly), map[bool]string{true: ", with TLS and users"}[r.secure],
			r.rounds, r.options.Clients, r.length())
		return bench.Markdown(w, all, "Keelson", "etcd")
	}
	var err error
	if r.out != "" {
		err = writeFile(r.out, table)
	}
	if !r.json {
		fmt.Fprintln(out)
		err = errors.Join(err, table(out))
	}
	return errors.Join(err, r.reportVersus(out, all, "Keelson", "etcd"))
}

func (r *rivals) length() string {
	if r.options.Total > 0 {
		return fmt.Sprintf("%d operations", r.options.Total)
	}
	return r.options.Duration.String()
}
