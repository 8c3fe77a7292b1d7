package auth

import (
	"encoding/base64"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"golang.org/x/crypto/bcrypt"
	"google.golang.org/protobuf/proto"

	"github.com/keelson-io/keelson/lease"
)

// memory is Rows.
type memory [3]map[string][]byte

func newMemory() *memory {
	return &memory{{}, {}, {}}
}

func (m *memory) Get(t Table, key []byte) []byte { return m[t][string(key)] }
func (m *memory) Put(t Table, key, value []byte) { m[t][string(key)] = slices.Clone(value) }
func (m *memory) Delete(t Table, key []byte)     { delete(m[t], string(key)) }
func (m *memory) ForEach(t Table, fn func(key, value []byte) error) error {
	for _, k := range slices.Sorted(maps.Keys(m[t])) {
		if err := fn([]byte(k), m[t][k]); err != nil {
			return err
		}
	}
	return nil
}

// sessions counts what ended.
type sessions struct {
	forgotten []string
	cleared   int
}

func (s *sessions) Forget(user string) { s.forgotten = append(s.forgotten, user) }
func (s *sessions) Clear()             { s.cleared++ }

func open(t *testing.T, rows Rows) (*State, *sessions) {
	t.Helper()
	ended := &sessions{}
	s, err := Open(rows, ended, bcrypt.MinCost)
	require.NoError(t, err)
	ended.cleared = 0
	return s, ended
}

// fill makes root, and a user with a role for each given permission.
func fill(t *testing.T, s *State, perms map[string][]*authpb.Permission) {
	t.Helper()
	require.NoError(t, s.AddUser(&pb.AuthUserAddRequest{Name: Root, HashedPassword: base64.StdEncoding.EncodeToString([]byte("h"))}))
	require.NoError(t, s.GrantRole(&pb.AuthUserGrantRoleRequest{User: Root, Role: Root}))
	for name, ps := range perms {
		require.NoError(t, s.AddUser(&pb.AuthUserAddRequest{Name: name, Options: &authpb.UserAddOptions{NoPassword: true}}))
		require.NoError(t, s.AddRole(&pb.AuthRoleAddRequest{Name: name}))
		require.NoError(t, s.GrantRole(&pb.AuthUserGrantRoleRequest{User: name, Role: name}))
		for _, p := range ps {
			require.NoError(t, s.GrantPermission(&pb.AuthRoleGrantPermissionRequest{Name: name, Perm: p}))
		}
	}
	require.NoError(t, s.Enable())
}

func perm(kind authpb.Permission_Type, key, end string) *authpb.Permission {
	return &authpb.Permission{PermType: kind, Key: []byte(key), RangeEnd: []byte(end)}
}

// oneLease has one lease, 7, with the key l.
type oneLease struct{}

func (oneLease) CheckKeys(id lease.ID, check func(string) error) error {
	if id == 7 {
		return check("l")
	}
	return nil
}

func TestEnable(t *testing.T) {
	s, ended := open(t, newMemory())
	require.Equal(t, uint64(1), s.Load().Revision(), "as a new etcd has it")
	require.ErrorIs(t, s.Enable(), ErrRootUserNotExist)
	require.NoError(t, s.AddUser(&pb.AuthUserAddRequest{Name: Root}))
	require.ErrorIs(t, s.Enable(), ErrRootRoleNotExist)
	require.NoError(t, s.GrantRole(&pb.AuthUserGrantRoleRequest{User: Root, Role: Root}), "the role root need not exist")
	rev := s.Load().Revision()
	require.NoError(t, s.Enable())
	require.NoError(t, s.Enable())
	require.True(t, s.Load().Enabled())
	require.Equal(t, rev, s.Load().Revision())
	require.ErrorIs(t, s.DeleteUser(&pb.AuthUserDeleteRequest{Name: Root}), ErrInvalidManagement)
	require.ErrorIs(t, s.DeleteRole(&pb.AuthRoleDeleteRequest{Role: Root}), ErrInvalidManagement)
	require.ErrorIs(t, s.RevokeRole(&pb.AuthUserRevokeRoleRequest{Name: Root, Role: Root}), ErrInvalidManagement)
	s.Disable()
	s.Disable()
	require.False(t, s.Load().Enabled())
	require.Equal(t, rev+1, s.Load().Revision())
	require.Equal(t, 1, ended.cleared)
}

