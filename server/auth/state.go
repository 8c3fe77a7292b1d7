package auth

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"sort"
	"sync/atomic"

	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"golang.org/x/crypto/bcrypt"
	"google.golang.org/protobuf/proto"
)

// Table is one of the buckets that hold the state.
type Table int

// The tables.
const (
	TableAuth Table = iota
	TableUsers
	TableRoles
)

// Rows is where the state is stored.
type Rows interface {
	Get(t Table, key []byte) []byte
	Put(t Table, key, value []byte)
	Delete(t Table, key []byte)
	ForEach(t Table, fn func(key, value []byte) error) error
}

// Sessions are what users hold who were identified.
type Sessions interface {
	Forget(user string) // all sessions of a user end
	Clear()             // all sessions end
}

var (
	enabledKey  = []byte("authEnabled")
	revisionKey = []byte("authRevision")
)

// State is the present state.
type State struct {
	rows     Rows
	sessions Sessions
	cost     int
	current  atomic.Pointer[Snapshot]
}

// Open reads the state that rows hold; a state that has no revision yet gets its first. cost is bcrypt's, for log entries
// of etcd before 3.5, which hold passwords.
func Open(rows Rows, sessions Sessions, cost int) (*State, error) {
	s := &State{sessions: sessions, cost: cost}
	if err := s.Restore(rows); err != nil {
		return nil, err
	}
	if now := s.Load(); now.revision == 0 {
		s.commit(*now)
	}
	return s, nil
}

// Restore replaces the state by what rows hold: it came from a snapshot. All sessions end, since the changes on the way to
// it may have ended any of them.
func (s *State) Restore(rows Rows) error {
	next := &Snapshot{users: make(map[string]*user), roles: make(map[string]*authpb.Role)}
	if err := next.read(rows); err != nil {
		return err
	}
	s.rows = rows
	s.current.Store(next)
	s.sessions.Clear()
	return nil
}

func (s *Snapshot) read(rows Rows) error {
	s.enabled = bytes.Equal(rows.Get(TableAuth, enabledKey), []byte{1})
	if v := rows.Get(TableAuth, revisionKey); len(v) == 8 {
		s.revision = binary.BigEndian.Uint64(v)
	} else if len(v) != 0 {
		return fmt.Errorf("auth: the revision's row has %d bytes instead of 8", len(v))
	}
	err := rows.ForEach(TableRoles, func(key, value []byte) error {
		r := &authpb.Role{}
		if err := proto.Unmarshal(value, r); err != nil {
			return fmt.Errorf("auth: row of role %q: %w", key, err)
		}
		s.roles[string(key)] = r
		return nil
	})
	if err != nil {
		return err
	}
	return rows.ForEach(TableUsers, func(key, value []byte) error {
		u := &authpb.User{}
		if err := proto.Unmarshal(value, u); err != nil {
			return fmt.Errorf("auth: row of user %q: %w", key, err)
		}
		s.users[string(key)] = s.newUser(u)
		return nil
	})
}

// Load returns the present state.
func (s *State) Load() *Snapshot { return s.current.Load() }

// commit makes next the present state, at the next revision.
func (s *State) commit(next Snapshot) {
	next.revision++
	s.rows.Put(TableAuth, revisionKey, binary.BigEndian.AppendUint64(nil, next.revision))
	s.current.Store(&next)
}

// putUser puts a user into next, which must own its map of users, and writes the row.
func (s *State) putUser(next *Snapshot, u *authpb.User) {
	s.rows.Put(TableUsers, u.Name, marshal(u))
	next.users[string(u.Name)] = next.newUser(u)
}

// putRole puts a role into next and writes the row. Whoever has the role is worked out anew.
func (s *State) putRole(next *Snapshot, r *authpb.Role) {
	s.rows.Put(TableRoles, r.Name, marshal(r))
	next.roles = maps.Clone(next.roles)
	next.roles[string(r.Name)] = r
	next.users = maps.Clone(next.users)
	for name, u := range next.users {
		if slices.Contains(u.row.Roles, string(r.Name)) {
			next.users[name] = next.newUser(u.row)
		}
	}
}

func marshal(m proto.Message) []byte {
	b, err := proto.Marshal(m)
	if err != nil {
		panic(fmt.Sprintf("auth: a row cannot be encoded: %v", err)) // its strings came out of a message
	}
	return b
}

