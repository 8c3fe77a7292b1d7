package raftnode

import (
	"fmt"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"
	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestScripts(t *testing.T) {
	datadriven.Walk(t, "testdata/scripts", func(t *testing.T, path string) {
		l := newLab(t, newMemDisk)
		t.Cleanup(func() {
			for _, id := range l.ids() {
				l.members[id].stop(false)
			}
		})
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			l.t = t
			out := l.command(d)
			if out == "" {
				return "ok\n"
			}
			return out
		})
	})
}

// command carries out one line of a script. Members are named by number.
func (l *lab) command(d *datadriven.TestData) string {
	id := func(k int) uint64 {
		var v uint64
		if _, err := fmt.Sscan(d.CmdArgs[k].Key, &v); err != nil {
			d.Fatalf(l.t, "not a member: %s", d.CmdArgs[k].Key)
		}
		return v
	}
	ids := func(from int) (out []uint64) {
		for k := from; k < len(d.CmdArgs); k++ {
			if len(d.CmdArgs[k].Vals) == 0 {
				out = append(out, id(k))
			}
		}
		return out
	}
	num := func(key string, def int) int { d.MaybeScanArgs(l.t, key, &def); return def }
	settle := true
	switch d.Cmd {
	case "limits":
		l.limits.SnapshotCount = uint64(num("snapshot-count", 1<<40))
		l.limits.SnapshotCatchUpEntries = uint64(num("catch-up", 5000))
		l.limits.CacheBytes = uint64(num("cache", 1<<30))
		l.limits.MaxPendingBytes = uint64(num("pending", 128<<20))
		l.limits.MaxUnappliedBytes = uint64(num("unapplied", 256<<20))
		l.limits.MaxSizePerMsg = uint64(num("message", 1<<20))
		l.limits.SnapshotBytes = uint64(num("snapshot-bytes", 512<<20))
	case "bootstrap":
		l.bootstrap(ids(0)...)
	case "join":
		l.add(id(0)).start(nil)
	case "campaign":
		l.members[id(0)].node.Campaign()
	case "elect": // as if the leader had handed over, which needs no pre-vote and waits for no timeout
		l.members[id(0)].node.inbox.call(func(c *core) {
			_ = c.raft.Step(&raftpb.Message{Type: raftpb.MsgTimeoutNow.Enum(), From: new(uint64(99))})
		})
	case "tick":
		for range num("n", 1) {
			for _, i := range ids(0) {
				l.members[i].tick(1)
			}
			l.settle()
		}
	case "propose":
		return l.proposeCommand(d, id(0), num("n", 1), num("bytes", 0))
	case "conf":
		return l.confCommand(d, id(0))
	case "cut", "mend":
		for _, a := range ids(0) {
			for b := range l.members {
				l.cut[[2]uint64{a, b}], l.cut[[2]uint64{b, a}] = d.Cmd == "cut" && a != b, d.Cmd == "cut" && a != b
			}
		}
	case "stall", "unstall":
		l.members[id(0)].stalled = d.Cmd == "stall"
	case "abstain", "unabstain":
		l.members[id(0)].node.Abstain(d.Cmd == "abstain")
	case "slow", "unslow":
		l.members[id(0)].slow = d.Cmd == "slow"
	case "lose":
		l.lost[raftpb.MessageType(raftpb.MessageType_value[d.CmdArgs[0].Key])] = true
	case "find":
		clear(l.lost)
	case "hold-snapshots", "let-snapshots":
		l.holdDBs = d.Cmd == "hold-snapshots"
	case "unreachable":
		l.members[id(0)].node.ReportUnreachable(id(1))
	case "stop", "crash":
		l.members[id(0)].stop(d.Cmd == "crash")
	case "start":
		l.members[id(0)].start(nil)
	case "transfer":
		target := make(chan uint64, 1)
		to := uint64(0)
		if len(d.CmdArgs) > 1 {
			to = id(1)
		}
		l.members[id(0)].node.inbox.call(func(c *core) { target <- c.transfer(to) })
		l.settle()
		return fmt.Sprintf("to %d\n", <-target)
	case "ask":
		l.members[id(0)].ask()
		l.settle()
		return l.members[id(0)].answer() + "\n"
	case "ask-only":
		l.members[id(0)].ask()
		settle = false
	case "answer":
		return l.members[id(0)].answer() + "\n"
	case "status":
		return l.status(ids(0))
	case "progress":
		return l.progress(id(0))
	case "same":
		return l.same()
	default:
		d.Fatalf(l.t, "unknown command")
	}
	if settle {
		l.settle()
	}
	return ""
}

