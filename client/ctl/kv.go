package ctl

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/keelson-io/keelson/client"
)

// getFlags are the flags of get.
type getFlags struct {
	consistency, order, sortBy   string
	limit, rev                   int64
	minCreate, maxCreate         int64
	minMod, maxMod               int64
	prefix, fromKey              bool
	keysOnly, countOnly, noNames bool
	stream                       bool
}

func (f *getFlags) command() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "get [options] <key> [range_end]",
		Short: "Reads a key or a range of keys",
	}
	fs := cmd.Flags()
	fs.StringVar(&f.consistency, "consistency", "l", "l (linearizable) or s (serializable)")
	fs.StringVar(&f.order, "order", "", "ASCEND or DESCEND")
	fs.StringVar(&f.sortBy, "sort-by", "", "CREATE, KEY, MODIFY, VALUE or VERSION")
	fs.Int64Var(&f.limit, "limit", 0, "how many keys at most (0 is all)")
	fs.BoolVar(&f.prefix, "prefix", false, "read the keys that begin with <key>")
	fs.BoolVar(&f.fromKey, "from-key", false, "read <key> and all keys after it, in byte order")
	fs.Int64Var(&f.rev, "rev", 0, "read at this revision (0 is now)")
	fs.BoolVar(&f.keysOnly, "keys-only", false, "leave the values out")
	fs.BoolVar(&f.countOnly, "count-only", false, "only count the keys (with --write-out=fields)")
	fs.BoolVar(&f.noNames, "print-value-only", false, "leave the keys out (with --write-out=simple)")
	fs.Int64Var(&f.minCreate, "min-create-rev", 0, "only keys created at this revision or later")
	fs.Int64Var(&f.maxCreate, "max-create-rev", 0, "only keys created at this revision or earlier")
	fs.Int64Var(&f.minMod, "min-mod-rev", 0, "only keys modified at this revision or later")
	fs.Int64Var(&f.maxMod, "max-mod-rev", 0, "only keys modified at this revision or earlier")
	fs.BoolVar(&f.stream, "stream", false, "have the server send the range in chunks")
	_ = cmd.RegisterFlagCompletionFunc("consistency", oneOf("l", "s"))
	_ = cmd.RegisterFlagCompletionFunc("order", oneOf("ASCEND", "DESCEND"))
	_ = cmd.RegisterFlagCompletionFunc("sort-by", oneOf("CREATE", "KEY", "MODIFY", "VALUE", "VERSION"))
	return cmd
}

func (c *ctl) get() *cobra.Command {
	f := &getFlags{}
	cmd := f.command()
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		key, opts, err := f.parse(args)
		if err != nil {
			return err
		}
		return c.call(cmd, ExitError, func(ctx context.Context, cl *client.Client) (any, error) {
			resp, err := f.read(ctx, cl, key, opts)
			switch {
			case err != nil:
				return nil, err
			case f.countOnly && c.globals.format != "fields":
				return nil, badArgs("--count-only is only for `--write-out=fields`")
			case f.noNames && c.globals.format != "simple":
				return nil, badArgs("print-value-only is only for `--write-out=simple`")
			case f.noNames:
				return valuesOnly{resp}, nil
			}
			return resp, nil
		})
	}
	return cmd
}

func (f *getFlags) read(ctx context.Context, cl *client.Client, key string, opts []client.GetOption) (*pb.RangeResponse, error) {
	if !f.stream {
		return cl.Get(ctx, key, opts...)
	}
	all := &pb.RangeResponse{}
	for chunk, err := range cl.GetStream(ctx, key, opts...) {
		if err != nil {
			return nil, err
		}
		all.Kvs = append(all.Kvs, chunk.Kvs...)
		if chunk.Header != nil {
			all.Header, all.More, all.Count = chunk.Header, chunk.More, chunk.Count
		}
	}
	return all, nil
}

// parse makes the arguments and flags into a read.
func (f *getFlags) parse(args []string) (string, []client.GetOption, error) {
	if len(args) == 0 {
		return "", nil, badArgs("get command needs one argument as key and an optional argument as range_end")
	}
	if f.keysOnly && f.countOnly {
		return "", nil, badArgs("`--keys-only` and `--count-only` cannot be set at the same time, choose one")
	}
	span, err := parseSpan(args, f.prefix, f.fromKey)
	if err != nil {
		return "", nil, err
	}
	serial, err := serializable(f.consistency)
	if err != nil {
		return "", nil, err
	}
	opts := []client.GetOption{client.WithLimit(f.limit), client.WithRev(max(f.rev, 0))}
	if span != nil {
		opts = append(opts, span)
	}
	if serial {
		opts = append(opts, client.WithSerializable())
	}
	if f.keysOnly {
		opts = append(opts, client.WithKeysOnly())
	}
	if f.countOnly {
		opts = append(opts, client.WithCountOnly())
	}
	sort, err := f.sort()
	if err != nil {
		return "", nil, err
	}
	bounds, err := f.bounds()
	return args[0], append(append(opts, sort), bounds...), err
}

