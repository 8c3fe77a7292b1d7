package alarm

import (
	"testing"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

type rows map[string][]byte

func (r rows) Put(k, v []byte) { r[string(k)] = v }
func (r rows) Delete(k []byte) { delete(r, string(k)) }
func (r rows) ForEach(fn func(k, v []byte) error) error {
	for k, v := range r {
		if err := fn([]byte(k), v); err != nil {
			return err
		}
	}
	return nil
}

func TestAlarms(t *testing.T) {
	r := rows{}
	s, err := Open(r)
	require.NoError(t, err)
	require.False(t, s.Active(pb.AlarmType_NOSPACE))

	m, err := s.Activate(7, pb.AlarmType_NOSPACE)
	require.NoError(t, err)
	require.EqualValues(t, 7, m.MemberID)
	_, err = s.Activate(7, pb.AlarmType_NOSPACE)
	require.NoError(t, err)
	_, err = s.Activate(8, pb.AlarmType_CORRUPT)
	require.NoError(t, err)
	require.Len(t, r, 2, "raising an alarm twice makes one row")
	require.Len(t, s.Get(pb.AlarmType_NONE), 2)
	require.Len(t, s.Get(pb.AlarmType_CORRUPT), 1)

	again, err := Open(r)
	require.NoError(t, err)
	require.True(t, again.Active(pb.AlarmType_NOSPACE))
	require.True(t, again.Active(pb.AlarmType_CORRUPT))

	m, err = s.Deactivate(9, pb.AlarmType_NOSPACE)
	require.NoError(t, err)
	require.Nil(t, m, "another member's alarm")
	m, err = s.Deactivate(7, pb.AlarmType_NOSPACE)
	require.NoError(t, err)
	require.NotNil(t, m)
	require.False(t, s.Active(pb.AlarmType_NOSPACE))
	require.Len(t, r, 1)

	r["\xff"] = nil
	_, err = Open(r)
	require.Error(t, err)
}
