package conformance

import (
	"context"
	"io"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/keelson-io/keelson/api/v3electionpb"
	"github.com/keelson-io/keelson/api/v3lockpb"
	"github.com/keelson-io/keelson/server/servertest"
)

// open are the methods that answer everybody.
var open = map[protoreflect.FullName]bool{
	"etcdserverpb.Auth.Authenticate": true, "etcdserverpb.Auth.AuthStatus": true,
}

// samples are requests that reach the question of who asks; without one it is the empty request.
var samples = map[protoreflect.FullName]proto.Message{
	"etcdserverpb.KV.Range":             &pb.RangeRequest{Key: []byte("a")},
	"etcdserverpb.KV.RangeStream":       &pb.RangeRequest{Key: []byte("a")},
	"etcdserverpb.KV.Put":               &pb.PutRequest{Key: []byte("a")},
	"etcdserverpb.KV.DeleteRange":       &pb.DeleteRangeRequest{Key: []byte("a")},
	"etcdserverpb.KV.Txn":               &pb.TxnRequest{Compare: []*pb.Compare{{Key: []byte("a")}}},
	"etcdserverpb.Lease.LeaseGrant":     &pb.LeaseGrantRequest{TTL: 100},
	"etcdserverpb.Lease.LeaseKeepAlive": &pb.LeaseKeepAliveRequest{ID: 1},
	"etcdserverpb.Watch.Watch": &pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{
		CreateRequest: &pb.WatchCreateRequest{Key: []byte("a")},
	}},
	"v3lockpb.Lock.Lock":             &v3lockpb.LockRequest{Name: []byte("a")},
	"v3lockpb.Lock.Unlock":           &v3lockpb.UnlockRequest{Key: []byte("a/1")},
	"v3electionpb.Election.Campaign": &v3electionpb.CampaignRequest{Name: []byte("a")},
	"v3electionpb.Election.Proclaim": &v3electionpb.ProclaimRequest{Leader: &v3electionpb.LeaderKey{Key: []byte("a/1")}},
	"v3electionpb.Election.Resign":   &v3electionpb.ResignRequest{Leader: &v3electionpb.LeaderKey{Key: []byte("a/1")}},
	"v3electionpb.Election.Leader":   &v3electionpb.LeaderRequest{Name: []byte("a")},
	"v3electionpb.Election.Observe":  &v3electionpb.LeaderRequest{Name: []byte("a")},
	"etcdserverpb.Cluster.MemberAdd": &pb.MemberAddRequest{PeerURLs: []string{"http://127.0.0.1:1"}},
	"etcdserverpb.Auth.UserGet":      &pb.AuthUserGetRequest{Name: "root"},
}

// TestStrangers calls every method of every service without a token and with a made-up one: while authentication is enabled,
// none answers. A method that is added without a guard fails here.
func TestStrangers(t *testing.T) {
	conn := dial(t, servertest.Start(t, 1, "--bcrypt-cost=4").Members[0].Client)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	setUp(ctx, t, clients{pb.NewKVClient(conn), pb.NewAuthClient(conn), pb.NewWatchClient(conn)})
	asked := 0
	for _, name := range services {
		d, err := protoregistry.GlobalFiles.FindDescriptorByName(name)
		require.NoError(t, err)
		methods := d.(protoreflect.ServiceDescriptor).Methods()
		for i := range methods.Len() {
			m := methods.Get(i)
			if open[m.FullName()] {
				continue
			}
			asked++
			require.Contains(t, refusal(ctx, conn, m), "etcdserver: user name is empty", m.FullName())
			require.Contains(t, refusal(WithToken(ctx, "made-up.1"), conn, m), "etcdserver: invalid auth token", m.FullName())
		}
	}
	require.GreaterOrEqual(t, asked, 40)
}

// refusal calls a method and returns why it was refused, or what it answered.
func refusal(ctx context.Context, conn *grpc.ClientConn, m protoreflect.MethodDescriptor) string {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	req, resp := samples[m.FullName()], message(m.Output())
	if req == nil {
		req = message(m.Input())
	}
	req = proto.Clone(req)
	if !m.IsStreamingServer() {
		if err := conn.Invoke(ctx, path(m), req, resp); err != nil {
			return err.Error()
		}
		return resp.(interface{ String() string }).String()
	}
	s, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, path(m))
	if err != nil {
		return err.Error()
	}
	_ = s.SendMsg(req)
	if !m.IsStreamingClient() {
		_ = s.CloseSend()
	}
	switch err := s.RecvMsg(resp); {
	case err == io.EOF:
		return "nothing"
	case err != nil:
		return err.Error()
	}
	if w, ok := resp.(*pb.WatchResponse); ok && w.Canceled {
		return w.CancelReason
	}
	return resp.(interface{ String() string }).String()
}
