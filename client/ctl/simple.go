package ctl

import (
	"fmt"
	"io"
	"strings"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/keelson-io/keelson/client"
)

// simple is the format for people and shell scripts: the least that answers the question.
type simple struct {
	out, errs io.Writer
	hex       bool
}

// Print is Printer's.
func (p simple) Print(result any) error {
	switch r := result.(type) {
	case *pb.RangeResponse:
		p.kvs(r.Kvs)
	case valuesOnly:
		for _, kv := range r.Kvs {
			p.line(escaped(kv.Value, p.hex))
		}
	case *pb.PutResponse:
		p.put(r)
	case *pb.DeleteRangeResponse:
		p.deleted(r)
	case *pb.TxnResponse:
		p.txn(r)
	case *client.WatchResponse:
		p.events(r.Events)
	case watchEnd:
	case *pb.AlarmResponse:
		for _, a := range r.Alarms {
			p.printf("memberID:%d alarm:%s\n", a.MemberID, a.Alarm)
		}
	case leaderMoved:
		p.printf("Leadership transferred from %x to %x\n", r.from, r.to)
	case downgrade:
		p.printf("Downgrade %s success, cluster version %s\n", r.step, r.Version)
	default:
		if !p.lease(result) && !p.member(result) && !p.endpoints(result) && !p.users(result) {
			return unsupported("simple")
		}
	}
	return nil
}

func (p simple) line(s string)             { fmt.Fprintln(p.out, s) }
func (p simple) printf(f string, a ...any) { fmt.Fprintf(p.out, f, a...) }

func (p simple) kv(kv *mvccpb.KeyValue) {
	p.line(escaped(kv.GetKey(), p.hex))
	p.line(escaped(kv.GetValue(), p.hex))
}

func (p simple) kvs(kvs []*mvccpb.KeyValue) {
	for _, kv := range kvs {
		p.kv(kv)
	}
}

func (p simple) put(r *pb.PutResponse) {
	p.line("OK")
	if r.PrevKv != nil {
		p.kv(r.PrevKv)
	}
}

func (p simple) deleted(r *pb.DeleteRangeResponse) {
	p.printf("%d\n", r.Deleted)
	p.kvs(r.PrevKvs)
}

func (p simple) txn(r *pb.TxnResponse) {
	if r.Succeeded {
		p.line("SUCCESS")
	} else {
		p.line("FAILURE")
	}
	for _, op := range r.Responses {
		p.line("")
		switch x := op.Response.(type) {
		case *pb.ResponseOp_ResponseRange:
			p.kvs(x.ResponseRange.Kvs)
		case *pb.ResponseOp_ResponsePut:
			p.put(x.ResponsePut)
		case *pb.ResponseOp_ResponseDeleteRange:
			p.deleted(x.ResponseDeleteRange)
		case *pb.ResponseOp_ResponseTxn:
			p.txn(x.ResponseTxn)
		}
	}
}

func (p simple) events(evs []*client.Event) {
	for _, ev := range evs {
		p.line(ev.Type.String())
		if ev.PrevKv != nil {
			p.kv(ev.PrevKv)
		}
		p.kv(ev.Kv)
	}
}

func (p simple) lease(result any) bool {
	switch r := result.(type) {
	case *pb.LeaseGrantResponse:
		p.printf("lease %016x granted with TTL(%ds)\n", r.ID, r.TTL)
	case revoked:
		p.printf("lease %016x revoked\n", int64(r.id))
	case *pb.LeaseKeepAliveResponse:
		p.printf("lease %016x keepalived with TTL(%d)\n", r.ID, r.TTL)
	case timeToLive:
		p.timeToLive(r)
	case *pb.LeaseLeasesResponse:
		p.printf("found %d leases\n", len(r.Leases))
		for _, l := range r.Leases {
			p.printf("%016x\n", l.ID)
		}
	default:
		return false
	}
	return true
}