// sort is the order of the result.
func (f *getFlags) sort() (client.GetOption, error) {
	orders := map[string]client.SortOrder{"": client.SortNone, "ASCEND": client.SortAscend, "DESCEND": client.SortDescend}
	order, ok := orders[strings.ToUpper(f.order)]
	if !ok {
		return nil, exit(ExitBadFeature, fmt.Errorf("bad sort order %v", f.order))
	}
	targets := map[string]client.SortTarget{
		"": client.SortByKey, "KEY": client.SortByKey, "CREATE": client.SortByCreateRevision,
		"MODIFY": client.SortByModRevision, "VALUE": client.SortByValue, "VERSION": client.SortByVersion,
	}
	target, ok := targets[strings.ToUpper(f.sortBy)]
	if !ok {
		return nil, exit(ExitBadFeature, fmt.Errorf("bad sort target %v", f.sortBy))
	}
	return client.WithSort(target, order), nil
}

// bounds are the revisions that the keys must lie between. 0 is no bound.
func (f *getFlags) bounds() ([]client.GetOption, error) {
	if f.maxCreate > 0 && f.minCreate > f.maxCreate {
		return nil, exit(ExitBadFeature, fmt.Errorf("getMinCreateRev(=%v) > getMaxCreateRev(=%v)", f.minCreate, f.maxCreate))
	}
	if f.maxMod > 0 && f.minMod > f.maxMod {
		return nil, exit(ExitBadFeature, fmt.Errorf("getMinModRev(=%v) > getMaxModRev(=%v)", f.minMod, f.maxMod))
	}
	return []client.GetOption{
		client.WithMinCreateRev(max(f.minCreate, 0)), client.WithMaxCreateRev(max(f.maxCreate, 0)),
		client.WithMinModRev(max(f.minMod, 0)), client.WithMaxModRev(max(f.maxMod, 0)),
	}, nil
}

// parseSpan is the range that is meant by <key> [range_end] and the flags --prefix and --from-key, nil for one key.
func parseSpan(args []string, prefix, fromKey bool) (client.RangeOption, error) {
	switch {
	case prefix && fromKey:
		return nil, badArgs("`--prefix` and `--from-key` cannot be set at the same time, choose one")
	case len(args) > 1 && (prefix || fromKey):
		return nil, badArgs("too many arguments, only accept one argument when `--prefix` or `--from-key` is set")
	case len(args) > 1:
		return client.WithRange(args[1]), nil
	case prefix:
		return client.WithPrefix(), nil
	case fromKey:
		return client.WithFromKey(), nil
	}
	return nil, nil
}

// serializable parses the flag --consistency.
func serializable(consistency string) (bool, error) {
	switch consistency {
	case "s":
		return true, nil
	case "l":
		return false, nil
	}
	return false, exit(ExitBadFeature, fmt.Errorf("unknown consistency flag %q", consistency))
}

// putFlags are the flags of put.
type putFlags struct {
	lease                            string
	prevKV, ignoreValue, ignoreLease bool
}

func (f *putFlags) command() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "put [options] <key> <value> (<value> can also be given from stdin)",
		Short: "Sets a key to a value",
		Long: `
Sets a key to a value. Without <value>, the value is read from standard input:

$ cat file | put <key>

A <value> or <key> that begins with '-' must be behind '--', or it is taken for a flag:

$ put <key> -- <value>
$ put -- <key> <value>
`,
	}
	fs := cmd.Flags()
	fs.StringVar(&f.lease, "lease", "0", "lease that the key is attached to, in hexadecimal")
	fs.BoolVar(&f.prevKV, "prev-kv", false, "also print what the key was before")
	fs.BoolVar(&f.ignoreValue, "ignore-value", false, "keep the key's value")
	fs.BoolVar(&f.ignoreLease, "ignore-lease", false, "keep the key's lease")
	return cmd
}

func (c *ctl) put() *cobra.Command {
	f := &putFlags{}
	cmd := f.command()
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		key, value, opts, err := f.parse(args, c.in)
		if err != nil {
			return err
		}
		return c.call(cmd, ExitError, func(ctx context.Context, cl *client.Client) (any, error) {
			return cl.Put(ctx, key, value, opts...)
		})
	}
	return cmd
}