// TestPermit goes through the kinds of commands.
func TestPermit(t *testing.T) {
	s, _ := open(t, newMemory())
	fill(t, s, map[string][]*authpb.Permission{
		"r":  {perm(authpb.Permission_READ, "a", "c")},
		"w":  {perm(authpb.Permission_WRITE, "a", "c")},
		"rw": {perm(authpb.Permission_READWRITE, "a", "c"), perm(authpb.Permission_READWRITE, "l", "")},
	})
	key := []byte("a")
	put := func(key string, lease int64, prev bool) *pb.RequestOp {
		return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: []byte(key), Lease: lease, PrevKv: prev}}}
	}
	nest := func(t *pb.TxnRequest) *pb.RequestOp {
		return &pb.RequestOp{Request: &pb.RequestOp_RequestTxn{RequestTxn: t}}
	}
	for name, c := range map[string]struct {
		cmd *pb.InternalRaftRequest
		may string // r, w, rw: who may, beside root; all: everybody
	}{
		"range":        {&pb.InternalRaftRequest{Range: &pb.RangeRequest{Key: key, RangeEnd: []byte("c")}}, "r rw"},
		"wide range":   {&pb.InternalRaftRequest{Range: &pb.RangeRequest{Key: key, RangeEnd: []byte("d")}}, ""},
		"put":          {&pb.InternalRaftRequest{Put: &pb.PutRequest{Key: key}}, "w rw"},
		"put prev":     {&pb.InternalRaftRequest{Put: &pb.PutRequest{Key: key, PrevKv: true}}, "rw"},
		"put lease":    {&pb.InternalRaftRequest{Put: &pb.PutRequest{Key: key, Lease: 7}}, "rw"},
		"put no lease": {&pb.InternalRaftRequest{Put: &pb.PutRequest{Key: key, Lease: 8}}, "w rw"},
		"delete":       {&pb.InternalRaftRequest{DeleteRange: &pb.DeleteRangeRequest{Key: key}}, "w rw"},
		"delete prev":  {&pb.InternalRaftRequest{DeleteRange: &pb.DeleteRangeRequest{Key: key, PrevKv: true}}, "rw"},
		"delete all":   {&pb.InternalRaftRequest{DeleteRange: &pb.DeleteRangeRequest{Key: key, RangeEnd: []byte{0}}}, ""},
		"compare":      {&pb.InternalRaftRequest{Txn: &pb.TxnRequest{Compare: []*pb.Compare{{Key: key}}}}, "r rw"},
		"compare all":  {&pb.InternalRaftRequest{Txn: &pb.TxnRequest{Compare: []*pb.Compare{{Key: key, RangeEnd: []byte{0}}}}}, ""},
		"other branch": {&pb.InternalRaftRequest{Txn: &pb.TxnRequest{Failure: []*pb.RequestOp{put("a", 0, false)}}}, "w rw"},
		"nested":       {&pb.InternalRaftRequest{Txn: &pb.TxnRequest{Success: []*pb.RequestOp{nest(&pb.TxnRequest{Failure: []*pb.RequestOp{put("a", 0, true)}})}}}, "rw"},
		"nested lease": {&pb.InternalRaftRequest{Txn: &pb.TxnRequest{Success: []*pb.RequestOp{nest(&pb.TxnRequest{Success: []*pb.RequestOp{put("b", 7, false)}})}}}, "rw"},
		"revoke":       {&pb.InternalRaftRequest{LeaseRevoke: &pb.LeaseRevokeRequest{ID: 7}}, "rw"},
		"revoke other": {&pb.InternalRaftRequest{LeaseRevoke: &pb.LeaseRevokeRequest{ID: 8}}, "all"},
		"grant":        {&pb.InternalRaftRequest{LeaseGrant: &pb.LeaseGrantRequest{ID: 8}}, "all"},
		"compact":      {&pb.InternalRaftRequest{Compaction: &pb.CompactionRequest{}}, "all"},
		"own user":     {&pb.InternalRaftRequest{AuthUserGet: &pb.AuthUserGetRequest{Name: "r"}}, "r"},
		"own role":     {&pb.InternalRaftRequest{AuthRoleGet: &pb.AuthRoleGetRequest{Role: "w"}}, "w"},
		"users":        {&pb.InternalRaftRequest{AuthUserList: &pb.AuthUserListRequest{}}, ""},
		"disable":      {&pb.InternalRaftRequest{AuthDisable: &pb.AuthDisableRequest{}}, ""},
		"status":       {&pb.InternalRaftRequest{AuthStatus: &pb.AuthStatusRequest{}}, "all"},
	} {
		now := s.Load()
		for _, user := range []string{"r", "w", "rw", Root, "nobody", ""} {
			id := Identity{User: user, Revision: now.Revision()}
			if user == "" {
				id = Identity{}
			}
			err := now.Permit(id, oneLease{}, c.cmd)
			may := c.may == "all" || user == Root || user != "" && slices.Contains(strings.Fields(c.may), user)
			require.Equal(t, may, err == nil, "%s by %q: %v", name, user, err)
			if user == "" && !may {
				require.ErrorIs(t, err, ErrUserEmpty, name)
			}
		}
	}
	now := s.Load()
	old := Identity{User: "rw", Revision: now.Revision() - 1}
	require.ErrorIs(t, now.Write(old, key, nil), ErrOldRevision)
	require.NoError(t, now.Admin(Identity{User: Root, Revision: 1}), "an old administrator is one")
}

