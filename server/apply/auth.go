package apply

import (
	"slices"

	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"

	"github.com/keelson-io/keelson/server/auth"
)

// identity is who proposed a command, as the member found out that proposed it.
func identity(r *pb.InternalRaftRequest) auth.Identity {
	return auth.Identity{User: r.GetHeader().GetUsername(), Revision: r.GetHeader().GetAuthRevision()}
}

// authenticate gives a token to a user whose password was checked before the command was proposed. index is that of the
// command's entry.
func (a *Applier) authenticate(index uint64, r *pb.InternalAuthenticateRequest) Result {
	now := a.cfg.Auth.Load()
	user := now.User(r.Name)
	switch {
	case !now.Enabled():
		return Result{Err: auth.ErrNotEnabled}
	case user == nil || user.Options.GetNoPassword():
		return Result{Err: auth.ErrFailed}
	}
	token, err := a.cfg.Tokens.Assign(r.Name, r.SimpleToken, index-1)
	if err != nil {
		return Result{Err: err}
	}
	return Result{Resp: &pb.AuthenticateResponse{Header: a.header(), Token: token}}
}

// manage executes the commands about users, roles and authentication itself. It returns false for any other command.
func (a *Applier) manage(r *pb.InternalRaftRequest) (Result, bool) {
	s, h := a.cfg.Auth, a.header
	switch {
	case r.AuthEnable != nil:
		return answer(s.Enable(), func() proto.Message { return &pb.AuthEnableResponse{Header: h()} })
	case r.AuthDisable != nil:
		s.Disable()
		return answer(nil, func() proto.Message { return &pb.AuthDisableResponse{Header: h()} })
	case r.AuthUserAdd != nil:
		return answer(s.AddUser(r.AuthUserAdd), func() proto.Message { return &pb.AuthUserAddResponse{Header: h()} })
	case r.AuthUserDelete != nil:
		return answer(s.DeleteUser(r.AuthUserDelete), func() proto.Message { return &pb.AuthUserDeleteResponse{Header: h()} })
	case r.AuthUserChangePassword != nil:
		return answer(s.ChangePassword(r.AuthUserChangePassword), func() proto.Message { return &pb.AuthUserChangePasswordResponse{Header: h()} })
	case r.AuthUserGrantRole != nil:
		return answer(s.GrantRole(r.AuthUserGrantRole), func() proto.Message { return &pb.AuthUserGrantRoleResponse{Header: h()} })
	case r.AuthUserRevokeRole != nil:
		return answer(s.RevokeRole(r.AuthUserRevokeRole), func() proto.Message { return &pb.AuthUserRevokeRoleResponse{Header: h()} })
	case r.AuthRoleAdd != nil:
		return answer(s.AddRole(r.AuthRoleAdd), func() proto.Message { return &pb.AuthRoleAddResponse{Header: h()} })
	case r.AuthRoleDelete != nil:
		return answer(s.DeleteRole(r.AuthRoleDelete), func() proto.Message { return &pb.AuthRoleDeleteResponse{Header: h()} })
	case r.AuthRoleGrantPermission != nil:
		return answer(s.GrantPermission(r.AuthRoleGrantPermission), func() proto.Message { return &pb.AuthRoleGrantPermissionResponse{Header: h()} })
	case r.AuthRoleRevokePermission != nil:
		return answer(s.RevokePermission(r.AuthRoleRevokePermission), func() proto.Message { return &pb.AuthRoleRevokePermissionResponse{Header: h()} })
	}
	return a.describe(r)
}

func answer(err error, resp func() proto.Message) (Result, bool) {
	if err != nil {
		return Result{Err: err}, true
	}
	return Result{Resp: resp()}, true
}

// describe executes the commands that only read the state of authentication. It returns false for any other command.
func (a *Applier) describe(r *pb.InternalRaftRequest) (Result, bool) {
	now := a.cfg.Auth.Load()
	switch {
	case r.AuthStatus != nil:
		return Result{Resp: &pb.AuthStatusResponse{Header: a.header(), Enabled: now.Enabled(), AuthRevision: now.Revision()}}, true
	case r.AuthUserList != nil:
		return Result{Resp: &pb.AuthUserListResponse{Header: a.header(), Users: now.Users()}}, true
	case r.AuthRoleList != nil:
		return Result{Resp: &pb.AuthRoleListResponse{Header: a.header(), Roles: now.Roles()}}, true
	case r.AuthUserGet != nil:
		user := now.User(r.AuthUserGet.Name)
		if user == nil {
			return Result{Err: auth.ErrUserNotFound}, true
		}
		return Result{Resp: &pb.AuthUserGetResponse{Header: a.header(), Roles: slices.Clone(user.Roles)}}, true
	case r.AuthRoleGet != nil:
		role := now.Role(r.AuthRoleGet.Role)
		if role == nil {
			return Result{Err: auth.ErrRoleNotFound}, true
		}
		perms := slices.Clone(role.KeyPermission)
		if r.AuthRoleGet.Role == auth.Root {
			perms = []*authpb.Permission{{PermType: authpb.Permission_READWRITE, Key: []byte{}, RangeEnd: []byte{0}}}
		}
		return Result{Resp: &pb.AuthRoleGetResponse{Header: a.header(), Perm: perms}}, true
	}
	return Result{}, false
}
