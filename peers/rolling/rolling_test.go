// Package rolling replaces the members of a cluster one by one, from etcd 3.6 to etcd 3.7, to an earlier build of Keelson, to this
// one, and back, under load from etcd's own client, with TLS and users, while watchers stay open.
package rolling

import (
	"context"
	"os"
	"syscall"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// stages are what all members run, one stage after the other.
var stages = []struct {
	program
	version string
}{
	{program{"etcd 3.6", []string{"../../bin/peers/etcd36"}}, "3.6."},
	{program{"etcd 3.7", []string{"../../bin/peers/etcd"}}, "3.7."},
	{program{"previous keelson", []string{"../../bin/peers/keelson-previous", "server"}}, "3.7."},
	{program{"keelson", []string{"../../bin/keelson", "server"}}, "3.7."},
	{program{"previous keelson", []string{"../../bin/peers/keelson-previous", "server"}}, "3.7."},
	{program{"etcd 3.7", []string{"../../bin/peers/etcd"}}, "3.7."},
}

// TestStressRolling takes one to two minutes.
func TestStressRolling(t *testing.T) {
	if os.Getenv("KEELSON_STRESS") == "" {
		t.Skip("KEELSON_STRESS is not set")
	}
	for _, s := range stages {
		if _, err := os.Stat(s.argv[0]); err != nil {
			t.Skipf("%s is missing: run make build peers etcd36 previous", s.argv[0])
		}
	}
	c := newCluster(t)
	for _, m := range c.members {
		c.start(m, stages[0].program)
	}
	rev := users(t, c.dial(""))
	for _, m := range c.members {
		c.ready(m, stages[0].version)
	}
	l := startLoad(t, c.dial("alice"), c.dial("alice"), c.dial("alice", c.members[0]), c.dial("alice", c.members[1], c.members[2]))
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Minute)
	defer cancel()
	watchers := []*watcher{l.watch(ctx, "of all", c.dial("alice"), rev+1)}
	for _, m := range c.members {
		watchers = append(watchers, l.watch(ctx, "of "+m.name, c.dial("alice", m), rev+1))
	}
	l.progress(200)
	for i, s := range stages[1:] {
		for k, m := range c.members {
			l.takeStall()
			c.end(m, []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL}[(i+k)%2])
			c.start(m, s.program)
			c.ready(m, s.version)
			l.progress(400)
			d := l.takeStall()
			if d > stall {
				t.Errorf("no write of a writer for %s while %s became %s", d, m.name, s.name)
			}
			t.Logf("%s became %s: longest time without a write %s", m.name, s.name, d.Round(time.Millisecond))
		}
	}
	l.stop(c.dial("root"), watchers...)
	c.agree(c.dial("root"))
	for _, user := range []string{"", "alice"} { // without a name it is the one in the certificate, whom nobody knows
		if _, err := c.dial(user).Get(ctx, "secret"); err != rpctypes.ErrPermissionDenied {
			t.Errorf("user %q reads what only root may read: %v", user, err)
		}
	}
}

// users makes root, and alice who may write load/, and returns the revision of the store.
func users(t *testing.T, c *clientv3.Client) int64 {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for _, name := range []string{"root", "alice"} {
		_, err := c.UserAdd(ctx, name, password(name))
		must(t, err)
		_, err = c.RoleAdd(ctx, name)
		must(t, err)
		_, err = c.UserGrantRole(ctx, name, name)
		must(t, err)
	}
	_, err := c.RoleGrantPermission(ctx, "alice", "load/", clientv3.GetPrefixRangeEnd("load/"), clientv3.PermissionType(clientv3.PermReadWrite))
	must(t, err)
	r, err := c.Put(ctx, "secret", "of root")
	must(t, err)
	_, err = c.AuthEnable(ctx)
	must(t, err)
	return r.Header.Revision
}
