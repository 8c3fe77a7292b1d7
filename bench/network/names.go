package network

import (
	"context"
	"fmt"
	"net"
	"time"

	"github.com/miekg/dns"

	"github.com/keelson-io/keelson/bench"
)

// namePatience bounds the wait for one answer.
const namePatience = 5 * time.Second

// Names asks a DNS server, a host and a port, for the IPv4 addresses of names in turn, over UDP. Each client has a socket.
func Names(ctx context.Context, server string, names []string, o bench.Options) (*bench.Result, error) {
	questions := make([]*dns.Msg, len(names))
	for i, n := range names {
		questions[i] = new(dns.Msg).SetQuestion(dns.Fqdn(n), dns.TypeA)
	}
	if len(questions) == 0 {
		return nil, fmt.Errorf("network: no names to ask for")
	}
	client := &dns.Client{Net: "udp", Timeout: namePatience}
	conns := make([]*dns.Conn, max(0, o.Clients))
	defer func() {
		for _, c := range conns {
			if c != nil {
				_ = c.Close()
			}
		}
	}()
	for i := range conns {
		c, err := client.DialContext(ctx, net.JoinHostPort(hostPort(server)))
		if err != nil {
			return nil, fmt.Errorf("network: %w", err)
		}
		conns[i] = c
	}
	return bench.Measure(ctx, "names", o, func(_ context.Context, w *bench.Worker) error {
		q := questions[w.N%int64(len(questions))].Copy()
		q.Id = dns.Id()
		a, _, err := client.ExchangeWithConn(q, conns[w.ID])
		if err != nil {
			return err
		}
		if a.Rcode != dns.RcodeSuccess || len(a.Answer) == 0 {
			return fmt.Errorf("network: %s: %s, %d answers", q.Question[0].Name, dns.RcodeToString[a.Rcode], len(a.Answer))
		}
		return nil
	})
}

// hostPort is a server's host and port, 53 if it has none.
func hostPort(server string) (host, port string) {
	if h, p, err := net.SplitHostPort(server); err == nil {
		return h, p
	}
	return server, "53"
}
