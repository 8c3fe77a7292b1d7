package rpc

import (
	"context"
	"errors"
	"net"
	"strings"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"

	"github.com/keelson-io/keelson/mvcc"
	"github.com/keelson-io/keelson/server/fairness"
)

// Shares bounds what is done at once for clients, in lanes of which each identity has a fair share. A lane that is nil has no
// bounds. A place is held only while work is done for a call: commands from the proposal to the answer, reads after the wait
// for a leader. So a member without one still reads what may be stale, and calls that wait for others (locks, watches,
// elections) hold nothing.
type Shares struct {
	Writes, Reads, Logins *fairness.Lane // calls at once
}

// Costs of a call beyond its place, for who competes: a unit for each costBytes of its response.
const costBytes = 64 << 10

// leave gives a place back after a call that answered with kvs.
func leave(t fairness.Ticket, kvs []mvcc.KV) {
	var size int64
	if t.Waited() {
		for _, kv := range kvs {
			size += int64(len(kv))
		}
	}
	t.Leave(size / costBytes)
}

// enter takes a place in a lane for a call of a user; "" if it is not known.
func enter(ctx context.Context, l *fairness.Lane, user string) (fairness.Ticket, error) {
	if t, ok := l.Try(1); ok {
		return t, nil
	}
	return wait(ctx, l, user, 1)
}

// wait waits for room in a lane.
func wait(ctx context.Context, l *fairness.Lane, user string, cost int64) (fairness.Ticket, error) {
	t, err := l.Wait(ctx, identityOf(ctx, user), cost)
	if errors.Is(err, fairness.ErrRefused) {
		err = rpctypes.ErrGRPCRequestTooManyRequests
	}
	return t, err
}

// identityOf is who shares what with others: the user, else the name in the certificate, else the host that calls.
func identityOf(ctx context.Context, user string) string {
	if user != "" {
		return user
	}
	if name, ok := commonName(ctx); ok && name != "" {
		return name
	}
	return hostOf(ctx)
}

// hostOf is the address of the caller without its port; callers over a unix socket are one host. The member's own gateway calls
// through a pipe, and says last for whom.
func hostOf(ctx context.Context) string {
	p, ok := peer.FromContext(ctx)
	if !ok || p.Addr == nil {
		return ""
	}
	if p.Addr.Network() == "pipe" {
		if hosts := metadata.ValueFromIncomingContext(ctx, "x-forwarded-for"); len(hosts) > 0 {
			all := hosts[len(hosts)-1]
			return strings.TrimSpace(all[strings.LastIndexByte(all, ',')+1:])
		}
	}
	addr := p.Addr.String()
	if host, _, err := net.SplitHostPort(addr); err == nil {
		return host
	}
	return addr
}
