package ctl

import "github.com/spf13/cobra"

func (c *ctl) check() *cobra.Command { return parent("check <subcommand>", "Measures the cluster") }
