package ctl

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/dustin/go-humanize"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// The results that have a tabular form, for the formats simple and table.

func memberRows(r *pb.MemberListResponse) (header []string, rows [][]string) {
	header = []string{"ID", "Status", "Name", "Peer Addrs", "Client Addrs", "Is Learner"}
	for _, m := range r.Members {
		state := "started"
		if m.Name == "" {
			state = "unstarted"
		}
		rows = append(rows, []string{
			hexID(m.ID), state, m.Name,
			strings.Join(m.PeerURLs, ","), strings.Join(m.ClientURLs, ","), strconv.FormatBool(m.IsLearner),
		})
	}
	return header, rows
}

func healthRows(list []health) (header []string, rows [][]string) {
	for _, h := range list {
		rows = append(rows, []string{h.Ep, strconv.FormatBool(h.Health), h.Took, h.Error})
	}
	return []string{"endpoint", "health", "took", "error"}, rows
}

func statusRows(list []status) (header []string, rows [][]string) {
	header = []string{
		"endpoint", "ID", "version", "storage version", "db size", "in use", "percentage not in use", "quota",
		"is leader", "is learner", "raft term", "raft index", "raft applied index", "errors",
		"downgrade target version", "downgrade enabled",
	}
	for _, s := range list {
		r := s.Resp
		id := r.GetHeader().GetMemberId()
		rows = append(rows, []string{
			s.Ep, hexID(id), r.GetVersion(), r.GetStorageVersion(),
			size(r.GetDbSize()), size(r.GetDbSizeInUse()), unusedPercent(r), size(r.GetDbSizeQuota()),
			strconv.FormatBool(r.GetLeader() == id), strconv.FormatBool(r.GetIsLearner()),
			fmt.Sprint(r.GetRaftTerm()), fmt.Sprint(r.GetRaftIndex()), fmt.Sprint(r.GetRaftAppliedIndex()),
			strings.Join(r.GetErrors(), ", "),
			r.GetDowngradeInfo().GetTargetVersion(), strconv.FormatBool(r.GetDowngradeInfo().GetEnabled()),
		})
	}
	return header, rows
}

func hashRows(list []hashKV) (header []string, rows [][]string) {
	for _, h := range list {
		rows = append(rows, []string{h.Ep, fmt.Sprint(h.Resp.GetHash()), fmt.Sprint(h.Resp.GetHashRevision())})
	}
	return []string{"endpoint", "hash", "hash_revision"}, rows
}

func hexID(id uint64) string { return strconv.FormatUint(id, 16) }

func size(n int64) string { return humanize.Bytes(uint64(n)) }

// unusedPercent rounds the used part down, which is how etcdctl comes to its number.
func unusedPercent(r *pb.StatusResponse) string {
	if r.GetDbSize() == 0 {
		return "0%"
	}
	return fmt.Sprintf("%d%%", 100-r.GetDbSizeInUse()*100/r.GetDbSize())
}
