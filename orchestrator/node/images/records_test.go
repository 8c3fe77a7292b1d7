package images

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"

	"github.com/keelson-io/keelson/internal/clock"
)

func TestParseReference(t *testing.T) {
	d := "sha256:" + strings.Repeat("a", 64)
	for in, want := range map[string]string{
		"busybox": "docker.io/library/busybox:latest", "busybox:1": "docker.io/library/busybox:1", "a/b": "docker.io/a/b:latest",
		"index.docker.io/a/b:1": "docker.io/a/b:1", "localhost/a": "localhost/a:latest", "localhost:5000/a:b": "localhost:5000/a:b",
		"reg.example/a/b/c:v1": "reg.example/a/b/c:v1", "a@" + d: "docker.io/library/a@" + d, "a:v1@" + d: "docker.io/library/a@" + d,
		"[::1]:5000/a": "[::1]:5000/a:latest",
	} {
		r, err := ParseReference(in)
		require.NoError(t, err, in)
		require.Equal(t, want, r.String())
		require.Equal(t, r.Repo(), repoOf(r.String()))
	}
	for _, bad := range []string{"", "A", "a:", "a@", "a@sha256:1", "a b", strings.Repeat("a", 64), "a@sha512:" + strings.Repeat("a", 128), "../a", "http://a/b"} {
		_, err := ParseReference(bad)
		require.ErrorIs(t, err, ErrInvalid, bad)
	}
	require.Equal(t, "busybox:1", Familiar("docker.io/library/busybox:1"))
	require.Equal(t, "reg.example/a:1", Familiar("reg.example/a:1"))
}

func FuzzParseReference(f *testing.F) {
	f.Add("reg.example:5000/a/b:v1")
	f.Fuzz(func(t *testing.T, in string) {
		r, err := ParseReference(in)
		if err != nil {
			return
		}
		again, err := ParseReference(r.String())
		require.NoError(t, err)
		require.Equal(t, r, again)
		require.NotEmpty(t, r.Host)
		require.NotEmpty(t, r.what())
	})
}

