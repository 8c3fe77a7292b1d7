// Package doctor judges a cluster by what its members tell: what was measured, what that means, and what to do.
//
// # Concurrency
//
// There is no state: everything is a function of its arguments.
package doctor

import (
	"fmt"
	"net/netip"
	"net/url"
	"strings"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/keelson-io/keelson/client/ctl/survey"
)

// Level is how bad something is.
type Level string

// The levels.
const (
	OK      Level = "ok"
	Unknown Level = "unknown" // the members do not tell
	Warn    Level = "warn"
	Fail    Level = "fail"
)

// Code is the exit status for a level.
func (l Level) Code() int {
	switch l {
	case Warn:
		return 1
	case Fail:
		return 2
	}
	return 0
}

// Finding is the outcome of a check, for one member or for all.
type Finding struct {
	Check  string `json:"check"`
	Level  Level  `json:"level"`
	Member string `json:"member,omitempty"` // empty: the cluster
	Found  string `json:"found"`
	Means  string `json:"means,omitempty"`
	Do     string `json:"do,omitempty"`
}

// Input is what is judged.
type Input struct {
	Now     time.Time
	Looks   [][]survey.Member // surveys of the same endpoints, some time apart; at least one
	List    []*pb.Member      // nil: nobody told it
	ListErr error             // why
}

// last is the latest survey.
func (in *Input) last() []survey.Member { return in.Looks[len(in.Looks)-1] }

// pair is a member that answers, at the last survey and at the first.
type pair struct {
	*survey.Member
	first *survey.Member
}

// seconds is the time between the two.
func (p *pair) seconds() float64 { return p.Answered.Sub(p.first.Answered).Seconds() }

// answering are the members that answer.
func (in *Input) answering() (all []pair) {
	last := in.last()
	for i := range last {
		if last[i].Look == nil {
			continue
		}
		p := pair{Member: &last[i], first: &last[i]}
		if first := in.Looks[0]; i < len(first) && first[i].Look != nil && first[i].Source == last[i].Source &&
			first[i].Look.Started == last[i].Look.Started {
			p.first = &first[i]
		}
		all = append(all, p)
	}
	return all
}

// check is one thing to look at. It returns what is not in order; what it says if all is, or that it is not known.
type check struct {
	name string
	run  func(in *Input) (trouble []Finding, fine string)
}

// checks are made in this order.
var checks = []check{
	{"members", checkMembers},
	{"leader", checkLeader},
	{"alarms", checkAlarms},
	{"versions", checkVersions},
	{"raft lag", checkLag},
	{"log syncs", checkSyncs},
	{"commits", checkCommits},
	{"peers", checkPeers},
	{"clocks", checkClocks},
	{"fragmentation", checkFragmentation},
	{"quota", checkQuota},
	{"files", checkFiles},
	{"certificates", checkCertificates},
	{"size of the cluster", checkShape},
	{"security", checkSecurity},
	{"watchers", checkWatchers},
	{"calls", checkCalls},
	{"backup", checkBackup},
}

// Examine makes all checks. Each has one finding at least.
func Examine(in *Input) (all []Finding) {
	for _, c := range checks {
		trouble, fine := c.run(in)
		for _, f := range trouble {
			f.Check = c.name
			all = append(all, f)
		}
		switch {
		case len(trouble) > 0:
		case fine != "":
			all = append(all, Finding{Check: c.name, Level: OK, Found: fine})
		default:
			all = append(all, Finding{Check: c.name, Level: Unknown, Found: "the members do not tell"})
		}
	}
	return all
}

// Worst is the worst level of findings.
func Worst(all []Finding) Level {
	worst := OK
	for _, f := range all {
		if f.Level.Code() > worst.Code() {
			worst = f.Level
		}
	}
	return worst
}

// limit judges a number by two bounds; false if it is below both.
func limit(v, warnAt, failAt float64) (Level, bool) {
	switch {
	case v >= failAt:
		return Fail, true
	case v >= warnAt:
		return Warn, true
	}
	return OK, false
}

// plural is a number of things.
func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// exposed says whether a URL is one that others than this machine can connect to.
func exposed(raw string) bool {
	u, err := url.Parse(raw)
	if err != nil || strings.HasPrefix(u.Scheme, "unix") {
		return false
	}
	host := u.Hostname()
	if host == "localhost" {
		return false
	}
	addr, err := netip.ParseAddr(host)
	return err != nil || !addr.IsLoopback()
}

// short is a duration with three digits or so.
func short(d time.Duration) string {
	switch abs := d.Abs(); {
	case abs >= 48*time.Hour:
		return fmt.Sprintf("%.0f days", d.Hours()/24)
	case abs >= time.Minute:
		return d.Round(time.Minute).String()
	case abs >= time.Second:
		return d.Round(10 * time.Millisecond).String()
	case abs >= time.Millisecond:
		return d.Round(100 * time.Microsecond).String()
	}
	return d.Round(time.Microsecond).String()
}
