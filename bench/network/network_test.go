package network

import (
	"context"
	"net"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/keelson-io/keelson/bench"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func server(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-ended)
	})
	return l.Addr().String()
}

func TestStream(t *testing.T) {
	addr := server(t)
	got, err := Stream(t.Context(), addr, 3, 30*time.Millisecond)
	require.NoError(t, err)
	require.Positive(t, got.Bytes)
	require.Zero(t, got.Bytes%blockSize, "whole blocks were sent, and all of them came")
	_, err = Stream(t.Context(), "127.0.0.1:1", 1, time.Millisecond)
	require.Error(t, err)
	_, err = Stream(t.Context(), addr, 0, time.Second)
	require.Error(t, err)
}

func TestEcho(t *testing.T) {
	addr := server(t)
	r, err := Echo(t.Context(), addr, bench.Options{Clients: 2, Total: 100})
	require.NoError(t, err)
	require.EqualValues(t, 100, r.Ops)
	r, err = Connections(t.Context(), addr, bench.Options{Clients: 2, Total: 20})
	require.NoError(t, err)
	require.EqualValues(t, 20, r.Ops)
	require.Zero(t, r.Errors)
	_, err = Connections(t.Context(), "127.0.0.1:1", bench.Options{Clients: 1, Total: 2})
	require.Error(t, err)
}

func TestNames(t *testing.T) {
	p, err := net.ListenPacket("udp", "127.0.0.1:0")
	require.NoError(t, err)
	s := &dns.Server{PacketConn: p, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		a := new(dns.Msg).SetReply(q)
		if q.Question[0].Name == "known.example." {
			a.Answer = append(a.Answer, &dns.A{Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET}, A: net.IPv4(192, 0, 2, 1)})
		}
		_ = w.WriteMsg(a)
	})}
	ended := make(chan error, 1)
	go func() { ended <- s.ActivateAndServe() }()
	t.Cleanup(func() {
		require.NoError(t, s.Shutdown())
		require.NoError(t, <-ended)
	})
	r, err := Names(t.Context(), p.LocalAddr().String(), []string{"known.example"}, bench.Options{Clients: 2, Total: 50})
	require.NoError(t, err)
	require.EqualValues(t, 50, r.Ops)
	r, err = Names(t.Context(), p.LocalAddr().String(), []string{"known.example", "other.example"}, bench.Options{Clients: 1, Total: 10})
	require.NoError(t, err)
	require.EqualValues(t, 5, r.Errors)
	_, err = Names(t.Context(), p.LocalAddr().String(), nil, bench.Options{Clients: 1, Total: 10})
	require.Error(t, err)
}
