package apply

import pb "go.etcd.io/etcd/api/v3/etcdserverpb"

// Kind is the kind of a command: what is asked for, by etcd's name. The zero value is a kind that is not known.
type Kind int

// kinds are tried in this order: the frequent ones first.
var kinds = [...]struct { // of Kind 1 and on
	name string
	is   func(*pb.InternalRaftRequest) bool
}{
	{"Put", func(r *pb.InternalRaftRequest) bool { return r.Put != nil }},
	{"Txn", func(r *pb.InternalRaftRequest) bool { return r.Txn != nil }},
	{"DeleteRange", func(r *pb.InternalRaftRequest) bool { return r.DeleteRange != nil }},
	{"Range", func(r *pb.InternalRaftRequest) bool { return r.Range != nil }},
	{"LeaseGrant", func(r *pb.InternalRaftRequest) bool { return r.LeaseGrant != nil }},
	{"LeaseRevoke", func(r *pb.InternalRaftRequest) bool { return r.LeaseRevoke != nil }},
	{"LeaseCheckpoint", func(r *pb.InternalRaftRequest) bool { return r.LeaseCheckpoint != nil }},
	{"Compaction", func(r *pb.InternalRaftRequest) bool { return r.Compaction != nil }},
	{"Alarm", func(r *pb.InternalRaftRequest) bool { return r.Alarm != nil }},
	{"Authenticate", func(r *pb.InternalRaftRequest) bool { return r.Authenticate != nil }},
	{"AuthEnable", func(r *pb.InternalRaftRequest) bool { return r.AuthEnable != nil }},
	{"AuthDisable", func(r *pb.InternalRaftRequest) bool { return r.AuthDisable != nil }},
	{"AuthStatus", func(r *pb.InternalRaftRequest) bool { return r.AuthStatus != nil }},
	{"AuthUserAdd", func(r *pb.InternalRaftRequest) bool { return r.AuthUserAdd != nil }},
	{"AuthUserDelete", func(r *pb.InternalRaftRequest) bool { return r.AuthUserDelete != nil }},
	{"AuthUserChangePassword", func(r *pb.InternalRaftRequest) bool { return r.AuthUserChangePassword != nil }},
	{"AuthUserGrantRole", func(r *pb.InternalRaftRequest) bool { return r.AuthUserGrantRole != nil }},
	{"AuthUserGet", func(r *pb.InternalRaftRequest) bool { return r.AuthUserGet != nil }},
	{"AuthUserRevokeRole", func(r *pb.InternalRaftRequest) bool { return r.AuthUserRevokeRole != nil }},
	{"AuthUserList", func(r *pb.InternalRaftRequest) bool { return r.AuthUserList != nil }},
	{"AuthRoleAdd", func(r *pb.InternalRaftRequest) bool { return r.AuthRoleAdd != nil }},
	{"AuthRoleGrantPermission", func(r *pb.InternalRaftRequest) bool { return r.AuthRoleGrantPermission != nil }},
	{"AuthRoleGet", func(r *pb.InternalRaftRequest) bool { return r.AuthRoleGet != nil }},
	{"AuthRoleRevokePermission", func(r *pb.InternalRaftRequest) bool { return r.AuthRoleRevokePermission != nil }},
	{"AuthRoleDelete", func(r *pb.InternalRaftRequest) bool { return r.AuthRoleDelete != nil }},
	{"AuthRoleList", func(r *pb.InternalRaftRequest) bool { return r.AuthRoleList != nil }},
	{"ClusterVersionSet", func(r *pb.InternalRaftRequest) bool { return r.ClusterVersionSet != nil }},
	{"ClusterMemberAttrSet", func(r *pb.InternalRaftRequest) bool { return r.ClusterMemberAttrSet != nil }},
	{"DowngradeInfoSet", func(r *pb.InternalRaftRequest) bool { return r.DowngradeInfoSet != nil }},
	{"DowngradeVersionTest", func(r *pb.InternalRaftRequest) bool { return r.DowngradeVersionTest != nil }},
	{"ReadonlyTxn", func(*pb.InternalRaftRequest) bool { return false }},
}

// Kinds of requests that are answered without a command.
const (
	KindRange       Kind = 4
	KindReadOnlyTxn      = Kind(len(kinds))
)

// KindOf returns the kind of a command.
func KindOf(r *pb.InternalRaftRequest) Kind {
	for i := range kinds {
		if kinds[i].is(r) {
			return Kind(i + 1)
		}
	}
	return 0
}

// Name is etcd's name of the kind.
func (k Kind) Name() string {
	if k == 0 {
		return "Unknown"
	}
	return kinds[k-1].name
}
