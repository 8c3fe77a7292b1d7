package grpcproxy

import (
	"context"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc"

	"github.com/keelson-io/keelson/api/v3electionpb"
	"github.com/keelson-io/keelson/api/v3lockpb"
	"github.com/keelson-io/keelson/server/grpcproxy/cache"
	"github.com/keelson-io/keelson/server/grpcproxy/keepalive"
	"github.com/keelson-io/keelson/server/grpcproxy/members"
	"github.com/keelson-io/keelson/server/grpcproxy/namespace"
	"github.com/keelson-io/keelson/server/grpcproxy/relay"
	"github.com/keelson-io/keelson/server/grpcproxy/upstream"
	"github.com/keelson-io/keelson/server/grpcproxy/watch"
)

// changing are calls that are passed on and may change what was read before, or who may read it.
var changing = map[string]bool{
	pb.Lease_LeaseRevoke_FullMethodName: true,

	pb.Auth_AuthEnable_FullMethodName: true, pb.Auth_AuthDisable_FullMethodName: true,
	pb.Auth_UserAdd_FullMethodName: true, pb.Auth_UserDelete_FullMethodName: true, pb.Auth_UserChangePassword_FullMethodName: true,
	pb.Auth_UserGrantRole_FullMethodName: true, pb.Auth_UserRevokeRole_FullMethodName: true,
	pb.Auth_RoleAdd_FullMethodName: true, pb.Auth_RoleDelete_FullMethodName: true,
	pb.Auth_RoleGrantPermission_FullMethodName: true, pb.Auth_RoleRevokePermission_FullMethodName: true,

	v3lockpb.Lock_Lock_FullMethodName: true, v3lockpb.Lock_Unlock_FullMethodName: true,
	v3electionpb.Election_Campaign_FullMethodName: true, v3electionpb.Election_Proclaim_FullMethodName: true,
	v3electionpb.Election_Resign_FullMethodName: true,
}

// register adds all services: what is not said to be the proxy's own is passed on.
func (p *Proxy) register(g *grpc.Server, members KV, kv *cachedKV, c *cache.Cache) {
	r := &relay.Relay{Conn: p.conn, Done: func(method string) {
		if changing[method] {
			c.Clear()
		}
	}}
	reads := []string{"Range", "Put", "DeleteRange", "Txn", "Compact"}
	leases := []string{"LeaseKeepAlive"}
	if p.prefix != "" {
		reads, leases = append(reads, "RangeStream"), append(leases, "LeaseTimeToLive")
	}
	g.RegisterService(r.Service(pb.KV_ServiceDesc, reads...), kv)
	pb.RegisterWatchServer(g, watch.NewService(p.watches, members.Range))
	g.RegisterService(r.Service(pb.Lease_ServiceDesc, leases...), &leaseService{renewals: p.renewals, client: pb.NewLeaseClient(p.conn), prefix: p.prefix})
	g.RegisterService(r.Service(pb.Cluster_ServiceDesc, "MemberList"), &clusterService{proxies: p.proxies, client: pb.NewClusterClient(p.conn)})
	for _, desc := range []grpc.ServiceDesc{pb.Maintenance_ServiceDesc, pb.Auth_ServiceDesc, v3lockpb.Lock_ServiceDesc, v3electionpb.Election_ServiceDesc} {
		g.RegisterService(r.Service(desc), nil)
	}
}

// leaseService has those methods of etcdserverpb.Lease that are not passed on as they are.
type leaseService struct {
	pb.UnimplementedLeaseServer
	renewals *keepalive.Hub
	client   pb.LeaseClient
	prefix   namespace.Prefix
}

// LeaseKeepAlive renews leases.
func (s *leaseService) LeaseKeepAlive(in pb.Lease_LeaseKeepAliveServer) error {
	return s.renewals.Serve(in)
}

// LeaseTimeToLive shows a lease with those of its keys that are in the namespace.
func (s *leaseService) LeaseTimeToLive(ctx context.Context, r *pb.LeaseTimeToLiveRequest) (*pb.LeaseTimeToLiveResponse, error) {
	resp, err := s.client.LeaseTimeToLive(upstream.Forward(ctx), r)
	if err == nil {
		resp.Keys = s.prefix.Keys(resp.Keys)
	}
	return resp, err
}

// clusterService has those methods of etcdserverpb.Cluster that are not passed on as they are.
type clusterService struct {
	pb.UnimplementedClusterServer
	proxies *members.Registry
	client  pb.ClusterClient
}

// MemberList shows the proxies, so that clients keep to them; or the members if the proxies have no address.
func (s *clusterService) MemberList(ctx context.Context, r *pb.MemberListRequest) (*pb.MemberListResponse, error) {
	if list := s.proxies.List(); list != nil {
		return &pb.MemberListResponse{Members: list}, nil
	}
	return s.client.MemberList(upstream.Forward(ctx), r)
}

// followKeys calls f with the events of a range, in the namespace, until ctx ends or it fails; it fails without a leader, too.
func (p *Proxy) followKeys(ctx context.Context, key, end []byte, rev int64, f func([]*mvccpb.Event)) error {
	ctx, cancel := context.WithCancel(upstream.Caller{NeedsLeader: true}.Context(ctx))
	defer cancel()
	s, err := pb.NewWatchClient(p.conn).Watch(ctx)
	if err != nil {
		return err
	}
	key, end = p.prefix.Interval(key, end)
	if err := s.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: &pb.WatchCreateRequest{
		Key: key, RangeEnd: end, StartRevision: rev,
	}}}); err != nil {
		return err
	}
	for {
		resp, err := s.Recv()
		if err != nil {
			return err
		}
		if resp.Canceled {
			return errCanceled{resp}
		}
		for _, ev := range resp.Events {
			p.prefix.Pair(ev.Kv)
		}
		if len(resp.Events) > 0 {
			f(resp.Events)
		}
	}
}

// errCanceled is the members' end of a watch.
type errCanceled struct{ *pb.WatchResponse }

// Error says why.
func (e errCanceled) Error() string {
	if e.CompactRevision > 0 {
		return "the revision is compacted"
	}
	return "the watch was cancelled: " + e.CancelReason
}
