package client

import (
	"context"

	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"
)

// Messages of the calls about users and roles.
type (
	AuthenticateResponse = pb.AuthenticateResponse
	AuthStatusResponse   = pb.AuthStatusResponse
	UserGetResponse      = pb.AuthUserGetResponse
	UserListResponse     = pb.AuthUserListResponse
	RoleGetResponse      = pb.AuthRoleGetResponse
	RoleListResponse     = pb.AuthRoleListResponse
	Permission           = authpb.Permission
)

// What a permission allows.
const (
	PermRead      = authpb.Permission_READ
	PermWrite     = authpb.Permission_WRITE
	PermReadWrite = authpb.Permission_READWRITE
)

// call makes one call whose response is resp.
func call[R proto.Message](ctx context.Context, c *Client, method string, req proto.Message, resp R, cl class) (R, error) {
	if err := c.unary(ctx, method, req, resp, cl); err != nil {
		var none R
		return none, err
	}
	return resp, nil
}

// Authenticate returns a token for a user. A client that was made with a user name does this by itself.
func (c *Client) Authenticate(ctx context.Context, user, password string) (*AuthenticateResponse, error) {
	req := &pb.AuthenticateRequest{Name: user, Password: password}
	return call(ctx, c, pb.Auth_Authenticate_FullMethodName, req, &AuthenticateResponse{}, read)
}

// AuthEnable enables authentication. The user root must exist, and have the role root.
func (c *Client) AuthEnable(ctx context.Context) (*pb.AuthEnableResponse, error) {
	return call(ctx, c, pb.Auth_AuthEnable_FullMethodName, &pb.AuthEnableRequest{}, &pb.AuthEnableResponse{}, write)
}

// AuthDisable disables authentication.
func (c *Client) AuthDisable(ctx context.Context) (*pb.AuthDisableResponse, error) {
	return call(ctx, c, pb.Auth_AuthDisable_FullMethodName, &pb.AuthDisableRequest{}, &pb.AuthDisableResponse{}, write)
}

// AuthStatus says whether authentication is enabled, and the revision of users and roles.
func (c *Client) AuthStatus(ctx context.Context) (*AuthStatusResponse, error) {
	return call(ctx, c, pb.Auth_AuthStatus_FullMethodName, &pb.AuthStatusRequest{}, &AuthStatusResponse{}, read)
}

// UserAdd adds a user with a password.
func (c *Client) UserAdd(ctx context.Context, name, password string) (*pb.AuthUserAddResponse, error) {
	req := &pb.AuthUserAddRequest{Name: name, Password: password, Options: &authpb.UserAddOptions{}}
	return call(ctx, c, pb.Auth_UserAdd_FullMethodName, req, &pb.AuthUserAddResponse{}, write)
}

// UserAddNoPassword adds a user who is known by the name in a certificate only.
func (c *Client) UserAddNoPassword(ctx context.Context, name string) (*pb.AuthUserAddResponse, error) {
	req := &pb.AuthUserAddRequest{Name: name, Options: &authpb.UserAddOptions{NoPassword: true}}
	return call(ctx, c, pb.Auth_UserAdd_FullMethodName, req, &pb.AuthUserAddResponse{}, write)
}

// UserDelete deletes a user.
func (c *Client) UserDelete(ctx context.Context, name string) (*pb.AuthUserDeleteResponse, error) {
	req := &pb.AuthUserDeleteRequest{Name: name}
	return call(ctx, c, pb.Auth_UserDelete_FullMethodName, req, &pb.AuthUserDeleteResponse{}, write)
}

// UserChangePassword changes a user's password; the user's tokens end.
func (c *Client) UserChangePassword(ctx context.Context, name, password string) (*pb.AuthUserChangePasswordResponse, error) {
	req := &pb.AuthUserChangePasswordRequest{Name: name, Password: password}
	return call(ctx, c, pb.Auth_UserChangePassword_FullMethodName, req, &pb.AuthUserChangePasswordResponse{}, write)
}

// UserGet lists a user's roles.
func (c *Client) UserGet(ctx context.Context, name string) (*UserGetResponse, error) {
	return call(ctx, c, pb.Auth_UserGet_FullMethodName, &pb.AuthUserGetRequest{Name: name}, &UserGetResponse{}, read)
}

// UserList lists the users.
func (c *Client) UserList(ctx context.Context) (*UserListResponse, error) {
	return call(ctx, c, pb.Auth_UserList_FullMethodName, &pb.AuthUserListRequest{}, &UserListResponse{}, read)
}

// UserGrantRole gives a role to a user.
func (c *Client) UserGrantRole(ctx context.Context, user, role string) (*pb.AuthUserGrantRoleResponse, error) {
	req := &pb.AuthUserGrantRoleRequest{User: user, Role: role}
	return call(ctx, c, pb.Auth_UserGrantRole_FullMethodName, req, &pb.AuthUserGrantRoleResponse{}, write)
}

// UserRevokeRole takes a role from a user.
func (c *Client) UserRevokeRole(ctx context.Context, user, role string) (*pb.AuthUserRevokeRoleResponse, error) {
	req := &pb.AuthUserRevokeRoleRequest{Name: user, Role: role}
	return call(ctx, c, pb.Auth_UserRevokeRole_FullMethodName, req, &pb.AuthUserRevokeRoleResponse{}, write)
}

// RoleAdd adds a role without permissions.
func (c *Client) RoleAdd(ctx context.Context, name string) (*pb.AuthRoleAddResponse, error) {
	return call(ctx, c, pb.Auth_RoleAdd_FullMethodName, &pb.AuthRoleAddRequest{Name: name}, &pb.AuthRoleAddResponse{}, write)
}

// RoleDelete deletes a role, and takes it from all users.
func (c *Client) RoleDelete(ctx context.Context, name string) (*pb.AuthRoleDeleteResponse, error) {
	return call(ctx, c, pb.Auth_RoleDelete_FullMethodName, &pb.AuthRoleDeleteRequest{Role: name}, &pb.AuthRoleDeleteResponse{}, write)
}

// RoleGet lists a role's permissions.
func (c *Client) RoleGet(ctx context.Context, name string) (*RoleGetResponse, error) {
	return call(ctx, c, pb.Auth_RoleGet_FullMethodName, &pb.AuthRoleGetRequest{Role: name}, &RoleGetResponse{}, read)
}

// RoleList lists the roles.
func (c *Client) RoleList(ctx context.Context) (*RoleListResponse, error) {
	return call(ctx, c, pb.Auth_RoleList_FullMethodName, &pb.AuthRoleListRequest{}, &RoleListResponse{}, read)
}

// RoleGrantPermission gives a role a permission. Its range is one key without an end, and has no end if that is "\x00"; see
// PrefixEnd.
func (c *Client) RoleGrantPermission(ctx context.Context, role string, p *Permission) (*pb.AuthRoleGrantPermissionResponse, error) {
	req := &pb.AuthRoleGrantPermissionRequest{Name: role, Perm: p}
	return call(ctx, c, pb.Auth_RoleGrantPermission_FullMethodName, req, &pb.AuthRoleGrantPermissionResponse{}, write)
}

// RoleRevokePermission takes the permission for exactly this range from a role.
func (c *Client) RoleRevokePermission(ctx context.Context, role, key, end string) (*pb.AuthRoleRevokePermissionResponse, error) {
	req := &pb.AuthRoleRevokePermissionRequest{Role: role, Key: []byte(key), RangeEnd: []byte(end)}
	return call(ctx, c, pb.Auth_RoleRevokePermission_FullMethodName, req, &pb.AuthRoleRevokePermissionResponse{}, write)
}
