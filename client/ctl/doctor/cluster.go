package doctor

import (
	"fmt"
	"slices"
	"strings"

	"github.com/coreos/go-semver/semver"

	"github.com/keelson-io/keelson/client/ctl/survey"
)

// checkMembers compares who is listed with who answers.
func checkMembers(in *Input) (trouble []Finding, fine string) {
	if in.ListErr != nil {
		trouble = append(trouble, Finding{Level: Fail, Found: "nobody tells who the members are: " + in.ListErr.Error(),
			Means: "the cluster may have no quorum, or the endpoints are wrong", Do: "check --endpoints, the network and the logs of the members"})
	}
	answering := in.answering()
	clusters := map[uint64]bool{}
	alive := map[uint64]bool{}
	for _, p := range answering {
		clusters[p.Look.Header.GetClusterId()] = true
		alive[p.ID()] = true
	}
	if len(clusters) > 1 {
		trouble = append(trouble, Finding{Level: Fail, Found: fmt.Sprintf("the endpoints belong to %d clusters", len(clusters)),
			Means: "clients of all these endpoints read and write different data", Do: "give the endpoints of one cluster"})
	}
	last := in.last()
	for i := range last {
		if last[i].Look == nil {
			trouble = append(trouble, Finding{Level: Fail, Member: last[i].Endpoint, Found: "does not answer: " + last[i].Err.Error(),
				Means: "one more failure may cost the cluster its quorum",
				Do:    "start the member, or replace it: `member remove`, then `member add`, an empty data directory and --initial-cluster-state existing"})
		}
	}
	voters, up := 0, 0
	for _, m := range in.List {
		if m.Name == "" && len(m.ClientURLs) == 0 {
			trouble = append(trouble, Finding{Level: Warn, Member: fmt.Sprintf("%x", m.ID), Found: "was added and never started",
				Means: "it counts for the quorum, unless it is a learner", Do: fmt.Sprintf("start it, or `member remove %x`", m.ID)})
		}
		if !m.IsLearner {
			voters++
			if alive[m.ID] {
				up++
			}
		}
	}
	if voters > 0 && up < voters/2+1 {
		trouble = append(trouble, Finding{Level: Fail, Found: fmt.Sprintf("%d of %d voting members answer: no quorum", up, voters),
			Means: "nothing can be written", Do: "bring members back; if they are lost for good, see --force-new-cluster"})
	}
	return trouble, fmt.Sprintf("%d of %d answer", len(answering), max(len(in.List), len(last)))
}

// checkLeader asks whether all follow one leader that stays.
func checkLeader(in *Input) (trouble []Finding, fine string) {
	leaders := map[uint64]bool{}
	name := ""
	answering := in.answering()
	for _, p := range answering {
		lead := p.Look.GetRaft().GetLeader()
		if p.Leads() {
			name = p.Name()
		}
		if lead != 0 {
			leaders[lead] = true
			continue
		}
		trouble = append(trouble, Finding{Level: Fail, Member: p.Name(), Found: "knows no leader",
			Means: "it serves nothing that needs the cluster", Do: "check its connections to the other members and their logs"})
	}
	if len(leaders) > 1 {
		trouble = append(trouble, Finding{Level: Fail, Found: "the members follow different leaders",
			Means: "an election is under way, or a part of the cluster is cut off", Do: "look again; if it stays, check the network between the members"})
	}
	for _, p := range answering {
		if f, ok := restless(&p); ok {
			trouble = append(trouble, f)
		}
	}
	if len(leaders) == 0 {
		return trouble, ""
	}
	if name == "" {
		return trouble, "all follow one that was not asked"
	}
	return trouble, "all follow " + name
}

// restless tells of a leader that changes too often.
func restless(p *pair) (Finding, bool) {
	changes, before := p.Look.GetRaft().GetLeaderChanges(), p.first.Look.GetRaft().GetLeaderChanges()
	hours := float64(p.Look.Time-p.Look.Started) / 3.6e12
	f := Finding{Level: Warn, Member: p.Name(), Means: "each change costs writes a moment; it comes from slow disks, a slow network or a lack of processor time",
		Do: "see the checks of log syncs and peers; give the members their own disk, or a longer --heartbeat-interval and --election-timeout"}
	switch {
	case changes > before && before > 0:
		f.Level, f.Found = Fail, fmt.Sprintf("the leader changed %d times within %.0f s", changes-before, p.seconds())
	case p.Look.Started > 0 && hours > 0.1 && changes > 3 && float64(changes-1)/hours > 1:
		f.Found = fmt.Sprintf("the leader changed %d times in %.1f hours", changes-1, hours)
	default:
		return f, false
	}
	return f, true
}

func checkAlarms(in *Input) (trouble []Finding, fine string) {
	said := map[string]bool{}
	for _, p := range in.answering() {
		fine = "none"
		for _, e := range p.Look.Errors {
			if said[e] || !strings.Contains(e, "alarm:") {
				continue
			}
			said[e] = true
			f := Finding{Level: Fail, Found: e, Means: "see the log of the member", Do: "`alarm list`"}
			switch {
			case strings.Contains(e, "NOSPACE"):
				f.Means, f.Do = "the database has reached its quota: nothing can be put any more",
					"delete what is not needed (`top` shows the biggest prefixes), `compaction`, `defrag`; with etcd `alarm disarm` after that; or raise --quota-backend-bytes"
			case strings.Contains(e, "CORRUPT"):
				f.Means, f.Do = "the data of a member differ from the others'",
					"compare `endpoint hashkv`; remove the member that differs and add it with an empty data directory"
			}
			trouble = append(trouble, f)
		}
	}
	return trouble, fine
}

