package ctl_test

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"
)

// canned is a server that gives the same answers whatever it is asked, so that what etcdctl printed for them once can
// be compared with what we print.
type canned struct {
	mu      sync.Mutex
	answers map[string][]any // by method: messages, or an error
	calls   []string         // methods
}

// serve starts the server on a socket in the working directory, so that its name has always the same length.
func serve(t *testing.T) *canned {
	t.Chdir(t.TempDir())
	name := os.Args[0]
	os.Args[0] = "etcdctl"
	t.Cleanup(func() { os.Args[0] = name })
	l, err := net.Listen("unix", "sock")
	require.NoError(t, err)
	s := &canned{}
	g := grpc.NewServer(grpc.UnknownServiceHandler(s.handle))
	go g.Serve(l)
	t.Cleanup(g.Stop)
	return s
}

const endpoint = "unix:sock"

// set replaces the answers of a method.
func (s *canned) set(answers map[string][]any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answers = cannedAnswers()
	for m, a := range answers {
		s.answers[m] = a
	}
}

func (s *canned) handle(_ any, ss grpc.ServerStream) error {
	method, _ := grpc.MethodFromServerStream(ss)
	s.mu.Lock()
	answers := s.answers[method]
	s.calls = append(s.calls, method)
	s.mu.Unlock()
	if answers == nil {
		return status.Error(codes.Unimplemented, method)
	}
	switch method {
	case pb.Watch_Watch_FullMethodName:
		return watchAnswers(ss, answers)
	case pb.Lease_LeaseKeepAlive_FullMethodName:
		return keepAliveAnswers(ss, answers)
	}
	if err := ss.RecvMsg(&emptypb.Empty{}); err != nil {
		return err
	}
	return sendAll(ss, answers)
}

func sendAll(ss grpc.ServerStream, answers []any) error {
	for _, a := range answers {
		if err, ok := a.(error); ok {
			return err
		}
		if err := ss.SendMsg(a); err != nil {
			return err
		}
	}
	return nil
}

// keepAliveAnswers gives one answer for each request.
func keepAliveAnswers(ss grpc.ServerStream, answers []any) error {
	for _, a := range answers {
		if err := ss.RecvMsg(&emptypb.Empty{}); err != nil {
			return err
		}
		if err := ss.SendMsg(a); err != nil {
			return err
		}
	}
	<-ss.Context().Done()
	return nil
}

// watchAnswers gives all answers to the first watch, whatever ID the client wants for it.
func watchAnswers(ss grpc.ServerStream, answers []any) error {
	var req pb.WatchRequest
	if err := ss.RecvMsg(&req); err != nil {
		return err
	}
	id := req.GetCreateRequest().GetWatchId()
	for _, a := range answers {
		resp := proto.CloneOf(a.(*pb.WatchResponse))
		if resp.WatchId != -1 {
			resp.WatchId = id
		}
		if err := ss.SendMsg(resp); err != nil {
			return err
		}
	}
	for {
		if err := ss.RecvMsg(&req); errors.Is(err, io.EOF) || err != nil {
			return nil
		}
	}
}

func header(rev int64) *pb.ResponseHeader {
	return &pb.ResponseHeader{ClusterId: 0x8c2ff40632fd55ca, MemberId: 0x8ddad4abaa5c0a0c, Revision: rev, RaftTerm: 3}
}

func kv(key, value string) *mvccpb.KeyValue {
	return &mvccpb.KeyValue{
		Key: []byte(key), Value: []byte(value), CreateRevision: 5, ModRevision: 7, Version: 2, Lease: 0x32695410dcc0ca06,
	}
}

