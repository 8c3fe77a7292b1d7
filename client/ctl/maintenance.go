package ctl

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/keelson-io/keelson/client"
)

func (c *ctl) alarm() *cobra.Command {
	verb := func(name, short string, f func(context.Context, *client.Client) (any, error)) *cobra.Command {
		return &cobra.Command{
			Use:   name,
			Short: short,
			RunE: func(cmd *cobra.Command, args []string) error {
				if len(args) != 0 {
					return badArgs("alarm " + name + " command accepts no arguments")
				}
				return c.call(cmd, ExitError, f)
			},
		}
	}
	return parent("alarm <subcommand>", "Lists and ends alarms",
		verb("disarm", "Ends all alarms", func(ctx context.Context, cl *client.Client) (any, error) {
			return cl.AlarmDisarm(ctx, &client.AlarmMember{})
		}),
		verb("list", "Lists the alarms", func(ctx context.Context, cl *client.Client) (any, error) {
			return cl.AlarmList(ctx)
		}))
}

func (c *ctl) defrag() *cobra.Command {
	var cluster bool
	cmd := &cobra.Command{
		Use:   "defrag",
		Short: "Gives the unused space of the endpoints' backends back to the file system",
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, eps, err := c.openEndpoints(cmd, cluster)
			if err != nil {
				return err
			}
			var failed error
			for _, ep := range eps {
				start := time.Now()
				_, err := at(cmd.Context(), s, ep, func(ctx context.Context, cl *client.Client) (*client.DefragmentResponse, error) {
					return cl.Defragment(ctx, ep)
				})
				took := time.Since(start)
				if err != nil {
					fmt.Fprintf(c.errs, "Failed to defragment etcd member[%s]. took %s. (%v)\n", ep, took, err)
					failed = exit(ExitError, nil)
					continue
				}
				fmt.Fprintf(c.out, "Finished defragmenting etcd member[%s]. took %s\n", ep, took)
			}
			return failed
		},
	}
	clusterFlag(cmd, &cluster)
	return cmd
}

func (c *ctl) moveLeader() *cobra.Command {
	return &cobra.Command{
		Use:   "move-leader <transferee-member-id>",
		Short: "Makes another member the leader",
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 {
				return badArgs("move-leader command needs 1 argument")
			}
			target, err := strconv.ParseUint(args[0], 16, 64)
			if err != nil {
				return exit(ExitBadArgs, err)
			}
			s, err := c.open(cmd)
			if err != nil {
				return err
			}
			ctx, cancel := s.short(cmd.Context())
			defer cancel()
			moved, err := s.moveLeader(ctx, target)
			if err != nil {
				return withCode(ExitError, c.plain(err))
			}
			return s.printer.Print(moved)
		},
	}
}

// moveLeader looks for the leader among the endpoints: other members would refuse.
func (s *session) moveLeader(ctx context.Context, target uint64) (moved leaderMoved, err error) {
	if len(s.cfg.Endpoints) == 0 {
		_, err := s.dial()
		return moved, err
	}
	for _, ep := range s.cfg.Endpoints {
		cl, err := s.dial(ep)
		if err != nil {
			return moved, err
		}
		defer cl.Close()
		resp, err := cl.Status(ctx, ep)
		if err != nil {
			return moved, err
		}
		if resp.GetHeader().GetMemberId() == resp.Leader {
			answer, err := cl.MoveLeader(ctx, target)
			return leaderMoved{answer, resp.Leader, target}, err
		}
	}
	return moved, badArgs(fmt.Sprintf("no leader endpoint given at %v", s.cfg.Endpoints))
}

func (c *ctl) downgrade() *cobra.Command {
	step := func(name, use, short string, action pb.DowngradeRequest_DowngradeAction) *cobra.Command {
		return &cobra.Command{
			Use:   use,
			Short: short,
			RunE: func(cmd *cobra.Command, args []string) error {
				version := ""
				if action != pb.DowngradeRequest_CANCEL {
					if err := checkTarget(args); err != nil {
						return err
					}
					version = args[0]
				}
				return c.call(cmd, ExitError, func(ctx context.Context, cl *client.Client) (any, error) {
					resp, err := cl.Downgrade(ctx, action, version)
					return downgrade{resp, name}, err
				})
			},
		}
	}
	return parent("downgrade <subcommand>", "Prepares the cluster for members of an older version",
		step("validate", "validate <TARGET_VERSION>", "Tells whether a downgrade is possible", pb.DowngradeRequest_VALIDATE),
		step("enable", "enable <TARGET_VERSION>", "Begins a downgrade", pb.DowngradeRequest_ENABLE),
		step("cancel", "cancel", "Calls a downgrade off", pb.DowngradeRequest_CANCEL))
}

// checkTarget checks the one argument of a command, a version.
func checkTarget(args []string) error {
	switch {
	case len(args) < 1:
		return badArgs("TARGET_VERSION not provided")
	case len(args) > 1:
		return badArgs("too many arguments")
	case args[0] == "":
		return badArgs("target version not provided")
	}
	return nil
}
