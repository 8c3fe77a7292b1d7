package ctl_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/console"
	"github.com/stretchr/testify/require"

	"github.com/keelson-io/keelson/client"
	"github.com/keelson-io/keelson/client/ctl/top"
	"github.com/keelson-io/keelson/server/servertest"
)

var update = flag.Bool("update", false, "draw the pictures in docs anew")

// load puts and gets keys of a Kubernetes cluster's kind until it is stopped, and holds watches and leases.
func load(t *testing.T, c *servertest.Cluster) (stop func()) {
	t.Helper()
	ctx := t.Context()
	var clients []*client.Client
	for _, ep := range c.Addrs() {
		cl, err := client.New(client.Config{Endpoints: []string{ep}})
		require.NoError(t, err)
		clients = append(clients, cl)
	}
	for i := range 300 {
		key, size := fmt.Sprintf("/registry/pods/shop-%d/web-%04d", i%3, i), 3000
		if i%3 == 1 {
			key, size = fmt.Sprintf("/registry/events/shop-%d/e%06d", i%3, i), 800
		}
		_, err := clients[i%len(clients)].Put(ctx, key, strings.Repeat("x", size))
		require.NoError(t, err)
	}
	_, err := clients[0].Put(ctx, "/registry/configmaps/shop-0/catalogue", strings.Repeat("x", 400_000))
	require.NoError(t, err)
	for _, cl := range clients {
		cl.Watch(ctx, "/registry/pods/", client.WithPrefix())
		_, err := cl.Grant(ctx, 600)
		require.NoError(t, err)
	}
	quit := make(chan struct{})
	var working sync.WaitGroup
	for w, cl := range clients {
		working.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-quit:
					return
				default:
				}
				// Errors are those of the end.
				_, _ = cl.Put(ctx, fmt.Sprintf("/registry/leases/kube-node-lease/node-%d", i%5), "x")
				_, _ = cl.Get(ctx, fmt.Sprintf("/registry/pods/shop-%d/", w), client.WithPrefix(), client.WithLimit(10))
				_, _ = cl.Get(ctx, "/registry/configmaps/shop-0/catalogue", client.WithSerializable())
			}
		})
	}
	return sync.OnceFunc(func() {
		close(quit)
		working.Wait()
		for _, cl := range clients {
			cl.Close()
		}
	})
}

// TestTop compares what top tells in JSON with what goes on, and draws it for people who have no terminal.
func TestTop(t *testing.T) {
	c := servertest.Start(t, 3)
	stop := load(t, c)
	defer stop()
	eps := "--endpoints=" + strings.Join(c.Addrs(), ",")
	var out, errs bytes.Buffer
	require.Zero(t, execute([]string{eps, "top", "-w", "json", "-n", "3", "--interval", "300ms"}, nil, &out, &errs), errs.String())
	dec := json.NewDecoder(&out)
	var frames []top.Frame
	for dec.More() {
		var f top.Frame
		require.NoError(t, dec.Decode(&f))
		frames = append(frames, f)
	}
	require.Len(t, frames, 3)
	f := frames[2]
	require.Len(t, f.Members, 3)
	require.Equal(t, "leader", f.Members[0].Role)
	require.Equal(t, []string{"follower", "follower"}, []string{f.Members[1].Role, f.Members[2].Role})
	puts, gets, changes := top.Number(0), top.Number(0), top.Number(0)
	for _, f := range frames {
		changes += f.Changes
		for _, m := range f.Members {
			puts, gets = puts+m.Rates.Put, gets+m.Rates.Get
		}
	}
	require.Positive(t, puts)
	require.Positive(t, gets)
	require.Positive(t, changes)
	for _, m := range f.Members {
		require.Empty(t, m.Error)
		require.EqualValues(t, 1, m.Load.Watchers)
		require.EqualValues(t, 3, m.Load.Leases)
		require.Greater(t, m.Load.Quota, m.Load.InUse)
	}
	big := map[string]top.Big{}
	for _, b := range f.Biggest {
		big[string(b.Prefix)] = b
	}
	require.True(t, big["/registry/configmaps/shop-0/catalogue"].Key)
	require.EqualValues(t, 200, big["/registry/pods/"].Keys)
	hot := map[string]top.Hot{}
	for _, h := range f.Hottest {
		hot[string(h.Prefix)] = h
	}
	require.Positive(t, hot["/registry/leases/kube-node-lease/"].Writes)
	require.Positive(t, hot["/registry/configmaps/shop-0/catalogue"].Reads)

	out.Reset()
	require.Zero(t, execute([]string{eps, "top", "--once", "--interval", "100ms"}, nil, &out, &errs), errs.String())
	for _, want := range []string{"leader " + f.Members[0].Name, "PUT/S", "WATCHERS", "/registry/configmaps/shop-0/catalogue", "391KiB"} {
		require.Contains(t, out.String(), want)
	}
	require.NotContains(t, out.String(), "\x1b")
}

