package images

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/klauspost/compress/gzip"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"

	"github.com/keelson-io/keelson/internal/testkit"
	"github.com/keelson-io/keelson/orchestrator/node/images/registry"
)

func digestOf(s string) digest.Digest { return digest.Digest(s) }

// built makes two images, of which one lies on the other.
func built(t testing.TB, s *Store) (base, top Image) {
	t.Helper()
	ctx := context.Background()
	base, err := s.Build(ctx, BuildRequest{Names: []string{"base:v1"}, Files: map[string]string{"/etc/a": script(t, "a", "1")}})
	require.NoError(t, err)
	top, err = s.Build(ctx, BuildRequest{Names: []string{"top:v1", "reg.example/top:v2"}, Base: "base:v1", Files: map[string]string{"/etc/b": script(t, "b", "2")}})
	require.NoError(t, err)
	return base, top
}

func TestExportImport(t *testing.T) {
	testkit.Root(t)
	testkit.NoLeaks(t, t.Name())
	ctx := context.Background()
	s := open(t, Config{})
	base, top := built(t, s)
	for _, format := range []Format{OCI, Docker} {
		t.Run(string(format), func(t *testing.T) {
			var b, again bytes.Buffer
			require.NoError(t, s.Export(ctx, &b, format, "base:v1", top.ID))
			require.NoError(t, s.Export(ctx, &again, format, "base:v1", top.ID))
			require.Equal(t, b.Bytes(), again.Bytes(), "the same images give the same archive")
			to := open(t, Config{})
			got, err := to.ImportStream(ctx, bytes.NewReader(b.Bytes()))
			require.NoError(t, err)
			byID := map[string]Image{}
			for _, img := range got {
				byID[img.ID] = img
			}
			require.Len(t, byID, 2)
			require.Equal(t, base.RepoTags, byID[base.ID].RepoTags)
			all, err := to.Resolve(top.ID)
			require.NoError(t, err)
			require.Equal(t, top.RepoTags, all.RepoTags)
			require.Equal(t, top.Config, all.Config)
			if format == OCI {
				require.Equal(t, top.Manifest, all.Manifest)
				require.Equal(t, top.RepoDigests, all.RepoDigests)
			}
			require.Equal(t, map[string]string{"etc/a": "1", "etc/b": "2"}, shown(t, to, "top:v1"))

			// Compressed, from a file, with another name.
			path := filepath.Join(t.TempDir(), "a.tar.gz")
			var one, packed bytes.Buffer
			require.NoError(t, s.Export(ctx, &one, format, "base:v1"))
			zw := gzip.NewWriter(&packed)
			_, err = zw.Write(one.Bytes())
			require.NoError(t, err)
			require.NoError(t, zw.Close())
			require.NoError(t, os.WriteFile(path, packed.Bytes(), 0o600))
			named := open(t, Config{})
			got, err = named.Import(ctx, path, "other:v9")
			require.NoError(t, err)
			require.Len(t, got, 1)
			require.Equal(t, []string{"docker.io/library/other:v9"}, got[0].RepoTags)
			require.Equal(t, base.ID, got[0].ID)
			_, err = named.ImportStream(ctx, bytes.NewReader(b.Bytes()), "other:v9")
			require.ErrorContains(t, err, "names can be given to one only")
			tidy(t, named)
		})
	}
	require.ErrorIs(t, s.Export(ctx, io.Discard, "zip", "base:v1"), ErrInvalid)
	require.ErrorIs(t, s.Export(ctx, io.Discard, OCI), ErrInvalid)
	require.ErrorIs(t, s.Export(ctx, io.Discard, OCI, "none"), ErrNotFound)
	tidy(t, s)
}