// Enable enables authentication. It does not raise the revision.
func (s *State) Enable() error {
	next := *s.Load()
	switch root := next.users[Root]; {
	case next.enabled:
		return nil
	case root == nil:
		return ErrRootUserNotExist
	case !root.root:
		return ErrRootRoleNotExist
	}
	s.rows.Put(TableAuth, enabledKey, []byte{1})
	next.enabled = true
	s.current.Store(&next)
	return nil
}

// Disable disables authentication.
func (s *State) Disable() {
	next := *s.Load()
	if !next.enabled {
		return
	}
	s.rows.Put(TableAuth, enabledKey, []byte{0})
	next.enabled = false
	s.commit(next)
	s.sessions.Clear()
}

// AddUser adds a user.
func (s *State) AddUser(r *pb.AuthUserAddRequest) error {
	next := *s.Load()
	switch {
	case r.Name == "":
		return ErrUserEmpty
	case next.users[r.Name] != nil:
		return ErrUserAlreadyExist
	}
	u := &authpb.User{Name: []byte(r.Name), Options: r.Options}
	if u.Options == nil {
		u.Options = &authpb.UserAddOptions{}
	}
	if !u.Options.NoPassword {
		var err error
		if u.Password, err = s.hash(r.Password, r.HashedPassword); err != nil {
			return ErrNoPasswordUser
		}
	}
	next.users = maps.Clone(next.users)
	s.putUser(&next, u)
	s.commit(next)
	return nil
}

// hash decodes a hashed password. Entries of etcd before 3.5 hold the password itself.
func (s *State) hash(password, hashed string) ([]byte, error) {
	if password != "" && hashed == "" {
		return bcrypt.GenerateFromPassword([]byte(password), s.cost)
	}
	return base64.StdEncoding.DecodeString(hashed)
}

// DeleteUser deletes a user.
func (s *State) DeleteUser(r *pb.AuthUserDeleteRequest) error {
	next := *s.Load()
	switch {
	case next.enabled && r.Name == Root:
		return ErrInvalidManagement
	case next.users[r.Name] == nil:
		return ErrUserNotFound
	}
	s.rows.Delete(TableUsers, []byte(r.Name))
	next.users = maps.Clone(next.users)
	delete(next.users, r.Name)
	s.commit(next)
	s.sessions.Forget(r.Name)
	return nil
}

// ChangePassword changes a user's password. A user without one stays so.
func (s *State) ChangePassword(r *pb.AuthUserChangePasswordRequest) error {
	next := *s.Load()
	old := next.User(r.Name)
	if old == nil {
		return ErrUserNotFound
	}
	u := &authpb.User{Name: []byte(r.Name), Roles: old.Roles, Options: old.Options}
	if !old.Options.GetNoPassword() {
		var err error
		if u.Password, err = s.hash(r.Password, r.HashedPassword); err != nil {
			return ErrNoPasswordUser
		}
	}
	next.users = maps.Clone(next.users)
	s.putUser(&next, u)
	s.commit(next)
	s.sessions.Forget(r.Name)
	return nil
}

// GrantRole gives a role to a user. Giving it twice changes nothing. The role root need not exist.
func (s *State) GrantRole(r *pb.AuthUserGrantRoleRequest) error {
	next := *s.Load()
	old := next.User(r.User)
	switch {
	case old == nil:
		return ErrUserNotFound
	case r.Role != Root && next.roles[r.Role] == nil:
		return ErrRoleNotFound
	}
	at, has := slices.BinarySearch(old.Roles, r.Role)
	if has {
		return nil
	}
	u := proto.Clone(old).(*authpb.User)
	u.Roles = slices.Insert(u.Roles, at, r.Role)
	next.users = maps.Clone(next.users)
	s.putUser(&next, u)
	s.commit(next)
	return nil
}

// RevokeRole takes a role from a user.
func (s *State) RevokeRole(r *pb.AuthUserRevokeRoleRequest) error {
	next := *s.Load()
	if next.enabled && r.Name == Root && r.Role == Root {
		return ErrInvalidManagement
	}
	old := next.User(r.Name)
	if old == nil {
		return ErrUserNotFound
	}
	u := without(old, r.Role)
	if u == nil {
		return ErrRoleNotGranted
	}
	next.users = maps.Clone(next.users)
	s.putUser(&next, u)
	s.commit(next)
	return nil
}