var (
	leader  = &pb.Member{ID: 0x8ddad4abaa5c0a0c, Name: "m1", PeerURLs: []string{"http://a:1", "http://b:1"}, ClientURLs: []string{"unix:sock"}}
	unheard = &pb.Member{ID: 0xc0ffee, PeerURLs: []string{"http://c:1"}, IsLearner: true}
	members = []*pb.Member{leader, unheard}
	leaseID = int64(0x32695410dcc0ca06)
	perms   = []*authpb.Permission{
		{Key: []byte("a")}, {Key: []byte("b"), RangeEnd: []byte("c"), PermType: authpb.Permission_WRITE},
		{Key: []byte("k\xff"), RangeEnd: []byte("l"), PermType: authpb.Permission_READWRITE},
		{Key: []byte("x"), RangeEnd: []byte{0}, PermType: authpb.Permission_READWRITE}, {RangeEnd: []byte("z")},
	}
	deleted  = &pb.DeleteRangeResponse{Header: header(9), Deleted: 2, PrevKvs: []*mvccpb.KeyValue{kv("k1", "v\n1"), kv("k2", "\x00\xff")}}
	rangeTwo = &pb.RangeResponse{Header: header(9), Kvs: []*mvccpb.KeyValue{kv("k1", "v\n1"), kv("k2", "\x00\xff")}, More: true, Count: 12}
)

