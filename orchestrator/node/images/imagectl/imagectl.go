// Package imagectl is what the command "keelson image" does: it opens an image store, works on it, and prints.
//
// The store may be in use by an agent at the same time. Names are printed as people write them, without docker.io and library.
//
// # Concurrency
//
// A CLI serves one command.
package imagectl

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/keelson-io/keelson/orchestrator/node/images"
	"github.com/keelson-io/keelson/orchestrator/node/images/registry"
)

// CLI is what commands have in common.
type CLI struct {
	Root       string        // directory of the store
	Registries string        // file with the configuration of registries; empty: none
	Stall      time.Duration // for how long a registry may send nothing; 0: the store's default
	Output     string        // "json", or empty for tables
	In         io.Reader
	Out        io.Writer
	Err        io.Writer // progress
}

// Credentials say who one is to a registry. Without a user, those of Docker's configuration file are used.
type Credentials struct {
	Username string
	Password string
	// FromStdin: the password is read from In.
	FromStdin bool
}

// open opens the store.
func (c *CLI) open() (*images.Store, error) {
	if c.Output != "" && c.Output != "json" {
		return nil, fmt.Errorf("there is no output format %q: want json, or none", c.Output)
	}
	conf := images.Config{Registries: registry.Config{Stall: c.Stall}}
	if c.Registries != "" {
		b, err := os.ReadFile(c.Registries)
		if err != nil {
			return nil, err
		}
		if conf.Registries.Hosts, err = registry.ParseHosts(b); err != nil {
			return nil, fmt.Errorf("%s: %w", c.Registries, err)
		}
	}
	return images.Open(c.Root, conf)
}

// with runs f on the open store.
func (c *CLI) with(f func(*images.Store) error) error {
	s, err := c.open()
	if err != nil {
		return err
	}
	return errors.Join(f(s), s.Close())
}

// item is an image as it is printed in JSON.
type item struct {
	ID          string         `json:"id"`
	RepoTags    []string       `json:"repoTags"`
	RepoDigests []string       `json:"repoDigests"`
	Size        int64          `json:"size"`
	Pinned      bool           `json:"pinned"`
	Manifest    string         `json:"manifest"`
	Added       time.Time      `json:"added"`
	LastUsed    time.Time      `json:"lastUsed"`
	Config      *ocispec.Image `json:"config,omitempty"`
}

func itemOf(img images.Image) item {
	return item{
		ID: img.ID, RepoTags: img.RepoTags, RepoDigests: img.RepoDigests, Size: img.Size, Pinned: img.Pinned,
		Manifest: img.Manifest, Added: img.Added, LastUsed: img.LastUsed,
	}
}

