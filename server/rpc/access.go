package rpc

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"strings"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.uber.org/zap"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"

	"github.com/keelson-io/keelson/lease"
	"github.com/keelson-io/keelson/server/apply"
	"github.com/keelson-io/keelson/server/auth"
	"github.com/keelson-io/keelson/server/fairness"
	"github.com/keelson-io/keelson/server/prefixquota"
)

// Tokens finds out who holds a token.
type Tokens interface {
	Lookup(token string, revision uint64) (auth.Identity, bool)
	// Await returns true when a token that was unknown may have become known.
	Await(ctx context.Context, token string) bool
}

// AuthState gives the present state of authentication.
type AuthState interface {
	Load() *auth.Snapshot
}

// Access says who calls and what they may do. While authentication is disabled it costs a look at one pointer.
type Access struct {
	State  AuthState
	Tokens Tokens
	Leases auth.Leases
	Gate   ReadGate
	// ClientCertAuth: clients show certificates, which have been verified; the common name is the user of a call without a
	// token.
	ClientCertAuth bool
	Logger         *zap.Logger
}

// caller is who makes a call. known: a token or a certificate was shown.
type caller struct {
	auth.Identity
	known bool
}

// gatewayHeader is set on calls that a JSON gateway makes for somebody else: the certificate is the gateway's own.
const gatewayHeader = "grpcgateway-accept"

// caller finds out who calls. ErrInvalidToken.
func (a *Access) caller(ctx context.Context) (caller, error) {
	now := a.State.Load()
	if !now.Enabled() && !a.ClientCertAuth {
		return caller{}, nil
	}
	if now.Enabled() {
		if token, ok := tokenOf(ctx); ok {
			id, err := a.holder(ctx, now, token)
			return caller{id, err == nil}, err
		}
	}
	if a.ClientCertAuth {
		if name, ok := commonName(ctx); ok {
			return caller{auth.Identity{User: name, Revision: now.Revision()}, true}, nil
		}
	}
	return caller{}, nil
}

// User is the name of who calls, "" if it is not known.
func (a *Access) User(ctx context.Context) string {
	c, _ := a.caller(ctx)
	return c.User
}

// holder finds out whose a token is. The revision is read before the token: who loses it meanwhile is one of the past.
func (a *Access) holder(ctx context.Context, now *auth.Snapshot, token string) (auth.Identity, error) {
	id, ok := a.Tokens.Lookup(token, now.Revision())
	if !ok && a.Tokens.Await(ctx, token) {
		id, ok = a.Tokens.Lookup(token, a.State.Load().Revision())
	}
	if !ok {
		sum := sha256.Sum256([]byte(token))
		a.Logger.Debug("invalid auth token", zap.String("token-fingerprint", hex.EncodeToString(sum[:6])))
		return auth.Identity{}, auth.ErrInvalidToken
	}
	return id, nil
}

func tokenOf(ctx context.Context) (string, bool) {
	ts := metadata.ValueFromIncomingContext(ctx, rpctypes.TokenFieldNameGRPC)
	if len(ts) == 0 {
		ts = metadata.ValueFromIncomingContext(ctx, rpctypes.TokenFieldNameSwagger)
	}
	if len(ts) == 0 {
		return "", false
	}
	return strings.TrimPrefix(ts[0], "Bearer "), true
}

// commonName is the name in the client's verified certificate.
func commonName(ctx context.Context) (string, bool) {
	p, ok := peer.FromContext(ctx)
	if !ok || len(metadata.ValueFromIncomingContext(ctx, gatewayHeader)) > 0 {
		return "", false
	}
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok {
		return "", false
	}
	for _, chain := range info.State.VerifiedChains {
		if len(chain) > 0 {
			return chain[0].Subject.CommonName, true
		}
	}
	return "", false
}

// Known refuses a call of somebody who showed neither token nor certificate. ErrUserEmpty, ErrInvalidToken.
func (a *Access) Known(ctx context.Context) error {
	if !a.State.Load().Enabled() {
		return nil
	}
	c, err := a.caller(ctx)
	if err == nil && !c.known {
		err = auth.ErrUserEmpty
	}
	return err
}

// Admin refuses a call of somebody without the role root.
func (a *Access) Admin(ctx context.Context) error {
	if !a.State.Load().Enabled() {
		return nil
	}
	c, err := a.caller(ctx)
	if err != nil {
		return err
	}
	return a.State.Load().Admin(c.Identity)
}

// reading is a read under way.
type reading struct {
	a    *Access
	id   auth.Identity
	keys *auth.Snapshot // what the permissions are asked of; nil: everything is permitted
}

