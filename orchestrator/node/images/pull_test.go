package images

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"

	gcompression "github.com/google/go-containerregistry/pkg/compression"

	"github.com/keelson-io/keelson/internal/testkit"
	"github.com/keelson-io/keelson/orchestrator/node/images/registry"
)

func TestPull(t *testing.T) {
	testkit.Root(t)
	testkit.NoLeaks(t, t.Name())
	ctx := context.Background()
	r := serve(t)
	want := image(t, content{"a": text("1"), "d/": nil, "d/b": text("2")}, content{"a": nil, "d/": nil, "d/c": text("3")})
	ref := r.put(t, "some/app:v1", want)
	id, err := want.ConfigName()
	require.NoError(t, err)
	top, err := want.Digest()
	require.NoError(t, err)

	s := open(t, Config{})
	var seen []Progress
	img, err := s.Pull(ctx, PullRequest{Ref: ref, Progress: func(p Progress) { seen = append(seen, p) }})
	require.NoError(t, err)
	require.Equal(t, id.String(), img.ID)
	require.Equal(t, []string{ref}, img.RepoTags)
	require.Equal(t, []string{r.host + "/some/app@" + top.String()}, img.RepoDigests)
	require.Positive(t, img.Size)
	require.True(t, seen[len(seen)-1].Done)
	for _, p := range seen {
		require.LessOrEqual(t, p.Received, p.Total)
	}
	require.Equal(t, map[string]string{"d/b": "2", "d/c": "3"}, shown(t, s, ref))

	// Once more: the registry is asked for the manifest, and for nothing else.
	r.instead(nil)
	again, err := s.Pull(ctx, PullRequest{Ref: ref})
	require.NoError(t, err)
	require.Equal(t, img.ID, again.ID)
	require.Equal(t, 1, r.count("/manifests/"))
	require.Zero(t, r.count("/blobs/"))

	// By digest.
	byDigest, err := s.Pull(ctx, PullRequest{Ref: img.RepoDigests[0]})
	require.NoError(t, err)
	require.Equal(t, img.ID, byDigest.ID)
	require.Equal(t, img.RepoDigests, byDigest.RepoDigests)

	// The tag moves: the old image keeps its digest.
	r.put(t, "some/app:v1", image(t, content{"a": text("new")}))
	moved, err := s.Pull(ctx, PullRequest{Ref: ref})
	require.NoError(t, err)
	require.NotEqual(t, img.ID, moved.ID)
	old, err := s.Resolve(img.ID)
	require.NoError(t, err)
	require.Empty(t, old.RepoTags)
	require.Equal(t, img.RepoDigests, old.RepoDigests)
	for _, i := range []Image{old, moved} {
		_, err = s.Remove(i.ID)
		require.NoError(t, err)
	}
	tidy(t, s)
}

func TestPullCompressions(t *testing.T) {
	testkit.Root(t)
	r := serve(t)
	s := open(t, Config{})
	for name, opts := range map[string][]tarball.LayerOption{
		"gzip": nil, "zstd": {tarball.WithCompression(gcompression.ZStd), tarball.WithMediaType("application/vnd.oci.image.layer.v1.tar+zstd")},
		"none": {tarball.WithCompression(gcompression.None), tarball.WithMediaType("application/vnd.oci.image.layer.v1.tar")},
	} {
		img, err := mutate.AppendLayers(empty.Image, content{"is": text(name)}.layer(t, opts...))
		require.NoError(t, err)
		_, err = s.Pull(context.Background(), PullRequest{Ref: r.put(t, "a:"+name, img)})
		require.NoError(t, err, name)
		require.Equal(t, map[string]string{"is": name}, shown(t, s, r.host+"/a:"+name))
	}
}