// TestTree compares the tree with one that looks at every key.
func TestTree(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	const keys = 24
	bound := func(i int) []byte {
		if i == keys {
			return nil
		}
		return []byte{byte('a' + i)}
	}
	for range 500 {
		var tr tree
		var has [keys]bool
		for range rng.IntN(12) {
			from := rng.IntN(keys)
			to := from + 1 + rng.IntN(keys-from)
			tr.insert(span{bound(from), bound(to)})
			for i := from; i < to; i++ {
				has[i] = true
			}
		}
		checkNode(t, tr.root)
		for from := range keys {
			require.Equal(t, has[from], tr.coversKey(bound(from)))
			all := true
			for to := from + 1; to <= keys; to++ {
				all = all && has[to-1]
				require.Equal(t, all, tr.covers(span{bound(from), bound(to)}), "[%d,%d) of %v", from, to, has)
			}
		}
	}
}

// checkNode checks the rules of the tree and returns its black height and largest end.
func checkNode(t *testing.T, n *node) (black int, end []byte) {
	if n == nil {
		return 1, []byte{0}
	}
	lb, le := checkNode(t, n.left)
	rb, re := checkNode(t, n.right)
	require.Equal(t, lb, rb, "black heights")
	require.False(t, n.red && (n.left.isRed() || n.right.isRed()), "two reds")
	end = n.end
	for _, e := range [][]byte{le, re} {
		if compareBounds(e, end) > 0 {
			end = e
		}
	}
	require.Zero(t, compareBounds(end, n.max))
	if !n.red {
		lb++
	}
	return lb, end
}

// TestBackwardRanges: what a range meets that ends before it begins depends on the shape of the tree. The answers are etcd's.
func TestBackwardRanges(t *testing.T) {
	var tr tree
	tr.insert(span{[]byte("c"), []byte("d")})
	require.True(t, tr.covers(span{[]byte("c"), []byte("a")}))
	tr.insert(span{[]byte("e"), []byte("g")})
	require.False(t, tr.covers(span{[]byte("f"), []byte("b")}), "the root ends the search")
	require.True(t, tr.covers(span{[]byte("f"), []byte("d")}))
}