func (l *lab) proposeCommand(d *datadriven.TestData, id uint64, n, size int) string {
	m := l.members[id]
	for k := range n {
		data := fmt.Sprintf("%s-%d", d.CmdArgs[1].Key, k)
		if size > len(data) {
			data += strings.Repeat(".", size-len(data))
		}
		if err := m.node.Propose([]byte(data)); err != nil {
			l.settle()
			return fmt.Sprintf("%d: %v\n", k, err)
		}
		if d.HasArg("each") {
			l.settle()
		}
	}
	l.settle()
	return ""
}

func (l *lab) confCommand(d *datadriven.TestData, id uint64) string {
	kinds := map[string]raftpb.ConfChangeType{"add": raftpb.ConfChangeAddNode, "promote": raftpb.ConfChangeAddNode,
		"learner": raftpb.ConfChangeAddLearnerNode, "remove": raftpb.ConfChangeRemoveNode}
	var target uint64
	_, _ = fmt.Sscan(d.CmdArgs[2].Key, &target)
	reply := make(chan error, 1)
	_, data, err := raftpb.MarshalConfChange(&raftpb.ConfChange{Type: kinds[d.CmdArgs[1].Key].Enum(), NodeId: &target})
	if err != nil {
		d.Fatalf(l.t, "%v", err)
	}
	n := l.members[id].node
	if err := n.inbox.propose(proposal{entry: &raftpb.Entry{Type: raftpb.EntryConfChange.Enum(), Data: data}, reply: reply}, n.cfg.Limits.MaxPendingBytes); err != nil {
		return err.Error() + "\n"
	}
	if !d.HasArg("no-wait") {
		l.settle()
	} else {
		n.core.turn()
	}
	select {
	case err := <-reply:
		if err != nil {
			return err.Error() + "\n"
		}
		return ""
	default:
		return "waiting\n"
	}
}

func (l *lab) status(ids []uint64) string {
	if len(ids) == 0 {
		ids = l.ids()
	}
	var b strings.Builder
	for _, id := range ids {
		m := l.members[id]
		if m.node == nil {
			fmt.Fprintf(&b, "%d: down\n", id)
			continue
		}
		if err := m.node.Err(); err != nil {
			fmt.Fprintf(&b, "%d: ended: %v\n", id, err)
			continue
		}
		c := m.node.core
		fmt.Fprintf(&b, "%d: %s lead=%d term=%d commit=%d applied=%d log=%d..%d memory from %d lines=%d restored=%d voters=%v learners=%v\n", id,
			strings.TrimPrefix(c.state.String(), "State"), c.lead, c.term, c.commit, m.node.Applied(), c.log.first, c.last, c.log.memFirst,
			len(m.sm.lines()), m.sm.restore, c.confState.GetVoters(), c.confState.GetLearners())
	}
	return b.String()
}

func (l *lab) progress(id uint64) string {
	c := l.members[id].node.core
	c.publishStatus()
	s := l.members[id].node.Status()
	var b strings.Builder
	for _, i := range append(append([]uint64{}, s.Voters...), s.Learners...) {
		p := s.Progress[i]
		fmt.Fprintf(&b, "%d: match=%d next=%d %s learner=%v active=%v\n", i, p.Match, p.Next, strings.TrimPrefix(p.State.String(), "State"), p.Learner, p.Active)
	}
	return b.String()
}

// same tells whether all members have executed the same commands.
func (l *lab) same() string {
	ids := l.ids()
	first := strings.Join(l.members[ids[0]].sm.lines(), "\n")
	for _, id := range ids[1:] {
		if got := strings.Join(l.members[id].sm.lines(), "\n"); got != first {
			return fmt.Sprintf("%d and %d differ (%d and %d commands)\n", ids[0], id, len(l.members[ids[0]].sm.lines()), len(l.members[id].sm.lines()))
		}
	}
	return fmt.Sprintf("%d commands on %d members\n", len(l.members[ids[0]].sm.lines()), len(ids))
}