func TestPullPlatforms(t *testing.T) {
	ctx := context.Background()
	r := serve(t)
	var adds []mutate.IndexAddendum
	ids := map[string]string{}
	for _, p := range []string{"linux/amd64", "linux/arm64", "linux/arm/v6", "linux/arm/v7", "windows/amd64", "unknown/unknown"} {
		img := image(t, content{"is": text(p)})
		id, err := img.ConfigName()
		require.NoError(t, err)
		ids[p] = id.String()
		parsed, err := v1.ParsePlatform(p)
		require.NoError(t, err)
		adds = append(adds, mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: parsed}})
	}
	ref, err := name.ParseReference(r.host + "/multi:v1")
	require.NoError(t, err)
	x := mutate.AppendManifests(empty.Index, adds...)
	require.NoError(t, remote.WriteIndex(ref, x))
	top, err := x.Digest()
	require.NoError(t, err)

	for on, want := range map[string]string{
		"linux/amd64": "linux/amd64", "linux/arm64": "linux/arm64", "linux/arm": "linux/arm/v7", "linux/arm/v6": "linux/arm/v6", "linux/arm/v8": "linux/arm/v7",
		"linux/arm64/v8": "linux/arm64", "windows/amd64": "windows/amd64",
	} {
		p, err := ParsePlatform(on)
		require.NoError(t, err)
		s := open(t, Config{})
		img, err := s.Pull(ctx, PullRequest{Ref: ref.Name(), Platform: p})
		require.NoError(t, err, on)
		require.Equal(t, ids[want], img.ID, on)
		require.Equal(t, []string{r.host + "/multi@" + top.String()}, img.RepoDigests, "the digest is that of the index")
		for _, d := range []string{top.String(), img.Manifest} {
			got, err := s.Resolve(r.host + "/multi@" + d)
			require.NoError(t, err)
			require.Equal(t, img.ID, got.ID)
		}
	}
	s := open(t, Config{Platform: &ocispec.Platform{OS: "linux", Architecture: "s390x"}})
	_, err = s.Pull(ctx, PullRequest{Ref: ref.Name()})
	require.ErrorIs(t, err, ErrNotFound)
	require.ErrorContains(t, err, "no image for linux/s390x; there are linux/amd64, linux/arm64")
}

// TestPullTogether: many pulls at once, in two stores on one directory, get each blob once.
func TestPullTogether(t *testing.T) {
	ctx := context.Background()
	r := serve(t)
	base := content{"base": text(strings.Repeat("x", 1<<20))}
	refs := []string{r.put(t, "a:v1", image(t, base, content{"a": text("1")})), r.put(t, "b:v1", image(t, base, content{"b": text("1")}))}
	r.instead(nil)
	dir := filepath.Join(t.TempDir(), "store")
	stores := []*Store{openAt(t, dir, Config{}), openAt(t, dir, Config{Parallel: 1})}
	var wg sync.WaitGroup
	errs := make(chan error, 100)
	for i := range 12 {
		wg.Go(func() {
			_, err := stores[i%2].Pull(ctx, PullRequest{Ref: refs[i/2%2]})
			errs <- err
		})
	}
	wg.Wait()
	close(errs)
	for err := range errs {
		require.NoError(t, err)
	}
	require.Equal(t, 5, r.count("GET /v2/a/blobs/")+r.count("GET /v2/b/blobs/"), "two configurations, three layers")
	for _, s := range stores {
		all, err := s.List()
		require.NoError(t, err)
		require.Len(t, all, 2)
		tidy(t, s)
	}
}