// model is the state as plain maps.
type model struct {
	users map[string][]string
	roles map[string]map[[2]string]authpb.Permission_Type
}

// TestModel does random changes and compares users, roles, permissions, and what a restart reads.
func TestModel(t *testing.T) {
	for seed := range uint64(30) {
		rng := rand.New(rand.NewPCG(seed, 0))
		rows := newMemory()
		s, _ := open(t, rows)
		fill(t, s, nil)
		m := model{users: map[string][]string{Root: {Root}}, roles: map[string]map[[2]string]authpb.Permission_Type{}}
		for range 200 {
			before := s.Load()
			err := m.step(s, rng)
			require.Equal(t, err == nil, s.Load().Revision() == before.Revision()+1, "%v", err)
		}
		m.compare(t, s.Load())
		again, _ := open(t, rows)
		m.compare(t, again.Load())
		require.Equal(t, s.Load().Revision(), again.Load().Revision())
		require.True(t, again.Load().Enabled())
	}
}

func (m *model) step(s *State, rng *rand.Rand) error {
	u, r := fmt.Sprint("u", rng.IntN(3)), fmt.Sprint("r", rng.IntN(3))
	from := rng.IntN(8)
	k := [2]string{string(rune('a' + from)), string(rune('a' + from + 1 + rng.IntN(4)))}
	switch rng.IntN(9) {
	case 0:
		err := s.AddUser(&pb.AuthUserAddRequest{Name: u, HashedPassword: "aGFzaA=="})
		if err == nil {
			m.users[u] = nil
		}
		return err
	case 1:
		err := s.DeleteUser(&pb.AuthUserDeleteRequest{Name: u})
		delete(m.users, u)
		return err
	case 2:
		err := s.AddRole(&pb.AuthRoleAddRequest{Name: r})
		if err == nil {
			m.roles[r] = map[[2]string]authpb.Permission_Type{}
		}
		return err
	case 3:
		err := s.DeleteRole(&pb.AuthRoleDeleteRequest{Role: r})
		delete(m.roles, r)
		for u := range m.users {
			m.take(u, r)
		}
		return err
	case 4:
		if slices.Contains(m.users[u], r) {
			return fmt.Errorf("has it")
		}
		err := s.GrantRole(&pb.AuthUserGrantRoleRequest{User: u, Role: r})
		if err == nil {
			m.users[u] = slices.Sorted(slices.Values(append(m.users[u], r)))
		}
		return err
	case 5:
		err := s.RevokeRole(&pb.AuthUserRevokeRoleRequest{Name: u, Role: r})
		m.take(u, r)
		return err
	case 6:
		err := s.RevokePermission(&pb.AuthRoleRevokePermissionRequest{Role: r, Key: []byte(k[0]), RangeEnd: []byte(k[1])})
		delete(m.roles[r], k)
		return err
	default:
		kind := authpb.Permission_Type(rng.IntN(3))
		err := s.GrantPermission(&pb.AuthRoleGrantPermissionRequest{Name: r, Perm: perm(kind, k[0], k[1])})
		if err == nil {
			m.roles[r][k] = kind
		}
		return err
	}
}

func (m *model) take(user, role string) {
	if rs, ok := m.users[user]; ok {
		m.users[user] = slices.DeleteFunc(rs, func(have string) bool { return have == role })
	}
}