// TestTopRefuses what makes no sense.
func TestTopRefuses(t *testing.T) {
	for _, args := range [][]string{{"top", "--interval", "0s"}, {"top", "-n", "-1"}, {"top", "-w", "table"}, {"top", "more"}} {
		var out, errs bytes.Buffer
		require.NotZero(t, execute(args, nil, &out, &errs), args)
		require.Empty(t, out.String())
	}
}

// TestTopOfEtcd: a member of etcd, and one that is down.
func TestTopOfEtcd(t *testing.T) {
	c := servertest.New(t, 1)
	m := c.Members[0]
	c.RunProgram(m, servertest.Oracle(t, "etcd"))
	c.WaitReady(m)
	stop := load(t, c)
	defer stop()
	var out, errs bytes.Buffer
	require.Zero(t, execute([]string{"--endpoints=" + m.Client + ",127.0.0.1:1", "top", "-w", "json", "--once"}, nil, &out, &errs), errs.String())
	var f top.Frame
	require.NoError(t, json.Unmarshal(out.Bytes(), &f))
	is := f.Members[0]
	require.Equal(t, []any{"leader", m.Name, "metrics"}, []any{is.Role, is.Name, string(is.Source)})
	require.True(t, is.Rates.Put.Known())
	require.Positive(t, is.Durations.Sync99)
	require.Positive(t, is.Load.Memory)
	require.EqualValues(t, 1, is.Load.Watchers)
	require.Equal(t, "down", f.Members[1].Role)
	require.NotEmpty(t, f.Members[1].Error)
}

// TestTopOnScreen drives top on a terminal, and draws what is on it then into docs.
func TestTopOnScreen(t *testing.T) {
	c := servertest.Start(t, 3)
	stop := load(t, c)
	defer stop()
	pty, path, err := console.NewPty()
	require.NoError(t, err)
	defer pty.Close()
	require.NoError(t, pty.Resize(console.WinSize{Width: columns, Height: rows}))
	tty, err := os.OpenFile(path, os.O_RDWR, 0)
	require.NoError(t, err)
	defer tty.Close()

	shown := newScreen(columns, rows)
	drawn := make(chan struct{}, 100)
	go func() {
		defer close(drawn)
		buf := make([]byte, 64<<10)
		for {
			n, err := pty.Read(buf)
			if shown.write(buf[:n]) {
				select {
				case drawn <- struct{}{}:
				default:
				}
			}
			if err != nil {
				return
			}
		}
	}()
	frames, interval := 2, "200ms"
	if *update {
		frames, interval = 8, "1s"
	}
	ended := make(chan int)
	go func() {
		ended <- execute([]string{"--endpoints=" + strings.Join(c.Addrs(), ","), "top", "--interval", interval}, tty, tty, io.Discard)
	}()
	for range frames {
		<-drawn
	}
	text := shown.text()
	picture := shown.svg()
	_, err = pty.Write([]byte("q"))
	require.NoError(t, err)
	require.Zero(t, <-ended)
	for _, want := range []string{"3 members", "leader m", "PUT/S", "WATCHERS", "HOTTEST PREFIX", "/registry/leases/kube-node-lease/", "/registry/configmaps/shop-0/catalogue"} {
		require.Contains(t, text, want)
	}
	require.LessOrEqual(t, strings.Count(text, "\n"), rows)
	if *update {
		require.NoError(t, os.MkdirAll("../../docs/images", 0o755))
		require.NoError(t, os.WriteFile(filepath.Join("../../docs/images", "ctl-top.svg"), []byte(picture), 0o644))
	}
}

const columns, rows = 132, 34
