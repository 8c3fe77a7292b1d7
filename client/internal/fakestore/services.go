package fakestore

import (
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"sync"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
)

// service implements the API's services for one member.
type service struct {
	pb.UnimplementedKVServer
	pb.UnimplementedWatchServer
	pb.UnimplementedLeaseServer
	pb.UnimplementedClusterServer
	pb.UnimplementedMaintenanceServer
	pb.UnimplementedAuthServer
	m *Member
	s *Store

	mu     sync.Mutex
	logins int
}

func register(g *grpc.Server, m *Member) {
	s := &service{m: m, s: m.cluster.Store}
	pb.RegisterKVServer(g, s)
	pb.RegisterWatchServer(g, s)
	pb.RegisterLeaseServer(g, s)
	pb.RegisterClusterServer(g, s)
	pb.RegisterMaintenanceServer(g, s)
	pb.RegisterAuthServer(g, s)
}

func (x *service) Range(_ context.Context, r *pb.RangeRequest) (*pb.RangeResponse, error) {
	if len(r.Key) == 0 {
		return nil, rpctypes.ErrGRPCEmptyKey
	}
	x.s.mu.Lock()
	defer x.s.mu.Unlock()
	return x.s.begin().get(r)
}

func (x *service) RangeStream(r *pb.RangeRequest, out grpc.ServerStreamingServer[pb.RangeStreamResponse]) error {
	all, err := x.Range(out.Context(), r)
	if err != nil {
		return err
	}
	for len(all.Kvs) > 2 {
		if err := out.Send(&pb.RangeStreamResponse{RangeResponse: &pb.RangeResponse{Kvs: all.Kvs[:2]}}); err != nil {
			return err
		}
		all.Kvs = all.Kvs[2:]
	}
	return out.Send(&pb.RangeStreamResponse{RangeResponse: all})
}

func (x *service) Put(_ context.Context, r *pb.PutRequest) (*pb.PutResponse, error) {
	if len(r.Key) == 0 {
		return nil, rpctypes.ErrGRPCEmptyKey
	}
	x.s.mu.Lock()
	defer x.s.mu.Unlock()
	if r.Lease != 0 && x.s.leases[r.Lease] == nil {
		return nil, rpctypes.ErrGRPCLeaseNotFound
	}
	t := x.s.begin()
	defer t.end()
	return t.put(r), nil
}

func (x *service) DeleteRange(_ context.Context, r *pb.DeleteRangeRequest) (*pb.DeleteRangeResponse, error) {
	x.s.mu.Lock()
	defer x.s.mu.Unlock()
	t := x.s.begin()
	defer t.end()
	return t.delete(r), nil
}

func (x *service) Txn(_ context.Context, r *pb.TxnRequest) (*pb.TxnResponse, error) {
	x.s.mu.Lock()
	defer x.s.mu.Unlock()
	t := x.s.begin()
	resp, err := t.txn(r)
	if err != nil {
		return nil, err
	}
	t.end()
	return resp, nil
}

func (x *service) Compact(_ context.Context, r *pb.CompactionRequest) (*pb.CompactionResponse, error) {
	x.s.mu.Lock()
	defer x.s.mu.Unlock()
	switch {
	case r.Revision <= x.s.oldest:
		return nil, rpctypes.ErrGRPCCompacted
	case r.Revision > x.s.rev:
		return nil, rpctypes.ErrGRPCFutureRev
	}
	x.s.oldest = r.Revision
	x.s.cond.Broadcast()
	return &pb.CompactionResponse{Header: header(x.s.rev)}, nil
}

func (x *service) LeaseGrant(_ context.Context, r *pb.LeaseGrantRequest) (*pb.LeaseGrantResponse, error) {
	x.s.mu.Lock()
	defer x.s.mu.Unlock()
	if x.s.leases[r.ID] != nil {
		return nil, rpctypes.ErrGRPCLeaseExist
	}
	x.s.leases[r.ID] = &lease{ttl: r.TTL}
	return &pb.LeaseGrantResponse{Header: header(x.s.rev), ID: r.ID, TTL: r.TTL}, nil
}

func (x *service) LeaseRevoke(_ context.Context, r *pb.LeaseRevokeRequest) (*pb.LeaseRevokeResponse, error) {
	if !x.s.Revoke(r.ID) {
		return nil, rpctypes.ErrGRPCLeaseNotFound
	}
	return &pb.LeaseRevokeResponse{Header: header(x.s.Rev())}, nil
}

