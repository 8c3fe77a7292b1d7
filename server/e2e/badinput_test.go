package e2e

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/keelson-io/keelson/server/servertest"
)

// TestBadInput sends nonsense to the client port and the peer port of one member of a working cluster.
func TestBadInput(t *testing.T) {
	t.Parallel()
	badInput(t, 1)
}

func TestStressBadInput(t *testing.T) {
	servertest.Stress(t)
	badInput(t, 20)
}

func badInput(t *testing.T, rounds int) {
	c := startCluster(t, []kind{keelson, keelson, keelson})
	m := c.Members[0]
	c.lied = true
	oracle := startCluster(t, []kind{etcd, etcd, etcd})
	lead, olead := c.leader(), oracle.leader()
	l := startLoad(t, c, 2)
	l.progress(50)
	files := openFiles(t, m)
	for range rounds {
		for _, addr := range []string{m.Client, strings.TrimPrefix(m.PeerURL, "http://")} {
			garbage(t, addr)
		}
		badFrames(t, m)
		badMessages(t, m)
		badRequests(t, c.on[lead], oracle.on[olead])
		badPeerRequests(t, c, m)
		for _, other := range c.Members[1:] {
			badRaft(t, c, m, other)
			badRaft(t, c, other, m)
		}
	}
	l.progress(100)
	http.DefaultClient.CloseIdleConnections()
	eventually(t, func(context.Context) error {
		if n := openFiles(t, m); n > files+15 {
			return fmt.Errorf("%d files are open, %d were before", n, files)
		}
		return nil
	}, "connections are given back")
	st, err := c.on[m].Status(within(t, patience), &pb.StatusRequest{})
	require.NoError(t, err)
	require.Empty(t, st.Errors)
	l.stop(c)
	for _, m := range c.Members {
		require.Error(t, logged(m, "goroutine "), "a panic")
		select {
		case <-m.Done():
			t.Errorf("%s has ended", m.Name)
		default:
		}
	}
}

// openFiles counts the files and connections of a member that runs as a program.
func openFiles(t *testing.T, m *member) int {
	t.Helper()
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", m.Pid()))
	if os.IsNotExist(err) {
		return 0 // not a system that tells
	}
	require.NoError(t, err)
	return len(entries)
}

// send opens a connection, sends bytes, and waits until the other side closes it or a moment has passed.
func send(t *testing.T, addr string, data []byte) []byte {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	require.NoError(t, err)
	defer conn.Close()
	require.NoError(t, conn.SetDeadline(time.Now().Add(100*time.Millisecond)))
	_, _ = conn.Write(data)
	answer, _ := io.ReadAll(conn)
	return answer
}

const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

// garbage sends what is no request at all.
func garbage(t *testing.T, addr string) {
	noise := make([]byte, 70_000)
	for i := range noise {
		noise[i] = byte(rand.Uint32())
	}
	for _, data := range [][]byte{
		nil, {0}, noise, noise[:10], []byte("\r\n\r\n\r\n"), []byte("GET / HTTP/9.9\r\n\r\n"), []byte("GET /raft HTTP/1.1\r\n"),
		[]byte(preface[:10]), []byte(preface), append([]byte(preface), noise...),
		{0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01, 0xfc, 0x03, 0x03}, // TLS
		[]byte("GET / HTTP/1.1\r\nHost: x\r\nX: " + strings.Repeat("x", 2<<20) + "\r\n\r\n"),
		[]byte("POST /raft HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999\r\n\r\nx"),
		[]byte("POST /raft HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffff\r\n"),
	} {
		send(t, addr, data)
	}
}

// frame is an HTTP/2 frame.
func frame(kind, flags byte, stream uint32, length int, payload string) []byte {
	f := []byte{byte(length >> 16), byte(length >> 8), byte(length), kind, flags}
	return append(binary.BigEndian.AppendUint32(f, stream), payload...)
}

// badFrames speaks HTTP/2 and then breaks its rules.
func badFrames(t *testing.T, m *member) {
	settings := frame(4, 0, 0, 0, "")
	for _, f := range [][]byte{
		frame(0, 0, 1, 1<<24-1, "too long"),           // DATA longer than allowed
		frame(0, 0, 77, 4, "data"),                    // DATA of no stream
		frame(1, 4, 1, 5, "\xff\xff\xff\xff\xff"),     // HEADERS that do not decode
		frame(1, 0, 1, 0, ""),                         // HEADERS without end
		frame(1, 4, 2, 0, ""),                         // a stream id of the server
		frame(3, 0, 0, 4, "\x00\x00\x00\x00"),         // RST_STREAM of the connection
		frame(4, 0, 0, 5, "\x00\x00\x00\x00\x00"),     // SETTINGS of a wrong size
		frame(4, 0, 0, 6, "\x00\x05\xff\xff\xff\xff"), // frames of 4 GB, please
		frame(6, 0, 0, 8, "pingping"),
		frame(6, 0, 0, 3, "png"),
		frame(8, 0, 0, 4, "\x7f\xff\xff\xff"), // window overflow
		frame(8, 0, 0, 4, "\x00\x00\x00\x00"),
		frame(9, 0, 1, 3, "abc"),    // CONTINUATION of nothing
		frame(99, 255, 1, 3, "abc"), // unknown type: to be ignored
	} {
		data := append([]byte(preface), settings...)
		send(t, m.Client, append(data, f...))
	}
	var pings []byte
	for range 5000 {
		pings = append(pings, frame(6, 0, 0, 8, "pingping")...)
	}
	send(t, m.Client, append(append([]byte(preface), settings...), pings...))
}