// TestPullGivenUp: when the one that gets a blob gives up, another one goes on.
func TestPullGivenUp(t *testing.T) {
	r := serve(t)
	ref := r.put(t, "a:v1", image(t, content{"a": text(strings.Repeat("x", 1<<20))}))
	s := open(t, Config{})
	first := make(chan struct{})
	var once sync.Once
	r.instead(func(_ http.ResponseWriter, req *http.Request) bool {
		wait := false
		if strings.Contains(req.URL.Path, "/blobs/") {
			once.Do(func() { wait = true; close(first) })
		}
		if wait {
			<-req.Context().Done()
		}
		return wait
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 2)
	go func() {
		_, err := s.Pull(ctx, PullRequest{Ref: ref})
		done <- err
	}()
	<-first
	go func() {
		_, err := s.Pull(context.Background(), PullRequest{Ref: ref})
		done <- err
	}()
	cancel()
	require.ErrorIs(t, <-done, context.Canceled)
	require.NoError(t, <-done)
	tidy(t, s)
}

// TestPullBrokenOff: a registry that breaks off in the middle of a blob is asked for the rest only.
func TestPullBrokenOff(t *testing.T) {
	r := serve(t)
	img, err := random.Image(4<<20, 1)
	require.NoError(t, err)
	ref := r.put(t, "a:v1", img)
	layers, err := img.Layers()
	require.NoError(t, err)
	d, err := layers[0].Digest()
	require.NoError(t, err)
	size, err := layers[0].Size()
	require.NoError(t, err)
	var mu sync.Mutex
	var sent int64
	var ranges []string
	r.instead(func(w http.ResponseWriter, req *http.Request) bool {
		if req.Method != http.MethodGet || !strings.HasSuffix(req.URL.Path, d.String()) {
			return false
		}
		mu.Lock()
		defer mu.Unlock()
		ranges = append(ranges, req.Header.Get("Range"))
		if len(ranges) > 2 {
			return false
		}
		rc, err := layers[0].Compressed()
		if err != nil {
			panic(err)
		}
		defer func() { _ = rc.Close() }()
		w.Header().Set("Content-Length", strconv.FormatInt(size-sent, 10))
		if sent > 0 {
			w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", sent, size-1, size))
			w.WriteHeader(http.StatusPartialContent)
			_, _ = io.CopyN(io.Discard, rc, sent)
		}
		n, _ := io.CopyN(w, rc, 1<<20)
		sent += n
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	})
	s := open(t, Config{})
	_, err = s.Pull(context.Background(), PullRequest{Ref: ref})
	require.NoError(t, err)
	require.Equal(t, []string{"", fmt.Sprintf("bytes=%d-%d", 1<<20, size-1), fmt.Sprintf("bytes=%d-%d", 2<<20, size-1)}, ranges)
	tidy(t, s)
}

// TestPullHangs: a registry that stops in the middle of a blob gives an error that names it; a later pull goes on from there.
func TestPullHangs(t *testing.T) {
	r := serve(t)
	img, err := random.Image(1<<20, 1)
	require.NoError(t, err)
	ref := r.put(t, "a:v1", img)
	layers, err := img.Layers()
	require.NoError(t, err)
	d, err := layers[0].Digest()
	require.NoError(t, err)
	r.instead(func(w http.ResponseWriter, req *http.Request) bool {
		if req.Method != http.MethodGet || !strings.HasSuffix(req.URL.Path, d.String()) {
			return false
		}
		rc, err := layers[0].Compressed()
		if err != nil {
			panic(err)
		}
		defer func() { _ = rc.Close() }()
		_, _ = io.CopyN(w, rc, 1000)
		w.(http.Flusher).Flush()
		<-req.Context().Done()
		return true
	})
	s := open(t, Config{Registries: registry.Config{Stall: 100 * time.Millisecond}})
	_, err = s.Pull(context.Background(), PullRequest{Ref: ref})
	require.ErrorIs(t, err, registry.ErrUnavailable)
	require.ErrorContains(t, err, "the registry "+r.host+" has sent nothing for 100ms")
	require.ErrorContains(t, err, ref)
	require.Equal(t, []string{d.Hex}, held(t, s, ingestDir), "what has come is kept")
	r.instead(func(_ http.ResponseWriter, req *http.Request) bool {
		if strings.HasSuffix(req.URL.Path, d.String()) && !strings.HasPrefix(req.Header.Get("Range"), "bytes=1000-") {
			t.Errorf("asked for %q", req.Header.Get("Range"))
		}
		return false
	})
	_, err = s.Pull(context.Background(), PullRequest{Ref: ref})
	require.NoError(t, err)
	tidy(t, s)
}

// TestPullCorrupt: what does not have its digest is refused, and a later pull of what is right succeeds.
func TestPullCorrupt(t *testing.T) {
	ctx := context.Background()
	r := serve(t)
	img := image(t, content{"a": text("1")})
	ref := r.put(t, "a:v1", img)
	m, err := img.Manifest()
	require.NoError(t, err)
	top, err := img.Digest()
	require.NoError(t, err)
	for _, tc := range []struct {
		name string
		what string // the end of a path
		body string
		want error
	}{
		{"layer", m.Layers[0].Digest.String(), strings.Repeat("x", int(m.Layers[0].Size)), ErrCorrupt},
		{"short layer", m.Layers[0].Digest.String(), "x", ErrCorrupt},
		{"long layer", m.Layers[0].Digest.String(), strings.Repeat("x", 1<<16), ErrCorrupt},
		{"empty layer", m.Layers[0].Digest.String(), "", ErrCorrupt},
		{"configuration", m.Config.Digest.String(), strings.Repeat("x", int(m.Config.Size)), ErrCorrupt},
		{"manifest", "/manifests/v1", "{", ErrInvalid},
		{"no manifest", "/manifests/v1", "[]", ErrInvalid},
		{"version 1", "/manifests/v1", `{"schemaVersion":1,"fsLayers":[]}`, ErrInvalid},
		{"manifest by digest", "/manifests/" + top.String(), `{"schemaVersion":2}`, ErrInvalid},
		{"artifact", "/manifests/v1", `{"schemaVersion":2,"config":{"mediaType":"application/x","digest":"` + string(digest.FromString("x")) + `"}}`, ErrInvalid},
		{"digests", "/manifests/v1", `{"schemaVersion":2,"config":{"digest":"sha256:../../x"}}`, ErrInvalid},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := open(t, Config{})
			r.instead(func(w http.ResponseWriter, req *http.Request) bool {
				if req.Method != http.MethodGet || !strings.HasSuffix(req.URL.Path, tc.what) {
					return false
				}
				_, _ = io.WriteString(w, tc.body)
				return true
			})
			by := ref
			if strings.HasSuffix(tc.what, top.String()) {
				by = r.host + "/a@" + top.String()
			}
			_, err := s.Pull(ctx, PullRequest{Ref: by})
			require.ErrorIs(t, err, tc.want)
			all, lerr := s.List()
			require.NoError(t, lerr)
			require.Empty(t, all)
			require.NoError(t, s.sweep())
			r.instead(nil)
			_, err = s.Pull(ctx, PullRequest{Ref: by})
			require.NoError(t, err)
			tidy(t, s)
		})
	}
}

