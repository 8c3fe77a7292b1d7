package eviction

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

func TestThresholds(t *testing.T) {
	all, err := Thresholds(Settings{
		Hard:       map[string]string{"memory.available": "100Mi", "nodefs.available": "10%", "imagefs.available": "0%"},
		Soft:       map[string]string{"memory.available": "1.5%"},
		SoftGrace:  map[string]string{"memory.available": "1m30s"},
		MinReclaim: map[string]string{"nodefs.available": "500Mi"},
	})
	require.NoError(t, err)
	require.Len(t, all, 4, "a share of 0 switches a threshold off")
	require.Equal(t, []Signal{MemoryAvailable, PodMemory, NodeFsAvailable, MemoryAvailable}, []Signal{all[0].Signal, all[1].Signal, all[2].Signal, all[3].Signal})
	require.EqualValues(t, 100<<20, all[0].Value.of(1<<40))
	require.Equal(t, all[0].Value, all[1].Value, "for the pods' part, too")
	all = all[1:]
	require.EqualValues(t, 100, all[1].Value.of(1000))
	require.EqualValues(t, 500<<20, all[1].Reclaim.of(1000))
	require.EqualValues(t, 15, all[2].Value.of(1000))
	require.Equal(t, 90*time.Second, all[2].Grace)

	_, err = Thresholds(Settings{Hard: Defaults()})
	require.NoError(t, err)
	for want, s := range map[string]Settings{
		`no signal "disk"`:           {Hard: map[string]string{"disk": "1"}},
		"needs a grace period":       {Soft: map[string]string{"memory.available": "1Gi"}},
		"neither a quantity":         {Hard: map[string]string{"memory.available": "much"}},
		"no percentage between":      {Hard: map[string]string{"memory.available": "110%"}},
		"want a duration such as 1m": {SoftGrace: map[string]string{"memory.available": "long"}},
	} {
		_, err := Thresholds(s)
		require.ErrorContains(t, err, want)
	}
}

func TestReserved(t *testing.T) {
	all, err := Thresholds(Settings{
		Hard: map[string]string{"memory.available": "100Mi", "nodefs.available": "10%", "imagefs.available": "15%"},
		Soft: map[string]string{"memory.available": "1Gi"}, SoftGrace: map[string]string{"memory.available": "1s"},
	})
	require.NoError(t, err)
	r := Reserved(all, corev1.ResourceList{"memory": resource.MustParse("2Gi"), "ephemeral-storage": resource.MustParse("1000")})
	require.Len(t, r, 2)
	require.Equal(t, "100Mi", r.Memory().String())
	require.EqualValues(t, 100, r.StorageEphemeral().Value())
}

// TestCore follows one signal through hard and soft thresholds, minimum reclaim and transition.
func TestCore(t *testing.T) {
	all, err := Thresholds(Settings{
		Hard: map[string]string{"memory.available": "100"}, Soft: map[string]string{"memory.available": "200"}, SoftGrace: map[string]string{"memory.available": "1m"},
		MinReclaim: map[string]string{"memory.available": "50"},
	})
	require.NoError(t, err)
	c := NewCore(all, 5*time.Minute)
	start := time.Unix(1000, 0)
	for _, step := range []struct {
		at       time.Duration
		free     int64
		pressure bool
		due      int
		why      string
	}{
		{0, 250, false, 0, "enough"},
		{1 * time.Second, 199, true, 0, "soft: pressure at once, action after the grace period"},
		{30 * time.Second, 240, true, 0, "still met: the reclaim is not there"},
		{61 * time.Second, 240, true, 1, "the grace period is over"},
		{62 * time.Second, 99, true, 2, "hard"},
		{63 * time.Second, 149, true, 2, "hard is met until 150"},
		{64 * time.Second, 150, true, 1, "no more"},
		{65 * time.Second, 250, true, 0, "soft neither"},
		{64*time.Second + 4*time.Minute, 250, true, 0, "pressure lasts"},
		{65*time.Second + 5*time.Minute, 250, false, 0, "and is over"},
		{66*time.Second + 5*time.Minute, 199, true, 0, "the grace period begins anew"},
	} {
		s := c.Observe(start.Add(step.at), map[Signal]Observation{MemoryAvailable: {step.free, 1000}})
		require.Equal(t, step.pressure, len(s.Pressure) > 0, step.why)
		require.Len(t, s.Due, step.due, step.why)
		if step.due == 2 {
			require.Zero(t, s.Due[0].Grace, "the hard one is the more urgent")
		}
	}
	require.True(t, Low(all, MemoryAvailable, Observation{249, 1000}))
	require.False(t, Low(all, MemoryAvailable, Observation{250, 1000}))
	require.False(t, Low(all, PIDAvailable, Observation{0, 1000}))
	require.Empty(t, c.Observe(start.Add(time.Hour), nil).Pressure, "what is not observed is not met")
}

func TestMemoryGoesBeforeDisks(t *testing.T) {
	all, err := Thresholds(Settings{Hard: map[string]string{"imagefs.available": "10%", "memory.available": "10%", "pid.available": "10%", "nodefs.inodesFree": "10%"}})
	require.NoError(t, err)
	low := Observation{1, 1000}
	s := NewCore(all, time.Minute).Observe(time.Unix(1, 0), map[Signal]Observation{ImageFsAvailable: low, MemoryAvailable: low, PIDAvailable: low, NodeFsInodesFree: low})
	var order []Signal
	for _, d := range s.Due {
		order = append(order, d.Signal)
	}
	require.Equal(t, []Signal{MemoryAvailable, PIDAvailable, ImageFsAvailable, NodeFsInodesFree}, order)
	require.Equal(t, []corev1.NodeConditionType{"DiskPressure", "MemoryPressure", "PIDPressure"}, s.Pressure)
}
