package membership

import (
	"os"
	"testing"

	"github.com/stretchr/testify/require"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// testdata/etcd.snap is a snapshot file of etcd 3.7.3, of a cluster whose rows are below.
func TestV2SnapshotEqualsEtcds(t *testing.T) {
	file, err := os.ReadFile("testdata/etcd.snap")
	require.NoError(t, err)
	var snap raftpb.Snapshot
	require.NoError(t, proto.Unmarshal(field(t, file, 2), &snap)) // 2: the data of the envelope

	c, err := Load(Config{}, memRows{
		BucketMembers: {
			"f7875276d5273a18": `{"id":17836315519559875096,"peerURLs":["http://127.0.0.1:23801"],"name":"n1","clientURLs":["http://127.0.0.1:23791"]}`,
			"ff9e3a518104cdad": `{"id":18419223647723244973,"peerURLs":["http://127.0.0.1:23997"],"isLearner":true}`,
		},
		BucketRemoved: {"2e67a0f6d905949f": "removed"},
		BucketCluster: {"clusterVersion": "3.7.0"},
	})
	require.NoError(t, err)
	got, err := c.V2Snapshot()
	require.NoError(t, err)
	require.Equal(t, string(snap.GetData()), string(got))
}

func field(t *testing.T, b []byte, number protowire.Number) []byte {
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		require.Positive(t, n)
		b = b[n:]
		if num == number {
			v, n := protowire.ConsumeBytes(b)
			require.Positive(t, n)
			return v
		}
		n = protowire.ConsumeFieldValue(num, typ, b)
		require.Positive(t, n)
		b = b[n:]
	}
	return nil
}

func TestV2SnapshotOfAnEmptyCluster(t *testing.T) {
	c, _ := storedCluster(t)
	got, err := c.V2Snapshot()
	require.NoError(t, err)
	require.Contains(t, string(got), `"0":{"Path":"/0","CreatedIndex":0,"ModifiedIndex":0,"ExpireTime":"0001-01-01T00:00:00Z","Value":"","Children":{}}`)
	require.Contains(t, string(got), `"Size":0,"Front":0,"Back":0,"Capacity":1000},"StartIndex":0,"LastIndex":0}},"CurrentIndex":0,`)
}

// More writes than the ring of events holds: the oldest fall out.
func TestV2SnapshotOfManyMembers(t *testing.T) {
	s := newV2Store()
	for i := range v2Capacity + 3 {
		s.create("", "0", "removed_members", FormatID(uint64(i)))
	}
	h := s.WatcherHub.EventHistory
	require.Equal(t, v2Capacity, h.Queue.Size)
	require.Equal(t, 3, h.Queue.Front)
	require.Equal(t, 3, h.Queue.Back)
	require.Equal(t, uint64(4), h.StartIndex)
	require.Equal(t, uint64(v2Capacity+3), h.LastIndex)
}
