package doctor

import (
	"fmt"
	"math"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/keelson-io/keelson/api/insightpb"
	"github.com/keelson-io/keelson/client/ctl/survey"
)

// checkLag asks whether members have applied what is committed.
func checkLag(in *Input) (trouble []Finding, fine string) {
	answering := in.answering()
	committed := uint64(0)
	for _, p := range answering {
		committed = max(committed, p.Look.GetRaft().GetCommitted())
	}
	most := uint64(0)
	for _, p := range answering {
		lag := committed - min(committed, p.Look.GetRaft().GetApplied())
		most = max(most, lag)
		if level, is := limit(float64(lag), 1000, 5000); is {
			trouble = append(trouble, Finding{Level: level, Member: p.Name(), Found: fmt.Sprintf("is %d entries behind", lag),
				Means: "reads wait for it; etcd refuses writes at 5000", Do: "see log syncs and commits of this member; a member that was away catches up by itself"})
		}
		for _, f := range p.Look.GetRaft().GetFollowers() {
			if f.State != "replicate" && f.Active {
				trouble = append(trouble, Finding{Level: Warn, Member: p.Name(), Found: fmt.Sprintf("sends %s to member %x", sends(f), f.Id),
					Means: "that member is catching up", Do: "wait; if it stays, see the log of that member"})
			}
		}
	}
	if len(answering) == 0 {
		return trouble, ""
	}
	return trouble, fmt.Sprintf("at most %d entries", most)
}

func sends(f *insightpb.Follower) string {
	if f.State == "snapshot" {
		return "a snapshot"
	}
	return "probes"
}

// enough is how many durations there must be to be judged: between two looks, or else since the start.
const enough = 20

// slowest judges the 99th percentile of a histogram of each member.
func slowest(in *Input, of func(*insightpb.LookResponse) *insightpb.Durations, warnAt, failAt time.Duration, template Finding) (trouble []Finding, fine string) {
	worst, few := time.Duration(-1), false
	for _, p := range in.answering() {
		all := of(p.Look)
		d, when := survey.Since(all, of(p.first.Look)), fmt.Sprintf("in %.0f s", p.seconds())
		if p.first == p.Member || d.GetCount() < enough {
			d, when = all, "since its start"
		}
		p99, ok := survey.Quantile(d, 0.99)
		if !ok {
			continue
		}
		if d.Count < enough {
			few = true
			continue
		}
		worst = max(worst, p99)
		if level, is := limit(float64(p99), float64(warnAt), float64(failAt)); is {
			f := template
			f.Level, f.Member = level, p.Name()
			f.Found = fmt.Sprintf(template.Found, short(p99), d.Count, when)
			trouble = append(trouble, f)
		}
	}
	switch {
	case worst >= 0:
		return trouble, "99 % within " + short(worst)
	case few:
		return trouble, "there were too few to judge"
	}
	return trouble, ""
}

func checkSyncs(in *Input) ([]Finding, string) {
	return slowest(in, (*insightpb.LookResponse).GetWalFsync, 10*time.Millisecond, 100*time.Millisecond, Finding{
		Found: "99 %% of the syncs of the log take up to %s (%d %s)", Means: "every write waits for one; slow ones cost elections",
		Do: "put --wal-dir on a disk of its own, with fast syncs (SSD, NVMe), away from other writers",
	})
}

func checkCommits(in *Input) ([]Finding, string) {
	return slowest(in, (*insightpb.LookResponse).GetBackendCommit, 25*time.Millisecond, 250*time.Millisecond, Finding{
		Found: "99 %% of the commits of the database take up to %s (%d %s)", Means: "the disk is slow or shared, or the database is fragmented",
		Do: "a faster disk; `defrag` if much of the file is free; a faster compaction makes commits smaller",
	})
}