// cannedAnswers are what the server answers, unless a case says otherwise.
func cannedAnswers() map[string][]any {
	op := func(r any) *pb.ResponseOp {
		switch r := r.(type) {
		case *pb.RangeResponse:
			return &pb.ResponseOp{Response: &pb.ResponseOp_ResponseRange{ResponseRange: r}}
		case *pb.PutResponse:
			return &pb.ResponseOp{Response: &pb.ResponseOp_ResponsePut{ResponsePut: r}}
		}
		return &pb.ResponseOp{Response: &pb.ResponseOp_ResponseDeleteRange{ResponseDeleteRange: r.(*pb.DeleteRangeResponse)}}
	}
	return map[string][]any{
		pb.KV_Range_FullMethodName: {rangeTwo},
		pb.KV_RangeStream_FullMethodName: {
			&pb.RangeStreamResponse{RangeResponse: &pb.RangeResponse{Kvs: []*mvccpb.KeyValue{kv("k1", "v")}}},
			&pb.RangeStreamResponse{RangeResponse: &pb.RangeResponse{Header: header(9), Kvs: []*mvccpb.KeyValue{kv("k2", "w")}, Count: 2}},
		},
		pb.KV_Put_FullMethodName:         {&pb.PutResponse{Header: header(9), PrevKv: kv("k1", "old")}},
		pb.KV_DeleteRange_FullMethodName: {deleted},
		pb.KV_Txn_FullMethodName: {&pb.TxnResponse{Header: header(9), Succeeded: true, Responses: []*pb.ResponseOp{
			op(rangeTwo), op(&pb.PutResponse{Header: header(9)}), op(&pb.PutResponse{Header: header(9), PrevKv: kv("k1", "old")}), op(deleted),
		}}},
		pb.KV_Compact_FullMethodName:             {&pb.CompactionResponse{Header: header(9)}},
		pb.Lease_LeaseGrant_FullMethodName:       {&pb.LeaseGrantResponse{Header: header(9), ID: leaseID, TTL: 60}},
		pb.Lease_LeaseRevoke_FullMethodName:      {&pb.LeaseRevokeResponse{Header: header(9)}},
		pb.Lease_LeaseTimeToLive_FullMethodName:  {&pb.LeaseTimeToLiveResponse{Header: header(9), ID: leaseID, TTL: 33, GrantedTTL: 60, Keys: [][]byte{[]byte("k1"), []byte("k\xff")}}},
		pb.Lease_LeaseLeases_FullMethodName:      {&pb.LeaseLeasesResponse{Header: header(9), Leases: []*pb.LeaseStatus{{ID: leaseID}, {ID: 17}}}},
		pb.Lease_LeaseKeepAlive_FullMethodName:   {&pb.LeaseKeepAliveResponse{Header: header(9), ID: leaseID, TTL: 1}, &pb.LeaseKeepAliveResponse{Header: header(9), ID: leaseID}},
		pb.Cluster_MemberList_FullMethodName:     {&pb.MemberListResponse{Header: header(0), Members: members}},
		pb.Cluster_MemberAdd_FullMethodName:      {&pb.MemberAddResponse{Header: header(0), Member: unheard, Members: members}},
		pb.Cluster_MemberRemove_FullMethodName:   {&pb.MemberRemoveResponse{Header: header(0), Members: members[:1]}},
		pb.Cluster_MemberUpdate_FullMethodName:   {&pb.MemberUpdateResponse{Header: header(0), Members: members}},
		pb.Cluster_MemberPromote_FullMethodName:  {&pb.MemberPromoteResponse{Header: header(0), Members: members}},
		pb.Maintenance_Alarm_FullMethodName:      {&pb.AlarmResponse{Header: header(9), Alarms: []*pb.AlarmMember{{MemberID: 0xc0ffee, Alarm: pb.AlarmType_NOSPACE}}}},
		pb.Maintenance_Status_FullMethodName:     {statusAnswer()},
		pb.Maintenance_HashKV_FullMethodName:     {&pb.HashKVResponse{Header: header(9), Hash: 4081720303, CompactRevision: 3, HashRevision: 9}},
		pb.Maintenance_Defragment_FullMethodName: {&pb.DefragmentResponse{Header: header(0)}},
		pb.Maintenance_MoveLeader_FullMethodName: {&pb.MoveLeaderResponse{Header: header(9)}},
		pb.Maintenance_Downgrade_FullMethodName:  {&pb.DowngradeResponse{Header: header(9), Version: "3.7.0"}},
		pb.Maintenance_Snapshot_FullMethodName: {
			&pb.SnapshotResponse{Header: header(9), Blob: make([]byte, 512), RemainingBytes: 32, Version: "3.7.3"},
			&pb.SnapshotResponse{Blob: make([]byte, 32), Version: "3.7.3"},
		},
		pb.Auth_AuthEnable_FullMethodName:           {&pb.AuthEnableResponse{Header: header(9)}},
		pb.Auth_AuthDisable_FullMethodName:          {&pb.AuthDisableResponse{Header: header(9)}},
		pb.Auth_AuthStatus_FullMethodName:           {&pb.AuthStatusResponse{Header: header(9), Enabled: true, AuthRevision: 17}},
		pb.Auth_Authenticate_FullMethodName:         {&pb.AuthenticateResponse{Header: header(9), Token: "token"}},
		pb.Auth_UserAdd_FullMethodName:              {&pb.AuthUserAddResponse{Header: header(9)}},
		pb.Auth_UserDelete_FullMethodName:           {&pb.AuthUserDeleteResponse{Header: header(9)}},
		pb.Auth_UserChangePassword_FullMethodName:   {&pb.AuthUserChangePasswordResponse{Header: header(9)}},
		pb.Auth_UserGrantRole_FullMethodName:        {&pb.AuthUserGrantRoleResponse{Header: header(9)}},
		pb.Auth_UserRevokeRole_FullMethodName:       {&pb.AuthUserRevokeRoleResponse{Header: header(9)}},
		pb.Auth_UserGet_FullMethodName:              {&pb.AuthUserGetResponse{Header: header(9), Roles: []string{"a", "b"}}},
		pb.Auth_UserList_FullMethodName:             {&pb.AuthUserListResponse{Header: header(9), Users: []string{"alice", "bob"}}},
		pb.Auth_RoleAdd_FullMethodName:              {&pb.AuthRoleAddResponse{Header: header(9)}},
		pb.Auth_RoleDelete_FullMethodName:           {&pb.AuthRoleDeleteResponse{Header: header(9)}},
		pb.Auth_RoleGet_FullMethodName:              {&pb.AuthRoleGetResponse{Header: header(9), Perm: perms}},
		pb.Auth_RoleList_FullMethodName:             {&pb.AuthRoleListResponse{Header: header(9), Roles: []string{"a", "b c"}}},
		pb.Auth_RoleGrantPermission_FullMethodName:  {&pb.AuthRoleGrantPermissionResponse{Header: header(9)}},
		pb.Auth_RoleRevokePermission_FullMethodName: {&pb.AuthRoleRevokePermissionResponse{Header: header(9)}},
		pb.Watch_Watch_FullMethodName: {
			&pb.WatchResponse{Header: header(6), Created: true},
			&pb.WatchResponse{Header: header(8), Events: []*mvccpb.Event{
				{Type: mvccpb.Event_PUT, Kv: kv("k1", "v\n1"), PrevKv: kv("k1", "\x00\xff")},
				{Type: mvccpb.Event_PUT, Kv: kv("k2", "new")},
			}},
			&pb.WatchResponse{Header: header(9), Events: []*mvccpb.Event{
				{Type: mvccpb.Event_DELETE, Kv: &mvccpb.KeyValue{Key: []byte("k1"), ModRevision: 9}},
			}},
			&pb.WatchResponse{Header: header(11)},
			&pb.WatchResponse{Header: header(12), Canceled: true, CompactRevision: 12},
		},
	}
}

