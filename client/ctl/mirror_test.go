package ctl_test

import (
	"context"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keelson-io/keelson/client"
	"github.com/keelson-io/keelson/client/ctl"
	"github.com/keelson-io/keelson/server/servertest"
)

// TestMirrorLikeEtcdctl mirrors a cluster with this command and with etcdctl, each to a cluster of its own. With --rev, etcdctl drops
// the prefix of keys unless --dest-prefix says otherwise, which is not copied here.
func TestMirrorLikeEtcdctl(t *testing.T) {
	real := servertest.Oracle(t, "etcdctl")
	connect := func() (string, *client.Client) {
		c := servertest.Start(t, 1, servertest.Quick()...)
		cl, err := client.New(client.Config{Endpoints: []string{c.Members[0].Client}})
		require.NoError(t, err)
		t.Cleanup(func() { _ = cl.Close() })
		return c.Members[0].Client, cl
	}
	from, src := connect()
	one, ours := connect()
	two, theirs := connect()
	for _, flags := range []string{
		"", "--prefix=k/", "--prefix=k/ --dest-prefix=other/", "--prefix=k/ --no-dest-prefix", "--prefix=k/1 --dest-prefix=k/1 --rev=REV", "--max-txn-ops=1",
		"--dest-prefix=other/",
	} {
		t.Run(flags, func(t *testing.T) {
			var begin int64 // the first revision of this test in the source
			for _, cl := range []*client.Client{ours, theirs, src} {
				r, err := cl.Delete(t.Context(), "\x00", client.WithFromKey())
				require.NoError(t, err)
				begin = r.Header.Revision + 1
			}
			flags = strings.ReplaceAll(flags, "REV", fmt.Sprint(begin))
			put(t, src, "before")
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			args := append([]string{"--endpoints=" + from, "make-mirror"}, strings.Fields(flags)...)
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				cmd := &cobra.Command{Use: "keelson", SilenceErrors: true, SilenceUsage: true}
				cmd.AddCommand(ctl.Command())
				cmd.SetArgs(slices.Concat([]string{"ctl"}, args, []string{one}))
				cmd.SetOut(io.Discard)
				cmd.SetErr(io.Discard)
				_ = cmd.ExecuteContext(ctx)
			}()
			oracle := exec.CommandContext(ctx, real, slices.Concat(args, []string{two})...)
			require.NoError(t, oracle.Start())
			put(t, src, "after")
			_, err := src.Txn(t.Context()).Then(client.OpPut("k/1", []byte("txn")), client.OpPut("k/2", []byte("txn")), client.OpDelete("k/3"), client.OpPut("z", []byte("txn"))).Commit()
			require.NoError(t, err)
			require.EventuallyWithT(t, func(collect *assert.CollectT) {
				got := contents(t, ours)
				assert.Equal(collect, contents(t, theirs), got)
				assert.Contains(collect, got, "1=txn")
			}, 30*time.Second, 20*time.Millisecond)
			cancel()
			<-ended
			_ = oracle.Wait()
			require.Equal(t, contents(t, theirs), contents(t, ours))
		})
	}
}

func put(t *testing.T, cl *client.Client, value string) {
	t.Helper()
	for i := range 12 {
		_, err := cl.Put(t.Context(), fmt.Sprintf("k/%d", i), value)
		require.NoError(t, err)
	}
	_, err := cl.Put(t.Context(), "z", value)
	require.NoError(t, err)
}

// contents are all keys with their values.
func contents(t *testing.T, cl *client.Client) string {
	t.Helper()
	r, err := cl.Get(t.Context(), "\x00", client.WithFromKey())
	require.NoError(t, err)
	var b strings.Builder
	for _, kv := range r.Kvs {
		fmt.Fprintf(&b, "%s=%s\n", kv.Key, kv.Value)
	}
	return b.String()
}