// known is read, of a caller who must be known.
func (a *Access) known(ctx context.Context) (reading, error) {
	if err := a.Known(ctx); err != nil {
		return reading{}, err
	}
	return a.read(ctx)
}

// read begins a read of the caller.
func (a *Access) read(ctx context.Context) (reading, error) {
	if !a.State.Load().Enabled() {
		return reading{a: a}, nil
	}
	c, err := a.caller(ctx)
	return reading{a, c.Identity, a.State.Load()}, err
}

// Range refuses a range that the caller may not read.
func (r *reading) Range(key, end []byte) error {
	if r.keys == nil {
		return nil
	}
	return r.keys.Read(r.id, key, end)
}

// Txn refuses a transaction that the caller may not make.
func (r *reading) Txn(t *pb.TxnRequest) error {
	if r.keys == nil {
		return nil
	}
	return r.keys.PermitTxn(r.id, r.a.Leases, t)
}

// LeaseKeys refuses a look at the keys of a lease that the caller may not read.
func (r *reading) LeaseKeys(id lease.ID) error {
	if r.keys == nil {
		return nil
	}
	return r.keys.ReadLease(r.id, r.a.Leases, id)
}

// keysOf refuses to tell keys of a lease that the caller may not read, and what was read by rights that have changed.
func (r *reading) keysOf(resp *pb.LeaseTimeToLiveResponse) error {
	if err := r.Done(); err != nil || r.admin() {
		return err
	}
	for _, k := range resp.Keys {
		if err := r.keys.Read(r.id, k, nil); err != nil {
			return err
		}
	}
	return nil
}

// admin says whether the caller may do everything.
func (r *reading) admin() bool { return r.keys == nil || r.keys.Admin(r.id) == nil }

// Renew refuses the renewal of leases with keys that the caller may not write.
func (r *reading) Renew(ids ...lease.ID) error {
	for _, id := range ids {
		if r.keys == nil {
			return nil
		}
		if err := r.keys.WriteLease(r.id, r.a.Leases, id); err != nil {
			return err
		}
	}
	return nil
}

// Done refuses what was read by rights that have changed meanwhile.
func (r *reading) Done() error {
	if r.keys != nil && r.id.Revision != 0 && r.id.Revision != r.a.State.Load().Revision() {
		return auth.ErrOldRevision
	}
	return nil
}

// Authorize writes the caller into a command, and refuses one that would be refused when it is applied. What decides is the
// state at that later time; the state of this member, which may lag behind, only spares the log.
func (a *Access) Authorize(ctx context.Context, r *pb.InternalRaftRequest) error {
	if !a.State.Load().Enabled() && !a.ClientCertAuth {
		return nil
	}
	err := a.authorize(ctx, r)
	if err == nil || errors.Is(err, auth.ErrInvalidToken) {
		return err
	}
	if err := a.Gate.Wait(ctx); err != nil {
		return err
	}
	return a.authorize(ctx, r)
}

func (a *Access) authorize(ctx context.Context, r *pb.InternalRaftRequest) error {
	c, err := a.caller(ctx)
	if err != nil {
		return err
	}
	if r.Header == nil {
		r.Header = &pb.RequestHeader{}
	}
	r.Header.Username, r.Header.AuthRevision = c.User, c.Revision
	now := a.State.Load()
	switch {
	case !now.Enabled():
		return nil
	case r.Compaction != nil:
		return now.Admin(c.Identity)
	case r.LeaseGrant != nil, r.LeaseRevoke != nil:
		if !c.known {
			return auth.ErrUserEmpty
		}
	}
	return now.Permit(c.Identity, a.Leases, r)
}

// Authorized is a Proposer that lets a command pass if its caller may make it, when it is the caller's turn, and if the quotas of
// prefixes have room for it.
type Authorized struct {
	Proposer
	Access   *Access
	Lane     *fairness.Lane
	Prefixes *prefixquota.Book
}

// Do is Proposer.
func (p Authorized) Do(ctx context.Context, r *pb.InternalRaftRequest) (apply.Result, error) {
	if err := p.Access.Authorize(ctx, r); err != nil {
		return apply.Result{}, err
	}
	place, err := enter(ctx, p.Lane, r.GetHeader().GetUsername())
	if err != nil {
		return apply.Result{}, err
	}
	defer place.Leave(0)
	reserved, err := p.Prefixes.Reserve(r)
	if err != nil {
		return apply.Result{}, err
	}
	defer reserved.Release()
	return p.Proposer.Do(ctx, r)
}