func statusAnswer() *pb.StatusResponse {
	return &pb.StatusResponse{
		Header: header(9), Version: "3.7.3", StorageVersion: "3.7.0", DbSize: 20_480_000, DbSizeInUse: 16_384, DbSizeQuota: 2 << 30,
		Leader: leader.ID, RaftTerm: 3, RaftIndex: 1234, RaftAppliedIndex: 1230, Errors: []string{"NOSPACE", "etcdserver: no leader"},
		IsLearner: true, DowngradeInfo: &pb.DowngradeInfo{Enabled: true, TargetVersion: "3.6.0"},
	}
}

// noAlarm is the answers with which everything is well.
func noAlarm() map[string][]any {
	return map[string][]any{pb.Maintenance_Alarm_FullMethodName: {&pb.AlarmResponse{Header: header(9)}}}
}

func failing(method string, err error) map[string][]any { return map[string][]any{method: {err}} }

// bare is the answers with next to nothing in them.
func bare() map[string][]any {
	return map[string][]any{
		pb.KV_Range_FullMethodName:              {&pb.RangeResponse{Header: header(9)}},
		pb.KV_Put_FullMethodName:                {&pb.PutResponse{Header: header(9)}},
		pb.KV_DeleteRange_FullMethodName:        {&pb.DeleteRangeResponse{Header: header(9)}},
		pb.KV_Txn_FullMethodName:                {&pb.TxnResponse{Header: header(9)}},
		pb.Lease_LeaseTimeToLive_FullMethodName: {&pb.LeaseTimeToLiveResponse{Header: header(9), ID: leaseID, TTL: -1}},
		pb.Lease_LeaseLeases_FullMethodName:     {&pb.LeaseLeasesResponse{Header: header(9)}},
		pb.Lease_LeaseKeepAlive_FullMethodName:  {&pb.LeaseKeepAliveResponse{Header: header(9), ID: leaseID}},
		pb.Maintenance_Alarm_FullMethodName:     {&pb.AlarmResponse{Header: header(9)}},
		pb.Maintenance_Status_FullMethodName:    {&pb.StatusResponse{Header: header(0), DbSize: 1}},
		pb.Cluster_MemberAdd_FullMethodName:     {&pb.MemberAddResponse{Header: header(0), Member: leader, Members: members[:1]}},
		pb.Cluster_MemberList_FullMethodName:    {&pb.MemberListResponse{Header: header(0)}},
		pb.Auth_AuthStatus_FullMethodName:       {&pb.AuthStatusResponse{Header: header(9)}},
		pb.Auth_UserGet_FullMethodName:          {&pb.AuthUserGetResponse{Header: header(9)}},
		pb.Auth_UserList_FullMethodName:         {&pb.AuthUserListResponse{Header: header(9)}},
		pb.Auth_RoleGet_FullMethodName:          {&pb.AuthRoleGetResponse{Header: header(9)}},
		pb.Auth_RoleList_FullMethodName:         {&pb.AuthRoleListResponse{Header: header(9)}},
		pb.Maintenance_Snapshot_FullMethodName:  {&pb.SnapshotResponse{Header: header(9), Blob: make([]byte, 100)}},
		pb.Watch_Watch_FullMethodName: {
			&pb.WatchResponse{Header: header(6), WatchId: -1, Created: true, Canceled: true, CancelReason: rpctypes.ErrPermissionDenied.Error()},
		},
	}
}
