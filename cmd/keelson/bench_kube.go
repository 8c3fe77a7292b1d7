package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/keelson-io/keelson/bench"
	"github.com/keelson-io/keelson/bench/kube"
)

// kubeFlags are what the measurements of an API server and of a scheduler share.
type kubeFlags struct {
	*benchFlags
	kubeconfig  string
	content     string
	connections int
	out         string
	dir         string
}

func (k *kubeFlags) register(fs *pflag.FlagSet) {
	fs.StringVar(&k.kubeconfig, "kubeconfig", "", "the API server to measure (default: a `keelson up` is started for it)")
	fs.StringVar(&k.content, "content-type", kube.JSON, "of bodies: "+kube.JSON+" or "+kube.Protobuf)
	fs.IntVar(&k.connections, "connections", 8, "connections to the API server")
	fs.StringVar(&k.out, "out", "", "also write the results to this file, as JSON")
	fs.StringVar(&k.dir, "dir", "", "where data and logs of the started platform go, and stay (default: a temporary directory)")
}

// platform is what a benchmark that measured a `keelson up` of its own says of it.
type platform struct {
	ReadySeconds float64 `json:"ready_seconds"`
}

// with measures what the kubeconfig names, or a platform that is started with args and stopped afterwards.
func (k *kubeFlags) with(ctx context.Context, out io.Writer, args []string, measure func(t *kube.Target) error) (_ *platform, err error) {
	var p *platform
	kubeconfig := k.kubeconfig
	if kubeconfig == "" {
		dir := k.dir
		if dir == "" {
			if dir, err = os.MkdirTemp("", "keelson-bench-"); err != nil {
				return nil, err
			}
			defer func() {
				if err == nil { // the logs tell why otherwise
					err = os.RemoveAll(dir)
				}
			}()
		}
		self, err := os.Executable()
		if err != nil {
			return nil, err
		}
		c, err := kube.Launch(ctx, dir, self, append([]string{"up"}, args...)...)
		if err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, c.Stop()) }()
		p, kubeconfig = &platform{ReadySeconds: c.Ready.Seconds()}, c.Kubeconfig
		if !k.json {
			fmt.Fprintf(out, "keelson up, process %d: ready after %.2f s, %s\n", c.Pid, c.Ready.Seconds(), filepath.Base(kubeconfig))
		}
	}
	t, err := kube.Connect(kubeconfig, k.content, k.connections)
	if err != nil {
		return p, err
	}
	return p, measure(t)
}

// write writes results as JSON to where they are wanted.
func (k *kubeFlags) write(out io.Writer, v any) (err error) {
	if k.out != "" {
		err = writeFile(k.out, func(w io.Writer) error { return bench.JSON(w, v) })
	}
	if k.json {
		err = errors.Join(err, bench.JSON(out, v))
	}
	return err
}