// minor is a version up to its minor number, nil if it is none.
func minor(v string) *semver.Version {
	if strings.Count(v, ".") == 1 {
		v += ".0"
	}
	parsed, err := semver.NewVersion(v)
	if err != nil {
		return nil
	}
	return &semver.Version{Major: parsed.Major, Minor: parsed.Minor}
}

func checkVersions(in *Input) (trouble []Finding, fine string) {
	servers := map[string][]string{}
	for _, p := range in.answering() {
		m := p.Look.GetMember()
		servers[m.GetServerVersion()] = append(servers[m.GetServerVersion()], p.Name())
		server, storage, cluster := minor(m.GetServerVersion()), minor(m.GetStorageVersion()), minor(m.GetClusterVersion())
		if server != nil && storage != nil && server.LessThan(*storage) {
			trouble = append(trouble, Finding{Level: Fail, Member: p.Name(),
				Found: fmt.Sprintf("its data are of version %s, the program of %s", m.GetStorageVersion(), m.GetServerVersion()),
				Means: "it may not start again, or misread what it does not know", Do: "upgrade the program, or finish the downgrade of the cluster first"})
		}
		if server != nil && cluster != nil && cluster.LessThan(*server) && m.GetDowngradeTarget() == "" {
			trouble = append(trouble, Finding{Level: Warn, Member: p.Name(),
				Found: fmt.Sprintf("the cluster works as version %s, this member could do %s", m.GetClusterVersion(), m.GetServerVersion()),
				Means: "some member is older: features of the newer version are off", Do: "finish the upgrade of the other members"})
		}
		if m.GetDowngradeTarget() != "" {
			trouble = append(trouble, Finding{Level: Warn, Member: p.Name(), Found: "a downgrade to " + m.GetDowngradeTarget() + " is under way",
				Means: "no member of a newer version may join", Do: "finish it, or `downgrade cancel`"})
		}
	}
	if len(servers) > 1 {
		var all []string
		for v, names := range servers {
			all = append(all, v+" ("+strings.Join(names, ", ")+")")
		}
		slices.Sort(all)
		trouble = append(trouble, Finding{Level: Warn, Found: "the members have different versions: " + strings.Join(all, ", "),
			Means: "in order while a rolling upgrade is under way, not for long", Do: "bring all members to the same version"})
	}
	for v := range servers {
		fine = "all have " + v
	}
	return trouble, fine
}

// checkShape looks at the number of members.
func checkShape(in *Input) (trouble []Finding, fine string) {
	voters, learners := 0, 0
	for _, m := range in.List {
		if m.IsLearner {
			learners++
			trouble = append(trouble, Finding{Level: Warn, Member: m.Name, Found: "is a learner",
				Means: "it does not count for the quorum, and clients get little from it", Do: fmt.Sprintf("`member promote %x` once it has caught up, or remove it", m.ID)})
		} else {
			voters++
		}
	}
	switch {
	case voters == 1:
		trouble = append(trouble, Finding{Level: Warn, Found: "1 voting member", Means: "when it fails, all fails; when its disk is lost, the data are",
			Do: "take backups, or add two members"})
	case voters > 0 && voters%2 == 0:
		trouble = append(trouble, Finding{Level: Warn, Found: plural(voters, "voting member"),
			Means: fmt.Sprintf("an even number stands no more failures than one member less: %d", (voters-1)/2), Do: "add a member, or remove one"})
	case voters > 7:
		trouble = append(trouble, Finding{Level: Warn, Found: plural(voters, "voting member"), Means: "every write waits for more than half of them", Do: "5 are enough for most"})
	}
	if voters == 0 {
		return trouble, ""
	}
	return trouble, fmt.Sprintf("%d voting members: %s may fail", voters, plural((voters-1)/2, "member"))
}

// checkSecurity looks at the doors that are open to others than this machine.
func checkSecurity(in *Input) (trouble []Finding, fine string) {
	for _, p := range in.answering() {
		m := p.Look.GetMember()
		if p.Source != survey.Insight {
			continue // what is advertised is not where it listens
		}
		fine = "encrypted, and clients must say who they are, or only this machine can connect"
		for _, u := range m.ClientUrls {
			switch {
			case !exposed(u):
			case strings.HasPrefix(u, "http:"):
				trouble = append(trouble, Finding{Level: Warn, Member: p.Name(), Found: "serves clients without TLS at " + u,
					Means: "whoever sees the network reads and changes everything", Do: "--cert-file, --key-file and https:// in --listen-client-urls (docs/tls.md)"})
			case !m.AuthEnabled && !m.ClientCertAuth:
				trouble = append(trouble, Finding{Level: Warn, Member: p.Name(), Found: "serves everybody at " + u,
					Means: "whoever can connect reads and changes everything", Do: "--client-cert-auth with --trusted-ca-file, or `auth enable` (docs/auth.md)"})
			}
		}
		for _, u := range m.PeerUrls {
			if exposed(u) && strings.HasPrefix(u, "http:") {
				trouble = append(trouble, Finding{Level: Warn, Member: p.Name(), Found: "talks to members without TLS at " + u,
					Means: "whoever can connect can take part in consensus", Do: "--peer-cert-file, --peer-key-file, --peer-trusted-ca-file and --peer-client-cert-auth"})
			}
		}
	}
	return trouble, fine
}