func (c *CLI) json(v any) error {
	enc := json.NewEncoder(c.Out)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// short is the beginning of an ID, as it is printed.
func short(id string) string {
	id = strings.TrimPrefix(id, "sha256:")
	return id[:min(12, len(id))]
}

// List prints images, all or those that names or IDs stand for.
func (c *CLI) List(quiet bool, refs ...string) error {
	return c.with(func(s *images.Store) error {
		all, err := s.List()
		if len(refs) > 0 {
			all, err = resolve(s, refs)
		}
		if err != nil {
			return err
		}
		if c.Output == "json" {
			items := make([]item, len(all))
			for i, img := range all {
				items[i] = itemOf(img)
			}
			return c.json(items)
		}
		if quiet {
			for _, img := range all {
				_, _ = fmt.Fprintln(c.Out, short(img.ID))
			}
			return nil
		}
		return c.table(all)
	})
}

func resolve(s *images.Store, refs []string) ([]images.Image, error) {
	out := make([]images.Image, len(refs))
	for i, ref := range refs {
		var err error
		if out[i], err = s.Resolve(ref); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (c *CLI) table(all []images.Image) error {
	w := tabwriter.NewWriter(c.Out, 0, 0, 3, ' ', 0)
	_, _ = fmt.Fprintln(w, "REPOSITORY\tTAG\tIMAGE ID\tADDED\tSIZE\tPINNED")
	for _, img := range all {
		names := img.RepoTags
		if len(names) == 0 {
			names = []string{"<none>:<none>"}
			if len(img.RepoDigests) > 0 {
				repo, _, _ := strings.Cut(img.RepoDigests[0], "@")
				names = []string{repo + ":<none>"}
			}
		}
		for _, n := range names {
			at := strings.LastIndexByte(n, ':')
			repo, tag := n[:at], n[at+1:]
			if !strings.HasPrefix(repo, "<") {
				repo = images.Familiar(repo)
			}
			_, _ = fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%v\n", repo, tag, short(img.ID), humanize.Time(img.Added), humanize.Bytes(uint64(img.Size)), img.Pinned)
		}
	}
	return w.Flush()
}

// Inspect prints images with their configuration, in JSON.
func (c *CLI) Inspect(refs ...string) error {
	return c.with(func(s *images.Store) error {
		all, err := resolve(s, refs)
		if err != nil {
			return err
		}
		items := make([]item, len(all))
		for i, img := range all {
			items[i] = itemOf(img)
			items[i].Config = &img.Config
		}
		return c.json(items)
	})
}

// Remove takes names away and removes images, and prints what went.
func (c *CLI) Remove(refs ...string) error {
	return c.with(func(s *images.Store) error {
		var all error
		for _, ref := range refs {
			r, err := s.Remove(ref)
			all = errors.Join(all, err)
			c.removed(r)
		}
		return all
	})
}

func (c *CLI) removed(r images.Removed) {
	for _, n := range r.Untagged {
		_, _ = fmt.Fprintln(c.Out, "Untagged:", images.Familiar(n))
	}
	if r.Deleted != "" {
		_, _ = fmt.Fprintln(c.Out, "Deleted:", r.Deleted)
	}
}

// GC removes images that are neither mounted nor pinned, and what no image needs.
func (c *CLI) GC(req images.PruneRequest) error {
	return c.with(func(s *images.Store) error {
		before, _, err := s.FsUsage()
		if err != nil {
			return err
		}
		gone, err := s.Prune(req)
		for _, r := range gone {
			c.removed(r)
		}
		if err != nil {
			return err
		}
		after, _, err := s.FsUsage()
		if err != nil {
			return err
		}
		_, _ = fmt.Fprintln(c.Out, "Freed:", humanize.Bytes(uint64(max(0, before.Bytes-after.Bytes))))
		return nil
	})
}

// Tag gives an image one more name.
func (c *CLI) Tag(ref, name string) error {
	return c.with(func(s *images.Store) error { return s.Tag(ref, name) })
}

// Pin says whether images are spared by collections.
func (c *CLI) Pin(pinned bool, refs ...string) error {
	return c.with(func(s *images.Store) error {
		for _, ref := range refs {
			if err := s.Pin(ref, pinned); err != nil {
				return err
			}
		}
		return nil
	})
}

// auth finds the credentials for an image.
func (c *CLI) auth(creds Credentials, ref string) (*images.Auth, error) {
	if creds.Username != "" {
		if creds.FromStdin {
			b, err := io.ReadAll(io.LimitReader(c.In, 64<<10))
			if err != nil {
				return nil, err
			}
			creds.Password = strings.TrimRight(string(b), "\r\n")
		}
		return &images.Auth{Username: creds.Username, Password: creds.Password}, nil
	}
	r, err := images.ParseReference(ref)
	if err != nil {
		return nil, err
	}
	reg, err := name.NewRegistry(r.Host)
	if err != nil {
		return nil, err
	}
	found, err := authn.DefaultKeychain.Resolve(reg.Repo(r.Path))
	if err != nil {
		return nil, fmt.Errorf("credentials in Docker's configuration file: %w", err)
	}
	a, err := found.Authorization()
	if err != nil {
		return nil, fmt.Errorf("credentials in Docker's configuration file: %w", err)
	}
	return &images.Auth{Username: a.Username, Password: a.Password, Auth: a.Auth, IdentityToken: a.IdentityToken, RegistryToken: a.RegistryToken}, nil
}

// print tells about an image that came in.
func (c *CLI) print(all ...images.Image) error {
	if c.Output == "json" {
		items := make([]item, len(all))
		for i, img := range all {
			items[i] = itemOf(img)
		}
		return c.json(items)
	}
	for _, img := range all {
		what := img.ID
		if len(img.RepoTags) > 0 {
			what = images.Familiar(img.RepoTags[0]) + " " + what
		}
		_, _ = fmt.Fprintln(c.Out, what)
	}
	return nil
}

// Pull pulls images and prints their IDs. platform is like linux/arm64; empty: this machine's.
func (c *CLI) Pull(ctx context.Context, creds Credentials, platform string, quiet bool, refs ...string) error {
	return c.with(func(s *images.Store) error {
		var out []images.Image
		for _, ref := range refs {
			req := images.PullRequest{Ref: ref}
			var err error
			if platform != "" {
				if req.Platform, err = images.ParsePlatform(platform); err != nil {
					return err
				}
			}
			if req.Auth, err = c.auth(creds, ref); err != nil {
				return err
			}
			p := &progress{w: c.Err}
			if !quiet {
				req.Progress = p.pull
			}
			img, err := s.Pull(ctx, req)
			p.end()
			if err != nil {
				return err
			}
			out = append(out, img)
		}
		return c.print(out...)
	})
}

// Push sends an image to its registry, or under another name to another.
func (c *CLI) Push(ctx context.Context, creds Credentials, quiet bool, ref, to string) error {
	return c.with(func(s *images.Store) error {
		if to == "" {
			to = ref
		}
		auth, err := c.auth(creds, to)
		if err != nil {
			return err
		}
		p := &progress{w: c.Err}
		req := images.PushRequest{Ref: ref, To: to, Auth: auth}
		if !quiet {
			req.Progress = p.bytes
		}
		img, err := s.Push(ctx, req)
		p.end()
		if err != nil {
			return err
		}
		if c.Output == "json" {
			return c.print(img)
		}
		_, _ = fmt.Fprintf(c.Out, "%s %s\n", to, img.Manifest)
		return nil
	})
}

// Import takes in an OCI layout or an archive of "docker save". The path "-" is In.
func (c *CLI) Import(ctx context.Context, path string, names ...string) error {
	return c.with(func(s *images.Store) error {
		var all []images.Image
		var err error
		if path == "-" {
			all, err = s.ImportStream(ctx, c.In, names...)
		} else {
			all, err = s.Import(ctx, path, names...)
		}
		return errors.Join(c.print(all...), err)
	})
}

// Export writes images to a file, or with "-" to Out.
func (c *CLI) Export(ctx context.Context, path, format string, refs ...string) error {
	return c.with(func(s *images.Store) error {
		if path == "-" {
			return s.Export(ctx, c.Out, images.Format(format), refs...)
		}
		f, err := os.Create(path)
		if err != nil {
			return err
		}
		err = s.Export(ctx, f, images.Format(format), refs...)
		if cerr := f.Close(); err == nil {
			err = cerr
		}
		if err != nil {
			_ = os.Remove(path)
		}
		return err
	})
}

// Build makes an image and prints it.
func (c *CLI) Build(ctx context.Context, req images.BuildRequest) error {
	return c.with(func(s *images.Store) error {
		img, err := s.Build(ctx, req)
		if err != nil {
			return err
		}
		return c.print(img)
	})
}