// TestOthersReadIt: what is exported is read by go-containerregistry, and what that writes is imported.
func TestOthersReadIt(t *testing.T) {
	testkit.Root(t)
	ctx := context.Background()
	s := open(t, Config{})
	_, top := built(t, s)
	path := filepath.Join(t.TempDir(), "docker.tar")
	var b bytes.Buffer
	require.NoError(t, s.Export(ctx, &b, Docker, "top:v1"))
	require.NoError(t, os.WriteFile(path, b.Bytes(), 0o600))
	tag, err := name.NewTag("top:v1")
	require.NoError(t, err)
	img, err := tarball.ImageFromPath(path, &tag)
	require.NoError(t, err)
	id, err := img.ConfigName()
	require.NoError(t, err)
	require.Equal(t, top.ID, id.String())

	// A layout in a directory, which names its images by tags only.
	dir := t.TempDir()
	p, err := layout.Write(dir, mutate.AppendManifests(emptyIndex(), mutate.IndexAddendum{
		Add: image(t, content{"a": text("1")}), Descriptor: v1.Descriptor{Annotations: map[string]string{ocispec.AnnotationRefName: "v1"}},
	}))
	require.NoError(t, err)
	require.NotEmpty(t, p)
	got, err := s.Import(ctx, dir)
	require.NoError(t, err)
	require.Len(t, got, 1)
	require.Empty(t, got[0].RepoTags)
	got, err = s.Import(ctx, dir, "named:v1")
	require.NoError(t, err)
	require.Equal(t, []string{"docker.io/library/named:v1"}, got[0].RepoTags)
	require.Equal(t, map[string]string{"a": "1"}, shown(t, s, "named:v1"))

	// An archive of an older docker save: plain layers in directories, one of them a link to another.
	got, err = s.ImportStream(ctx, bytes.NewReader(oldArchive(t)))
	require.NoError(t, err)
	require.Len(t, got, 1)
	require.Equal(t, map[string]string{"a": "1"}, shown(t, s, "old:v1"))
	tidy(t, s)
}

func emptyIndex() v1.ImageIndex {
	return mutate.IndexMediaType(empty.Index, ocispec.MediaTypeImageIndex)
}

func oldArchive(t testing.TB) []byte {
	t.Helper()
	layer := content{"a": text("1")}.tar(t)
	diff := digest.FromBytes(layer)
	conf := must(json.Marshal(ocispec.Image{RootFS: ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{diff, diff}}}))
	manifest := must(json.Marshal([]dockerEntry{{Config: "conf.json", RepoTags: []string{"old:v1"}, Layers: []string{"1/layer.tar", "2/layer.tar"}}}))
	var b bytes.Buffer
	tw := tar.NewWriter(&b)
	for _, f := range []struct {
		name, link string
		body       []byte
	}{{"2/layer.tar", "../1/layer.tar", nil}, {"1/layer.tar", "", layer}, {"conf.json", "", conf}, {"manifest.json", "", manifest}} {
		h := &tar.Header{Name: f.name, Mode: 0o644, Size: int64(len(f.body)), Typeflag: tar.TypeReg}
		if f.link != "" {
			h.Typeflag, h.Linkname = tar.TypeSymlink, f.link
		}
		require.NoError(t, tw.WriteHeader(h))
		_, err := tw.Write(f.body)
		require.NoError(t, err)
	}
	require.NoError(t, tw.Close())
	return b.Bytes()
}

func TestImportRefused(t *testing.T) {
	ctx := context.Background()
	pack := func(files map[string]string) []byte {
		var b bytes.Buffer
		tw := tar.NewWriter(&b)
		for n, body := range files {
			require.NoError(t, tw.WriteHeader(&tar.Header{Name: n, Mode: 0o644, Size: int64(len(body))}))
			_, err := tw.Write([]byte(body))
			require.NoError(t, err)
		}
		require.NoError(t, tw.Close())
		return b.Bytes()
	}
	d := digest.FromString("x")
	for _, tc := range []struct {
		name string
		b    []byte
		want error
	}{
		{"nothing", nil, ErrInvalid},
		{"no archive", []byte(strings.Repeat("no tar", 200)), ErrInvalid},
		{"no image", pack(map[string]string{"a": "b"}), ErrInvalid},
		{"index", pack(map[string]string{"index.json": "{"}), ErrInvalid},
		{"empty index", pack(map[string]string{"index.json": "{}"}), ErrInvalid},
		{"manifest is missing", pack(map[string]string{"index.json": `{"manifests":[{"digest":"` + d.String() + `"}]}`}), os.ErrNotExist},
		{"manifest is another", pack(map[string]string{"index.json": `{"manifests":[{"digest":"` + d.String() + `"}]}`, blobName(d): "y"}), ErrCorrupt},
		{"digest leads out", pack(map[string]string{"index.json": `{"manifests":[{"digest":"sha256:../../x"}]}`}), ErrInvalid},
		{"docker's manifest", pack(map[string]string{"manifest.json": "{"}), ErrInvalid},
		{"docker's configuration is missing", pack(map[string]string{"manifest.json": `[{"Config":"c"}]`}), os.ErrNotExist},
		{"docker's name", pack(map[string]string{"manifest.json": `[{"RepoTags":["UPPER"]}]`}), ErrInvalid},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := open(t, Config{})
			_, err := s.ImportStream(ctx, bytes.NewReader(tc.b))
			require.ErrorIs(t, err, tc.want)
			require.NoError(t, s.sweep())
			tidy(t, s)
		})
	}
	s := open(t, Config{})
	_, err := s.Import(ctx, filepath.Join(t.TempDir(), "none"))
	require.ErrorIs(t, err, os.ErrNotExist)
	secret := filepath.Join(t.TempDir(), "secret")
	require.NoError(t, os.WriteFile(secret, []byte("{}"), 0o600))
	dir := t.TempDir()
	require.NoError(t, os.Symlink(secret, filepath.Join(dir, "index.json")))
	_, err = s.Import(ctx, dir)
	require.Error(t, err, "a layout does not read what lies outside of it")
}

