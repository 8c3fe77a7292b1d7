package main

import (
	"context"
	"fmt"
	"io"
	"net"

	"github.com/spf13/cobra"

	"github.com/keelson-io/keelson/bench"
	"github.com/keelson-io/keelson/bench/network"
)

func (f *benchFlags) networkCommand() *cobra.Command {
	var streams int
	cmd := &cobra.Command{
		Use:   "network ADDRESS",
		Short: "Measure the way to another place",
		Long: `Measure how many bytes a second arrive at ADDRESS, host:port, how long a small message and its answer take, on a connection that
is open and on a new one. A ` + "`keelson bench network-server`" + ` has to listen there.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, stop := interruptible(cmd.Context())
			defer stop()
			f.prepare()
			return f.network(ctx, cmd.OutOrStdout(), args[0], streams)
		},
	}
	cmd.Flags().IntVar(&streams, "streams", 1, "connections that send at the same time")
	return cmd
}

func (f *benchFlags) network(ctx context.Context, out io.Writer, address string, streams int) error {
	t, err := network.Stream(ctx, address, streams, f.options.Duration)
	if err != nil {
		return err
	}
	rest := struct {
		*network.Throughput
		Phases []*bench.Result `json:"phases"`
	}{Throughput: t}
	if !f.json {
		fmt.Fprintf(out, "%-12s %8.2f Gbit/s in %d streams\n", "stream", t.BytesPerSecond*8/1e9, t.Streams)
	}
	for _, measure := range []func(context.Context, string, bench.Options) (*bench.Result, error){network.Echo, network.Connections} {
		r, err := measure(ctx, address, f.options)
		if err != nil {
			return err
		}
		rest.Phases = append(rest.Phases, r)
		if !f.json {
			latencyLine(out, r)
		}
	}
	if f.json {
		return bench.JSON(out, rest)
	}
	return nil
}

// latencyLine writes how many operations there were and how long they took.
func latencyLine(out io.Writer, r *bench.Result) {
	fmt.Fprintf(out, "%-12s %8.0f/s   p50 %.1f us   p99 %.1f us   %d errors\n", r.Workload, r.Rate, r.Latency.P50*1e3, r.Latency.P99*1e3, r.Errors)
}

func networkServerCommand() *cobra.Command {
	return &cobra.Command{
		Use: "network-server [ADDRESS]", Short: "Be the other place that bench network measures the way to", Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, stop := interruptible(cmd.Context())
			defer stop()
			address := ":5201"
			if len(args) == 1 {
				address = args[0]
			}
			l, err := net.Listen("tcp", address)
			if err != nil {
				return err
			}
			fmt.Fprintln(cmd.OutOrStdout(), "listening on", l.Addr())
			return network.Serve(ctx, l)
		},
	}
}

func (f *benchFlags) dnsCommand() *cobra.Command {
	var names []string
	cmd := &cobra.Command{
		Use: "dns SERVER", Short: "Measure a DNS server", Long: "Measure how many questions a second a DNS server answers, host or host:port, over UDP.", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, stop := interruptible(cmd.Context())
			defer stop()
			f.prepare()
			r, err := network.Names(ctx, args[0], names, f.options)
			switch {
			case err != nil:
				return err
			case f.json:
				return bench.JSON(cmd.OutOrStdout(), r)
			}
			latencyLine(cmd.OutOrStdout(), r)
			if r.LastError != "" {
				fmt.Fprintln(cmd.OutOrStdout(), "the last error:", r.LastError)
			}
			return nil
		},
	}
	cmd.Flags().StringSliceVar(&names, "name", []string{"kubernetes.default.svc.cluster.local"}, "names to ask for")
	return cmd
}
