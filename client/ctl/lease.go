package ctl

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/spf13/cobra"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/keelson-io/keelson/client"
)

// parent is a command that has subcommands only.
func parent(use, short string, subs ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{Use: use, Short: short}
	cmd.AddCommand(subs...)
	return cmd
}

func (c *ctl) lease() *cobra.Command {
	return parent("lease <subcommand>", "Grants, revokes and renews leases",
		c.leaseGrant(), c.leaseRevoke(), c.leaseTimeToLive(), c.leaseList(), c.leaseKeepAlive())
}

func (c *ctl) leaseGrant() *cobra.Command {
	return &cobra.Command{
		Use:   "grant <ttl>",
		Short: "Grants a lease that lives for so many seconds",
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 {
				return badArgs("lease grant command needs TTL argument")
			}
			ttl, err := strconv.ParseInt(args[0], 10, 64)
			if err != nil {
				return exit(ExitBadArgs, fmt.Errorf("bad TTL (%w)", err))
			}
			return c.call(cmd, ExitError, func(ctx context.Context, cl *client.Client) (any, error) {
				resp, err := cl.Grant(ctx, ttl)
				if err != nil {
					return nil, exit(ExitError, fmt.Errorf("failed to grant lease (%w)", c.plain(err)))
				}
				return resp, nil
			})
		},
	}
}

func (c *ctl) leaseRevoke() *cobra.Command {
	return &cobra.Command{
		Use:   "revoke <leaseID>",
		Short: "Ends a lease and removes its keys",
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := leaseArg(args, "lease revoke command needs 1 argument")
			if err != nil {
				return err
			}
			return c.call(cmd, ExitError, func(ctx context.Context, cl *client.Client) (any, error) {
				resp, err := cl.Revoke(ctx, id)
				if err != nil {
					return nil, exit(ExitError, fmt.Errorf("failed to revoke lease (%w)", c.plain(err)))
				}
				return revoked{resp, id}, nil
			})
		},
	}
}

func (c *ctl) leaseTimeToLive() *cobra.Command {
	var keys bool
	cmd := &cobra.Command{
		Use:   "timetolive <leaseID> [options]",
		Short: "Prints how long a lease has to live",
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := leaseArg(args, "lease timetolive command needs lease ID as argument")
			if err != nil {
				return err
			}
			return c.call(cmd, ExitBadConnection, func(ctx context.Context, cl *client.Client) (any, error) {
				resp, err := cl.TimeToLive(ctx, id, keys)
				return timeToLive{resp, keys}, err
			})
		},
	}
	cmd.Flags().BoolVar(&keys, "keys", false, "also print the keys that are attached to it")
	return cmd
}

func (c *ctl) leaseList() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "Lists the leases",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.call(cmd, ExitBadConnection, func(ctx context.Context, cl *client.Client) (any, error) {
				return cl.Leases(ctx)
			})
		},
	}
}

func (c *ctl) leaseKeepAlive() *cobra.Command {
	var once bool
	cmd := &cobra.Command{
		Use:   "keep-alive [options] <leaseID>",
		Short: "Renews a lease, again and again",
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := leaseArg(args, "lease keep-alive command needs lease ID as argument")
			if err != nil {
				return err
			}
			if once {
				return c.call(cmd, ExitBadConnection, func(ctx context.Context, cl *client.Client) (any, error) {
					return cl.KeepAliveOnce(ctx, id)
				})
			}
			return c.with(cmd, func(ctx context.Context, s *session, cl *client.Client) error {
				return withCode(ExitBadConnection, c.keepAlive(ctx, s, cl, id))
			})
		},
	}
	cmd.Flags().BoolVar(&once, "once", false, "renew it once only")
	return cmd
}

// keepAlive renews a lease and prints the answers until it is gone.
func (c *ctl) keepAlive(ctx context.Context, s *session, cl *client.Client, id client.LeaseID) error {
	k, err := cl.KeepAlive(ctx, id)
	if err != nil && !errors.Is(err, rpctypes.ErrLeaseNotFound) {
		return err
	}
	if err == nil {
		defer k.Close()
		for resp := range k.Renewed() {
			if err := s.printer.Print(resp); err != nil {
				return err
			}
		}
	}
	if c.globals.format == "simple" {
		fmt.Fprintf(c.out, "lease %016x expired or revoked.\n", int64(id))
	}
	return nil
}

// leaseArg parses the one argument of a command, a lease's ID.
func leaseArg(args []string, usage string) (client.LeaseID, error) {
	if len(args) != 1 {
		return 0, badArgs(usage)
	}
	id, err := strconv.ParseInt(args[0], 16, 64)
	if err != nil {
		return 0, exit(ExitBadArgs, fmt.Errorf("bad lease ID arg (%w), expecting ID in Hex", err))
	}
	return client.LeaseID(id), nil
}