// rawCodec sends bytes as they are.
type rawCodec struct{}

func (rawCodec) Marshal(v any) ([]byte, error) { return *v.(*[]byte), nil }
func (rawCodec) Unmarshal(data []byte, v any) error {
	*v.(*[]byte) = bytes.Clone(data)
	return nil
}
func (rawCodec) Name() string { return "proto" }

var _ encoding.Codec = rawCodec{}

// badMessages makes calls whose messages are not what they should be.
func badMessages(t *testing.T, m *member) {
	conn := dialAddr(t, m.Client).conn
	defer conn.Close()
	noise := make([]byte, 3000)
	for i := range noise {
		noise[i] = byte(rand.Uint32())
	}
	call := func(method string, in []byte) error {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		var out []byte
		return conn.Invoke(ctx, method, &in, &out, grpc.ForceCodec(rawCodec{}))
	}
	for _, method := range []string{"KV/Range", "KV/Put", "KV/Txn", "KV/DeleteRange", "KV/Compact", "Lease/LeaseGrant", "Cluster/MemberAdd", "Maintenance/Alarm"} {
		for _, in := range [][]byte{noise, {0xff}, {0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f}, bytes.Repeat([]byte{0x0b}, 200_000)} {
			require.Equal(t, codes.Internal, status.Code(call("/etcdserverpb."+method, in)), method)
		}
	}
	require.Equal(t, codes.Unimplemented, status.Code(call("/etcdserverpb.KV/Nothing", nil)))
	require.Equal(t, codes.Unimplemented, status.Code(call("/nothing", nil)))
	for _, method := range []string{"Watch/Watch", "Lease/LeaseKeepAlive"} {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		s, err := conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, "/etcdserverpb."+method, grpc.ForceCodec(rawCodec{}))
		require.NoError(t, err)
		require.NoError(t, s.SendMsg(&noise))
		var out []byte
		require.Error(t, s.RecvMsg(&out), method)
		cancel()
	}
}

// refused are calls that are well-formed, but too large or without sense.
func refused() map[string]func(context.Context, services) error {
	deep := &pb.TxnRequest{Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: []byte("deep")}}}}}
	for range 2000 {
		deep = &pb.TxnRequest{Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestTxn{RequestTxn: deep}}}}
	}
	put := func(key string, size int) func(context.Context, services) error {
		return func(ctx context.Context, s services) error {
			_, err := s.Put(ctx, &pb.PutRequest{Key: []byte(key), Value: make([]byte, size)})
			return err
		}
	}
	txn := func(r *pb.TxnRequest) func(context.Context, services) error {
		return func(ctx context.Context, s services) error {
			_, err := s.Txn(ctx, r)
			return err
		}
	}
	return map[string]func(context.Context, services) error{
		"large":            put("big", 1_600_000),
		"huge":             put("big", 20_000_000),
		"no key":           put("", 1),
		"deep":             txn(deep),
		"empty operations": txn(&pb.TxnRequest{Success: []*pb.RequestOp{{}, {}}}),
		"odd comparison":   txn(&pb.TxnRequest{Compare: []*pb.Compare{{Key: []byte("x"), Target: 77, Result: 99}}}),
		"same key twice": txn(&pb.TxnRequest{Success: []*pb.RequestOp{
			{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: []byte("x")}}},
			{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: []byte("x")}}},
		}}),
		"many operations": txn(&pb.TxnRequest{Failure: slices.Repeat([]*pb.RequestOp{
			{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: []byte("x")}}},
		}, 129)}),
		"odd order": func(ctx context.Context, s services) error {
			_, err := s.Range(ctx, &pb.RangeRequest{Key: []byte("a"), SortTarget: 99})
			return err
		},
		"future revision": func(ctx context.Context, s services) error {
			_, err := s.Range(ctx, &pb.RangeRequest{Key: []byte("a"), Revision: 1 << 62})
			return err
		},
		"future compaction": func(ctx context.Context, s services) error {
			_, err := s.Compact(ctx, &pb.CompactionRequest{Revision: 1 << 62})
			return err
		},
		"eternal lease": func(ctx context.Context, s services) error {
			_, err := s.LeaseGrant(ctx, &pb.LeaseGrantRequest{TTL: 1 << 62})
			return err
		},
		"no such lease": func(ctx context.Context, s services) error {
			_, err := s.Put(ctx, &pb.PutRequest{Key: []byte("x"), Lease: 77})
			return err
		},
		"no URL": func(ctx context.Context, s services) error {
			_, err := s.MemberAdd(ctx, &pb.MemberAddRequest{PeerURLs: []string{"not a url"}})
			return err
		},
		"no such member": func(ctx context.Context, s services) error {
			_, err := s.MemberRemove(ctx, &pb.MemberRemoveRequest{ID: 77})
			return err
		},
		"bad leader": func(ctx context.Context, s services) error {
			_, err := s.MoveLeader(ctx, &pb.MoveLeaderRequest{TargetID: 77})
			return err
		},
	}
}

