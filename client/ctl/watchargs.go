package ctl

import (
	"errors"

	"github.com/spf13/pflag"

	"github.com/keelson-io/keelson/client"
)

// Variables that take the place of watch's arguments.
const (
	envWatchKey      = "ETCDCTL_WATCH_KEY"
	envWatchRangeEnd = "ETCDCTL_WATCH_RANGE_END"
)

var (
	errWatchArgs        = errors.New("bad number of arguments")
	errWatchArgsEnv     = errors.New("bad number of arguments (found conflicting environment key)")
	errWatchArgsNoExec  = errors.New("bad number of arguments (found separator --, but no commands)")
	errWatchRangePrefix = errors.New("`range_end` and `--prefix` are mutually exclusive")
)

// watchFlags are the flags of one watch. In interactive mode each line has its own.
type watchFlags struct {
	rev                              int64
	prefix, prevKV, progress, dialog bool
}

func (f *watchFlags) register(fs *pflag.FlagSet) {
	fs.BoolVarP(&f.dialog, "interactive", "i", false, "read watches from standard input, one a line")
	fs.BoolVar(&f.prefix, "prefix", false, "watch the keys that begin with the key")
	fs.Int64Var(&f.rev, "rev", 0, "begin with the events of this revision (0 is now)")
	fs.BoolVar(&f.prevKV, "prev-kv", false, "also print what a key was before an event")
	fs.BoolVar(&f.progress, "progress-notify", false, "have the server report its revision while nothing happens")
}

// watchTarget is what to watch, and the command to run for every event.
type watchTarget struct {
	args []string // a key, or a key and a range end
	exec []string
}

// watchEnv is the target that the environment names: no arguments, or the key, or the key and the range end.
func watchEnv(lookup func(string) string) ([]string, error) {
	key, end := lookup(envWatchKey), lookup(envWatchRangeEnd)
	switch {
	case key == "" && end != "":
		return nil, errors.New("ETCDCTL_WATCH_KEY is empty but got ETCDCTL_WATCH_RANGE_END=\"" + end + "\"")
	case key == "":
		return nil, nil
	case end == "":
		return []string{key}, nil
	}
	return []string{key, end}, nil
}

// parseWatch splits a watch's arguments at "--". dash is where it was among args, or -1.
func parseWatch(args []string, dash int, env []string) (watchTarget, error) {
	t := watchTarget{args: args}
	if dash >= 0 {
		t.args, t.exec = args[:dash], args[dash:]
		if len(t.exec) == 0 {
			return t, errWatchArgsNoExec
		}
	}
	if len(env) > 0 {
		if len(t.args) > 0 {
			return t, errWatchArgsEnv
		}
		t.args = env
	}
	if len(t.args) == 0 {
		return t, errWatchArgs
	}
	return t, nil
}

// options are the client's options for a watch of t.
func (f *watchFlags) options(t watchTarget) (key string, opts []client.WatchOption, err error) {
	opts = append(opts, client.WithRev(f.rev))
	if len(t.args) == 2 {
		if f.prefix {
			return "", nil, errWatchRangePrefix
		}
		opts = append(opts, client.WithRange(t.args[1]))
	}
	if f.prefix {
		opts = append(opts, client.WithPrefix())
	}
	if f.prevKV {
		opts = append(opts, client.WithPrevKV())
	}
	if f.progress {
		opts = append(opts, client.WithProgressNotify())
	}
	return t.args[0], opts, nil
}