// without is a user without a role, nil if the user does not have it.
func without(old *authpb.User, role string) *authpb.User {
	u := &authpb.User{Name: old.Name, Password: old.Password, Options: old.Options}
	u.Roles = slices.DeleteFunc(slices.Clone(old.Roles), func(have string) bool { return have == role })
	if len(u.Roles) == len(old.Roles) {
		return nil
	}
	return u
}

// AddRole adds a role without permissions.
func (s *State) AddRole(r *pb.AuthRoleAddRequest) error {
	next := *s.Load()
	switch {
	case r.Name == "":
		return ErrRoleEmpty
	case next.roles[r.Name] != nil:
		return ErrRoleAlreadyExist
	}
	s.putRole(&next, &authpb.Role{Name: []byte(r.Name)})
	s.commit(next)
	return nil
}

// DeleteRole deletes a role, and takes it from all who have it.
func (s *State) DeleteRole(r *pb.AuthRoleDeleteRequest) error {
	next := *s.Load()
	switch {
	case next.enabled && r.Role == Root:
		return ErrInvalidManagement
	case next.roles[r.Role] == nil:
		return ErrRoleNotFound
	}
	s.rows.Delete(TableRoles, []byte(r.Role))
	next.roles = maps.Clone(next.roles)
	delete(next.roles, r.Role)
	next.users = maps.Clone(next.users)
	for _, old := range next.users {
		if u := without(old.row, r.Role); u != nil {
			s.putUser(&next, u)
		}
	}
	s.commit(next)
	return nil
}

// GrantPermission adds a permission to a role, or changes the one that the role has for exactly this range.
func (s *State) GrantPermission(r *pb.AuthRoleGrantPermissionRequest) error {
	next := *s.Load()
	switch {
	case r.Perm == nil:
		return ErrPermissionNotGiven
	case !validRange(r.Perm.Key, r.Perm.RangeEnd):
		return ErrInvalidManagement
	case next.roles[r.Name] == nil:
		return ErrRoleNotFound
	}
	role := proto.Clone(next.roles[r.Name]).(*authpb.Role)
	perms := role.KeyPermission
	// Only the first one with the key is looked at, as in etcd: the row decides what members of both kinds do later.
	at := sort.Search(len(perms), func(i int) bool { return bytes.Compare(perms[i].Key, r.Perm.Key) >= 0 })
	if at < len(perms) && bytes.Equal(perms[at].Key, r.Perm.Key) && bytes.Equal(perms[at].RangeEnd, r.Perm.RangeEnd) {
		perms[at].PermType = r.Perm.PermType
	} else {
		role.KeyPermission = append(perms, &authpb.Permission{PermType: r.Perm.PermType, Key: r.Perm.Key, RangeEnd: r.Perm.RangeEnd})
		sort.Sort(byKey(role.KeyPermission))
	}
	s.putRole(&next, role)
	s.commit(next)
	return nil
}

// byKey sorts as etcd does: with the same algorithm, so that ties fall alike.
type byKey []*authpb.Permission

func (p byKey) Len() int           { return len(p) }
func (p byKey) Less(i, j int) bool { return bytes.Compare(p[i].Key, p[j].Key) < 0 }
func (p byKey) Swap(i, j int)      { p[i], p[j] = p[j], p[i] }

// validRange refuses a permission for nothing.
func validRange(key, end []byte) bool {
	return len(key) > 0 && (len(end) == 0 || bytes.Compare(key, end) < 0 || openEnded(end))
}

// RevokePermission takes the permission for exactly this range from a role.
func (s *State) RevokePermission(r *pb.AuthRoleRevokePermissionRequest) error {
	next := *s.Load()
	old := next.roles[r.Role]
	if old == nil {
		return ErrRoleNotFound
	}
	role := &authpb.Role{Name: old.Name}
	for _, p := range old.KeyPermission {
		if !bytes.Equal(p.Key, r.Key) || !bytes.Equal(p.RangeEnd, r.RangeEnd) {
			role.KeyPermission = append(role.KeyPermission, p)
		}
	}
	if len(role.KeyPermission) == len(old.KeyPermission) {
		return ErrPermissionNotGranted
	}
	s.putRole(&next, role)
	s.commit(next)
	return nil
}
