package replica

import (
	"testing"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"
)

func TestCommandID(t *testing.T) {
	for _, c := range []struct {
		cmd  *pb.InternalRaftRequest
		want uint64
	}{
		{&pb.InternalRaftRequest{ID: 7, Put: &pb.PutRequest{Key: []byte("k")}}, 7},
		{&pb.InternalRaftRequest{Header: &pb.RequestHeader{ID: 1 << 63}, Put: &pb.PutRequest{Key: []byte("k")}}, 1 << 63},
		{&pb.InternalRaftRequest{ID: 7, Header: &pb.RequestHeader{ID: 8}}, 7},
	} {
		data, err := proto.Marshal(c.cmd)
		require.NoError(t, err)
		id, err := commandID(data)
		require.NoError(t, err)
		require.Equal(t, c.want, id)
	}
	_, err := commandID([]byte{0xff})
	require.Error(t, err)
}

// FuzzCommandID looks at bytes that may be no command.
func FuzzCommandID(f *testing.F) {
	seed, err := proto.Marshal(&pb.InternalRaftRequest{Header: &pb.RequestHeader{ID: 9}, DeleteRange: &pb.DeleteRangeRequest{Key: []byte("k")}})
	require.NoError(f, err)
	f.Add(seed)
	f.Add([]byte{0x08})
	f.Fuzz(func(t *testing.T, b []byte) {
		if id, err := commandID(b); err != nil && id != 0 {
			t.Errorf("id %d and %v", id, err)
		}
	})
}
