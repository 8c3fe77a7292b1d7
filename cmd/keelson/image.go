package main

import (
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/keelson-io/keelson/orchestrator/node/images"
	"github.com/keelson-io/keelson/orchestrator/node/images/imagectl"
)

func imageCommand() *cobra.Command {
	c := &imagectl.CLI{}
	cmd := &cobra.Command{
		Use: "image", Short: "Work with the images of a node",
		Long: "Work with the images of a node, also while its agent runs.",
		PersistentPreRun: func(cmd *cobra.Command, _ []string) {
			c.In, c.Out, c.Err = cmd.InOrStdin(), cmd.OutOrStdout(), cmd.ErrOrStderr()
		},
	}
	fs := cmd.PersistentFlags()
	fs.StringVar(&c.Root, "root", filepath.Join("data", "images"), "Directory of the image store.")
	fs.StringVar(&c.Registries, "registries", "", "File with the configuration of registries: mirrors, plain http, certificates.")
	fs.DurationVar(&c.Stall, "stall-timeout", 0, "For how long a registry may send nothing (default 30s).")
	fs.StringVarP(&c.Output, "output", "o", "", "Output format: json, or a table.")
	cmd.AddCommand(imageListCommand(c), imageInspectCommand(c), imageRemoveCommand(c), imageCollectCommand(c), imageTagCommand(c),
		imagePinCommand(c, true), imagePinCommand(c, false), imagePullCommand(c), imagePushCommand(c), imageImportCommand(c),
		imageExportCommand(c), imageBuildCommand(c))
	return cmd
}

func imageListCommand(c *imagectl.CLI) *cobra.Command {
	var quiet bool
	cmd := &cobra.Command{
		Use: "ls [IMAGE...]", Aliases: []string{"list"}, Short: "List images",
		RunE: func(_ *cobra.Command, args []string) error { return c.List(quiet, args...) },
	}
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "Print IDs only.")
	return cmd
}

func imageInspectCommand(c *imagectl.CLI) *cobra.Command {
	return &cobra.Command{
		Use: "inspect IMAGE...", Short: "Print images with their configuration", Args: cobra.MinimumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error { return c.Inspect(args...) },
	}
}

func imageRemoveCommand(c *imagectl.CLI) *cobra.Command {
	return &cobra.Command{
		Use: "rm IMAGE...", Aliases: []string{"remove"}, Short: "Remove names of images, and images", Args: cobra.MinimumNArgs(1),
		Long: "Remove names of images. An image goes with its last name, or at once when it is given by ID. What containers use stays until they end.",
		RunE: func(_ *cobra.Command, args []string) error { return c.Remove(args...) },
	}
}

func imageCollectCommand(c *imagectl.CLI) *cobra.Command {
	var req images.PruneRequest
	cmd := &cobra.Command{
		Use: "gc", Short: "Remove images that nobody uses", Args: cobra.NoArgs,
		Long: "Remove images without a name that no container uses, and whatever no image needs. Pinned images stay.",
		RunE: func(*cobra.Command, []string) error { return c.GC(req) },
	}
	cmd.Flags().BoolVarP(&req.All, "all", "a", false, "Remove images with names too.")
	cmd.Flags().DurationVar(&req.Unused, "unused", 0, "Keep images that were used within this time.")
	return cmd
}

func imageTagCommand(c *imagectl.CLI) *cobra.Command {
	return &cobra.Command{
		Use: "tag IMAGE NAME", Short: "Give an image one more name", Args: cobra.ExactArgs(2),
		RunE: func(_ *cobra.Command, args []string) error { return c.Tag(args[0], args[1]) },
	}
}

func imagePinCommand(c *imagectl.CLI, pinned bool) *cobra.Command {
	use, short := "pin IMAGE...", "Spare images from all collections"
	if !pinned {
		use, short = "unpin IMAGE...", "Spare images no longer"
	}
	return &cobra.Command{
		Use: use, Short: short, Args: cobra.MinimumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error { return c.Pin(pinned, args...) },
	}
}

// credentialFlags adds the flags that say who one is to a registry.
func credentialFlags(cmd *cobra.Command, creds *imagectl.Credentials) {
	cmd.Flags().StringVarP(&creds.Username, "username", "u", "", "User of the registry (default: what Docker's configuration file says).")
	cmd.Flags().StringVarP(&creds.Password, "password", "p", "", "Password of the user. Others may see it: --password-stdin is better.")
	cmd.Flags().BoolVar(&creds.FromStdin, "password-stdin", false, "Read the password from standard input.")
}