func TestPushPull(t *testing.T) {
	testkit.Root(t)
	testkit.NoLeaks(t, t.Name())
	ctx := context.Background()
	r := serve(t)
	r.instead(func(w http.ResponseWriter, req *http.Request) bool {
		if user, password, _ := req.BasicAuth(); user == "me" && password == "secret" {
			return false
		}
		w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
		w.WriteHeader(http.StatusUnauthorized)
		return true
	})
	s := open(t, Config{})
	_, top := built(t, s)
	auth := &Auth{Username: "me", Password: "secret"}
	to := r.host + "/team/top:v1"
	_, err := s.Push(ctx, PushRequest{Ref: "top:v1", To: to})
	require.ErrorIs(t, err, registry.ErrUnauthorized)
	var done, total int64
	img, err := s.Push(ctx, PushRequest{Ref: "top:v1", To: to, Auth: auth, Progress: func(d, t int64) { done, total = d, t }})
	require.NoError(t, err)
	require.Positive(t, total)
	require.Equal(t, total, done)
	require.Contains(t, img.RepoDigests, r.host+"/team/top@"+top.Manifest)
	_, err = s.Push(ctx, PushRequest{Ref: "none", To: to, Auth: auth})
	require.ErrorIs(t, err, ErrNotFound)
	_, err = s.Push(ctx, PushRequest{Ref: "top:v1", To: r.host + "/a@" + top.Manifest, Auth: auth})
	require.ErrorIs(t, err, ErrInvalid)

	other := open(t, Config{})
	_, err = other.Pull(ctx, PullRequest{Ref: to})
	require.ErrorIs(t, err, registry.ErrUnauthorized)
	got, err := other.Pull(ctx, PullRequest{Ref: to, Auth: auth})
	require.NoError(t, err)
	require.Equal(t, top.ID, got.ID)
	require.Equal(t, top.Manifest, got.Manifest)
	require.Equal(t, map[string]string{"etc/a": "1", "etc/b": "2"}, shown(t, other, to))
	tidy(t, s)
	tidy(t, other)
}

// FuzzImport takes in whatever comes.
func FuzzImport(f *testing.F) {
	f.Add(oldArchive(f))
	s := open(f, Config{})
	_, err := s.Build(context.Background(), BuildRequest{Names: []string{"a"}, Files: map[string]string{"/f": script(f, "f", "x")}})
	require.NoError(f, err)
	for _, format := range []Format{OCI, Docker} {
		var b bytes.Buffer
		require.NoError(f, s.Export(context.Background(), &b, format, "a"))
		f.Add(b.Bytes())
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		s := open(t, Config{})
		_, err := s.ImportStream(context.Background(), bytes.NewReader(b))
		if err != nil {
			all, lerr := s.List()
			require.NoError(t, lerr)
			if len(all) > 0 {
				return // of several, the first ones were good
			}
		}
		for _, img := range must(s.List()) {
			_, err := s.Remove(img.ID)
			require.NoError(t, err)
		}
		require.NoError(t, s.sweep())
		tidy(t, s)
	})
}
