package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/keelson-io/keelson/bench"
)

// benchFlags are what the bench commands share.
type benchFlags struct {
	options bench.Options
	vs      []string
	vsPids  []int
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
		Long:  "Measure a cluster, or with --vs compare two in turns. The workloads, or \"all\":\n\n" + workloadList(),
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt)
			defer stop()
			if len(f.vs) > 0 {
				return f.versus(ctx, cmd.OutOrStdout(), args)
			}
			return f.run(ctx, cmd.OutOrStdout(), args)
		},
	}
	fl := cmd.PersistentFlags()
	fl.IntVar(&f.options.Clients, "clients", 64, "clients that work at the same time")
	fl.IntVar(&f.options.Connections, "conns", 4, "connections to each endpoint")
	fl.DurationVar(&f.options.Duration, "duration", 10*time.Second, "of a run")
	fl.IntVar(&f.options.Keys, "keys", 0, "size of the key space (default: the workload's own)")
	fl.IntVar(&f.options.ValueBytes, "value-bytes", 256, "size of values")
	fl.IntVar(&f.rounds, "rounds", 3, "of a comparison")
	fl.BoolVar(&f.quiet, "quiet", false, "no progress line")
	fl = cmd.Flags()
	fl.StringSliceVar(&f.options.Endpoints, "endpoints", []string{"127.0.0.1:2379"}, "the cluster")
	fl.Float64Var(&f.options.Rate, "rate", 0, "operations a second, open loop (default: closed loop)")
	fl.IntSliceVar(&f.options.Pids, "pids", nil, "process ids of the servers, to count their CPU and memory")
	fl.StringSliceVar(&f.vs, "vs", nil, "endpoints of a second cluster to compare with")
	fl.IntSliceVar(&f.vsPids, "vs-pids", nil, "process ids of its servers")
	fl.BoolVar(&f.json, "json", false, "print JSON")
	fl.StringVar(&f.html, "html", "", "also write a page with charts to this file")
	cmd.AddCommand(f.compareCommand())
	return cmd
}

func workloadList() string {
	var b strings.Builder
	for _, w := range bench.Workloads() {
		fmt.Fprintf(&b, "  %-20s %s\n", w.Name, w.Doc)
	}
	return b.String()
}

func (f *benchFlags) progress() io.Writer {
	if f.quiet {
		return nil
	}
	return os.Stderr
}

func (f *benchFlags) run(ctx context.Context, out io.Writer, names []string) error {
	ws, err := bench.Find(names)
	if err != nil {
		return err
	}
	f.options.Progress = f.progress()
	var results []*bench.Result
	for _, w := range ws {
		e, err := bench.Open(ctx, w, f.options)
		if err != nil {
			return err
		}
		r, err := bench.Run(ctx, e, w)
		if err := errors.Join(err, e.Close()); err != nil {
			return err
		}
		results = append(results, r)
		if ctx.Err() != nil {
			break
		}
	}
	if err := f.page(results); err != nil {
		return err
	}
	if f.json {
		return bench.JSON(out, results)
	}
	return bench.Text(out, results)
}

func (f *benchFlags) page(results []*bench.Result) error {
	if f.html == "" {
		return nil
	}
	file, err := os.Create(f.html)
	if err != nil {
		return err
	}
	return errors.Join(bench.HTML(file, "Benchmark", results), file.Close())
}

func (f *benchFlags) versus(ctx context.Context, out io.Writer, names []string) error {
	ws, err := bench.Find(names)
	if err != nil {
		return err
	}
	a, b := f.options, f.options
	a.Progress, b.Progress = f.progress(), f.progress()
	b.Endpoints, b.Pids = f.vs, f.vsPids
	var all []*bench.Versus
	for _, w := range ws {
		v, err := bench.Compare(ctx, w, a, b, f.rounds)
		if err != nil {
			return err
		}
		all = append(all, v)
		if !f.json {
			v.Say(out, "A", "B")
		}
	}
	if f.json {
		return bench.JSON(out, all)
	}
	return nil
}

func (f *benchFlags) compareCommand() *cobra.Command {
	var etcd, out, dir string
	var sizes []int
	var names []string
	cmd := &cobra.Command{
		Use:   "compare",
		Short: "Start Keelson and the real etcd side by side and compare them",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt)
			defer stop()
			ws, err := bench.Find(names)
			if err != nil {
				return err
			}
			if dir == "" {
				if dir, err = os.MkdirTemp("", "keelson-bench-"); err != nil {
					return err
				}
				defer os.RemoveAll(dir)
			}
			var all []*bench.Versus
			for _, size := range sizes {
				vs, err := f.rivals(ctx, cmd.OutOrStdout(), ws, filepath.Join(dir, fmt.Sprint(size)), size, etcd)
				all = append(all, vs...)
				if err != nil {
					return err
				}
			}
			return writeTable(out, all)
		},
	}
	cmd.Flags().StringVar(&etcd, "etcd", "bin/peers/etcd", "the real etcd's binary")
	cmd.Flags().StringVar(&out, "out", "", "write the table to this file (default: standard output)")
	cmd.Flags().StringVar(&dir, "dir", "", "where data and logs go (default: a temporary directory)")
	cmd.Flags().IntSliceVar(&sizes, "members", []int{1, 3}, "sizes of clusters")
	cmd.Flags().StringSliceVar(&names, "workloads", []string{"all"}, "what to run")
	return cmd
}

// rivals compares clusters of one size.
func (f *benchFlags) rivals(ctx context.Context, out io.Writer, ws []bench.Workload, dir string, size int, etcd string) (all []*bench.Versus, err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	programs := [2][]string{{self, "server"}, {etcd}}
	options := [2]bench.Options{f.options, f.options}
	for i, name := range []string{"keelson", "etcd"} {
		home := filepath.Join(dir, name)
		if err := os.MkdirAll(home, 0o700); err != nil {
			return nil, err
		}
		c, err := bench.Launch(ctx, home, size, programs[i]...)
		if err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, c.Stop()) }()
		options[i].Endpoints, options[i].Pids, options[i].Progress = c.Endpoints, c.Pids, f.progress()
	}
	for _, w := range ws {
		v, err := bench.Compare(ctx, w, options[0], options[1], f.rounds)
		if err != nil {
			return all, err
		}
		v.Members = size
		all = append(all, v)
		v.Say(out, "keelson", "etcd")
		if ctx.Err() != nil {
			return all, ctx.Err()
		}
	}
	return all, nil
}

func writeTable(path string, all []*bench.Versus) error {
	var w io.Writer = os.Stdout
	if path != "" {
		file, err := os.Create(path)
		if err != nil {
			return err
		}
		defer file.Close()
		w = file
	}
	fmt.Fprintf(w, "%d processors, %s/%s, %s. Both clusters on one machine, loaded in turns.\n\n", runtime.NumCPU(), runtime.GOOS, runtime.GOARCH, time.Now().Format(time.DateOnly))
	return bench.Markdown(w, all, "Keelson", "etcd")
}