// checkPeers looks at the ways between members.
func checkPeers(in *Input) (trouble []Finding, fine string) {
	longest := time.Duration(-1)
	for _, p := range in.answering() {
		for _, to := range p.Look.Peers {
			name := to.Name
			if name == "" {
				name = fmt.Sprintf("%x", to.Id)
			}
			if to.ActiveSince == 0 {
				trouble = append(trouble, Finding{Level: Fail, Member: p.Name(), Found: "does not reach " + name,
					Means: "one of the two is down, or something is between them", Do: "check the member, its peer URLs (`member list`), and firewalls"})
				continue
			}
			trip := time.Duration(to.RoundTrip)
			if median, ok := survey.Quantile(to.RoundTrips, 0.5); ok && trip == 0 {
				trip = median
			}
			if trip == 0 {
				continue
			}
			longest = max(longest, trip)
			if level, is := limit(float64(trip), float64(50*time.Millisecond), float64(500*time.Millisecond)); is {
				trouble = append(trouble, Finding{Level: level, Member: p.Name(), Found: fmt.Sprintf("the round trip to %s takes %s", name, short(trip)),
					Means: "every write waits for one; heartbeats must come well within the election timeout",
					Do:    "--heartbeat-interval of about a round trip, --election-timeout of ten, the same on all members"})
			}
		}
		if len(p.Look.Peers) == 0 && p.Source != survey.Status {
			longest = max(longest, 0)
			fine = "there are none"
		}
	}
	switch {
	case longest > 0:
		return trouble, "round trips within " + short(longest)
	case longest == 0:
		return trouble, fine
	}
	return trouble, ""
}

// ahead is by how much a member's clock is ahead of this side's, with the possible error: half of the shortest round trip, and
// half a second of those that tell whole seconds.
func ahead(in *Input, i int) (offset, within time.Duration, ok bool) {
	within = math.MaxInt64
	for _, look := range in.Looks {
		if i >= len(look) || look[i].Look.GetTime() == 0 {
			continue
		}
		m := &look[i]
		off := m.Answered.Sub(m.Asked) / 2
		middle := m.Asked.Add(off)
		if m.Source != survey.Insight {
			off += 500 * time.Millisecond
		}
		if off < within {
			offset, within, ok = time.Unix(0, m.Look.Time).Sub(middle), off, true
		}
	}
	return offset, within, ok
}

// checkClocks compares the clocks of the members with each other, and with this side's.
func checkClocks(in *Input) (trouble []Finding, fine string) {
	last := in.last()
	first, latest := time.Duration(math.MaxInt64), time.Duration(math.MinInt64)
	var behind, before string
	var off time.Duration
	for i := range last {
		offset, within, ok := ahead(in, i)
		if !ok {
			continue
		}
		off = max(off, within)
		if offset < first {
			first, behind = offset, last[i].Name()
		}
		if offset > latest {
			latest, before = offset, last[i].Name()
		}
	}
	if first > latest {
		return nil, ""
	}
	spread := latest - first
	if level, is := limit(float64(spread-2*off), float64(time.Second), float64(10*time.Second)); is {
		trouble = append(trouble, Finding{Level: level, Member: before, Found: fmt.Sprintf("its clock is %s ahead of that of %s", short(spread), behind),
			Means: "tokens, certificates and times in logs are judged wrongly; leases last too long or not long enough when the leader changes",
			Do:    "run a time service (chrony, systemd-timesyncd) on all machines"})
	}
	middle := first + spread/2
	if middle.Abs()-off > 2*time.Second && spread-2*off < time.Second {
		trouble = append(trouble, Finding{Level: Warn, Found: fmt.Sprintf("the clock of this machine differs from the members' by %s", short(middle)),
			Means: "what this machine says of times is off", Do: "run a time service on this machine"})
	}
	return trouble, fmt.Sprintf("differ by at most %s", short(max(spread, off)))
}

// checkFragmentation compares the size of the file with what is in use.
func checkFragmentation(in *Input) (trouble []Finding, fine string) {
	worst := -1.0
	for _, p := range in.answering() {
		st := p.Look.GetStore()
		if st.GetDbSize() <= 0 {
			continue
		}
		free := st.DbSize - st.DbSizeInUse
		part := float64(free) / float64(st.DbSize)
		worst = max(worst, part)
		if part >= 0.5 && free >= 100<<20 {
			trouble = append(trouble, Finding{Level: Warn, Member: p.Name(),
				Found: fmt.Sprintf("%.0f %% of the database's %s are free pages", part*100, humanize.IBytes(uint64(st.DbSize))),
				Means: "they are used again before the file grows, but the file system does not get them back",
				Do:    "`defrag --endpoints " + p.Endpoint + "`; an etcd member does not serve while it runs, Keelson's does"})
		}
	}
	if worst < 0 {
		return trouble, ""
	}
	return trouble, fmt.Sprintf("at most %.0f %% of a database are free pages", worst*100)
}

