package auth

import (
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/keelson-io/keelson/lease"
)

// Leases tells which keys belong to a lease.
type Leases interface {
	// CheckKeys calls check for the keys of a lease until it fails, and returns its error; nil if there is no such lease.
	CheckKeys(id lease.ID, check func(key string) error) error
}

// Permit says whether a command may be executed for somebody. It is one walk over all that the command does.
//
// What etcd's apply lets pass passes here, too: leases may be granted and the history compacted by anybody. Services are
// stricter.
func (s *Snapshot) Permit(id Identity, leases Leases, r *pb.InternalRaftRequest) error {
	if !s.enabled {
		return nil
	}
	switch {
	case r.Put != nil:
		return s.permitPut(id, leases, r.Put)
	case r.Txn != nil:
		return s.PermitTxn(id, leases, r.Txn)
	case r.Range != nil:
		return s.Read(id, r.Range.Key, r.Range.RangeEnd)
	case r.DeleteRange != nil:
		return s.permitDelete(id, r.DeleteRange)
	case r.LeaseRevoke != nil:
		return s.WriteLease(id, leases, lease.ID(r.LeaseRevoke.ID))
	case r.AuthUserGet != nil:
		if r.AuthUserGet.Name == id.User {
			return nil
		}
		return s.Admin(id)
	case r.AuthRoleGet != nil:
		if u := s.users[id.User]; u != nil && slices.Contains(u.row.Roles, r.AuthRoleGet.Role) {
			return nil
		}
		return s.Admin(id)
	case manages(r):
		return s.Admin(id)
	}
	return nil
}

// manages says whether a command is for administrators only.
func manages(r *pb.InternalRaftRequest) bool {
	return r.AuthEnable != nil || r.AuthDisable != nil ||
		r.AuthUserAdd != nil || r.AuthUserDelete != nil || r.AuthUserChangePassword != nil || r.AuthUserList != nil ||
		r.AuthUserGrantRole != nil || r.AuthUserRevokeRole != nil ||
		r.AuthRoleAdd != nil || r.AuthRoleDelete != nil || r.AuthRoleList != nil ||
		r.AuthRoleGrantPermission != nil || r.AuthRoleRevokePermission != nil
}

// Admin says whether somebody has the role root. An old revision does not matter here.
func (s *Snapshot) Admin(id Identity) error {
	switch u := s.users[id.User]; {
	case !s.enabled:
		return nil
	case id.User == "":
		return ErrUserEmpty
	case u == nil:
		return ErrUserNotFound
	case !u.root:
		return ErrPermissionDenied
	}
	return nil
}

// Read says whether somebody may read a range; without an end it is one key.
func (s *Snapshot) Read(id Identity, key, end []byte) error { return s.access(id, key, end, false) }

// Write says whether somebody may change a range; without an end it is one key.
func (s *Snapshot) Write(id Identity, key, end []byte) error { return s.access(id, key, end, true) }

func (s *Snapshot) access(id Identity, key, end []byte, write bool) error {
	switch {
	case !s.enabled:
		return nil
	case id.Revision == 0:
		return ErrUserEmpty
	case id.Revision < s.revision:
		return ErrOldRevision
	}
	u := s.users[id.User]
	if u == nil {
		return ErrPermissionDenied
	}
	if u.root {
		return nil
	}
	t := &u.read
	if write {
		t = &u.write
	}
	var ok bool
	switch {
	case len(end) == 0:
		ok = t.coversKey(key)
	case openEnded(end):
		ok = t.covers(span{key, nil})
	default:
		ok = t.covers(span{key, end})
	}
	if !ok {
		return ErrPermissionDenied
	}
	return nil
}

// WriteLease says whether somebody may change every key of a lease.
func (s *Snapshot) WriteLease(id Identity, leases Leases, l lease.ID) error {
	if l == 0 || s.Admin(id) == nil {
		return nil
	}
	return leases.CheckKeys(l, func(key string) error { return s.Write(id, []byte(key), nil) })
}

// ReadLease says whether somebody may read every key of a lease.
func (s *Snapshot) ReadLease(id Identity, leases Leases, l lease.ID) error {
	if s.Admin(id) == nil {
		return nil
	}
	return leases.CheckKeys(l, func(key string) error { return s.Read(id, []byte(key), nil) })
}

// permitPut: who attaches a key to a lease must be able to revoke it, so be allowed to write all of its keys.
func (s *Snapshot) permitPut(id Identity, leases Leases, r *pb.PutRequest) error {
	if err := s.Write(id, r.Key, nil); err != nil {
		return err
	}
	if err := s.WriteLease(id, leases, lease.ID(r.Lease)); err != nil {
		return err
	}
	if r.PrevKv {
		return s.Read(id, r.Key, nil)
	}
	return nil
}

func (s *Snapshot) permitDelete(id Identity, r *pb.DeleteRangeRequest) error {
	if err := s.Write(id, r.Key, r.RangeEnd); err != nil {
		return err
	}
	if r.PrevKv {
		return s.Read(id, r.Key, r.RangeEnd)
	}
	return nil
}

// PermitTxn says whether somebody may do all that a transaction may do, in whichever branch.
func (s *Snapshot) PermitTxn(id Identity, leases Leases, r *pb.TxnRequest) error {
	for _, c := range r.Compare {
		if err := s.Read(id, c.Key, c.RangeEnd); err != nil {
			return err
		}
	}
	for _, ops := range [][]*pb.RequestOp{r.Success, r.Failure} {
		for _, op := range ops {
			if err := s.permitOp(id, leases, op); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *Snapshot) permitOp(id Identity, leases Leases, op *pb.RequestOp) error {
	switch o := op.GetRequest().(type) {
	case *pb.RequestOp_RequestRange:
		if o.RequestRange != nil {
			return s.Read(id, o.RequestRange.Key, o.RequestRange.RangeEnd)
		}
	case *pb.RequestOp_RequestPut:
		if o.RequestPut != nil {
			return s.permitPut(id, leases, o.RequestPut)
		}
	case *pb.RequestOp_RequestDeleteRange:
		if o.RequestDeleteRange != nil {
			return s.permitDelete(id, o.RequestDeleteRange)
		}
	case *pb.RequestOp_RequestTxn:
		if o.RequestTxn != nil {
			return s.PermitTxn(id, leases, o.RequestTxn)
		}
	}
	return nil
}
