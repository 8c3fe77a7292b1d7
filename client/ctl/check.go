package ctl

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"os/signal"
	"strconv"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/keelson-io/keelson/client"
)

const checkTimeout = 30 * time.Second // of deleting, compacting and defragmenting afterwards

// checkLoad is how hard a check works: so many clients, each with a connection of its own.
type checkLoad struct {
	clients  int
	puts     int           // all together; 0 is as many as there is time for
	rate     int           // puts a second; 0 is as many as possible
	duration time.Duration // of a check with a rate
	keyBytes int
	valBytes int
}

// checkFlags are the flags of both checks.
type checkFlags struct {
	load, prefix    string
	compact, defrag bool
}

func (c *ctl) check() *cobra.Command {
	return parent("check <subcommand>", "Measures what the cluster can do", c.checkPerf(), c.checkDatascale())
}

// command registers the flags of a check.
func (f *checkFlags) command(cmd *cobra.Command, prefix string) *cobra.Command {
	fs := cmd.Flags()
	fs.StringVar(&f.load, "load", "s", "how much: s(small), m(medium), l(large) or xl(xLarge)")
	fs.StringVar(&f.prefix, "prefix", prefix, "what the keys that are written begin with")
	fs.BoolVar(&f.compact, "auto-compact", false, "discard the history afterwards")
	fs.BoolVar(&f.defrag, "auto-defrag", false, "defragment the endpoints afterwards")
	_ = cmd.RegisterFlagCompletionFunc("load", oneOf("small", "medium", "large", "xLarge"))
	return cmd
}

// pick finds the load that the flag names.
func (f *checkFlags) pick(s, m, l, xl checkLoad) (checkLoad, error) {
	switch f.load {
	case "s", "small":
		return s, nil
	case "m", "medium":
		return m, nil
	case "l", "large":
		return l, nil
	case "xl", "xLarge":
		return xl, nil
	}
	return checkLoad{}, exit(ExitBadFeature, fmt.Errorf("unknown load option %v", f.load))
}

func (c *ctl) checkPerf() *cobra.Command {
	f := &checkFlags{}
	load := func(clients, rate int) checkLoad {
		return checkLoad{clients: clients, rate: rate, duration: time.Minute, keyBytes: 256, valBytes: 1024}
	}
	return f.command(&cobra.Command{
		Use:   "perf [options]",
		Short: "Tells whether the cluster keeps up with a rate of writes for a minute",
		RunE: func(cmd *cobra.Command, _ []string) error {
			l, err := f.pick(load(50, 150), load(200, 1000), load(500, 8000), load(1000, 15000))
			if err != nil {
				return err
			}
			return c.checking(cmd, f, l, func(ctx context.Context, k *checker) error { return k.perf(ctx) })
		},
	}, "/etcdctl-check-perf/")
}

func (c *ctl) checkDatascale() *cobra.Command {
	f := &checkFlags{}
	load := func(clients, puts int) checkLoad {
		return checkLoad{clients: clients, puts: puts, keyBytes: 512, valBytes: 512}
	}
	return f.command(&cobra.Command{
		Use:   "datascale [options]",
		Short: "Tells how much memory the first endpoint takes for some data",
		RunE: func(cmd *cobra.Command, _ []string) error {
			l, err := f.pick(load(50, 10_000), load(200, 100_000), load(500, 1_000_000), load(1000, 3_000_000))
			if err != nil {
				return err
			}
			return c.checking(cmd, f, l, func(ctx context.Context, k *checker) error { return k.datascale(ctx) })
		},
	}, "/etcdctl-check-datascale/")
}

// checker is one check in progress.
type checker struct {
	*session
	flags   *checkFlags
	load    checkLoad
	clients []*client.Client
	bar     *bar
}

// checking connects the clients, makes sure that there is nothing under the prefix that would be deleted in the end,
// and runs the check. An interrupt ends it, and what was written is deleted all the same.
func (c *ctl) checking(cmd *cobra.Command, f *checkFlags, l checkLoad, run func(context.Context, *checker) error) error {
	s, err := c.open(cmd)
	if err != nil {
		return err
	}
	k := &checker{session: s, flags: f, load: l, bar: &bar{out: c.errs}}
	defer func() {
		for _, cl := range k.clients {
			cl.Close()
		}
	}()
	for range l.clients {
		cl, err := s.dial()
		if err != nil {
			return err
		}
		k.clients = append(k.clients, cl)
	}
	ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt)
	defer stop()
	if err := k.empty(ctx); err != nil {
		return withCode(ExitError, c.plain(err))
	}
	return withCode(ExitError, run(ctx, k))
}

// empty fails if the prefix is in use.
func (k *checker) empty(ctx context.Context) error {
	ctx, cancel := k.short(ctx)
	defer cancel()
	resp, err := k.clients[0].Get(ctx, k.flags.prefix, client.WithPrefix(), client.WithLimit(1))
	if err == nil && len(resp.Kvs) > 0 {
		err = exit(ExitInvalidInput, fmt.Errorf("prefix %q has keys. Delete with 'etcdctl del --prefix %s' first", k.flags.prefix, k.flags.prefix))
	}
	return err
}