// checkQuota looks at how much room there is, and for how long it lasts.
func checkQuota(in *Input) (trouble []Finding, fine string) {
	fullest := -1.0
	for _, p := range in.answering() {
		used, before := used(p.Member), used(p.first)
		quota := p.Look.GetStore().GetDbSizeQuota()
		if quota <= 0 {
			continue
		}
		part := float64(used) / float64(quota)
		fullest = max(fullest, part)
		f := Finding{Member: p.Name(), Means: "at the quota nothing can be put any more",
			Do: "compact (--auto-compaction-retention), delete what is not needed (`top` shows the biggest prefixes), or raise --quota-backend-bytes on all members"}
		f.Found = fmt.Sprintf("%.0f %% of the quota of %s are in use", part*100, humanize.IBytes(uint64(quota)))
		level, is := limit(part, 0.8, 0.95)
		if perSecond := float64(used-before) / p.seconds(); p.seconds() > 0 && perSecond > 0 {
			left := time.Duration(min(float64(quota-used)/perSecond, 1e9) * float64(time.Second))
			if left < 24*time.Hour && part >= 0.5 {
				f.Found += fmt.Sprintf("; at this rate (%s/s) it is full in %s", humanize.IBytes(uint64(perSecond)), short(left))
				level, is = worse(level, Warn), true
			}
		}
		if is {
			f.Level = level
			trouble = append(trouble, f)
		}
	}
	if fullest < 0 {
		return trouble, ""
	}
	return trouble, fmt.Sprintf("at most %.0f %% in use", fullest*100)
}

// used is what counts against the quota: of etcd's members the size of the file.
func used(m *survey.Member) int64 {
	if m.Source == survey.Insight {
		return m.Look.GetStore().GetDbSizeInUse()
	}
	return m.Look.GetStore().GetDbSize()
}

func worse(a, b Level) Level {
	if a.Code() > b.Code() {
		return a
	}
	return b
}

// checkFiles looks at file descriptors and connections.
func checkFiles(in *Input) (trouble []Finding, fine string) {
	for _, p := range in.answering() {
		pr := p.Look.GetProcess()
		if pr.GetFileLimit() <= 0 || pr.GetOpenFiles() < 0 {
			continue
		}
		part := float64(pr.OpenFiles) / float64(pr.FileLimit)
		if pr.ConnectionLimit > 0 {
			part = max(part, float64(pr.Connections)/float64(pr.ConnectionLimit))
		}
		fine = "enough are left"
		do := "raise the limit of open files (LimitNOFILE= of systemd, ulimit -n) and start the member again"
		if level, is := limit(part, 0.8, 0.95); is {
			trouble = append(trouble, Finding{Level: level, Member: p.Name(),
				Found: fmt.Sprintf("%d of %d files are open, %d of them connections of clients", pr.OpenFiles, pr.FileLimit, max(0, pr.Connections)),
				Means: "further clients have to wait", Do: do})
		} else if pr.FileLimit < 4096 {
			trouble = append(trouble, Finding{Level: Warn, Member: p.Name(), Found: fmt.Sprintf("may open %d files only", pr.FileLimit),
				Means: "each connection takes one, and a cluster under load has thousands", Do: do})
		}
	}
	return trouble, fine
}

// checkCertificates looks at when certificates end.
func checkCertificates(in *Input) (trouble []Finding, fine string) {
	const day = 24 * time.Hour
	told := false
	next := time.Duration(math.MaxInt64)
	for _, p := range in.answering() {
		told = told || p.Source == survey.Insight
		for _, c := range p.Look.Certificates {
			left, begins := time.Unix(0, c.NotAfter).Sub(in.Now), time.Unix(0, c.NotBefore).Sub(in.Now)
			next = min(next, left)
			where := c.File
			if where == "" {
				where = "at " + p.Endpoint
			}
			f := Finding{Member: p.Name(), Means: "connections will be refused", Do: "renew it; members read the files again by themselves"}
			what := fmt.Sprintf("the %s certificate (%s) of %s, %s,", c.Side, c.What, c.Subject, where)
			switch {
			case begins > 0:
				f.Level, f.Found = Fail, what+" is not valid for another "+short(begins)
				f.Do = "check the clocks, or use a certificate that is valid now"
			case left <= 0:
				f.Level, f.Found, f.Means = Fail, what+" has ended "+short(-left)+" ago", "connections are refused"
			case left < 7*day:
				f.Level, f.Found = Fail, what+" ends in "+short(left)
			case left < 30*day:
				f.Level, f.Found = Warn, what+" ends in "+short(left)
			default:
				continue
			}
			trouble = append(trouble, f)
		}
	}
	switch {
	case next < math.MaxInt64:
		return trouble, "the next one ends in " + short(next)
	case told:
		return trouble, "there are none"
	}
	return trouble, ""
}

