package discovery_test

import (
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"testing"

	"github.com/miekg/dns"
	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"golang.org/x/sys/unix"

	"github.com/keelson-io/keelson/internal/testkit"
	"github.com/keelson-io/keelson/server/servertest"
)

// inside says to the test, which runs itself again, that it has a network and mounts of its own.
const inside = "KEELSON_TEST_INSIDE"

// TestByRecords founds a cluster of members of both kinds that find each other by a real name server's SRV records.
func TestByRecords(t *testing.T) {
	testkit.Root(t)
	if os.Getenv(inside) == "" {
		cmd := exec.Command("unshare", "--mount", "--net", os.Args[0], "-test.run=^TestByRecords$", "-test.v")
		cmd.Env = append(os.Environ(), inside+"=1")
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, string(out))
		return
	}
	require.NoError(t, exec.Command("ip", "link", "set", "lo", "up").Run())
	conf := filepath.Join(t.TempDir(), "resolv.conf")
	require.NoError(t, os.WriteFile(conf, []byte("nameserver 127.0.0.1\n"), 0o600))
	require.NoError(t, unix.Mount(conf, "/etc/resolv.conf", "", unix.MS_BIND, ""))

	c := servertest.New(t, 3, servertest.Quick()...)
	c.Found = []string{"--discovery-srv=example.test", "--discovery-srv-name=blue"}
	serveNames(t, "_etcd-server-blue._tcp.example.test.", c)
	var starts sync.WaitGroup
	for i, m := range c.Members {
		if i == 2 {
			c.RunProgram(m, servertest.Oracle(t, "etcd"))
			continue
		}
		starts.Go(func() { c.Run(m) })
	}
	starts.Wait()
	c.WaitReady(c.Members...)
	for _, m := range c.Members {
		list, err := pb.NewClusterClient(c.Dial(m)).MemberList(t.Context(), &pb.MemberListRequest{Linearizable: true})
		require.NoError(t, err)
		require.Len(t, list.Members, 3)
	}
}

// serveNames is a name server: a record for every member, whose hosts are all this one.
func serveNames(t *testing.T, service string, c *servertest.Cluster) {
	conn, err := net.ListenPacket("udp", "127.0.0.1:53")
	require.NoError(t, err)
	var records []dns.RR
	for _, m := range c.Members {
		u, err := url.Parse(m.PeerURL)
		require.NoError(t, err)
		port, err := strconv.ParseUint(u.Port(), 10, 16)
		require.NoError(t, err)
		records = append(records, &dns.SRV{Hdr: dns.RR_Header{Name: service, Rrtype: dns.TypeSRV, Class: dns.ClassINET}, Port: uint16(port), Target: m.Name + ".example.test."})
	}
	answer := func(w dns.ResponseWriter, r *dns.Msg) {
		reply := new(dns.Msg).SetReply(r)
		q := r.Question[0]
		switch {
		case q.Name == service && q.Qtype == dns.TypeSRV:
			reply.Answer = records
		case q.Qtype == dns.TypeA && dns.IsSubDomain("example.test.", q.Name):
			reply.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: q.Name, Rrtype: dns.TypeA, Class: dns.ClassINET}, A: net.IPv4(127, 0, 0, 1)}}
		case q.Qtype != dns.TypeAAAA:
			reply.Rcode = dns.RcodeNameError
		}
		_ = w.WriteMsg(reply)
	}
	srv := &dns.Server{PacketConn: conn, Handler: dns.HandlerFunc(answer)}
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.ActivateAndServe() }()
	t.Cleanup(func() { _ = srv.Shutdown(); <-done })
}