// TestPullOtherContent: a layer whose content is not what the configuration says is refused, though its digest is right.
func TestPullOtherContent(t *testing.T) {
	testkit.Root(t)
	r := serve(t)
	img := image(t, content{"a": text("1")})
	conf, err := img.ConfigFile()
	require.NoError(t, err)
	conf = conf.DeepCopy()
	conf.RootFS.DiffIDs[0].Hex = strings.Repeat("ab", 32)
	img, err = mutate.ConfigFile(img, conf)
	require.NoError(t, err)
	s := open(t, Config{})
	_, err = s.Pull(context.Background(), PullRequest{Ref: r.put(t, "a:v1", img)})
	require.ErrorIs(t, err, ErrCorrupt)
	require.NoError(t, s.sweep())
	tidy(t, s)
}

func TestPullErrors(t *testing.T) {
	ctx := context.Background()
	r := serve(t)
	s := open(t, Config{})
	_, err := s.Pull(ctx, PullRequest{Ref: r.host + "/a:v1"})
	require.ErrorIs(t, err, ErrNotFound)
	require.ErrorContains(t, err, "images: pull "+r.host+"/a:v1: not found in the registry "+r.host)
	_, err = s.Pull(ctx, PullRequest{Ref: "UPPER"})
	require.ErrorIs(t, err, ErrInvalid)
	tidy(t, s)
}

// TestDiskFull: a store whose file system is full says so, leaves nothing half done, and goes on when there is room.
func TestDiskFull(t *testing.T) {
	testkit.Root(t)
	testkit.NoLeaks(t, t.Name())
	ctx := context.Background()
	r := serve(t)
	big, err := random.Image(6<<20, 1)
	require.NoError(t, err)
	ref := r.put(t, "big:v1", big)
	small := r.put(t, "small:v1", image(t, content{"a": text("1")}))
	dir := smallDisk(t, 4<<20)
	s := openAt(t, filepath.Join(dir, "store"), Config{})
	_, err = s.Pull(ctx, PullRequest{Ref: ref})
	require.ErrorContains(t, err, "no space left on device")
	require.Equal(t, "ResourceExhausted", rpcCode(rpcError(err)))
	require.NoError(t, s.sweep())
	img, err := s.Pull(ctx, PullRequest{Ref: small})
	require.NoError(t, err)
	require.Equal(t, map[string]string{"a": "1"}, shown(t, s, small))
	_, err = s.Remove(img.ID)
	require.NoError(t, err)

	// There is room for the blob, but not for its content.
	zeros := r.put(t, "zeros:v1", image(t, content{"zeros": make([]byte, 8<<20)}))
	_, err = s.Pull(ctx, PullRequest{Ref: zeros})
	require.ErrorContains(t, err, "no space left on device")
	require.Empty(t, held(t, s, layersDir))
	require.Empty(t, held(t, s, tmpDir))
	require.NoError(t, s.sweep())
	tidy(t, s)
	left, err := os.ReadDir(filepath.Join(dir, "store", tmpDir))
	require.NoError(t, err)
	require.Empty(t, left)
}
