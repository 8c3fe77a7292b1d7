package upstream

import (
	"context"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.etcd.io/etcd/api/v3/version"
	"google.golang.org/grpc/metadata"
)

// authorization is a second name of the token.
const authorization = "authorization"

// forwarded is the metadata that members look at.
var forwarded = []string{
	rpctypes.TokenFieldNameGRPC, authorization, rpctypes.MetadataRequireLeaderKey, rpctypes.MetadataClientAPIVersionKey,
	"traceparent", "tracestate", "baggage",
}

// Forward makes calls of ctx with the metadata of the call that ctx belongs to.
func Forward(ctx context.Context) context.Context {
	in, ok := metadata.FromIncomingContext(ctx)
	if !ok {
		return ctx
	}
	out := metadata.MD{}
	for _, key := range forwarded {
		if vs := in[key]; len(vs) > 0 {
			out[key] = vs
		}
	}
	if len(out) == 0 {
		return ctx
	}
	return metadata.NewOutgoingContext(ctx, out)
}

// Caller is a client's identity. Calls of equal callers get the same answers. The zero Caller is the proxy itself, and every
// client that shows nothing.
type Caller struct {
	Token         Credential
	Authorization Credential
	NeedsLeader   bool // its streams are to end when there is no leader
}

// Anonymous says whether a client shows nothing that tells it from others.
func (c Caller) Anonymous() bool { return !c.Token.Shown && !c.Authorization.Shown }

// Credential is what a client shows. An empty one is something else than none.
type Credential struct {
	Shown bool
	Value string
}

// CallerOf returns who makes an incoming call.
func CallerOf(ctx context.Context) Caller {
	first := func(key string) Credential {
		if vs := metadata.ValueFromIncomingContext(ctx, key); len(vs) > 0 {
			return Credential{true, vs[0]}
		}
		return Credential{}
	}
	return Caller{
		Token: first(rpctypes.TokenFieldNameGRPC), Authorization: first(authorization),
		NeedsLeader: first(rpctypes.MetadataRequireLeaderKey).Value == rpctypes.MetadataHasLeader,
	}
}

// Context makes calls of ctx those of the caller.
func (c Caller) Context(ctx context.Context) context.Context {
	md := metadata.Pairs(rpctypes.MetadataClientAPIVersionKey, version.APIVersion)
	if c.Token.Shown {
		md.Set(rpctypes.TokenFieldNameGRPC, c.Token.Value)
	}
	if c.Authorization.Shown {
		md.Set(authorization, c.Authorization.Value)
	}
	if c.NeedsLeader {
		md.Set(rpctypes.MetadataRequireLeaderKey, rpctypes.MetadataHasLeader)
	}
	return metadata.NewOutgoingContext(ctx, md)
}