func (f *benchFlags) apiCommand() *cobra.Command {
	k := &kubeFlags{benchFlags: f}
	o := kube.APIOptions{}
	cmd := &cobra.Command{
		Use:   "api",
		Short: "Measure an API server",
		Long: `Measure a Kubernetes API server through client-go: requests a second, latencies, and what of its processor time and
memory the server says at /metrics that it takes. Phases run in this order: ` + fmt.Sprint(kube.Phases()) + `.
Objects are made in the namespace keelson-bench, which must not be there, and is removed.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, stop := interruptible(cmd.Context())
			defer stop()
			f.prepare()
			o.Clients, o.Duration, o.Progress = f.options.Clients, f.options.Duration, f.options.Progress
			if err := o.Check(); err != nil {
				return err
			}
			return k.phases(ctx, cmd.OutOrStdout(), []string{"--hollow-nodes=1"}, func(t *kube.Target, report func(*kube.Result)) error { return kube.API(ctx, t, o, report) })
		},
	}
	k.register(cmd.Flags())
	cmd.Flags().IntVar(&o.Objects, "objects", 5000, "objects to create")
	cmd.Flags().IntVar(&o.ObjectBytes, "object-bytes", 1000, "size of their data")
	cmd.Flags().IntVar(&o.Streams, "streams", 100, "watches that follow the updates of the phase fan-out")
	cmd.Flags().IntVar(&o.Updates, "updates", 2000, "updates that they follow")
	cmd.Flags().DurationVar(&o.Idle, "idle", 20*time.Second, "for how long the idle server is looked at")
	cmd.Flags().StringSliceVar(&o.Phases, "phases", nil, "to run; objects are always created (default: all)")
	return cmd
}

// phases runs a measurement of several phases, and writes the result of each.
func (k *kubeFlags) phases(ctx context.Context, out io.Writer, args []string, measure func(*kube.Target, func(*kube.Result)) error) error {
	var results []*kube.Result
	p, err := k.with(ctx, out, args, func(t *kube.Target) error {
		if !k.json {
			kube.Head(out)
		}
		return measure(t, func(r *kube.Result) {
			results = append(results, r)
			if !k.json {
				r.Line(out)
			}
		})
	})
	return errors.Join(err, k.write(out, struct {
		*platform
		Phases []*kube.Result `json:"phases"`
	}{p, results}))
}

func (f *benchFlags) podsCommand() *cobra.Command {
	k := &kubeFlags{benchFlags: f}
	o := kube.LivesOptions{}
	cmd := &cobra.Command{
		Use:   "pods",
		Short: "Measure how pods start and end on nodes",
		Long: `Measure how long pods take until a client sees them ready after it created them, and gone after it deleted them: first one
after the other, then many at once. The nodes must have the image. Pods are made in the namespace keelson-bench, which must not be
there, and is removed. The cluster is the one of --kubeconfig.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, stop := interruptible(cmd.Context())
			defer stop()
			f.prepare()
			o.Progress = f.options.Progress
			if err := o.Check(); err != nil {
				return err
			}
			if k.kubeconfig == "" {
				return errors.New("--kubeconfig has to name a cluster whose nodes have the image")
			}
			return k.phases(ctx, cmd.OutOrStdout(), nil, func(t *kube.Target, report func(*kube.Result)) error { return kube.Lives(ctx, t, o, report) })
		},
	}
	k.register(cmd.Flags())
	cmd.Flags().StringVar(&o.Image, "image", "", "image of the pods")
	cmd.Flags().StringSliceVar(&o.Command, "command", nil, "command in the image (default: the image's)")
	cmd.Flags().IntVar(&o.Pods, "pods", 30, "pods of each phase")
	cmd.Flags().IntVar(&o.AtOnce, "at-once", 30, "pods that are started at once")
	cmd.Flags().DurationVar(&o.Patience, "patience", time.Minute, "how long one pod may take")
	return cmd
}

func (f *benchFlags) scheduleCommand() *cobra.Command {
	k := &kubeFlags{benchFlags: f}
	o := kube.ScheduleOptions{}
	zones, start := 0, false
	cmd := &cobra.Command{
		Use:   "schedule",
		Short: "Measure a scheduler, through the API",
		Long: `Measure how fast pods are scheduled: they are created as fast as the API server takes them, and a watch sees them bound.
Pods go into the namespace keelson-bench, which must not be there, and whose removal is not waited for. The workloads:

` + podWorkloads(),
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, stop := interruptible(cmd.Context())
			defer stop()
			f.prepare()
			o.Clients, o.Progress = f.options.Clients, f.options.Progress
			if err := o.Check(); err != nil {
				return err
			}
			args := []string{"--hollow-nodes=" + strconv.Itoa(o.Nodes), "--hollow-zones=" + strconv.Itoa(zones), "--hollow-unstarted=" + strconv.FormatBool(!start)}
			var s *kube.Scheduled
			p, err := k.with(ctx, cmd.OutOrStdout(), args, func(t *kube.Target) (err error) {
				if s, err = kube.Schedule(ctx, t, o); err == nil && !k.json {
					s.Line(cmd.OutOrStdout())
				}
				return err
			})
			if err != nil {
				return err
			}
			return k.write(cmd.OutOrStdout(), struct {
				*platform
				*kube.Scheduled
			}{p, s})
		},
	}
	k.register(cmd.Flags())
	cmd.Flags().IntVar(&o.Nodes, "nodes", 5000, "nodes that there must be, or that a started platform simulates")
	cmd.Flags().IntVar(&o.Pods, "pods", 50000, "pods to schedule")
	cmd.Flags().StringVar(&o.Workload, "workload", "plain", "what pods")
	cmd.Flags().DurationVar(&o.Quiet, "wait", 30*time.Second, "how long no pod may be bound until the measurement gives up")
	cmd.Flags().IntVar(&zones, "zones", 3, "zones of a started platform's nodes")
	cmd.Flags().BoolVar(&start, "start-pods", false, "a started platform's nodes run the pods: their work is measured, too")
	return cmd
}

func podWorkloads() (s string) {
	for _, w := range kube.Workloads() {
		s += fmt.Sprintf("  %-14s %s\n", w[0], w[1])
	}
	return s
}