func (x *service) LeaseTimeToLive(_ context.Context, r *pb.LeaseTimeToLiveRequest) (*pb.LeaseTimeToLiveResponse, error) {
	x.s.mu.Lock()
	defer x.s.mu.Unlock()
	l := x.s.leases[r.ID]
	if l == nil {
		return &pb.LeaseTimeToLiveResponse{Header: header(x.s.rev), ID: r.ID, TTL: -1}, nil
	}
	resp := &pb.LeaseTimeToLiveResponse{Header: header(x.s.rev), ID: r.ID, TTL: l.ttl, GrantedTTL: l.ttl}
	if r.Keys {
		for _, kv := range sorted(x.s.at(x.s.rev)) {
			if kv.Lease == r.ID {
				resp.Keys = append(resp.Keys, kv.Key)
			}
		}
	}
	return resp, nil
}

func (x *service) LeaseLeases(context.Context, *pb.LeaseLeasesRequest) (*pb.LeaseLeasesResponse, error) {
	x.s.mu.Lock()
	defer x.s.mu.Unlock()
	resp := &pb.LeaseLeasesResponse{Header: header(x.s.rev)}
	for id := range x.s.leases {
		resp.Leases = append(resp.Leases, &pb.LeaseStatus{ID: id})
	}
	return resp, nil
}

func (x *service) LeaseKeepAlive(ss grpc.BidiStreamingServer[pb.LeaseKeepAliveRequest, pb.LeaseKeepAliveResponse]) error {
	reqs := make(chan *pb.LeaseKeepAliveRequest)
	go func() {
		defer close(reqs)
		for {
			r, err := ss.Recv()
			if err != nil {
				return
			}
			select {
			case reqs <- r:
			case <-ss.Context().Done():
				return
			}
		}
	}()
	for {
		select {
		case <-ss.Context().Done():
			return ss.Context().Err()
		case r, ok := <-reqs:
			if !ok {
				return nil
			}
			f, err := x.m.fault(context.Background(), "keepalive") // one renewal
			if err != nil {
				return err
			}
			if f.Hang {
				continue
			}
			x.s.mu.Lock()
			resp := &pb.LeaseKeepAliveResponse{Header: header(x.s.rev), ID: r.ID}
			if l := x.s.leases[r.ID]; l != nil {
				l.renewals++
				resp.TTL = l.ttl
			}
			x.s.mu.Unlock()
			if err := ss.Send(resp); err != nil {
				return err
			}
		}
	}
}

func (x *service) MemberList(context.Context, *pb.MemberListRequest) (*pb.MemberListResponse, error) {
	resp := &pb.MemberListResponse{Header: header(x.s.Rev())}
	for _, m := range x.m.cluster.Members {
		resp.Members = append(resp.Members, &pb.Member{
			ID: m.ID, Name: "m", ClientURLs: []string{m.Endpoint()}, PeerURLs: []string{"http://peer"},
		})
	}
	return resp, nil
}

func (x *service) MemberAdd(_ context.Context, r *pb.MemberAddRequest) (*pb.MemberAddResponse, error) {
	return &pb.MemberAddResponse{Header: header(x.s.Rev()), Member: &pb.Member{ID: 99, PeerURLs: r.PeerURLs, IsLearner: r.IsLearner}}, nil
}

func (x *service) MemberRemove(_ context.Context, r *pb.MemberRemoveRequest) (*pb.MemberRemoveResponse, error) {
	if r.ID == 0 || r.ID > uint64(len(x.m.cluster.Members)) {
		return nil, rpctypes.ErrGRPCMemberNotFound
	}
	return &pb.MemberRemoveResponse{Header: header(x.s.Rev())}, nil
}

func (x *service) MemberUpdate(context.Context, *pb.MemberUpdateRequest) (*pb.MemberUpdateResponse, error) {
	return &pb.MemberUpdateResponse{Header: header(x.s.Rev())}, nil
}

func (x *service) MemberPromote(context.Context, *pb.MemberPromoteRequest) (*pb.MemberPromoteResponse, error) {
	return nil, rpctypes.ErrGRPCMemberNotLearner
}

