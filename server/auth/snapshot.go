package auth

import (
	"maps"
	"slices"

	"go.etcd.io/etcd/api/v3/authpb"
)

// Root is the name of the user that must exist while authentication is enabled, and of the role that may do everything.
const Root = "root"

// Identity is who asks, and the revision of the state by which that was found out. The zero Identity is nobody.
type Identity struct {
	User     string
	Revision uint64
}

// Snapshot is the state at one moment.
type Snapshot struct {
	enabled  bool
	revision uint64
	users    map[string]*user
	roles    map[string]*authpb.Role
}

// user is a row with what follows from it and from the rows of its roles.
type user struct {
	row         *authpb.User
	root        bool
	read, write tree
}

// Enabled says whether authentication is enabled.
func (s *Snapshot) Enabled() bool { return s.enabled }

// Revision rises with every change.
func (s *Snapshot) Revision() uint64 { return s.revision }

// User returns a user's row, nil if there is none. It must not be changed.
func (s *Snapshot) User(name string) *authpb.User {
	if u := s.users[name]; u != nil {
		return u.row
	}
	return nil
}

// Role returns a role's row, nil if there is none. It must not be changed.
func (s *Snapshot) Role(name string) *authpb.Role { return s.roles[name] }

// Users are the names of all users, in ascending order.
func (s *Snapshot) Users() []string { return slices.Sorted(maps.Keys(s.users)) }

// Roles are the names of all roles, in ascending order.
func (s *Snapshot) Roles() []string { return slices.Sorted(maps.Keys(s.roles)) }

// newUser works out what a user may do.
func (s *Snapshot) newUser(row *authpb.User) *user {
	u := &user{row: row}
	_, u.root = slices.BinarySearch(row.Roles, Root) // a role is granted into its place in the order
	for _, name := range row.Roles {
		for _, p := range s.roles[name].GetKeyPermission() {
			sp := span{begin: p.Key, end: p.RangeEnd}
			switch {
			case len(p.RangeEnd) == 0:
				sp.end = append(slices.Clone(p.Key), 0)
			case openEnded(p.RangeEnd):
				sp.end = nil
			}
			if p.PermType != authpb.Permission_WRITE {
				u.read.insert(sp)
			}
			if p.PermType != authpb.Permission_READ {
				u.write.insert(sp)
			}
		}
	}
	return u
}

// openEnded: a range whose end is a single zero byte has no end.
func openEnded(end []byte) bool { return len(end) == 1 && end[0] == 0 }
