package ctl

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"github.com/keelson-io/keelson/client"
)

const (
	mirrorBatch  = 1000             // keys read at once
	mirrorReport = 30 * time.Second // how often the number of changes is printed
)

// mirrorFlags are the flags of make-mirror.
type mirrorFlags struct {
	prefix, destPrefix string
	noDestPrefix       bool
	rev                int64
	maxTxnOps          uint
	tls                tlsFlags
	user, password     string
}

func (c *ctl) makeMirror() *cobra.Command {
	f := &mirrorFlags{}
	cmd := &cobra.Command{
		Use:   "make-mirror [options] <destination>",
		Short: "Copies keys, and then all their changes, to another cluster",
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 {
				return badArgs("make-mirror takes one destination argument")
			}
			return c.with(cmd, func(ctx context.Context, s *session, src *client.Client) error {
				dst, err := f.destination(s, args[0])
				if err != nil {
					return err
				}
				defer dst.Close()
				if f.noDestPrefix && f.destPrefix != "" {
					return badArgs("`--dest-prefix` and `--no-dest-prefix` cannot be set at the same time, choose one")
				}
				m := &mirror{mirrorFlags: f, src: src, dst: dst}
				return c.plain(m.run(ctx, func(total int64) { fmt.Fprintln(c.out, total) }))
			})
		},
	}
	fs := cmd.Flags()
	fs.StringVar(&f.prefix, "prefix", "", "mirror the keys that begin with this")
	fs.Int64Var(&f.rev, "rev", 0, "mirror the changes from this revision on, without the keys that are there already")
	fs.UintVar(&f.maxTxnOps, "max-txn-ops", 128, "how many changes of one revision are written in one transaction")
	fs.StringVar(&f.destPrefix, "dest-prefix", "", "what the keys begin with in the destination, instead of the prefix")
	fs.BoolVar(&f.noDestPrefix, "no-dest-prefix", false, "leave the prefix out in the destination")
	fs.StringVar(&f.tls.cert, "dest-cert", "", "file of the TLS certificate for the destination")
	fs.StringVar(&f.tls.key, "dest-key", "", "file of the TLS key for the destination")
	fs.StringVar(&f.tls.cacert, "dest-cacert", "", "file of the certificates that the destination's are verified with")
	fs.BoolVar(&f.tls.insecure, "dest-insecure-transport", true, "connect to the destination without TLS")
	fs.StringVar(&f.user, "dest-user", "", "user of the destination: name:password, or the name with --dest-password")
	fs.StringVar(&f.password, "dest-password", "", "the user's password")
	return cmd
}

// destination makes the client of the cluster that is written to.
func (f *mirrorFlags) destination(s *session, endpoint string) (*client.Client, error) {
	cfg := s.cfg
	cfg.Endpoints, cfg.Token = []string{endpoint}, ""
	var err error
	if cfg.Username, cfg.Password, err = credentials("dest-user", f.user, f.password); err != nil {
		return nil, err
	}
	if cfg.TLS, err = f.tls.config(); err != nil {
		return nil, err
	}
	return s.connect(cfg)
}

// mirror copies keys from one cluster to another.
type mirror struct {
	*mirrorFlags
	src, dst *client.Client
	total    atomic.Int64 // changes written
}

// run mirrors until something fails. It reports the number of changes from time to time.
func (m *mirror) run(ctx context.Context, report func(total int64)) error {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() {
		tick := time.NewTicker(mirrorReport)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				report(m.total.Load())
			case <-ctx.Done():
				return
			}
		}
	})
	if !m.noDestPrefix && m.destPrefix == "" {
		m.destPrefix = m.prefix
	}
	next := m.rev
	if next <= 1 { // nothing to leave out
		rev, err := m.copyKeys(ctx)
		if err != nil {
			return err
		}
		next = rev + 1
	}
	return m.follow(ctx, next)
}

// copyKeys copies all keys as they are at one revision, and returns it.
func (m *mirror) copyKeys(ctx context.Context) (rev int64, err error) {
	key, span := m.prefix, client.WithRange(client.PrefixEnd(m.prefix))
	if key == "" {
		key, span = "\x00", client.WithFromKey()
	}
	for {
		resp, err := m.src.Get(ctx, key, span, client.WithLimit(mirrorBatch), client.WithRev(rev))
		if err != nil {
			return 0, err
		}
		if rev == 0 {
			rev = resp.Header.Revision
		}
		for _, kv := range resp.Kvs {
			if _, err := m.dst.Put(ctx, m.renamed(kv.Key), string(kv.Value)); err != nil {
				return 0, err
			}
			m.total.Add(1)
		}
		if !resp.More {
			return rev, nil
		}
		key = string(resp.Kvs[len(resp.Kvs)-1].Key) + "\x00"
	}
}

// follow writes the changes from rev on, each revision in transactions of its own.
func (m *mirror) follow(ctx context.Context, rev int64) error {
	w := m.src.Watch(ctx, m.prefix, client.WithPrefix(), client.WithRev(rev))
	defer w.Close()
	for {
		resp, err := w.Next(ctx)
		if err != nil {
			return err
		}
		var ops []client.Op
		for i, ev := range resp.Events {
			if i > 0 && (ev.Kv.ModRevision > resp.Events[i-1].Kv.ModRevision || len(ops) == int(m.maxTxnOps)) {
				if err := m.write(ctx, ops); err != nil {
					return err
				}
				ops = ops[:0]
			}
			if ev.Type == client.EventDelete {
				ops = append(ops, client.OpDelete(m.renamed(ev.Kv.Key)))
			} else {
				ops = append(ops, client.OpPut(m.renamed(ev.Kv.Key), ev.Kv.Value))
			}
		}
		if err := m.write(ctx, ops); err != nil {
			return err
		}
	}
}

func (m *mirror) write(ctx context.Context, ops []client.Op) error {
	if len(ops) == 0 {
		return nil
	}
	_, err := m.dst.Txn(ctx).Then(ops...).Commit()
	if err == nil {
		m.total.Add(int64(len(ops)))
	}
	return err
}

// renamed is a key's name in the destination.
func (m *mirror) renamed(key []byte) string {
	return strings.Replace(string(key), m.prefix, m.destPrefix, 1)
}
