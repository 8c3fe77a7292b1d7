package rpc

import (
	"context"
	"encoding/base64"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/keelson-io/keelson/internal/clock"
	"github.com/keelson-io/keelson/server/auth"
)

// Passwords compares and hashes passwords.
type Passwords interface {
	Check(ctx context.Context, hash []byte, password string) (bool, error)
	Hash(ctx context.Context, password string) ([]byte, error)
}

// TokenMaker makes tokens.
type TokenMaker interface {
	Prefix() string
	TTL() time.Duration
	Issue(id auth.Identity, assigned string) (string, error)
}

// AuthConfig is what the Auth service needs.
type AuthConfig struct {
	Errors    *Translator
	Proposer  Proposer // for Authenticate, whose caller is not known yet
	Access    *Access
	Gate      ReadGate
	Passwords Passwords
	Tokens    TokenMaker
	Header    *Header
	Clock     clock.Clock
	Shares    Shares
	Logger    *zap.Logger
}

// AuthService is etcdserverpb.Auth. No password leaves it: commands carry hashes.
type AuthService struct {
	pb.UnsafeAuthServer
	cfg    AuthConfig
	own    Proposer // for the callers' own commands
	logins *logins
}

// NewAuth makes the Auth service.
func NewAuth(cfg AuthConfig) *AuthService {
	return &AuthService{
		cfg: cfg, own: Authorized{Proposer: cfg.Proposer, Access: cfg.Access, Lane: cfg.Shares.Writes}, logins: newLogins(cfg.Clock, cfg.Tokens.TTL()),
	}
}

// Authenticate checks a password and returns a token.
func (s *AuthService) Authenticate(ctx context.Context, r *pb.AuthenticateRequest) (*pb.AuthenticateResponse, error) {
	password := r.Password
	r.Password = ""
	place, err := enter(ctx, s.cfg.Shares.Logins, "")
	if err != nil {
		return nil, s.cfg.Errors.GRPC(err)
	}
	defer place.Leave(0)
	if err := s.cfg.Gate.Wait(ctx); err != nil {
		return nil, s.cfg.Errors.GRPC(err)
	}
	for {
		now, err := s.check(ctx, r.Name, password)
		if err != nil {
			return nil, s.cfg.Errors.GRPC(err)
		}
		token, changed, err := s.assign(ctx, r.Name, now)
		if err != nil {
			return nil, s.cfg.Errors.GRPC(err)
		}
		if !changed {
			return &pb.AuthenticateResponse{Header: s.cfg.Header.Fill(&pb.ResponseHeader{}), Token: token}, nil
		}
	}
}

// check checks a password by the state that it returns. ErrNotEnabled, ErrFailed, ErrNoPasswordUser.
func (s *AuthService) check(ctx context.Context, name, password string) (*auth.Snapshot, error) {
	now := s.cfg.Access.State.Load()
	user := now.User(name)
	switch {
	case !now.Enabled():
		return nil, auth.ErrNotEnabled
	case user == nil:
		return nil, auth.ErrFailed
	case user.Options.GetNoPassword():
		return nil, auth.ErrNoPasswordUser
	}
	ok, err := s.cfg.Passwords.Check(ctx, user.Password, password)
	if err != nil {
		return nil, err
	}
	if !ok {
		s.cfg.Logger.Info("invalid password", zap.String("user-name", name))
		return nil, auth.ErrFailed
	}
	return now, nil
}

// hashed hashes the password of a command that its caller may make.
func (s *AuthService) hashed(ctx context.Context, r *pb.InternalRaftRequest, password string) (string, error) {
	if err := s.cfg.Access.Authorize(ctx, r); err != nil {
		return "", s.cfg.Errors.GRPC(err)
	}
	h, err := s.cfg.Passwords.Hash(ctx, password)
	if err != nil {
		if ctx.Err() != nil {
			return "", s.cfg.Errors.GRPC(err)
		}
		return "", status.Error(codes.Unknown, err.Error()) // too long
	}
	return base64.StdEncoding.EncodeToString(h), nil
}

// UserAdd adds a user.
func (s *AuthService) UserAdd(ctx context.Context, r *pb.AuthUserAddRequest) (*pb.AuthUserAddResponse, error) {
	cmd, password := &pb.InternalRaftRequest{AuthUserAdd: r}, r.Password
	r.Password = ""
	if !r.Options.GetNoPassword() {
		var err error
		if r.HashedPassword, err = s.hashed(ctx, cmd, password); err != nil {
			return nil, err
		}
	}
	return propose[*pb.AuthUserAddResponse](ctx, s.own, s.cfg.Errors, cmd)
}

// UserChangePassword changes a user's password.
func (s *AuthService) UserChangePassword(ctx context.Context, r *pb.AuthUserChangePasswordRequest) (*pb.AuthUserChangePasswordResponse, error) {
	cmd, password := &pb.InternalRaftRequest{AuthUserChangePassword: r}, r.Password
	r.Password = ""
	if password != "" {
		var err error
		if r.HashedPassword, err = s.hashed(ctx, cmd, password); err != nil {
			return nil, err
		}
	}
	return propose[*pb.AuthUserChangePasswordResponse](ctx, s.own, s.cfg.Errors, cmd)
}

