package images

import (
	"archive/tar"
	"bytes"
	"context"
	"io"
	"io/fs"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	ggcr "github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/stretchr/testify/require"
)

func open(t testing.TB, cfg Config) *Store {
	t.Helper()
	return openAt(t, filepath.Join(t.TempDir(), "store"), cfg)
}

func openAt(t testing.TB, dir string, cfg Config) *Store {
	t.Helper()
	if cfg.Registries.Pause == 0 {
		cfg.Registries.Pause = 1
	}
	s, err := Open(dir, cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	return s
}

// server is a registry that notes what it is asked, and may be told to answer something else.
type server struct {
	host string

	mu     sync.Mutex
	asked  map[string]int // by method and path
	before func(w http.ResponseWriter, r *http.Request) bool
}

func serve(t testing.TB) *server {
	t.Helper()
	r := &server{asked: map[string]int{}}
	inner := ggcr.New(ggcr.Logger(log.New(io.Discard, "", 0)))
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		r.mu.Lock()
		r.asked[req.Method+" "+req.URL.Path]++
		before := r.before
		r.mu.Unlock()
		if before == nil || !before(w, req) {
			inner.ServeHTTP(w, req)
		}
	}))
	t.Cleanup(srv.Close)
	r.host = strings.TrimPrefix(srv.URL, "http://")
	return r
}

// instead says what answers first; true: it did.
func (r *server) instead(f func(w http.ResponseWriter, r *http.Request) bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.before, r.asked = f, map[string]int{}
}

// count adds up the requests whose method and path contain a text.
func (r *server) count(text string) (n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for what, times := range r.asked {
		if strings.Contains(what, text) {
			n += times
		}
	}
	return n
}

func (r *server) put(t testing.TB, repo string, img v1.Image) string {
	t.Helper()
	ref, err := name.ParseReference(r.host + "/" + repo)
	require.NoError(t, err)
	require.NoError(t, remote.Write(ref, img))
	return ref.Name()
}

// content is a layer: what files have. "x/" is a directory, and "x" -> nil a whiteout.
type content map[string][]byte

func text(s string) []byte { return []byte(s) }

func (c content) tar(t testing.TB) []byte {
	t.Helper()
	var b bytes.Buffer
	tw := tar.NewWriter(&b)
	var names []string
	for n := range c {
		names = append(names, n)
	}
	// Sorted, so that the layer is the same each time and directories come before what is in them.
	for _, n := range slices.Sorted(slices.Values(names)) {
		h := &tar.Header{Name: n, Mode: 0o644, Size: int64(len(c[n])), Typeflag: tar.TypeReg}
		if c[n] == nil {
			h.Name = filepath.Join(filepath.Dir(n), ".wh."+filepath.Base(n))
		}
		if strings.HasSuffix(n, "/") {
			h = &tar.Header{Name: n, Mode: 0o755, Typeflag: tar.TypeDir}
		}
		require.NoError(t, tw.WriteHeader(h))
		_, err := tw.Write(c[n])
		require.True(t, err == nil || h.Typeflag == tar.TypeDir, err)
	}
	require.NoError(t, tw.Close())
	return b.Bytes()
}

func (c content) layer(t testing.TB, opts ...tarball.LayerOption) v1.Layer {
	t.Helper()
	b := c.tar(t)
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil }, opts...)
	require.NoError(t, err)
	return l
}

// image makes an image of layers, the lowest first.
func image(t testing.TB, layers ...content) v1.Image {
	t.Helper()
	img := v1.Image(empty.Image)
	for _, l := range layers {
		var err error
		img, err = mutate.AppendLayers(img, l.layer(t))
		require.NoError(t, err)
	}
	conf, err := img.ConfigFile()
	require.NoError(t, err)
	conf = conf.DeepCopy()
	conf.OS, conf.Architecture = "linux", hostPlatform().Architecture
	img, err = mutate.ConfigFile(img, conf)
	require.NoError(t, err)
	return img
}

// shown mounts an image and lists the files with what they have in them.
func shown(t testing.TB, s *Store, ref string) map[string]string {
	t.Helper()
	target := filepath.Join(t.TempDir(), "target")
	require.NoError(t, s.Mount(context.Background(), MountRequest{Key: "shown", Image: ref, Target: target, ReadOnly: true}))
	defer func() { require.NoError(t, s.Unmount("shown")) }()
	return files(t, target)
}

func files(t testing.TB, root string) map[string]string {
	t.Helper()
	out := map[string]string{}
	require.NoError(t, filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		rel, err := filepath.Rel(root, p)
		if err != nil {
			return err
		}
		b, err := os.ReadFile(p)
		out[rel] = string(b)
		return err
	}))
	return out
}

// held lists what a store has on the disk of a kind, without what is always there.
func held(t testing.TB, s *Store, kind string) []string {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(s.dir, kind))
	require.NoError(t, err)
	var out []string
	for _, e := range entries {
		if e.Name() != emptyLayer {
			out = append(out, e.Name())
		}
	}
	return out
}

// tidy fails if a store has more on the disk than its images need.
func tidy(t testing.TB, s *Store) {
	t.Helper()
	all, err := s.List()
	require.NoError(t, err)
	if len(all) == 0 {
		require.Empty(t, held(t, s, blobsDir))
		require.Empty(t, held(t, s, layersDir))
		require.Empty(t, held(t, s, usedDir))
	}
	require.Empty(t, held(t, s, tmpDir))
	require.Empty(t, held(t, s, ingestDir))
}
