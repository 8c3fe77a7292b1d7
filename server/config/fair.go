package config

import (
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/pflag"
)

// Fair says how the capacity of the member is shared among its clients.
type Fair struct {
	Inflight map[string]int // calls at once by lane (writes, reads, logins); 0: no bound
	Weights  map[string]int // shares of identities; others have 1
	Queue    int            // calls of one identity that may wait in a lane
}

// The lanes of Fair.Inflight.
const (
	LaneWrites = "writes"
	LaneReads  = "reads"
	LaneLogins = "logins"
)

// defaultFair is above what one client can use: more writes at once than fill the batches of the log, more reads than there
// are processors to make them. So a single client, such as a Kubernetes API server, is slowed down by nothing but itself.
func defaultFair() Fair {
	return Fair{
		Inflight: map[string]int{LaneWrites: 1024, LaneReads: max(64, 8*runtime.GOMAXPROCS(0)), LaneLogins: 16},
		Queue:    10_000,
	}
}

func (f *Fair) flags(fs *pflag.FlagSet) {
	fs.Var(lanes{f.Inflight}, "fair-inflight", "Calls at once above which clients wait for their turn: writes=N,reads=N,logins=N, or 0 for no bounds.")
	fs.Var(weights{&f.Weights}, "fair-weights", "Shares of clients that wait, by user, certificate name or address: name=4,... (others: 1).")
	fs.IntVar(&f.Queue, "fair-queue", f.Queue, "Waiting calls of one client above which more are refused.")
}

func (c *Config) checkFair() error {
	if c.Limits.Fair.Queue <= 0 {
		return fmt.Errorf("--fair-queue must be >0 (set to %d)", c.Limits.Fair.Queue)
	}
	return nil
}

// lanes are bounds by name. Setting some leaves the others as they are.
type lanes struct{ v map[string]int }

func (l lanes) String() string { return pairs(l.v) }
func (l lanes) Type() string   { return "lanes" }

// Set takes name=N,... or 0.
func (l lanes) Set(s string) error {
	if s == "0" {
		for name := range l.v {
			l.v[name] = 0
		}
		return nil
	}
	given, err := parsePairs(s, 0)
	if err != nil {
		return err
	}
	for name, n := range given {
		if _, ok := l.v[name]; !ok {
			return fmt.Errorf("%q is none of %s", name, strings.Join(slices.Sorted(maps.Keys(l.v)), ", "))
		}
		l.v[name] = n
	}
	return nil
}

// weights are numbers by name.
type weights struct{ v *map[string]int }

func (w weights) String() string { return pairs(*w.v) }
func (w weights) Type() string   { return "weights" }

// Set takes name=N,...; it replaces what was there.
func (w weights) Set(s string) (err error) {
	*w.v, err = parsePairs(s, 1)
	return err
}

func pairs(m map[string]int) string {
	var out []string
	for _, name := range slices.Sorted(maps.Keys(m)) {
		out = append(out, fmt.Sprintf("%s=%d", name, m[name]))
	}
	return strings.Join(out, ",")
}

// parsePairs reads name=N,... with numbers from least to a million. A name may contain "=".
func parsePairs(s string, least int) (map[string]int, error) {
	const most = 1_000_000
	out := map[string]int{}
	for _, p := range strings.Split(s, ",") {
		if p = strings.TrimSpace(p); p == "" {
			continue
		}
		i := strings.LastIndexByte(p, '=')
		if i <= 0 {
			return nil, fmt.Errorf("%q has not the form name=number", p)
		}
		n, err := strconv.Atoi(p[i+1:])
		if err != nil || n < least || n > most {
			return nil, fmt.Errorf("%q: the number must be from %d to %d", p, least, most)
		}
		if _, twice := out[p[:i]]; twice {
			return nil, fmt.Errorf("%q is given twice", p[:i])
		}
		out[p[:i]] = n
	}
	return out, nil
}