func imagePullCommand(c *imagectl.CLI) *cobra.Command {
	var creds imagectl.Credentials
	var platform string
	var quiet bool
	cmd := &cobra.Command{
		Use: "pull NAME...", Short: "Get images from their registries", Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.Pull(cmd.Context(), creds, platform, quiet, args...)
		},
	}
	credentialFlags(cmd, &creds)
	cmd.Flags().StringVar(&platform, "platform", "", "Platform like linux/arm64 (default: this machine's).")
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "Show no progress.")
	return cmd
}

func imagePushCommand(c *imagectl.CLI) *cobra.Command {
	var creds imagectl.Credentials
	var quiet bool
	cmd := &cobra.Command{
		Use: "push IMAGE [NAME]", Short: "Send an image to its registry, or under another name to another", Args: cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.Push(cmd.Context(), creds, quiet, args[0], append(args, "")[1])
		},
	}
	credentialFlags(cmd, &creds)
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "Show no progress.")
	return cmd
}

func imageImportCommand(c *imagectl.CLI) *cobra.Command {
	var names []string
	cmd := &cobra.Command{
		Use: "import PATH", Aliases: []string{"load"}, Short: "Take in an OCI layout, or an archive of docker save", Args: cobra.ExactArgs(1),
		Long: "Take in the images of an OCI layout, which is a directory or a tar archive, or of an archive of docker save. The path - is standard input.",
		RunE: func(cmd *cobra.Command, args []string) error { return c.Import(cmd.Context(), args[0], names...) },
	}
	cmd.Flags().StringArrayVarP(&names, "tag", "t", nil, "Name for the image, instead of what the archive says.")
	return cmd
}

func imageExportCommand(c *imagectl.CLI) *cobra.Command {
	var file, format string
	cmd := &cobra.Command{
		Use: "export IMAGE...", Aliases: []string{"save"}, Short: "Write images to a tar archive", Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.Export(cmd.Context(), file, format, args...)
		},
	}
	cmd.Flags().StringVarP(&file, "file", "f", "-", "File to write; - is standard output.")
	cmd.Flags().StringVar(&format, "format", string(images.OCI), "Format: oci for a layout of OCI, docker for what docker load reads.")
	return cmd
}

func imageBuildCommand(c *imagectl.CLI) *cobra.Command {
	var s imagectl.Spec
	cmd := &cobra.Command{
		Use: "build [BINARY]", Short: "Make an image from a static binary, a directory or files", Args: cobra.MaximumNArgs(1),
		Long: "Make an image from a static binary, which becomes its entrypoint, from a directory, from single files, or from several of these. " +
			"The same input gives the same image.",
		Example: "  keelson image build -t web:v1 --expose 8080 ./web\n  keelson image build -t tools --dir ./rootfs --cmd /bin/sh",
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				s.Binary = args[0]
			}
			req, err := s.Request()
			if err != nil {
				return err
			}
			return c.Build(cmd.Context(), req)
		},
	}
	fs := cmd.Flags()
	fs.StringArrayVarP(&s.Names, "tag", "t", nil, "Name of the image. May be repeated.")
	fs.StringVar(&s.Base, "from", "", "Image of the store to put everything on.")
	fs.StringVar(&s.Dir, "dir", "", "Directory whose content becomes the root directory.")
	fs.StringArrayVar(&s.Files, "file", nil, "File to put in, as source:target. May be repeated.")
	fs.StringArrayVar(&s.Entrypoint, "entrypoint", nil, "Word of the entrypoint (default: the binary). Repeated for each word.")
	fs.StringArrayVar(&s.Cmd, "cmd", nil, "Word of the arguments that a pod may replace. Repeated for each word.")
	fs.StringArrayVarP(&s.Env, "env", "e", nil, "Variable, as NAME=value. May be repeated.")
	fs.StringArrayVarP(&s.Labels, "label", "l", nil, "Label, as name=value. May be repeated.")
	fs.StringArrayVar(&s.Expose, "expose", nil, "Port, as 8080 or 53/udp. May be repeated.")
	fs.StringArrayVar(&s.Volumes, "volume", nil, "Directory that is meant for data. May be repeated.")
	fs.StringVar(&s.User, "user", "", "User of the process: name or number, with a group after a colon.")
	fs.StringVar(&s.WorkDir, "workdir", "", "Working directory of the process.")
	fs.StringVar(&s.StopSignal, "stop-signal", "", "Signal that asks the process to end, like SIGTERM.")
	fs.StringVar(&s.Platform, "platform", "", "Platform like linux/arm64 (default: that of the binary, or this machine's).")
	fs.BoolVar(&s.Owners, "owners", false, "Keep the owners of the directory's files, instead of giving all to root.")
	return cmd
}
