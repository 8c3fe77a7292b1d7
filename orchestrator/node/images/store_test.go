package images

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/keelson-io/keelson/internal/testkit"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// script is a file that stands for a binary.
func script(t testing.TB, name, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
	return path
}

func TestBuildMount(t *testing.T) {
	testkit.Root(t)
	testkit.NoLeaks(t, t.Name())
	ctx := context.Background()
	s := open(t, Config{})
	img, err := s.Build(ctx, BuildRequest{
		Names: []string{"app:v1"}, Binary: script(t, "app", "hello"),
		Config: ocispec.ImageConfig{User: "7:8", Labels: map[string]string{"a": "b"}},
	})
	require.NoError(t, err)
	require.Equal(t, []string{"docker.io/library/app:v1"}, img.RepoTags)
	require.Equal(t, []string{"/app"}, img.Config.Config.Entrypoint)

	for _, ref := range []string{"app:v1", "docker.io/library/app:v1", img.ID, img.ID[:20], strings.TrimPrefix(img.ID, "sha256:")[:6], img.RepoDigests[0]} {
		got, err := s.Resolve(ref)
		require.NoError(t, err, ref)
		require.Equal(t, img.ID, got.ID, ref)
	}
	_, err = s.Resolve("app:v2")
	require.ErrorIs(t, err, ErrNotFound)

	target := filepath.Join(t.TempDir(), "rootfs")
	req := MountRequest{Key: "c1", Image: "app:v1", Target: target}
	require.NoError(t, s.Mount(ctx, req))
	require.NoError(t, s.Mount(ctx, req), "a second time")
	b, err := os.ReadFile(filepath.Join(target, "app"))
	require.NoError(t, err)
	require.Equal(t, "hello", string(b))
	require.NoError(t, os.WriteFile(filepath.Join(target, "app"), bytes.Repeat([]byte("x"), 10000), 0o600))
	bytes, inodes, err := s.Usage("c1")
	require.NoError(t, err)
	require.GreaterOrEqual(t, bytes, int64(10000))
	require.GreaterOrEqual(t, inodes, int64(1))
	require.Equal(t, []string{"c1"}, s.Mounted())

	other := filepath.Join(t.TempDir(), "other")
	require.NoError(t, s.Mount(ctx, MountRequest{Key: "c2", Image: img.ID, Target: other, ReadOnly: true}))
	b, err = os.ReadFile(filepath.Join(other, "app"))
	require.NoError(t, err)
	require.Equal(t, "hello", string(b), "what one container writes, another one does not see")
	require.Error(t, os.WriteFile(filepath.Join(other, "new"), nil, 0o600))

	require.NoError(t, s.Unmount("c1"))
	require.NoError(t, s.Unmount("c1"))
	require.NoError(t, s.Unmount("c2"))
	require.NoDirExists(t, target)
	require.Empty(t, s.Mounted())
}
