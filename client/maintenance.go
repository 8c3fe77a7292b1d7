package client

import (
	"context"
	"io"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"
)

// Messages of the maintenance calls.
type (
	AlarmMember        = pb.AlarmMember
	AlarmType          = pb.AlarmType
	AlarmResponse      = pb.AlarmResponse
	StatusResponse     = pb.StatusResponse
	DefragmentResponse = pb.DefragmentResponse
	HashResponse       = pb.HashResponse
	HashKVResponse     = pb.HashKVResponse
	MoveLeaderResponse = pb.MoveLeaderResponse
	DowngradeResponse  = pb.DowngradeResponse
)

// The values of AlarmType.
const (
	AlarmNone    = pb.AlarmType_NONE
	AlarmNoSpace = pb.AlarmType_NOSPACE
	AlarmCorrupt = pb.AlarmType_CORRUPT
)

// AlarmList lists the active alarms.
func (c *Client) AlarmList(ctx context.Context) (*AlarmResponse, error) {
	return c.alarm(ctx, &pb.AlarmRequest{Action: pb.AlarmRequest_GET})
}

// AlarmDisarm ends an alarm of a member. The zero AlarmMember ends all alarms of all members.
func (c *Client) AlarmDisarm(ctx context.Context, m *AlarmMember) (*AlarmResponse, error) {
	if m.GetMemberID() != 0 || m.GetAlarm() != AlarmNone {
		return c.alarm(ctx, &pb.AlarmRequest{Action: pb.AlarmRequest_DEACTIVATE, MemberID: m.MemberID, Alarm: m.Alarm})
	}
	list, err := c.AlarmList(ctx)
	if err != nil {
		return nil, err
	}
	all := &AlarmResponse{}
	for _, a := range list.Alarms {
		resp, err := c.alarm(ctx, &pb.AlarmRequest{Action: pb.AlarmRequest_DEACTIVATE, MemberID: a.MemberID, Alarm: a.Alarm})
		if err != nil {
			return nil, err
		}
		all.Alarms = append(all.Alarms, resp.Alarms...)
	}
	return all, nil
}

func (c *Client) alarm(ctx context.Context, req *pb.AlarmRequest) (*AlarmResponse, error) {
	resp := new(AlarmResponse)
	if err := c.unary(ctx, pb.Maintenance_Alarm_FullMethodName, req, resp, read); err != nil {
		return nil, err
	}
	return resp, nil
}

// Status asks the member at endpoint about itself.
func (c *Client) Status(ctx context.Context, endpoint string) (*StatusResponse, error) {
	resp := new(StatusResponse)
	if err := c.direct(ctx, endpoint, pb.Maintenance_Status_FullMethodName, &pb.StatusRequest{}, resp); err != nil {
		return nil, err
	}
	return resp, nil
}

// Defragment gives unused space of the backend of the member at endpoint back to the file system.
func (c *Client) Defragment(ctx context.Context, endpoint string) (*DefragmentResponse, error) {
	resp := new(DefragmentResponse)
	if err := c.direct(ctx, endpoint, pb.Maintenance_Defragment_FullMethodName, &pb.DefragmentRequest{}, resp); err != nil {
		return nil, err
	}
	return resp, nil
}

// Hash returns the checksum of the whole backend of the member at endpoint.
func (c *Client) Hash(ctx context.Context, endpoint string) (*HashResponse, error) {
	resp := new(HashResponse)
	if err := c.direct(ctx, endpoint, pb.Maintenance_Hash_FullMethodName, &pb.HashRequest{}, resp); err != nil {
		return nil, err
	}
	return resp, nil
}

// HashKV returns the checksum of the keys of the member at endpoint, at revision rev; 0 is now.
func (c *Client) HashKV(ctx context.Context, endpoint string, rev int64) (*HashKVResponse, error) {
	resp := new(HashKVResponse)
	if err := c.direct(ctx, endpoint, pb.Maintenance_HashKV_FullMethodName, &pb.HashKVRequest{Revision: rev}, resp); err != nil {
		return nil, err
	}
	return resp, nil
}

// MoveLeader makes another member the leader. The client must be connected to the leader only: other members refuse.
func (c *Client) MoveLeader(ctx context.Context, to uint64) (*MoveLeaderResponse, error) {
	resp := new(MoveLeaderResponse)
	if err := c.unary(ctx, pb.Maintenance_MoveLeader_FullMethodName, &pb.MoveLeaderRequest{TargetID: to}, resp, read); err != nil {
		return nil, err
	}
	return resp, nil
}

