package ctl

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"golang.org/x/term"

	"github.com/keelson-io/keelson/client"
)

func (c *ctl) auth() *cobra.Command {
	return parent("auth <enable or disable>", "Enables or disables authentication", c.authEnable(), c.authDisable(), c.authStatus())
}

func (c *ctl) authEnable() *cobra.Command {
	return &cobra.Command{
		Use:   "enable",
		Short: "Enables authentication",
		Long:  "Enables authentication. The user root must exist; the role root is made and given to it if need be.",
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) != 0 {
				return badArgs("auth enable command does not accept any arguments")
			}
			return c.tell(cmd, "Authentication Enabled", func(ctx context.Context, cl *client.Client) error {
				_, err := cl.AuthEnable(ctx)
				if errors.Is(err, rpctypes.ErrRootRoleNotExist) {
					if _, err = cl.RoleAdd(ctx, "root"); err == nil {
						_, err = cl.UserGrantRole(ctx, "root", "root")
					}
					if err == nil {
						_, err = cl.AuthEnable(ctx)
					}
				}
				return err
			})
		},
	}
}

func (c *ctl) authDisable() *cobra.Command {
	return &cobra.Command{
		Use:   "disable",
		Short: "Disables authentication",
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) != 0 {
				return badArgs("auth disable command does not accept any arguments")
			}
			return c.tell(cmd, "Authentication Disabled", func(ctx context.Context, cl *client.Client) error {
				_, err := cl.AuthDisable(ctx)
				return err
			})
		},
	}
}

// tell runs a command that says the same in every format.
func (c *ctl) tell(cmd *cobra.Command, text string, f func(ctx context.Context, cl *client.Client) error) error {
	return c.with(cmd, func(ctx context.Context, s *session, cl *client.Client) error {
		ctx, cancel := s.short(ctx)
		defer cancel()
		if err := f(ctx, cl); err != nil {
			return c.plain(err)
		}
		fmt.Fprintln(c.out, text)
		return nil
	})
}

func (c *ctl) authStatus() *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Says whether authentication is enabled",
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) != 0 {
				return badArgs("auth status command does not accept any arguments")
			}
			return c.call(cmd, ExitError, func(ctx context.Context, cl *client.Client) (any, error) { return cl.AuthStatus(ctx) })
		},
	}
}

// completeUser asks for the password of --user if none was given. A token stands for the user.
func (c *ctl) completeUser() error {
	g := &c.globals
	if g.token != "" {
		g.user, g.password = "", ""
	}
	if g.user == "" || g.password != "" || strings.Contains(g.user, ":") {
		return nil
	}
	var err error
	g.password, err = c.askPassword("Password: ")
	return withCode(ExitError, err)
}

// askPassword asks for a password: on a terminal, which does not show it, or else as a line of standard input.
func (c *ctl) askPassword(prompt string) (string, error) {
	fmt.Fprint(c.out, prompt)
	if f, ok := c.in.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		b, err := term.ReadPassword(int(f.Fd()))
		fmt.Fprintln(c.out)
		return strings.TrimSpace(string(b)), err
	}
	if c.lines == nil {
		c.lines = bufio.NewReader(c.in)
	}
	line, err := c.lines.ReadString('\n')
	if errors.Is(err, io.EOF) {
		err = nil
	}
	fmt.Fprintln(c.out)
	return strings.TrimSpace(line), err
}
