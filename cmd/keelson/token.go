package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/util/duration"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/keelson-io/keelson/internal/jointoken"
	"github.com/keelson-io/keelson/orchestrator/cluster"
)

func tokenCommand() *cobra.Command {
	var kubeconfig string
	cmd := &cobra.Command{
		Use: "token", Short: "Create, list and delete the tokens by which machines join", Args: cobra.NoArgs,
		Long: "Tokens by which machines join the cluster. They are secrets of the type " + string(jointoken.SecretType) + " in " + jointoken.Namespace + ".",
	}
	cmd.PersistentFlags().StringVar(&kubeconfig, "kubeconfig", "", "How to reach the API server (default: $KUBECONFIG, or "+localKubeconfig+", or ~/.kube/config).")
	tokens := func() (*cluster.Tokens, error) {
		rules := clientcmd.NewDefaultClientConfigLoadingRules()
		rules.ExplicitPath = kubeconfig
		if _, err := os.Stat(localKubeconfig); err == nil && kubeconfig == "" && os.Getenv("KUBECONFIG") == "" {
			rules.ExplicitPath = localKubeconfig
		}
		config, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, nil).ClientConfig()
		if err != nil {
			return nil, err
		}
		return cluster.NewTokens(config)
	}
	cmd.AddCommand(tokenCreateCommand(tokens), tokenListCommand(tokens), tokenDeleteCommand(tokens))
	return cmd
}

func tokenCreateCommand(tokens func() (*cluster.Tokens, error)) *cobra.Command {
	var e jointoken.Entry
	var life time.Duration
	var bare bool
	cmd := &cobra.Command{
		Use: "create [token]", Short: "Create a token, and print how a machine joins with it", Args: cobra.MaximumNArgs(1),
		Long: "Create a token, and print the command by which a machine joins with it. A token that is not given is made up.",
	}
	cmd.Flags().DurationVar(&life, "ttl", 24*time.Hour, "How long it is good; 0: for ever.")
	cmd.Flags().StringVar(&e.Description, "description", "", "What it is for.")
	cmd.Flags().StringSliceVar(&e.Usages, "usages", []string{jointoken.Signing, jointoken.Authentication}, "What it can be used for.")
	cmd.Flags().StringSliceVar(&e.Groups, "groups", nil, "Groups system:bootstrappers:... that who has it is in.")
	cmd.Flags().BoolVar(&bare, "token-only", false, "Print the token and nothing else.")
	cmd.RunE = func(c *cobra.Command, args []string) (err error) {
		e.Token = jointoken.New()
		if len(args) == 1 {
			if e.Token, err = jointoken.Parse(args[0]); err != nil {
				return err
			}
		}
		if life < 0 {
			return errors.New("--ttl: a token cannot have expired before it is there")
		}
		if life > 0 {
			e.Expires = time.Now().Add(life)
		}
		t, err := tokens()
		if err != nil {
			return err
		}
		if err := t.Create(c.Context(), &e); err != nil {
			return err
		}
		line := e.String()
		if !bare {
			if line, err = t.JoinCommand(c.Context(), e.Token); err != nil {
				return err
			}
		}
		_, err = fmt.Fprintln(c.OutOrStdout(), line)
		return err
	}
	return cmd
}

func tokenListCommand(tokens func() (*cluster.Tokens, error)) *cobra.Command {
	return &cobra.Command{Use: "list", Short: "List the tokens", Args: cobra.NoArgs, RunE: func(c *cobra.Command, _ []string) error {
		t, err := tokens()
		if err != nil {
			return err
		}
		return listTokens(c.Context(), c.OutOrStdout(), t)
	}}
}

func listTokens(ctx context.Context, out io.Writer, t *cluster.Tokens) error {
	all, err := t.List(ctx)
	if err != nil {
		return err
	}
	w := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	row := func(cells ...any) { _, _ = fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", cells...) } // Flush says what is wrong
	row("TOKEN", "TTL", "EXPIRES", "USAGES", "DESCRIPTION", "EXTRA GROUPS")
	for _, e := range all {
		left, until := "<forever>", "<never>"
		if !e.Expires.IsZero() {
			left, until = duration.ShortHumanDuration(time.Until(e.Expires)), e.Expires.UTC().Format(time.RFC3339)
		}
		row(e.String(), left, until, cmp.Or(strings.Join(e.Usages, ","), "<none>"), cmp.Or(e.Description, "<none>"), cmp.Or(strings.Join(e.Groups, ","), "<none>"))
	}
	return w.Flush()
}

func tokenDeleteCommand(tokens func() (*cluster.Tokens, error)) *cobra.Command {
	return &cobra.Command{Use: "delete token...", Short: "Delete tokens, of which the ids are enough", Args: cobra.MinimumNArgs(1), RunE: func(c *cobra.Command, args []string) error {
		t, err := tokens()
		if err != nil {
			return err
		}
		for _, text := range args {
			id, err := t.Delete(c.Context(), text)
			if err != nil {
				return err
			}
			if _, err := fmt.Fprintf(c.OutOrStdout(), "bootstrap token %q deleted\n", id); err != nil {
				return err
			}
		}
		return nil
	}}
}