// Downgrade checks, starts or cancels a downgrade of the cluster's version.
func (c *Client) Downgrade(ctx context.Context, action pb.DowngradeRequest_DowngradeAction, version string) (*DowngradeResponse, error) {
	resp := new(DowngradeResponse)
	req := &pb.DowngradeRequest{Action: action, Version: version}
	if err := c.unary(ctx, pb.Maintenance_Downgrade_FullMethodName, req, resp, write); err != nil {
		return nil, err
	}
	return resp, nil
}

// direct makes one call to one endpoint, over a connection of the pool if there is one. It waits for the connection,
// and is not repeated once it was sent.
func (c *Client) direct(ctx context.Context, endpoint, method string, req, resp proto.Message) error {
	l := c.pool.byEndpoint(endpoint)
	if l == nil {
		l = &link{endpoint: endpoint}
		conn, err := c.pool.dial(endpoint, l)
		if err != nil {
			return err
		}
		defer conn.Close()
		l.conn = conn
	}
	st := c.calls.Get().(*callState)
	defer c.calls.Put(st)
	for attempt := 0; ; attempt++ {
		st.peer.Addr = nil
		err := l.conn.Invoke(c.outgoing(ctx), method, req, resp, st.opts...)
		if err == nil {
			return nil
		}
		if retry, err := c.judge(ctx, l, st, err, write, attempt); !retry {
			if le := l.lastErr.Load(); le != nil && ctx.Err() != nil {
				return withLast(err, *le)
			}
			return err
		}
		if err := c.sleep(ctx, backoffFor(attempt)); err != nil {
			if le := l.lastErr.Load(); le != nil {
				return withLast(err, *le)
			}
			return err
		}
	}
}

// followLeader keeps the pool's leader up to date, for Config.PreferLeader.
func (c *Client) followLeader() {
	const every = 5 * time.Second
	for {
		c.findLeader()
		wait := every
		if c.pool.leader.Load() == nil {
			wait = 200 * time.Millisecond
		}
		if c.sleep(c.ctx, wait) != nil {
			return
		}
	}
}

// findLeader asks the ready members, one after the other, until one says that it is the leader.
func (c *Client) findLeader() {
	ctx, cancel := context.WithTimeout(c.ctx, 2*time.Second)
	defer cancel()
	for _, l := range *c.pool.ready.Load() {
		resp, err := pb.NewMaintenanceClient(l.conn).Status(c.outgoing(ctx), &pb.StatusRequest{})
		if err == nil && resp.Leader != 0 && resp.Leader == resp.GetHeader().GetMemberId() {
			c.pool.leader.Store(l)
			return
		}
	}
	c.pool.leader.Store(nil)
}

// Snapshot is a copy of a member's backend at one point in time, read as it arrives. The last 32 bytes are the
// SHA-256 of what came before. A transfer that breaks is not resumed: Read returns the error.
type Snapshot struct {
	// Header says which member sent it, at which revision.
	Header *ResponseHeader
	// Version is the server version to restore with; empty before etcd 3.6.
	Version string

	s      *serverStream[pb.SnapshotResponse]
	rest   []byte
	cancel context.CancelFunc
}

// Snapshot starts the transfer of a snapshot. Close it in any case. The transfer ends with ctx too.
func (c *Client) Snapshot(ctx context.Context) (*Snapshot, error) {
	ctx, cancel := context.WithCancel(ctx)
	s, err := openServerStream[pb.SnapshotResponse](ctx, c.engine, pb.Maintenance_Snapshot_FullMethodName, &pb.SnapshotRequest{})
	if err != nil {
		cancel()
		return nil, err
	}
	first := s.first
	s.first = nil
	return &Snapshot{
		Header: first.GetHeader(), Version: first.GetVersion(),
		s: s, rest: first.GetBlob(), cancel: cancel,
	}, nil
}

// Read is io.Reader's.
func (s *Snapshot) Read(p []byte) (int, error) {
	for len(s.rest) == 0 {
		m, err := s.s.next()
		if err != nil {
			return 0, err
		}
		if m == nil {
			return 0, io.EOF
		}
		s.rest = m.Blob
	}
	n := copy(p, s.rest)
	s.rest = s.rest[n:]
	return n, nil
}

// WriteTo is io.WriterTo's: it spares io.Copy a buffer.
func (s *Snapshot) WriteTo(w io.Writer) (n int64, err error) {
	for {
		if len(s.rest) > 0 {
			k, err := w.Write(s.rest)
			n += int64(k)
			if err != nil {
				return n, err
			}
			s.rest = nil
		}
		m, err := s.s.next()
		if m == nil || err != nil {
			return n, err
		}
		s.rest = m.Blob
	}
}

// Close ends the transfer.
func (s *Snapshot) Close() error {
	s.cancel()
	return nil
}