func (m *model) compare(t *testing.T, now *Snapshot) {
	require.Equal(t, slices.Sorted(maps.Keys(m.users)), now.Users())
	require.ElementsMatch(t, slices.Collect(maps.Keys(m.roles)), now.Roles())
	for u, roles := range m.users {
		require.ElementsMatch(t, roles, now.User(u).Roles)
		id := Identity{User: u, Revision: now.Revision()}
		for k := 'a'; k < 'n'; k++ {
			may := [2]bool{u == Root, u == Root}
			for _, r := range roles {
				for rg, kind := range m.roles[r] {
					if rg[0] <= string(k) && string(k) < rg[1] {
						may[0] = may[0] || kind != authpb.Permission_WRITE
						may[1] = may[1] || kind != authpb.Permission_READ
					}
				}
			}
			require.Equal(t, may[0], now.Read(id, []byte(string(k)), nil) == nil, "%s reads %c", u, k)
			require.Equal(t, may[1], now.Write(id, []byte(string(k)), nil) == nil, "%s writes %c", u, k)
		}
	}
}

// TestSnapshotsStay: who has loaded a snapshot sees no later change.
func TestSnapshotsStay(t *testing.T) {
	s, ended := open(t, newMemory())
	fill(t, s, map[string][]*authpb.Permission{"u": {perm(authpb.Permission_READ, "a", "")}})
	old := s.Load()
	id := Identity{User: "u", Revision: old.Revision()}
	require.NoError(t, s.GrantPermission(&pb.AuthRoleGrantPermissionRequest{Name: "u", Perm: perm(authpb.Permission_WRITE, "a", "")}))
	require.NoError(t, s.ChangePassword(&pb.AuthUserChangePasswordRequest{Name: "u"}))
	require.NoError(t, old.Read(id, []byte("a"), nil))
	require.ErrorIs(t, s.Load().Read(id, []byte("a"), nil), ErrOldRevision)
	id.Revision = s.Load().Revision()
	require.ErrorIs(t, s.Load().Read(id, []byte("a"), nil), ErrPermissionDenied)
	require.Equal(t, []string{"u"}, ended.forgotten)
	require.NoError(t, s.Restore(newMemory()))
	require.False(t, s.Load().Enabled())
	require.Equal(t, 1, ended.cleared)
}

// TestOldEntries: etcd before 3.5 wrote passwords into its log.
func TestOldEntries(t *testing.T) {
	s, _ := open(t, newMemory())
	require.NoError(t, s.AddUser(&pb.AuthUserAddRequest{Name: "u", Password: "secret"}))
	require.NoError(t, bcrypt.CompareHashAndPassword(s.Load().User("u").Password, []byte("secret")))
	require.ErrorIs(t, s.AddUser(&pb.AuthUserAddRequest{Name: "v", HashedPassword: "%"}), ErrNoPasswordUser)
}

// FuzzRestore reads rows that may be anything.
func FuzzRestore(f *testing.F) {
	row, err := proto.Marshal(&authpb.Role{Name: []byte("r"), KeyPermission: []*authpb.Permission{perm(authpb.Permission_READ, "a", "")}})
	require.NoError(f, err)
	user, err := proto.Marshal(&authpb.User{Name: []byte("u"), Roles: []string{"r", "r", Root}})
	require.NoError(f, err)
	f.Add([]byte{1}, []byte{0, 0, 0, 0, 0, 0, 0, 9}, user, row)
	f.Add([]byte{}, []byte{1}, []byte{0xff}, []byte{0x0a})
	f.Fuzz(func(t *testing.T, enabled, rev, user, role []byte) {
		rows := newMemory()
		rows.Put(TableAuth, enabledKey, enabled)
		rows.Put(TableAuth, revisionKey, rev)
		rows.Put(TableUsers, []byte("u"), user)
		rows.Put(TableRoles, []byte("r"), role)
		s, err := Open(rows, &sessions{}, bcrypt.MinCost)
		if err != nil {
			return
		}
		now := s.Load()
		_ = now.Write(Identity{User: "u", Revision: now.Revision()}, []byte("a"), []byte("b"))
		_ = s.DeleteRole(&pb.AuthRoleDeleteRequest{Role: "r"})
	})
}