// FuzzDocument reads manifests and indexes, as registries send them.
func FuzzDocument(f *testing.F) {
	f.Add([]byte(`{"schemaVersion":2,"manifests":[{"digest":"sha256:x","platform":{"os":"linux","architecture":"amd64"}}]}`))
	f.Add([]byte(`{"schemaVersion":2,"config":{"digest":"sha256:x"},"layers":[{"size":-1}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		x, m, err := parseDocument(document{Body: b})
		if err != nil {
			return
		}
		if x != nil {
			if d, err := pick(x.Manifests, hostPlatform()); err == nil {
				require.NoError(t, d.Digest.Validate())
			}
			return
		}
		for _, d := range append(m.Layers, m.Config) {
			require.NoError(t, d.Digest.Validate())
			require.GreaterOrEqual(t, d.Size, int64(0))
		}
		_, _ = parseConfig(b)
		_, _ = parseIndex(b)
	})
}

func TestTagsAndRemoval(t *testing.T) {
	ctx := context.Background()
	s := open(t, Config{})
	build := func(body string, names ...string) Image {
		img, err := s.Build(ctx, BuildRequest{Names: names, Files: map[string]string{"/f": script(t, "f", body)}})
		require.NoError(t, err)
		return img
	}
	tags := func(id string) []string {
		img, err := s.Resolve(id)
		require.NoError(t, err)
		return img.RepoTags
	}
	one := build("1", "a:v1", "a:v2", "b:v1")
	two := build("2", "c:v1")
	const lib = "docker.io/library/"
	require.Equal(t, []string{lib + "a:v1", lib + "a:v2", lib + "b:v1"}, tags(one.ID))

	require.NoError(t, s.Tag(two.ID, "a:v2"), "the name moves")
	require.Equal(t, []string{lib + "a:v1", lib + "b:v1"}, tags(one.ID))
	require.Equal(t, []string{lib + "a:v2", lib + "c:v1"}, tags(two.ID))
	require.ErrorIs(t, s.Tag("none", "x"), ErrNotFound)
	require.ErrorIs(t, s.Tag(two.ID, "UPPER"), ErrInvalid)
	require.ErrorIs(t, s.Tag(two.ID, "a@sha256:"+strings.Repeat("a", 64)), ErrInvalid)
	require.ErrorIs(t, s.Pin("none", true), ErrNotFound)

	r, err := s.Remove("a:v1")
	require.NoError(t, err)
	require.Equal(t, Removed{Untagged: []string{lib + "a:v1", lib + "a@" + one.Manifest}}, r, "the last tag of a repository takes its digests along")
	r, err = s.Remove("b@" + one.Manifest)
	require.NoError(t, err)
	require.Equal(t, Removed{Untagged: []string{lib + "b:v1", lib + "b@" + one.Manifest}, Deleted: one.ID}, r)
	_, err = s.Remove(one.ID)
	require.ErrorIs(t, err, ErrNotFound)
	r, err = s.Remove(two.ID[:15])
	require.NoError(t, err)
	require.Equal(t, two.ID, r.Deleted)
	tidy(t, s)
}

func TestResolveAmbiguous(t *testing.T) {
	all := []record{{ID: digestOf("sha256:abcd1" + strings.Repeat("0", 59))}, {ID: digestOf("sha256:abcd2" + strings.Repeat("0", 59)), Tags: []string{"docker.io/library/abcd1:latest"}}}
	_, err := lookup(all, "abcd")
	require.ErrorIs(t, err, ErrInvalid)
	r, err := lookup(all, "abcd1")
	require.NoError(t, err)
	require.Equal(t, all[1].ID, r.ID, "a name goes before an ID")
	r, err = lookup(all, "sha256:abcd1")
	require.NoError(t, err)
	require.Equal(t, all[0].ID, r.ID)
	_, err = lookup(all, "abce")
	require.ErrorIs(t, err, ErrNotFound)
	_, err = lookup(all, "")
	require.ErrorIs(t, err, ErrInvalid)
}

// later is a clock that is ahead.
type later struct {
	clock.Clock
	by time.Duration
}

func (l *later) Now() time.Time { return l.Clock.Now().Add(l.by) }

func TestPrune(t *testing.T) {
	ctx := context.Background()
	clk := &later{Clock: clock.Real}
	s := open(t, Config{Clock: clk})
	build := func(body string, names ...string) Image {
		img, err := s.Build(ctx, BuildRequest{Names: names, Files: map[string]string{"/f": script(t, "f", body)}})
		require.NoError(t, err)
		return img
	}
	pinned, unnamed, named := build("1", "pinned"), build("2"), build("3", "named")
	require.NoError(t, s.Pin("pinned", true))
	prune := func(req PruneRequest) (ids []string) {
		gone, err := s.Prune(req)
		require.NoError(t, err)
		for _, r := range gone {
			ids = append(ids, r.Deleted)
		}
		return ids
	}
	require.Empty(t, prune(PruneRequest{All: true, Unused: time.Hour}))
	require.Equal(t, []string{unnamed.ID}, prune(PruneRequest{}))
	clk.by = 2 * time.Hour
	s.touch(digestOf(named.ID))
	require.Empty(t, prune(PruneRequest{All: true, Unused: time.Hour}), "it was used meanwhile")
	clk.by = 4 * time.Hour
	require.Equal(t, []string{named.ID}, prune(PruneRequest{All: true, Unused: time.Hour}))
	require.Empty(t, prune(PruneRequest{All: true}))
	require.NoError(t, s.Pin(pinned.ID, false))
	require.Equal(t, []string{pinned.ID}, prune(PruneRequest{All: true}))
	tidy(t, s)
}

// TestTwoProcesses: what one of two stores on a directory does, the other one sees, and collections spare what is being made.
func TestTwoProcesses(t *testing.T) {
	ctx := context.Background()
	dir := filepath.Join(t.TempDir(), "store")
	a, b := openAt(t, dir, Config{}), openAt(t, dir, Config{})
	var wg sync.WaitGroup
	stop := make(chan struct{})
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				if err := b.sweep(); err != nil {
					t.Error(err)
					return
				}
			}
		}
	})
	for i := range 10 {
		name := "i:v" + string(rune('0'+i))
		img, err := a.Build(ctx, BuildRequest{Names: []string{name}, Files: map[string]string{"/f": script(t, "f", name)}})
		require.NoError(t, err)
		got, err := b.Resolve(name)
		require.NoError(t, err)
		require.Equal(t, img.ID, got.ID)
		if i%2 == 0 {
			_, err = b.Remove(name)
			require.NoError(t, err)
			_, err = a.Resolve(name)
			require.ErrorIs(t, err, ErrNotFound)
		}
	}
	close(stop)
	wg.Wait()
	all, err := a.List()
	require.NoError(t, err)
	require.Len(t, all, 5)
	for _, img := range all {
		for _, d := range must(a.load()) {
			for _, blob := range d.Blobs {
				require.True(t, a.hasBlob(blob))
			}
		}
		_, err := a.Remove(img.ID)
		require.NoError(t, err)
	}
	require.NoError(t, b.sweep())
	tidy(t, b)
}

func TestBuild(t *testing.T) {
	ctx := context.Background()
	dir := t.TempDir()
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "bin"), 0o750))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "bin", "x"), []byte("x"), 0o700)) //nolint:gosec // it is what is looked at
	require.NoError(t, os.Link(filepath.Join(dir, "bin", "x"), filepath.Join(dir, "bin", "y")))
	require.NoError(t, os.Symlink("x", filepath.Join(dir, "bin", "z")))
	req := BuildRequest{
		Names: []string{"a"}, Dir: dir, Binary: script(t, "main", "#!"), Files: map[string]string{"/etc/deep/conf": script(t, "c", "conf")},
		Config: ocispec.ImageConfig{
			Env: []string{"A=1"}, Cmd: []string{"serve"}, User: "1:2", WorkingDir: "/w", StopSignal: "SIGINT",
			Labels: map[string]string{"l": "1"}, ExposedPorts: map[string]struct{}{"80/tcp": {}}, Volumes: map[string]struct{}{"/v": {}},
		},
		Platform: &ocispec.Platform{OS: "linux", Architecture: "arm64"},
	}
	a, b := open(t, Config{}), open(t, Config{})
	one, err := a.Build(ctx, req)
	require.NoError(t, err)
	now := time.Now()
	require.NoError(t, os.Chtimes(filepath.Join(dir, "bin", "x"), now, now))
	two, err := b.Build(ctx, req)
	require.NoError(t, err)
	require.Equal(t, one.ID, two.ID, "the same input gives the same image")
	require.Equal(t, one.Manifest, two.Manifest)
	require.Equal(t, "arm64", one.Config.Architecture)
	require.Equal(t, []string{"/main"}, one.Config.Config.Entrypoint)
	require.Equal(t, time.Unix(0, 0).UTC(), *one.Config.Created)

	over, err := a.Build(ctx, BuildRequest{
		Names: []string{"b"}, Base: "a", Files: map[string]string{"/f": script(t, "f", "f")},
		Config:  ocispec.ImageConfig{Env: []string{"A=2", "B=3"}, Entrypoint: []string{"/e"}, Labels: map[string]string{"m": "2"}},
		Created: time.Unix(1e9, 5),
	})
	require.NoError(t, err)
	c := over.Config.Config
	require.Equal(t, []string{"A=2", "B=3"}, c.Env)
	require.Equal(t, []string{"/e"}, c.Entrypoint)
	require.Empty(t, c.Cmd, "a new entrypoint has its own arguments")
	require.Equal(t, map[string]string{"l": "1", "m": "2"}, c.Labels)
	require.Equal(t, "1:2", c.User)
	require.Equal(t, "arm64", over.Config.Architecture)
	require.Equal(t, time.Unix(1e9, 0).UTC(), *over.Config.Created)
	require.Len(t, over.Config.RootFS.DiffIDs, 2)

	for name, bad := range map[string]BuildRequest{
		"nothing":      {},
		"no binary":    {Binary: filepath.Join(dir, "none")},
		"a directory":  {Binary: dir},
		"a file":       {Dir: filepath.Join(dir, "bin", "x")},
		"no directory": {Dir: filepath.Join(dir, "none")},
		"root":         {Files: map[string]string{"/": filepath.Join(dir, "bin", "x")}},
		"name":         {Names: []string{"UPPER"}, Dir: dir},
		"base":         {Base: "none", Dir: dir},
	} {
		_, err := a.Build(ctx, bad)
		require.Error(t, err, name)
	}
	for _, s := range []*Store{a, b} {
		require.NoError(t, s.sweep())
		require.Empty(t, held(t, s, tmpDir))
		require.Empty(t, held(t, s, ingestDir))
	}
}

// TestDynamicBinary: a binary that could not run in an image of its own is refused.
func TestDynamicBinary(t *testing.T) {
	const dynamic = "/bin/sh"
	if _, err := os.Stat(dynamic); err != nil {
		return
	}
	s := open(t, Config{})
	_, err := s.Build(context.Background(), BuildRequest{Names: []string{"sh"}, Binary: dynamic})
	require.ErrorContains(t, err, "needs shared libraries")
	img, err := s.Build(context.Background(), BuildRequest{Names: []string{"self"}, Binary: os.Args[0], Base: ""})
	if err == nil { // the test itself is linked statically where there is no cgo
		require.Equal(t, hostPlatform().Architecture, img.Config.Architecture)
	}
}

func TestVersion(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "version"), []byte("keelson images 9\n"), 0o600))
	_, err := Open(dir, Config{})
	require.ErrorContains(t, err, "is of another version")
}

// TestBrokenIndex: an index that cannot be read is an error and not an empty store, and nothing is removed.
func TestBrokenIndex(t *testing.T) {
	s := open(t, Config{})
	_, err := s.Build(context.Background(), BuildRequest{Names: []string{"a"}, Files: map[string]string{"/f": script(t, "f", "x")}})
	require.NoError(t, err)
	blobs := held(t, s, blobsDir)
	require.NoError(t, os.WriteFile(filepath.Join(s.dir, indexFile), []byte("{"), 0o600))
	_, err = s.List()
	require.Error(t, err)
	require.Error(t, s.sweep())
	require.Equal(t, blobs, held(t, s, blobsDir))
}