// checkWatchers looks for watchers that do not keep up.
func checkWatchers(in *Input) (trouble []Finding, fine string) {
	all := int64(0)
	for _, p := range in.answering() {
		w, before := p.Look.GetWatches(), p.first.Look.GetWatches()
		if w == nil || w.Watchers < 0 {
			continue
		}
		all += w.Watchers
		fine = plural(int(all), "watcher") + ", none is slow"
		if min(w.SlowWatchers, before.GetSlowWatchers()) > 0 {
			trouble = append(trouble, Finding{Level: Warn, Member: p.Name(),
				Found: fmt.Sprintf("%d of %d watchers are behind, %d events wait", w.SlowWatchers, w.Watchers, w.PendingEvents),
				Means: "their clients do not read as fast as keys change, and see old states", Do: "look at these clients: their load, their network, the range that they watch"})
		}
	}
	return trouble, fine
}

// checkCalls looks at calls and proposals that fail.
func checkCalls(in *Input) (trouble []Finding, fine string) {
	for _, p := range in.answering() {
		if len(p.Look.Methods) == 0 {
			continue
		}
		fine = "none fails by the fault of a member"
		before := map[string]*insightpb.Method{}
		for _, m := range p.first.Look.GetMethods() {
			before[m.Name] = m
		}
		for _, m := range p.Look.Methods {
			for _, code := range []string{"Unavailable", "DeadlineExceeded", "ResourceExhausted", "Internal", "DataLoss"} {
				if n := m.Handled[code] - min(m.Handled[code], before[m.Name].GetHandled()[code]); n > 0 && p.seconds() > 0 {
					trouble = append(trouble, Finding{Level: Warn, Member: p.Name(), Found: fmt.Sprintf("%s: %d times %s within %.0f s", m.Name, n, code, p.seconds()),
						Means: "clients are refused or wait too long", Do: "see the checks above, and the log of the member"})
				}
			}
		}
		if r := p.Look.GetRaft(); r.GetPendingProposals() > 1000 {
			trouble = append(trouble, Finding{Level: Warn, Member: p.Name(), Found: fmt.Sprintf("%d proposals wait", r.PendingProposals),
				Means: "more is written than the cluster can take", Do: "see log syncs, commits and peers"})
		}
	}
	return trouble, fine
}

// checkBackup asks whether anybody has taken a snapshot.
func checkBackup(in *Input) (trouble []Finding, fine string) {
	taken, told := uint64(0), false
	youngest := time.Duration(math.MaxInt64)
	for _, p := range in.answering() {
		if len(p.Look.Methods) == 0 || p.Look.Started == 0 {
			continue
		}
		told = true
		youngest = min(youngest, time.Duration(p.Look.Time-p.Look.Started))
		for _, m := range p.Look.Methods {
			if m.Name == "/etcdserverpb.Maintenance/Snapshot" {
				taken += m.Handled["OK"]
			}
		}
	}
	switch {
	case taken > 0:
		return nil, plural(int(taken), "snapshot") + " taken since the members started"
	case told && youngest >= 24*time.Hour:
		return []Finding{{Level: Warn, Found: "no snapshot was taken since the members started, " + short(youngest) + " ago",
			Means: "what is deleted by mistake, or lost with a quorum of disks, is gone", Do: "`snapshot save`, regularly, to another machine (docs/operations/backup.md)"}}, ""
	case told:
		return nil, "no snapshot was taken since the members started, " + short(youngest) + " ago"
	}
	return nil, ""
}
