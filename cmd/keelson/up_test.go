package main

import (
	"io"
	"testing"

	"github.com/spf13/cobra"
	"github.com/stretchr/testify/require"

	"github.com/keelson-io/keelson/orchestrator/cluster"
)

func TestChooseNodes(t *testing.T) {
	able := cluster.CheckNode(&cluster.Node{}) == nil
	for _, tc := range []struct {
		args   []string
		node   bool
		hollow int
		fails  bool
	}{
		{args: nil, node: able, hollow: map[bool]int{true: 0, false: 1}[able]},
		{args: []string{"--hollow-nodes=3"}, hollow: 3},
		{args: []string{"--hollow-nodes=0"}},
		{args: []string{"--node=false"}, hollow: 1},
		{args: []string{"--node"}, node: able, fails: !able},
		{args: []string{"--node", "--hollow-nodes=2"}, node: able, hollow: 2, fails: !able},
	} {
		var o cluster.Options
		var n cluster.Node
		cmd := &cobra.Command{}
		cmd.SetErr(io.Discard)
		node := cmd.Flags().Bool("node", false, "")
		cmd.Flags().IntVar(&o.HollowNodes, "hollow-nodes", 0, "")
		require.NoError(t, cmd.ParseFlags(tc.args))
		err := chooseNodes(cmd, &o, &n, *node)
		require.Equal(t, tc.fails, err != nil, "%v: %v", tc.args, err)
		require.Equal(t, tc.node, o.Node != nil, tc.args)
		if err == nil {
			require.Equal(t, tc.hollow, o.HollowNodes, tc.args)
		}
	}
}