func (p simple) timeToLive(r timeToLive) {
	if r.GrantedTTL == 0 && r.TTL == -1 {
		p.printf("lease %016x already expired\n", r.ID)
		return
	}
	p.printf("lease %016x granted with TTL(%ds), remaining(%ds)", r.ID, r.GrantedTTL, r.TTL)
	if r.keys {
		p.printf(", attached keys(%s)", r.Keys)
	}
	p.line("")
}

func (p simple) member(result any) bool {
	switch r := result.(type) {
	case memberAdded:
		p.memberAdded(r)
	case memberChange:
		p.printf("Member %16x %s cluster %16x\n", r.id, r.what, r.header.GetClusterId())
	case *pb.MemberListResponse:
		p.rows(memberRows(r))
	default:
		return false
	}
	return true
}

// memberAdded also shows the settings that the new member is to be started with.
func (p simple) memberAdded(r memberAdded) {
	as := ""
	if r.Member.GetIsLearner() {
		as = "as learner "
	}
	p.printf("Member %16x added %sto cluster %16x\n", r.Member.GetID(), as, r.Header.GetClusterId())
	var cluster []string
	for _, m := range r.Members {
		name := m.Name
		if m.ID == r.Member.GetID() {
			name = r.name
		}
		for _, u := range m.PeerURLs {
			cluster = append(cluster, name+"="+u)
		}
	}
	p.printf("\nETCD_NAME=%q\n", r.name)
	p.printf("ETCD_INITIAL_CLUSTER=%q\n", strings.Join(cluster, ","))
	p.printf("ETCD_INITIAL_ADVERTISE_PEER_URLS=%q\n", r.urls)
	p.printf("ETCD_INITIAL_CLUSTER_STATE=\"existing\"\n")
}

func (p simple) endpoints(result any) bool {
	switch r := result.(type) {
	case []health:
		for _, h := range r {
			if h.Error == "" {
				p.printf("%s is healthy: successfully committed proposal: took = %s\n", h.Ep, h.Took)
			} else {
				fmt.Fprintf(p.errs, "%s is unhealthy: failed to commit proposal: %s\n", h.Ep, h.Error)
			}
		}
	case []status:
		p.rows(statusRows(r))
	case []hashKV:
		p.rows(hashRows(r))
	default:
		return false
	}
	return true
}

func (p simple) rows(_ []string, rows [][]string) {
	for _, row := range rows {
		p.line(strings.Join(row, ", "))
	}
}

func (p simple) users(result any) bool {
	switch r := result.(type) {
	case said:
		p.line(r.text)
	case *pb.AuthStatusResponse:
		p.printf("Authentication Status: %t\nAuthRevision: %d\n", r.Enabled, r.AuthRevision)
	case *pb.AuthUserListResponse:
		p.rows(nil, column(r.Users))
	case *pb.AuthRoleListResponse:
		p.rows(nil, column(r.Roles))
	case oneUser:
		p.printf("User: %s\nRoles:", r.name)
		for _, role := range r.Roles {
			p.printf(" %s", role)
		}
		p.line("")
	case oneRole:
		p.role(r)
	default:
		return false
	}
	return true
}

func column(values []string) (rows [][]string) {
	for _, v := range values {
		rows = append(rows, []string{v})
	}
	return rows
}

// role shows what a role may do. That of root is everything, whatever it has.
func (p simple) role(r oneRole) {
	p.printf("Role %s\n", r.name)
	for _, title := range []string{"Read", "Write"} {
		p.printf("KV %s:\n", title)
		if r.name == "root" && len(r.Perm) == 0 {
			p.line("\t[, <open ended>")
		}
		for _, perm := range r.Perm {
			other := client.PermRead
			if title == "Read" {
				other = client.PermWrite
			}
			if perm.PermType != other {
				p.line("\t" + permText(string(perm.Key), string(perm.RangeEnd)))
			}
		}
	}
}

func permText(key, end string) string {
	text := fmt.Sprintf("[%s, %s)", key, end)
	switch end {
	case "":
		return key
	case "\x00":
		text = fmt.Sprintf("[%s, <open ended>", key)
	}
	if key != "" && client.PrefixEnd(key) == end {
		text += fmt.Sprintf(" (prefix %s)", key)
	}
	return text
}
