package ctl

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/keelson-io/keelson/client"
)

func (c *ctl) user() *cobra.Command {
	return parent("user <subcommand>", "Lists and changes users",
		c.userAdd(), c.userDelete(), c.userGet(), c.userList(), c.userPasswd(), c.userGrantRole(), c.userRevokeRole())
}

func (c *ctl) userAdd() *cobra.Command {
	var (
		ask, without bool
		password     string
	)
	cmd := &cobra.Command{
		Use:   "add <user name or user:password> [options]",
		Short: "Adds a user",
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 {
				return badArgs("user add command requires user name as its argument")
			}
			name := args[0]
			if without {
				return c.call(cmd, ExitError, func(ctx context.Context, cl *client.Client) (any, error) {
					resp, err := cl.UserAddNoPassword(ctx, name)
					return said{resp, fmt.Sprintf("User %s created", name)}, err
				})
			}
			if password == "" {
				var given bool
				if name, password, given = strings.Cut(name, ":"); given && name == "" {
					return badArgs("empty user name is not allowed")
				} else if !given {
					var err error
					if password, err = c.newPassword(name, ask); err != nil {
						return err
					}
				}
			}
			return c.call(cmd, ExitError, func(ctx context.Context, cl *client.Client) (any, error) {
				resp, err := cl.UserAdd(ctx, name, password)
				return said{resp, fmt.Sprintf("User %s created", name)}, err
			})
		},
	}
	cmd.Flags().BoolVar(&ask, "interactive", true, "ask for the password on the terminal, twice; otherwise read it from standard input")
	cmd.Flags().StringVar(&password, "new-user-password", "", "the new user's password")
	cmd.Flags().BoolVar(&without, "no-password", false, "add a user without a password, who is known by the name in a certificate")
	return cmd
}

func (c *ctl) userPasswd() *cobra.Command {
	var ask bool
	cmd := &cobra.Command{
		Use:   "passwd <user name> [options]",
		Short: "Changes a user's password",
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 {
				return badArgs("user passwd command requires user name as its argument")
			}
			password, err := c.newPassword(args[0], ask)
			if err != nil {
				return err
			}
			return c.call(cmd, ExitError, func(ctx context.Context, cl *client.Client) (any, error) {
				resp, err := cl.UserChangePassword(ctx, args[0], password)
				return said{resp, "Password updated"}, err
			})
		},
	}
	cmd.Flags().BoolVar(&ask, "interactive", true, "ask for the password on the terminal, twice; otherwise read it from standard input")
	return cmd
}

// newPassword asks for a password twice, or reads one word.
func (c *ctl) newPassword(name string, ask bool) (string, error) {
	if !ask {
		var word string
		_, _ = fmt.Fscanf(c.in, "%s", &word) // nothing is a password, too
		return word, nil
	}
	first, err := c.askPassword(fmt.Sprintf("Password of %s: ", name))
	if err != nil {
		return "", exit(ExitBadArgs, fmt.Errorf("failed to ask password: %w", err))
	}
	if first == "" {
		return "", badArgs("empty password")
	}
	second, err := c.askPassword(fmt.Sprintf("Type password of %s again for confirmation: ", name))
	if err != nil {
		return "", exit(ExitBadArgs, fmt.Errorf("failed to ask password: %w", err))
	}
	if first != second {
		return "", badArgs("given passwords are different")
	}
	return first, nil
}

func (c *ctl) userDelete() *cobra.Command {
	return &cobra.Command{
		Use:   "delete <user name>",
		Short: "Deletes a user",
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 {
				return badArgs("user delete command requires user name as its argument")
			}
			return c.call(cmd, ExitError, func(ctx context.Context, cl *client.Client) (any, error) {
				resp, err := cl.UserDelete(ctx, args[0])
				return said{resp, fmt.Sprintf("User %s deleted", args[0])}, err
			})
		},
	}
}

func (c *ctl) userGet() *cobra.Command {
	var detail bool
	cmd := &cobra.Command{
		Use:   "get <user name> [options]",
		Short: "Shows the roles of a user",
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 {
				return badArgs("user get command requires user name as its argument")
			}
			if detail {
				return c.with(cmd, func(ctx context.Context, s *session, cl *client.Client) error {
					return c.userDetail(ctx, s, cl, args[0])
				})
			}
			return c.call(cmd, ExitError, func(ctx context.Context, cl *client.Client) (any, error) {
				resp, err := cl.UserGet(ctx, args[0])
				return oneUser{resp, args[0]}, err
			})
		},
	}
	cmd.Flags().BoolVar(&detail, "detail", false, "show the permissions of the user's roles")
	return cmd
}

// userDetail shows a user and, each in the format that was asked for, the user's roles.
func (c *ctl) userDetail(ctx context.Context, s *session, cl *client.Client, name string) error {
	ctx, cancel := s.short(ctx)
	defer cancel()
	resp, err := cl.UserGet(ctx, name)
	if err != nil {
		return c.plain(err)
	}
	fmt.Fprintf(c.out, "User: %s\n", name)
	for _, role := range resp.Roles {
		fmt.Fprintln(c.out)
		r, err := cl.RoleGet(ctx, role)
		if err != nil {
			return c.plain(err)
		}
		if err := s.printer.Print(oneRole{r, role}); err != nil {
			return err
		}
	}
	return nil
}

func (c *ctl) userList() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "Lists the users",
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) != 0 {
				return badArgs("user list command requires no arguments")
			}
			return c.call(cmd, ExitError, func(ctx context.Context, cl *client.Client) (any, error) { return cl.UserList(ctx) })
		},
	}
}

func (c *ctl) userGrantRole() *cobra.Command {
	return &cobra.Command{
		Use:   "grant-role <user name> <role name>",
		Short: "Gives a role to a user",
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) != 2 {
				return badArgs("user grant command requires user name and role name as its argument")
			}
			return c.call(cmd, ExitError, func(ctx context.Context, cl *client.Client) (any, error) {
				resp, err := cl.UserGrantRole(ctx, args[0], args[1])
				return said{resp, fmt.Sprintf("Role %s is granted to user %s", args[1], args[0])}, err
			})
		},
	}
}

func (c *ctl) userRevokeRole() *cobra.Command {
	return &cobra.Command{
		Use:   "revoke-role <user name> <role name>",
		Short: "Takes a role from a user",
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) != 2 {
				return badArgs("user revoke-role requires user name and role name as its argument")
			}
			return c.call(cmd, ExitError, func(ctx context.Context, cl *client.Client) (any, error) {
				resp, err := cl.UserRevokeRole(ctx, args[0], args[1])
				return said{resp, fmt.Sprintf("Role %s is revoked from user %s", args[1], args[0])}, err
			})
		},
	}
}