func (x *service) Alarm(_ context.Context, r *pb.AlarmRequest) (*pb.AlarmResponse, error) {
	a := []*pb.AlarmMember{{MemberID: 1, Alarm: pb.AlarmType_NOSPACE}}
	return &pb.AlarmResponse{Header: header(x.s.Rev()), Alarms: a}, nil
}

func (x *service) Status(context.Context, *pb.StatusRequest) (*pb.StatusResponse, error) {
	h := header(x.s.Rev())
	h.MemberId = x.m.ID
	return &pb.StatusResponse{Header: h, Version: "3.7.3", Leader: 1}, nil
}

func (x *service) Defragment(context.Context, *pb.DefragmentRequest) (*pb.DefragmentResponse, error) {
	return &pb.DefragmentResponse{Header: header(x.s.Rev())}, nil
}

func (x *service) Hash(context.Context, *pb.HashRequest) (*pb.HashResponse, error) {
	return &pb.HashResponse{Header: header(x.s.Rev()), Hash: 7}, nil
}

func (x *service) HashKV(_ context.Context, r *pb.HashKVRequest) (*pb.HashKVResponse, error) {
	return &pb.HashKVResponse{Header: header(x.s.Rev()), Hash: 7, HashRevision: r.Revision}, nil
}

func (x *service) MoveLeader(context.Context, *pb.MoveLeaderRequest) (*pb.MoveLeaderResponse, error) {
	return &pb.MoveLeaderResponse{Header: header(x.s.Rev())}, nil
}

// SnapshotBytes is what a member's snapshot consists of, without the checksum.
const SnapshotBytes = "this is the backend, in pieces"

func (x *service) Snapshot(_ *pb.SnapshotRequest, out grpc.ServerStreamingServer[pb.SnapshotResponse]) error {
	sum := sha256.Sum256([]byte(SnapshotBytes))
	rest := append([]byte(SnapshotBytes), sum[:]...)
	for len(rest) > 0 {
		n := min(7, len(rest))
		m := &pb.SnapshotResponse{Header: header(x.s.Rev()), Blob: rest[:n], RemainingBytes: uint64(len(rest) - n), Version: "3.7.3"}
		if err := out.Send(m); err != nil {
			return err
		}
		rest = rest[n:]
	}
	return nil
}

