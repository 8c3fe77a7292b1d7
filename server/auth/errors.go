package auth

import "errors"

// Errors of commands and calls. The texts are etcd's, since clients see some of them.
var (
	ErrRootUserNotExist     = errors.New("auth: root user does not exist")
	ErrRootRoleNotExist     = errors.New("auth: root user does not have root role")
	ErrUserAlreadyExist     = errors.New("auth: user already exists")
	ErrUserEmpty            = errors.New("auth: user name is empty")
	ErrUserNotFound         = errors.New("auth: user not found")
	ErrRoleAlreadyExist     = errors.New("auth: role already exists")
	ErrRoleNotFound         = errors.New("auth: role not found")
	ErrRoleEmpty            = errors.New("auth: role name is empty")
	ErrPermissionNotGiven   = errors.New("auth: permission not given")
	ErrFailed               = errors.New("auth: authentication failed, invalid user ID or password")
	ErrNoPasswordUser       = errors.New("auth: authentication failed, password was given for no password user")
	ErrPermissionDenied     = errors.New("auth: permission denied")
	ErrRoleNotGranted       = errors.New("auth: role is not granted to the user")
	ErrPermissionNotGranted = errors.New("auth: permission is not granted to the role")
	ErrNotEnabled           = errors.New("auth: authentication is not enabled")
	ErrOldRevision          = errors.New("auth: revision in header is old")
	ErrInvalidToken         = errors.New("auth: invalid auth token")
	ErrInvalidManagement    = errors.New("auth: invalid auth management")
)

// Errors lists every error above, for the totality test of the translation tables.
func Errors() []error {
	return []error{
		ErrRootUserNotExist, ErrRootRoleNotExist, ErrUserAlreadyExist, ErrUserEmpty, ErrUserNotFound, ErrRoleAlreadyExist,
		ErrRoleNotFound, ErrRoleEmpty, ErrPermissionNotGiven, ErrFailed, ErrNoPasswordUser, ErrPermissionDenied,
		ErrRoleNotGranted, ErrPermissionNotGranted, ErrNotEnabled, ErrOldRevision, ErrInvalidToken, ErrInvalidManagement,
	}
}
