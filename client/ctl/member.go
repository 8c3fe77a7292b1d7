package ctl

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/keelson-io/keelson/client"
)

func (c *ctl) member() *cobra.Command {
	return parent("member <subcommand>", "Lists and changes the members of the cluster",
		c.memberAdd(), c.memberRemove(), c.memberUpdate(), c.memberList(), c.memberPromote())
}

func (c *ctl) memberAdd() *cobra.Command {
	var (
		urls    string
		learner bool
	)
	cmd := &cobra.Command{
		Use:   "add <memberName> [options]",
		Short: "Adds a member, and prints what it is to be started with",
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkMemberName(args); err != nil {
				return err
			}
			if urls == "" {
				return badArgs("member peer urls not provided")
			}
			return c.call(cmd, ExitError, func(ctx context.Context, cl *client.Client) (any, error) {
				add := cl.MemberAdd
				if learner {
					add = cl.MemberAddAsLearner
				}
				list, err := peerURLs(urls)
				if err != nil {
					return nil, err
				}
				resp, err := add(ctx, list)
				return memberAdded{resp, args[0], urls}, err
			})
		},
	}
	cmd.Flags().StringVar(&urls, "peer-urls", "", "the new member's peer URLs, separated by commas")
	cmd.Flags().BoolVar(&learner, "learner", false, "add a learner, which has no vote")
	return cmd
}

func checkMemberName(args []string) error {
	switch len(args) {
	case 0:
		return badArgs("member name not provided")
	case 1:
		return nil
	}
	text := "too many arguments"
	for _, a := range args {
		if strings.HasPrefix(strings.ToLower(a), "http") {
			text += ", did you mean --peer-urls=" + a
		}
	}
	return badArgs(text)
}

func (c *ctl) memberRemove() *cobra.Command {
	return &cobra.Command{
		Use:   "remove <memberID>",
		Short: "Removes a member",
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := memberArg(args)
			if err != nil {
				return err
			}
			return c.call(cmd, ExitError, func(ctx context.Context, cl *client.Client) (any, error) {
				resp, err := cl.MemberRemove(ctx, id)
				return memberChange{resp, resp.GetHeader(), resp.GetMembers(), id, "removed from"}, err
			})
		},
	}
}

func (c *ctl) memberUpdate() *cobra.Command {
	var urls string
	cmd := &cobra.Command{
		Use:   "update <memberID> [options]",
		Short: "Changes a member's peer URLs",
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := memberArg(args)
			if err != nil {
				return err
			}
			if urls == "" {
				return badArgs("member peer urls not provided")
			}
			return c.call(cmd, ExitError, func(ctx context.Context, cl *client.Client) (any, error) {
				list, err := peerURLs(urls)
				if err != nil {
					return nil, err
				}
				resp, err := cl.MemberUpdate(ctx, id, list)
				return memberChange{resp, resp.GetHeader(), resp.GetMembers(), id, "updated in"}, err
			})
		},
	}
	cmd.Flags().StringVar(&urls, "peer-urls", "", "the member's new peer URLs, separated by commas")
	return cmd
}

func (c *ctl) memberPromote() *cobra.Command {
	return &cobra.Command{
		Use:   "promote <memberID>",
		Short: "Gives a learner a vote",
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := memberArg(args)
			if err != nil {
				return err
			}
			return c.call(cmd, ExitError, func(ctx context.Context, cl *client.Client) (any, error) {
				resp, err := cl.MemberPromote(ctx, id)
				return memberChange{resp, resp.GetHeader(), resp.GetMembers(), id, "promoted in"}, err
			})
		},
	}
}

func (c *ctl) memberList() *cobra.Command {
	var consistency string
	cmd := &cobra.Command{
		Use:   "list",
		Short: "Lists the members",
		Long: `Lists the members. In the format simple, the columns are
ID, Status, Name, Peer Addrs, Client Addrs, Is Learner.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			serial, err := serializable(consistency)
			if err != nil {
				return err
			}
			return c.call(cmd, ExitError, func(ctx context.Context, cl *client.Client) (any, error) {
				if serial {
					return cl.MemberListSerializable(ctx)
				}
				return cl.MemberList(ctx)
			})
		},
	}
	cmd.Flags().StringVar(&consistency, "consistency", "l", "l (linearizable) or s (serializable)")
	_ = cmd.RegisterFlagCompletionFunc("consistency", oneOf("l", "s"))
	return cmd
}

// memberArg parses the one argument of a command, a member's ID.
func memberArg(args []string) (uint64, error) {
	if len(args) != 1 {
		return 0, badArgs("member ID is not provided")
	}
	id, err := strconv.ParseUint(args[0], 16, 64)
	if err != nil {
		return 0, exit(ExitBadArgs, fmt.Errorf("bad member ID arg (%w), expecting ID in Hex", err))
	}
	return id, nil
}

// peerURLs splits a list of peer URLs. Servers refuse bad ones too, but do not say which and why.
func peerURLs(list string) ([]string, error) {
	urls := strings.Split(list, ",")
	for _, in := range urls {
		in = strings.TrimSpace(in)
		u, err := url.Parse(in)
		if err != nil {
			return nil, err
		}
		switch u.Scheme {
		case "http", "https":
			if _, _, err := net.SplitHostPort(u.Host); err != nil {
				return nil, fmt.Errorf("URL address does not have the form \"host:port\": %s", in)
			}
			if u.Path != "" {
				return nil, fmt.Errorf("URL must not contain a path: %s", in)
			}
		case "unix", "unixs":
		default:
			return nil, fmt.Errorf("URL scheme must be http, https, unix, or unixs: %s", in)
		}
	}
	return urls, nil
}