// badRequests makes these calls to a member and to one of the real etcd, which must answer the same.
func badRequests(t *testing.T, m, oracle services) {
	for name, call := range refused() {
		err := call(within(t, patience), m)
		want := call(within(t, patience), oracle)
		require.Equal(t, fmt.Sprint(want), fmt.Sprint(err), name)
	}
}

// badRaft sends raft messages in the name of another member that it would never send.
func badRaft(t *testing.T, c *cluster, m, from *member) {
	st, err := c.on[m].Status(within(t, patience), &pb.StatusRequest{})
	require.NoError(t, err)
	id := c.id(from)
	entry := func(index uint64) *raftpb.Entry {
		return &raftpb.Entry{Term: new(st.RaftTerm), Index: new(index), Data: []byte("x")}
	}
	for _, msg := range []*raftpb.Message{
		{Type: raftpb.MsgHeartbeat.Enum(), Commit: new(uint64(1 << 40))},
		{Type: raftpb.MsgApp.Enum(), Index: new(st.RaftIndex), LogTerm: new(st.RaftTerm), Entries: []*raftpb.Entry{entry(1 << 40)}},
		{Type: raftpb.MsgApp.Enum(), Index: new(st.RaftIndex), LogTerm: new(uint64(1 << 63))},
		{Type: raftpb.MsgAppResp.Enum(), Index: new(uint64(1 << 40))},
		{Type: raftpb.MsgHeartbeatResp.Enum(), Context: []byte("x")},
		{Type: raftpb.MsgProp.Enum(), Term: new(uint64(0)), Entries: []*raftpb.Entry{{Type: raftpb.EntryConfChange.Enum(), Data: []byte{0xff}}}},
		{Type: raftpb.MsgReadIndexResp.Enum()},
		{Type: raftpb.MsgUnreachable.Enum()},
		{Type: raftpb.MsgHup.Enum()},
		{Type: raftpb.MessageType(99).Enum()},
	} {
		msg.From, msg.To = new(id), new(st.Header.MemberId)
		if msg.Term == nil {
			msg.Term = new(st.RaftTerm)
		}
		body, err := proto.Marshal(msg)
		require.NoError(t, err)
		peerRequest(t, m, http.MethodPost, "/raft", fmt.Sprintf("%x", st.Header.ClusterId), fmt.Sprintf("%x", id), body)
	}
}

// badPeerRequests sends nonsense to what members say to each other.
func badPeerRequests(t *testing.T, c *cluster, m *member) {
	st, err := c.on[m].Status(within(t, patience), &pb.StatusRequest{})
	require.NoError(t, err)
	noise := make([]byte, 5000)
	for i := range noise {
		noise[i] = byte(rand.Uint32())
	}
	length := append(binary.BigEndian.AppendUint64(nil, 1<<60), noise...)
	for _, cluster := range []string{"", "1", fmt.Sprintf("%x", st.Header.ClusterId)} {
		for _, path := range []string{"/raft", "/raft/snapshot", "/raft/stream/msgapp/1", "/raft/stream/message/" + fmt.Sprintf("%x", st.Header.MemberId), "/raft/probing", "/members", "/nothing"} {
			for _, body := range [][]byte{nil, noise, length} {
				for _, method := range []string{http.MethodPost, http.MethodGet} {
					peerRequest(t, m, method, path, cluster, "1234", body)
				}
			}
		}
	}
}

// peerRequest makes a request as another member would.
func peerRequest(t *testing.T, m *member, method, path, cluster, from string, body []byte) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, m.PeerURL+path, bytes.NewReader(body))
	require.NoError(t, err)
	for name, value := range map[string]string{
		"X-Etcd-Cluster-ID": cluster, "X-Server-From": from, "X-Server-Version": "3.7.0", "X-Min-Cluster-Version": "3.0.0",
	} {
		req.Header.Set(name, value)
	}
	if resp, err := http.DefaultClient.Do(req); err == nil {
		_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 1<<20))
		_ = resp.Body.Close()
	}
}
