package main

import (
	"testing"
	"time"

	"github.com/spf13/pflag"
	"github.com/stretchr/testify/require"

	"github.com/keelson-io/keelson/orchestrator/cluster"
	"github.com/keelson-io/keelson/orchestrator/node/eviction"
)

func TestPressureFlags(t *testing.T) {
	parse := func(args ...string) (cluster.Pressure, error) {
		var p cluster.Pressure
		fs := pflag.NewFlagSet("node", pflag.ContinueOnError)
		read := pressureFlags(fs, &p)
		require.NoError(t, fs.Parse(args))
		return p, read()
	}
	p, err := parse()
	require.NoError(t, err)
	require.Equal(t, eviction.Defaults(), p.Eviction.Hard, "the kubelet's")
	require.Empty(t, p.Eviction.Soft)
	require.Equal(t, 85, p.Images.High)

	p, err = parse("--eviction-hard=memory.available<1Gi,nodefs.available<5%", "--eviction-soft=memory.available<2Gi", "--eviction-soft-grace-period=memory.available=1m30s",
		"--eviction-minimum-reclaim=nodefs.available=500Mi", "--eviction-max-pod-grace-period=30", "--image-gc-high-threshold=70", "--image-gc-low-threshold=60")
	require.NoError(t, err)
	require.Equal(t, eviction.Settings{
		Hard: map[string]string{"memory.available": "1Gi", "nodefs.available": "5%"}, Soft: map[string]string{"memory.available": "2Gi"},
		SoftGrace: map[string]string{"memory.available": "1m30s"}, MinReclaim: map[string]string{"nodefs.available": "500Mi"},
	}, p.Eviction)
	require.Equal(t, 30*time.Second, p.MaxGrace)

	p, err = parse("--eviction-hard=")
	require.NoError(t, err)
	require.Empty(t, p.Eviction.Hard, "never")

	p, err = parse("--system-reserved=cpu=100m,memory=1Gi", "--kube-reserved=memory=512Mi")
	require.NoError(t, err)
	require.Equal(t, []string{"100m", "1536Mi"}, []string{p.Reserved.Cpu().String(), p.Reserved.Memory().String()}, "both count")

	for _, args := range [][]string{
		{"--system-reserved=pods=1"}, {"--kube-reserved=memory=-1"}, {"--kube-reserved=memory=much"},
		{"--eviction-hard=memory.available"}, {"--eviction-hard=disk<1Gi"}, {"--eviction-soft=memory.available<1Gi"}, {"--image-gc-low-threshold=90"},
	} {
		_, err := parse(args...)
		require.Error(t, err, "%v", args)
	}
}