// AuthEnable enables authentication.
func (s *AuthService) AuthEnable(ctx context.Context, r *pb.AuthEnableRequest) (*pb.AuthEnableResponse, error) {
	return propose[*pb.AuthEnableResponse](ctx, s.own, s.cfg.Errors, &pb.InternalRaftRequest{AuthEnable: r})
}

// AuthDisable disables authentication.
func (s *AuthService) AuthDisable(ctx context.Context, r *pb.AuthDisableRequest) (*pb.AuthDisableResponse, error) {
	return propose[*pb.AuthDisableResponse](ctx, s.own, s.cfg.Errors, &pb.InternalRaftRequest{AuthDisable: r})
}

// AuthStatus tells everybody whether authentication is enabled.
func (s *AuthService) AuthStatus(ctx context.Context, r *pb.AuthStatusRequest) (*pb.AuthStatusResponse, error) {
	return propose[*pb.AuthStatusResponse](ctx, s.own, s.cfg.Errors, &pb.InternalRaftRequest{AuthStatus: r})
}

// UserGet lists a user's roles.
func (s *AuthService) UserGet(ctx context.Context, r *pb.AuthUserGetRequest) (*pb.AuthUserGetResponse, error) {
	return propose[*pb.AuthUserGetResponse](ctx, s.own, s.cfg.Errors, &pb.InternalRaftRequest{AuthUserGet: r})
}

// UserList lists the users.
func (s *AuthService) UserList(ctx context.Context, r *pb.AuthUserListRequest) (*pb.AuthUserListResponse, error) {
	return propose[*pb.AuthUserListResponse](ctx, s.own, s.cfg.Errors, &pb.InternalRaftRequest{AuthUserList: r})
}

// UserDelete deletes a user.
func (s *AuthService) UserDelete(ctx context.Context, r *pb.AuthUserDeleteRequest) (*pb.AuthUserDeleteResponse, error) {
	return propose[*pb.AuthUserDeleteResponse](ctx, s.own, s.cfg.Errors, &pb.InternalRaftRequest{AuthUserDelete: r})
}

// UserGrantRole gives a role to a user.
func (s *AuthService) UserGrantRole(ctx context.Context, r *pb.AuthUserGrantRoleRequest) (*pb.AuthUserGrantRoleResponse, error) {
	return propose[*pb.AuthUserGrantRoleResponse](ctx, s.own, s.cfg.Errors, &pb.InternalRaftRequest{AuthUserGrantRole: r})
}

// UserRevokeRole takes a role from a user.
func (s *AuthService) UserRevokeRole(ctx context.Context, r *pb.AuthUserRevokeRoleRequest) (*pb.AuthUserRevokeRoleResponse, error) {
	return propose[*pb.AuthUserRevokeRoleResponse](ctx, s.own, s.cfg.Errors, &pb.InternalRaftRequest{AuthUserRevokeRole: r})
}

// RoleAdd adds a role.
func (s *AuthService) RoleAdd(ctx context.Context, r *pb.AuthRoleAddRequest) (*pb.AuthRoleAddResponse, error) {
	return propose[*pb.AuthRoleAddResponse](ctx, s.own, s.cfg.Errors, &pb.InternalRaftRequest{AuthRoleAdd: r})
}

// RoleGet lists a role's permissions.
func (s *AuthService) RoleGet(ctx context.Context, r *pb.AuthRoleGetRequest) (*pb.AuthRoleGetResponse, error) {
	return propose[*pb.AuthRoleGetResponse](ctx, s.own, s.cfg.Errors, &pb.InternalRaftRequest{AuthRoleGet: r})
}

// RoleList lists the roles.
func (s *AuthService) RoleList(ctx context.Context, r *pb.AuthRoleListRequest) (*pb.AuthRoleListResponse, error) {
	return propose[*pb.AuthRoleListResponse](ctx, s.own, s.cfg.Errors, &pb.InternalRaftRequest{AuthRoleList: r})
}

// RoleDelete deletes a role.
func (s *AuthService) RoleDelete(ctx context.Context, r *pb.AuthRoleDeleteRequest) (*pb.AuthRoleDeleteResponse, error) {
	return propose[*pb.AuthRoleDeleteResponse](ctx, s.own, s.cfg.Errors, &pb.InternalRaftRequest{AuthRoleDelete: r})
}

// RoleGrantPermission gives a permission to a role.
func (s *AuthService) RoleGrantPermission(ctx context.Context, r *pb.AuthRoleGrantPermissionRequest) (*pb.AuthRoleGrantPermissionResponse, error) {
	return propose[*pb.AuthRoleGrantPermissionResponse](ctx, s.own, s.cfg.Errors, &pb.InternalRaftRequest{AuthRoleGrantPermission: r})
}

// RoleRevokePermission takes a permission from a role.
func (s *AuthService) RoleRevokePermission(ctx context.Context, r *pb.AuthRoleRevokePermissionRequest) (*pb.AuthRoleRevokePermissionResponse, error) {
	return propose[*pb.AuthRoleRevokePermissionResponse](ctx, s.own, s.cfg.Errors, &pb.InternalRaftRequest{AuthRoleRevokePermission: r})
}