// perf checks whether the cluster keeps up.
func (k *checker) perf(ctx context.Context) error {
	seconds := int(k.load.duration / time.Second)
	k.bar.start(seconds)
	tctx, cancel := context.WithTimeout(ctx, k.load.duration)
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for range seconds {
			select {
			case <-tick.C:
				k.bar.add(1)
			case <-tctx.Done():
				return
			}
		}
	})
	st := k.put(tctx, nil)
	cancel()
	wg.Wait()
	k.bar.finish(ctx.Err() == nil)
	if err := k.cleanUp(); err != nil {
		k.printf("FAIL: Cleanup failed during key deletion: ERROR(%v)\n", err)
	}
	if ctx.Err() != nil {
		return exit(ExitError, ctx.Err())
	}
	ok := k.reportErrors(st)
	judge := func(good bool, pass, fail string, v any) {
		if ok = ok && good; good {
			k.printf("PASS: "+pass+"\n", v)
		} else {
			k.printf(fail+"\n", v)
		}
	}
	rps := int(st.rate()) + 1
	judge(st.rate()/float64(k.load.rate) > 0.9, "Throughput is %d writes/s", "FAIL: Throughput too low: %d writes/s", rps)
	judge(st.slowest() <= 0.5, "Slowest request took %fs", "Slowest request took too long: %fs", st.slowest())
	judge(st.stddev() <= 0.1, "Stddev is %fs", "Stddev too high: %fs", st.stddev())
	if !ok {
		k.printf("FAIL\n")
		return exit(ExitError, nil)
	}
	k.printf("PASS\n")
	return nil
}

// datascale measures the first endpoint's memory before and after the writes.
func (k *checker) datascale(ctx context.Context) error {
	measure := func(when string) (float64, error) {
		b, err := residentBytes(ctx, k.cfg.Endpoints[0], k.cfg.TLS)
		if err != nil {
			k.printf("%v\nFAIL: Could not read process_resident_memory_bytes %s the put operations.\n", err, when)
			return 0, exit(ExitError, nil)
		}
		return b, nil
	}
	before, err := measure("before")
	if err != nil {
		return err
	}
	k.printf("Start data scale check for work load [%v key-value pairs, %v bytes per key-value, %v concurrent clients].\n",
		k.load.puts, k.load.keyBytes+k.load.valBytes, k.load.clients)
	k.bar.start(k.load.puts)
	st := k.put(ctx, func() { k.bar.add(1) })
	k.bar.finish(ctx.Err() == nil)
	after, err := measure("after")
	if cerr := k.cleanUp(); err == nil {
		err = cerr
	}
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return err
	}
	if !k.reportErrors(st) {
		return exit(ExitError, nil)
	}
	mb := (after - before) / (1 << 20)
	k.printf("PASS: Approximate system memory used : %v MB.\n", strconv.FormatFloat(mb, 'f', 2, 64))
	return nil
}

// put writes random keys from all clients until the load is done or ctx ends; puts that are on their way are waited
// for. done is called after each.
func (k *checker) put(ctx context.Context, done func()) *latencies {
	keys := make(chan string, len(k.clients))
	value := string(make([]byte, k.load.valBytes))
	st := newLatencies()
	var wg sync.WaitGroup
	for _, cl := range k.clients {
		wg.Go(func() {
			for key := range keys {
				start := time.Now()
				pctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), checkTimeout)
				_, err := cl.Put(pctx, key, value)
				cancel()
				st.add(time.Since(start), err)
				if done != nil {
					done()
				}
			}
		})
	}
	turn := pace{}
	if k.load.rate > 0 {
		turn.every = time.Second / time.Duration(k.load.rate)
	}
	b := make([]byte, k.load.keyBytes)
	for n := 0; (k.load.puts == 0 || n < k.load.puts) && turn.wait(ctx) == nil; n++ {
		binary.PutVarint(b, rand.Int64())
		keys <- k.flags.prefix + string(b)
	}
	close(keys)
	wg.Wait()
	st.finish()
	return st
}

// cleanUp deletes what was written, and does what the flags ask for.
func (k *checker) cleanUp() error {
	cl := k.clients[0]
	ctx, cancel := context.WithTimeout(cl.Context(), checkTimeout)
	defer cancel()
	resp, err := cl.Delete(ctx, k.flags.prefix, client.WithPrefix())
	if err != nil {
		return err
	}
	if k.flags.compact {
		rev := resp.Header.Revision
		k.printf("Compacting with revision %d\n", rev)
		if _, err := cl.Compact(ctx, rev, true); err != nil {
			return err
		}
		k.printf("Compacted with revision %d\n", rev)
	}
	if !k.flags.defrag {
		return nil
	}
	for _, ep := range cl.Endpoints() {
		k.printf("Defragmenting %q\n", ep)
		if _, err := cl.Defragment(ctx, ep); err != nil {
			return err
		}
		k.printf("Defragmented %q\n", ep)
	}
	return nil
}

// reportErrors prints how often which error happened, and whether there was none.
func (k *checker) reportErrors(st *latencies) bool {
	if len(st.errs) == 0 {
		return true
	}
	k.printf("FAIL: too many errors\n")
	for text, n := range st.errs {
		k.printf("FAIL: ERROR(%v) -> %d\n", text, n)
	}
	return false
}

func (k *checker) printf(format string, a ...any) { fmt.Fprintf(k.c.out, format, a...) }
