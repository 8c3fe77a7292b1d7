package ctl_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

// TestNewPasswords: passwords are asked for where they were not given.
func TestNewPasswords(t *testing.T) {
	s := serve(t)
	for _, c := range []struct {
		args, stdin, out, errs string
	}{
		{"user add alice", "a\na\n", "Password of alice: \nType password of alice again for confirmation: \nUser alice created\n", ""},
		{"user add alice", "a\nb\n", "", "Error: given passwords are different\n"},
		{"user add alice", "\n", "", "Error: empty password\n"},
		{"user passwd alice", "a\na", "Password of alice: \nType password of alice again for confirmation: \nPassword updated\n", ""},
		{"user list --user alice", "secret\n", "Password: \nalice\nbob\n", ""},
		{"user list --user alice --auth-jwt-token t", "", "alice\nbob\n", ""},
	} {
		s.set(nil)
		var out, errs bytes.Buffer
		code := execute(append(strings.Fields(c.args), "--endpoints", endpoint), strings.NewReader(c.stdin), &out, &errs)
		require.Equal(t, c.errs, errs.String(), c.args)
		require.Equal(t, c.errs == "", code == 0, c.args)
		if code == 0 {
			require.Equal(t, c.out, out.String(), c.args)
		}
	}
}

// TestEnableMakesRoot: the role root is made and given to the user root where that is missing.
func TestEnableMakesRoot(t *testing.T) {
	s := serve(t)
	s.set(failing(pb.Auth_AuthEnable_FullMethodName, rpctypes.ErrGRPCRootRoleNotExist))
	var out, errs bytes.Buffer
	require.Equal(t, 1, execute([]string{"auth", "enable", "--endpoints", endpoint}, nil, &out, &errs))
	require.Contains(t, errs.String(), "root user does not have root role", "it was made, and is still missing")
	s.mu.Lock()
	defer s.mu.Unlock()
	require.Equal(t, []string{pb.Auth_AuthEnable_FullMethodName, pb.Auth_RoleAdd_FullMethodName, pb.Auth_UserGrantRole_FullMethodName, pb.Auth_AuthEnable_FullMethodName}, s.calls)
}
