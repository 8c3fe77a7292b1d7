package config

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestVolumeBindingArgs(t *testing.T) {
	parse := func(args string) (*Configuration, error) {
		return Parse(fmt.Appendf(nil, `apiVersion: %s
kind: KubeSchedulerConfiguration
profiles:
- pluginConfig:
  - name: VolumeBinding
    args: {%s}
`, APIVersion, args))
	}
	timeout := func(args string) int64 {
		c, err := parse(args)
		require.NoError(t, err)
		return *c.Profiles[0].ArgsOf(VolumeBinding).(*VolumeBindingArgs).BindTimeoutSeconds
	}
	require.EqualValues(t, 600, timeout(""))
	require.EqualValues(t, 7, timeout("bindTimeoutSeconds: 7"))
	require.EqualValues(t, 600, *Default().Profiles[0].ArgsOf(VolumeBinding).(*VolumeBindingArgs).BindTimeoutSeconds)
	_, err := parse("bindTimeoutSeconds: -1")
	require.ErrorContains(t, err, "should not be a negative value")
	_, err = parse("bindTimeout: 1")
	require.ErrorContains(t, err, "bindTimeout")
}
