package server_test

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/keelson-io/keelson/server/servertest"
)

// TestPeersOnSockets has members talk to each other over unix sockets: with one of the real etcd among them where it can, which
// is where a socket is named host:port in the working directory.
func TestPeersOnSockets(t *testing.T) {
	etcd := servertest.Oracle(t, "etcd")
	named := func(scheme string) func(t *testing.T) string {
		return func(t *testing.T) string {
			_, port, err := net.SplitHostPort(servertest.FreeAddr(t))
			require.NoError(t, err)
			return scheme + "://localhost:" + port
		}
	}
	for name, c := range map[string]struct {
		url   func(t *testing.T) string
		mixed bool
		flags []string
	}{
		"unix":      {url: named("unix"), mixed: true},
		"unixs":     {url: named("unixs"), flags: []string{"--peer-auto-tls"}}, // etcd listens without TLS there, and so does not find itself
		"unix path": {url: func(t *testing.T) string { return "unix://" + filepath.Join(t.TempDir(), "peer.sock") }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Chdir(t.TempDir())
			cl := servertest.New(t, 3, append(servertest.Quick(), c.flags...)...)
			for _, m := range cl.Members {
				m.PeerURL = c.url(t)
			}
			for i, m := range cl.Members {
				if c.mixed && i == 2 {
					cl.RunProgram(m, etcd)
				} else {
					cl.Run(m)
				}
			}
			cl.WaitReady(cl.Members...)
			exercise(t, cl)
			cl.Kill(cl.Members[1])
			write(t, dial(cl, cl.Members[0]), "without one")
			cl.Run(cl.Members[1]) // takes over the socket that is left of it
			cl.WaitReady(cl.Members[1])
			exercise(t, cl)
		})
	}
}

// write writes a key, through elections.
func write(t *testing.T, s services, key string) {
	require.Eventually(t, func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		_, err := s.Put(ctx, &pb.PutRequest{Key: []byte(key)})
		return err == nil
	}, time.Minute, 20*time.Millisecond)
}

// exercise does through every member, under every leader, what makes members ask each other for something.
func exercise(t *testing.T, c *servertest.Cluster) {
	for i := range c.Members {
		lead := leader(t, c)
		for j, m := range c.Members {
			s := dial(c, m)
			write(t, s, fmt.Sprint(i, j))
			l, err := s.LeaseGrant(deadline(t), &pb.LeaseGrantRequest{TTL: 100})
			require.NoError(t, err)
			ttl, err := s.LeaseTimeToLive(deadline(t), &pb.LeaseTimeToLiveRequest{ID: l.ID})
			require.NoError(t, err)
			require.Positive(t, ttl.TTL)
		}
		st, err := dial(c, c.Members[i]).Status(deadline(t), &pb.StatusRequest{})
		require.NoError(t, err)
		if lead != c.Members[i] {
			_, err = dial(c, lead).MoveLeader(deadline(t), &pb.MoveLeaderRequest{TargetID: st.Header.MemberId})
			require.NoError(t, err)
		}
	}
	members, err := dial(c, c.Members[0]).MemberList(deadline(t), &pb.MemberListRequest{Linearizable: true})
	require.NoError(t, err)
	for _, m := range members.Members {
		require.True(t, strings.HasPrefix(m.PeerURLs[0], "unix"), m.PeerURLs)
	}
}