// Authenticate issues the token that the member's WatchWire asks for, or a fixed one.
func (x *service) Authenticate(_ context.Context, r *pb.AuthenticateRequest) (*pb.AuthenticateResponse, error) {
	if r.Password != "secret" {
		return nil, rpctypes.ErrGRPCAuthFailed
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.logins++
	tok := x.m.getWire().Token
	if tok == "" {
		tok = "token"
	}
	return &pb.AuthenticateResponse{Header: header(x.s.Rev()), Token: tok}, nil
}

// watch is one watch on one stream.
type watch struct {
	req     *pb.WatchCreateRequest
	next    int64
	history bool
}

func (w *watch) wants(ev *mvccpb.Event) bool {
	if !within(ev.Kv.Key, w.req.Key, w.req.RangeEnd) {
		return false
	}
	for _, f := range w.req.Filters {
		if f == pb.WatchCreateRequest_NOPUT && ev.Type == mvccpb.Event_PUT ||
			f == pb.WatchCreateRequest_NODELETE && ev.Type == mvccpb.Event_DELETE {
			return false
		}
	}
	return true
}

// watchServer is one watch stream.
type watchServer struct {
	x       *service
	ss      pb.Watch_WatchServer
	watches map[int64]*watch
	ctrl    []*pb.WatchResponse // to be sent first
	over    bool
}

func (x *service) Watch(ss pb.Watch_WatchServer) error {
	v := &watchServer{x: x, ss: ss, watches: map[int64]*watch{}}
	go v.receive()
	return v.send()
}

func (v *watchServer) receive() {
	s := v.x.s
	for {
		r, err := v.ss.Recv()
		s.mu.Lock()
		if err != nil {
			v.over = true
			s.cond.Broadcast()
			s.mu.Unlock()
			return
		}
		v.handle(r)
		s.cond.Broadcast()
		s.mu.Unlock()
	}
}

func (v *watchServer) handle(r *pb.WatchRequest) {
	s := v.x.s
	switch q := r.RequestUnion.(type) {
	case *pb.WatchRequest_CreateRequest:
		c := q.CreateRequest
		if tok := v.x.m.getWire().Token; tok != "" {
			md, _ := metadata.FromIncomingContext(v.ss.Context())
			if got := md.Get("token"); len(got) == 0 || got[0] != tok {
				v.ctrl = append(v.ctrl, &pb.WatchResponse{
					Header: header(s.rev), WatchId: -1, Created: true, Canceled: true,
					CancelReason: rpctypes.ErrGRPCInvalidAuthToken.Error(),
				})
				return
			}
		}
		if string(c.Key) == "forbidden" {
			v.ctrl = append(v.ctrl, &pb.WatchResponse{
				Header: header(s.rev), WatchId: -1, Created: true, Canceled: true,
				CancelReason: rpctypes.ErrGRPCPermissionDenied.Error(),
			})
			return
		}
		w := &watch{req: c, next: c.StartRevision, history: c.StartRevision > 0 && c.StartRevision <= s.rev}
		if w.next == 0 {
			w.next = s.rev + 1
		}
		v.watches[c.WatchId] = w
		v.ctrl = append(v.ctrl, &pb.WatchResponse{Header: header(s.rev), WatchId: c.WatchId, Created: true})
	case *pb.WatchRequest_CancelRequest:
		id := q.CancelRequest.WatchId
		if v.watches[id] != nil {
			delete(v.watches, id)
			v.ctrl = append(v.ctrl, &pb.WatchResponse{Header: header(s.rev), WatchId: id, Canceled: true})
		}
	case *pb.WatchRequest_ProgressRequest:
		for _, w := range v.watches {
			if w.next <= s.rev {
				return // not all are caught up
			}
		}
		v.ctrl = append(v.ctrl, &pb.WatchResponse{Header: header(s.rev), WatchId: -1})
	}
}

// send is the stream's sender: control responses first, then events.
func (v *watchServer) send() error {
	s := v.x.s
	for {
		s.mu.Lock()
		out := v.collect()
		for len(out) == 0 && !v.over && v.ss.Context().Err() == nil {
			s.cond.Wait()
			out = v.collect()
		}
		s.mu.Unlock()
		if len(out) == 0 {
			return v.ss.Context().Err()
		}
		for _, r := range out {
			if err := v.write(r); err != nil {
				return err
			}
		}
	}
}

func (v *watchServer) collect() []*pb.WatchResponse {
	s := v.x.s
	out := v.ctrl
	v.ctrl = nil
	wire := v.x.m.getWire()
	for id, w := range v.watches {
		if wire.HoldHistory && w.history {
			continue
		}
		w.history = false
		if w.next < s.oldest {
			out = append(out, &pb.WatchResponse{Header: header(s.rev), WatchId: id, Canceled: true, CompactRevision: s.oldest})
			delete(v.watches, id)
			continue
		}
		for ; w.next <= s.rev; w.next++ {
			r := &pb.WatchResponse{Header: header(s.rev), WatchId: id}
			for _, ev := range s.events[w.next] {
				if w.wants(ev) {
					e := &mvccpb.Event{Type: ev.Type, Kv: ev.Kv}
					if w.req.PrevKv {
						e.PrevKv = ev.PrevKv
					}
					r.Events = append(r.Events, e)
				}
			}
			if len(r.Events) > 0 {
				out = append(out, r)
			}
		}
	}
	return out
}

var errCut = errors.Join(io.ErrUnexpectedEOF)

// write sends r, in fragments if the wire says so.
func (v *watchServer) write(r *pb.WatchResponse) error {
	wire := v.x.m.getWire()
	n := wire.FragmentEvents
	if n == 0 {
		return v.ss.Send(r)
	}
	evs := r.Events
	for sent := 0; ; sent++ {
		if wire.FragmentsBeforeCut > 0 && sent == wire.FragmentsBeforeCut {
			wire.FragmentsBeforeCut = 0
			v.x.m.SetWire(wire)
			return errCut
		}
		part := &pb.WatchResponse{Header: r.Header, WatchId: r.WatchId, Created: r.Created, Canceled: r.Canceled, CompactRevision: r.CompactRevision}
		k := min(n, len(evs))
		part.Events, evs = evs[:k], evs[k:]
		part.Fragment = len(evs) > 0
		if err := v.ss.Send(part); err != nil || !part.Fragment {
			return err
		}
	}
}
