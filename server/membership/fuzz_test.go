package membership

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// Whatever the configuration says, it is refused or gives members that can be written down and read again.
func FuzzInitialCluster(f *testing.F) {
	f.Add("a=http://127.0.0.1:1,b=https://[::1]:2,b=http://h:3", "tok")
	f.Add("a=,=x,,a=unix://s:1", "")
	f.Fuzz(func(t *testing.T, initial, token string) {
		c, err := NewFromInitialCluster(Config{}, token, initial)
		if err != nil {
			return
		}
		rows := memRows{}
		require.NoError(t, c.Attach(rows))
		for _, m := range c.Members() {
			require.NoError(t, ValidateURLs(m.PeerURLs))
			require.NoError(t, c.Add(m))
		}
		again, err := Load(Config{}, rows)
		require.NoError(t, err)
		require.Len(t, again.Members(), len(c.Members()))
		_, err = again.V2Snapshot()
		require.NoError(t, err)
	})
}

// Rows are refused or give the same cluster again when they are written back.
func FuzzRows(f *testing.F) {
	f.Add("1", `{"id":1,"peerURLs":["http://a:1"],"isLearner":true}`, "2", "3.7.0", `{"target-version":"3.6.0","enabled":true}`)
	f.Fuzz(func(t *testing.T, id, member, removed, version, downgrade string) {
		c, err := Load(Config{}, memRows{
			BucketMembers: {id: member},
			BucketRemoved: {removed: removedMark},
			BucketCluster: {versionKey: version, downgradeKey: downgrade},
		})
		if err != nil {
			return
		}
		rows := memRows{}
		again, err := Load(Config{}, rows)
		require.NoError(t, err)
		for _, m := range c.Members() {
			require.NoError(t, again.Add(m))
		}
		again, err = Load(Config{}, rows)
		require.NoError(t, err)
		require.Equal(t, c.Members(), again.Members())
	})
}
