package clientv3

import (
	"context"
	"fmt"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// TestUsers runs the suite as root, and lets a client get a new token by itself.
func TestUsers(t *testing.T) {
	for name, program := range servers {
		t.Run(name, func(t *testing.T) {
			c := start(t, program, 3)
			ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
			defer cancel()
			enable(ctx, t, c)
			root, alice := as(t, c, "root"), as(t, c, "alice")
			for test, fn := range suite {
				t.Run(test, func(t *testing.T) { fn(t, ctx, root) })
			}
			_, err := alice.Put(ctx, "a/1", "x")
			must(t, err)
			_, err = alice.Put(ctx, "b/1", "x")
			equal(t, error(rpctypes.ErrPermissionDenied), err)
			_, err = c.Get(ctx, "a/1")
			equal(t, error(rpctypes.ErrUserEmpty), err)
			w := alice.Watch(ctx, "a/", clientv3.WithPrefix())
			_, err = root.AuthDisable(ctx) // ends all tokens
			must(t, err)
			_, err = c.AuthEnable(ctx)
			must(t, err)
			_, err = alice.Put(ctx, "a/2", "y")
			must(t, err)
			r := <-w
			must(t, r.Err())
			equal(t, "a/2", string(r.Events[0].Kv.Key))
			refused := <-alice.Watch(ctx, "b/", clientv3.WithPrefix())
			equal(t, true, refused.Canceled)
			_, err = clientv3.New(clientv3.Config{Endpoints: c.Endpoints(), Username: "alice", Password: "wrong", Logger: zap.NewNop(), DialTimeout: 20 * time.Second})
			equal(t, error(rpctypes.ErrAuthFailed), err)
		})
	}
}

// enable makes root, and alice who may read and write a/.
func enable(ctx context.Context, t *testing.T, c *clientv3.Client) {
	t.Helper()
	for _, name := range []string{"root", "alice"} {
		_, err := c.UserAdd(ctx, name, "pw-"+name)
		must(t, err)
		_, err = c.RoleAdd(ctx, name)
		must(t, err)
		_, err = c.UserGrantRole(ctx, name, name)
		must(t, err)
	}
	_, err := c.RoleGrantPermission(ctx, "alice", "a/", clientv3.GetPrefixRangeEnd("a/"), clientv3.PermissionType(clientv3.PermReadWrite))
	must(t, err)
	_, err = c.AuthEnable(ctx)
	must(t, err)
}

func as(t *testing.T, c *clientv3.Client, name string) *clientv3.Client {
	t.Helper()
	own, err := clientv3.New(clientv3.Config{
		Endpoints: c.Endpoints(), Username: name, Password: fmt.Sprint("pw-", name), DialTimeout: 20 * time.Second, Logger: zap.NewNop(),
	})
	must(t, err)
	t.Cleanup(func() { _ = own.Close() })
	return own
}