// parse makes the arguments and flags into a put, whose value may come from in.
func (f *putFlags) parse(args []string, in io.Reader) (key, value string, opts []client.PutOption, err error) {
	const usage = "put command needs 1 argument and input from stdin or 2 arguments"
	switch {
	case len(args) == 0:
		return "", "", nil, badArgs(usage)
	case f.ignoreValue && len(args) > 1:
		return "", "", nil, badArgs("put command needs only 1 argument when 'ignore-value' is set")
	case f.ignoreValue:
	case len(args) > 1:
		value = args[1]
	default:
		b, err := io.ReadAll(in)
		if err != nil || len(b) == 0 {
			return "", "", nil, badArgs(usage)
		}
		value = string(b)
	}
	id, err := strconv.ParseInt(f.lease, 16, 64)
	if err != nil {
		return "", "", nil, exit(ExitBadArgs, fmt.Errorf("bad lease ID (%w), expecting ID in Hex", err))
	}
	if id != 0 {
		opts = append(opts, client.WithLease(client.LeaseID(id)))
	}
	if f.prevKV {
		opts = append(opts, client.WithPrevKV())
	}
	if f.ignoreValue {
		opts = append(opts, client.WithIgnoreValue())
	}
	if f.ignoreLease {
		opts = append(opts, client.WithIgnoreLease())
	}
	return args[0], value, opts, nil
}

// delFlags are the flags of del.
type delFlags struct{ prefix, prevKV, fromKey, span bool }

func (f *delFlags) command() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "del [options] <key> [range_end]",
		Short: "Removes a key or a range of keys [key, range_end)",
	}
	fs := cmd.Flags()
	fs.BoolVar(&f.prefix, "prefix", false, "remove the keys that begin with <key>")
	fs.BoolVar(&f.prevKV, "prev-kv", false, "also print what was removed")
	fs.BoolVar(&f.fromKey, "from-key", false, "remove <key> and all keys after it, in byte order")
	fs.BoolVar(&f.span, "range", false, "a range is meant: do not wait before removing it")
	return cmd
}

func (c *ctl) del() *cobra.Command {
	f := &delFlags{}
	cmd := f.command()
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		key, opts, err := f.parse(args)
		if err != nil {
			return err
		}
		if err := f.hesitate(cmd.Context(), args, c.errs); err != nil {
			return err
		}
		return c.call(cmd, ExitError, func(ctx context.Context, cl *client.Client) (any, error) {
			return cl.Delete(ctx, key, opts...)
		})
	}
	return cmd
}

// parse makes the arguments and flags into a deletion.
func (f *delFlags) parse(args []string) (string, []client.DeleteOption, error) {
	if len(args) == 0 || len(args) > 2 {
		return "", nil, badArgs("del command needs one argument as key and an optional argument as range_end")
	}
	span, err := parseSpan(args, f.prefix, f.fromKey)
	if err != nil {
		return "", nil, err
	}
	var opts []client.DeleteOption
	if span != nil {
		opts = append(opts, span)
	}
	if f.prevKV {
		opts = append(opts, client.WithPrevKV())
	}
	return args[0], opts, nil
}

// hesitate gives those who meant two keys, not a range, the time to interrupt.
func (f *delFlags) hesitate(ctx context.Context, args []string, errs io.Writer) error {
	if len(args) < 2 || f.span {
		return nil
	}
	fmt.Fprintf(errs, "Warning: Keys between %q and %q will be deleted. Please interrupt the command within next 2 seconds to cancel. "+
		"You can provide `--range` flag to avoid the delay.\n", args[0], args[1])
	select {
	case <-time.After(2 * time.Second):
		return nil
	case <-ctx.Done():
		return exit(ExitError, ctx.Err())
	}
}

func (c *ctl) compaction() *cobra.Command {
	var physical bool
	cmd := &cobra.Command{
		Use:   "compaction [options] <revision>",
		Short: "Discards the history before a revision",
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 {
				return badArgs("compaction command needs 1 argument")
			}
			rev, err := strconv.ParseInt(args[0], 10, 64)
			if err != nil {
				return exit(ExitError, err)
			}
			return c.with(cmd, func(ctx context.Context, s *session, cl *client.Client) error {
				ctx, cancel := s.short(ctx)
				defer cancel()
				if _, err := cl.Compact(ctx, rev, physical); err != nil {
					return c.plain(err)
				}
				fmt.Fprintln(c.out, "compacted revision", rev)
				return nil
			})
		},
	}
	cmd.Flags().BoolVar(&physical, "physical", false, "wait until the space is free for reuse")
	return cmd
}
