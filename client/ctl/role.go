package ctl

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"go.etcd.io/etcd/api/v3/authpb"

	"github.com/keelson-io/keelson/client"
)

func (c *ctl) role() *cobra.Command {
	return parent("role <subcommand>", "Lists and changes roles",
		c.roleAdd(), c.roleDelete(), c.roleGet(), c.roleList(), c.roleGrant(), c.roleRevoke())
}

func (c *ctl) roleAdd() *cobra.Command {
	return &cobra.Command{
		Use:   "add <role name>",
		Short: "Adds a role",
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 {
				return badArgs("role add command requires role name as its argument")
			}
			return c.call(cmd, ExitError, func(ctx context.Context, cl *client.Client) (any, error) {
				resp, err := cl.RoleAdd(ctx, args[0])
				return said{resp, fmt.Sprintf("Role %s created", args[0])}, err
			})
		},
	}
}

func (c *ctl) roleDelete() *cobra.Command {
	return &cobra.Command{
		Use:   "delete <role name>",
		Short: "Deletes a role, and takes it from all users",
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 {
				return badArgs("role delete command requires role name as its argument")
			}
			return c.call(cmd, ExitError, func(ctx context.Context, cl *client.Client) (any, error) {
				resp, err := cl.RoleDelete(ctx, args[0])
				return said{resp, fmt.Sprintf("Role %s deleted", args[0])}, err
			})
		},
	}
}

func (c *ctl) roleGet() *cobra.Command {
	return &cobra.Command{
		Use:   "get <role name>",
		Short: "Shows the permissions of a role",
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 {
				return badArgs("role get command requires role name as its argument")
			}
			return c.call(cmd, ExitError, func(ctx context.Context, cl *client.Client) (any, error) {
				resp, err := cl.RoleGet(ctx, args[0])
				return oneRole{resp, args[0]}, err
			})
		},
	}
}

func (c *ctl) roleList() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "Lists the roles",
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) != 0 {
				return badArgs("role list command requires no arguments")
			}
			return c.call(cmd, ExitError, func(ctx context.Context, cl *client.Client) (any, error) { return cl.RoleList(ctx) })
		},
	}
}

// permRange is the range that a permission is for.
type permRange struct{ prefix, fromKey bool }

func (r *permRange) register(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&r.prefix, "prefix", false, "all keys with the prefix <key>")
	cmd.Flags().BoolVar(&r.fromKey, "from-key", false, "all keys from <key> on")
}

// of is the range that arguments name: a key and perhaps an end.
func (r *permRange) of(args []string) (key, end string, err error) {
	key = args[0]
	switch {
	case r.prefix && r.fromKey && (key == "" || len(args) == 1):
		return "", "", badArgs("--from-key and --prefix flags are mutually exclusive")
	case key == "" && (r.prefix || r.fromKey):
		return "\x00", "\x00", nil
	case key == "":
		return "\x00", "", nil // there is no smaller key
	case len(args) == 1 && r.prefix:
		return key, client.PrefixEnd(key), nil
	case len(args) == 1 && r.fromKey:
		return key, "\x00", nil
	case len(args) == 1:
		return key, "", nil
	case r.prefix:
		return "", "", badArgs("unexpected endkey argument with --prefix flag")
	case r.fromKey:
		return "", "", badArgs("unexpected endkey argument with --from-key flag")
	}
	return key, args[1], nil
}

func (c *ctl) roleGrant() *cobra.Command {
	var r permRange
	cmd := &cobra.Command{
		Use:   "grant-permission [options] <role name> <permission type> <key> [endkey]",
		Short: "Lets a role read, write or readwrite a key or a range",
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) < 3 {
				return badArgs("role grant command requires role name, permission type, and key [endkey] as its argument")
			}
			kind, ok := authpb.Permission_Type_value[strings.ToUpper(args[1])]
			if !ok {
				return badArgs("invalid permission type: " + args[1])
			}
			key, end, err := r.of(args[2:])
			if err != nil {
				return err
			}
			p := &client.Permission{PermType: authpb.Permission_Type(kind), Key: []byte(key), RangeEnd: []byte(end)}
			return c.call(cmd, ExitError, func(ctx context.Context, cl *client.Client) (any, error) {
				resp, err := cl.RoleGrantPermission(ctx, args[0], p)
				return said{resp, fmt.Sprintf("Role %s updated", args[0])}, err
			})
		},
	}
	r.register(cmd)
	return cmd
}

func (c *ctl) roleRevoke() *cobra.Command {
	var r permRange
	cmd := &cobra.Command{
		Use:   "revoke-permission <role name> <key> [endkey]",
		Short: "Takes the permission for a key or a range from a role",
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) < 2 {
				return badArgs("role revoke-permission command requires role name and key [endkey] as its argument")
			}
			key, end, err := r.of(args[1:])
			if err != nil {
				return err
			}
			return c.call(cmd, ExitError, func(ctx context.Context, cl *client.Client) (any, error) {
				resp, err := cl.RoleRevokePermission(ctx, args[0], key, end)
				return said{resp, revokedText(args[0], args[1], end)}, err
			})
		},
	}
	r.register(cmd)
	return cmd
}

func revokedText(role, key, end string) string {
	switch end {
	case "":
		return fmt.Sprintf("Permission of key %s is revoked from role %s", key, role)
	case "\x00":
		return fmt.Sprintf("Permission of range [%s, <open ended> is revoked from role %s", key, role)
	}
	return fmt.Sprintf("Permission of range [%s, %s) is revoked from role %s", key, end, role)
}
