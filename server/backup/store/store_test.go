package store

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"io"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"
	"github.com/stretchr/testify/require"
)

// openStores opens an empty store of each kind.
func openStores(t *testing.T) map[string]Store {
	backend := s3mem.New()
	require.NoError(t, backend.CreateBucket("backups"))
	srv := httptest.NewTLSServer(gofakes3.New(backend).Server()) // it knows no signed parts, which plain connections have
	t.Cleanup(srv.Close)
	ca := filepath.Join(t.TempDir(), "ca.pem")
	require.NoError(t, os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw}), 0o600))
	t.Setenv("AWS_ACCESS_KEY_ID", "key")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "secret")
	d, err := Open(filepath.Join(t.TempDir(), "not", "there", "yet"), S3Options{})
	require.NoError(t, err)
	b, err := Open("s3://backups/some/prefix/", S3Options{Endpoint: srv.URL, Region: "us-east-1", CAFile: ca})
	require.NoError(t, err)
	bare, err := Open("s3://backups", S3Options{Endpoint: srv.URL, Region: "us-east-1", CAFile: ca})
	require.NoError(t, err)
	for _, s := range []Store{b, bare} {
		s.(*bucket).part = 5 << 20 // the least there is
	}
	return map[string]Store{"directory": d, "bucket with a prefix": b, "bucket": bare}
}

func get(t *testing.T, s Store, name string) []byte {
	t.Helper()
	r, err := s.Get(t.Context(), name)
	require.NoError(t, err)
	defer r.Close()
	b, err := io.ReadAll(r)
	require.NoError(t, err)
	return b
}

func TestStores(t *testing.T) {
	large := make([]byte, 6<<20) // of two parts
	_, _ = rand.Read(large)
	for kind, s := range openStores(t) {
		t.Run(kind, func(t *testing.T) {
			ctx := t.Context()
			list, err := s.List(ctx, "")
			require.NoError(t, err)
			if kind == "bucket" { // the other one's objects are in it
				list = slices.DeleteFunc(list, func(o Object) bool { return strings.HasPrefix(o.Name, "some/prefix/") })
			}
			require.Empty(t, list)
			_, err = s.Get(ctx, "chains/a/none")
			require.ErrorIs(t, err, ErrNotFound)
			require.NoError(t, s.Delete(ctx, "chains/a/none"))

			require.NoError(t, s.Put(ctx, "chains/b/2-x.seg", strings.NewReader("two"), 3))
			require.NoError(t, s.Put(ctx, "chains/b/1-x.seg", strings.NewReader("1"), 1))
			require.NoError(t, s.Put(ctx, "top.json", strings.NewReader("{}"), -1))
			require.NoError(t, s.Put(ctx, "top.json", strings.NewReader("{ }"), 3))
			require.Equal(t, "{ }", string(get(t, s, "top.json")), "replaced")
			require.NoError(t, s.Put(ctx, "chains/a/large", bytes.NewReader(large), -1))
			require.True(t, bytes.Equal(large, get(t, s, "chains/a/large")))

			list, err = s.List(ctx, "chains/")
			require.NoError(t, err)
			require.Equal(t, []Object{{"chains/a/large", int64(len(large))}, {"chains/b/1-x.seg", 1}, {"chains/b/2-x.seg", 3}}, list)
			require.NoError(t, s.Delete(ctx, "chains/a/large"))
			_, err = s.Get(ctx, "chains/a/large")
			require.ErrorIs(t, err, ErrNotFound)
			for _, name := range []string{"", "/a", "a/../../b", "a//b", "a b", "./a", ".hidden"} {
				require.Error(t, s.Put(ctx, name, strings.NewReader(""), 0), name)
				_, err := s.Get(ctx, name)
				require.Error(t, err, name)
				require.Error(t, s.Delete(ctx, name), name)
			}
			err = s.Put(ctx, "half", io.MultiReader(strings.NewReader("half"), failing{}), -1)
			require.ErrorIs(t, err, errFailing)
			_, err = s.Get(ctx, "half")
			require.ErrorIs(t, err, ErrNotFound, "an object appears whole or not at all")
		})
	}
}

var errFailing = errors.New("failing")

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, errFailing }

// TestDirectoryIsPrivate looks at modes, and that nothing is left of a write that failed.
func TestDirectoryIsPrivate(t *testing.T) {
	root := filepath.Join(t.TempDir(), "archive")
	s, err := Open("file://"+root, S3Options{})
	require.NoError(t, err)
	require.NoError(t, s.Put(t.Context(), "a/b", strings.NewReader("x"), 1))
	require.Error(t, s.Put(t.Context(), "a/c", failing{}, -1))
	for name, mode := range map[string]os.FileMode{"": os.ModeDir | 0o700, "a": os.ModeDir | 0o700, "a/b": 0o600} {
		info, err := os.Stat(filepath.Join(root, name))
		require.NoError(t, err)
		require.Equal(t, mode, info.Mode(), name)
	}
	left, err := os.ReadDir(filepath.Join(root, tmpDir))
	require.NoError(t, err)
	require.Empty(t, left)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, s.Put(ctx, "a/d", strings.NewReader("x"), 1), context.Canceled)
}

func TestPlaces(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	for place, o := range map[string]S3Options{
		"": {}, file: {}, "s3://": {}, "http://x/y": {}, "s3://b/../c": {},
		"s3://b/c": {Endpoint: "host:9000"}, "s3://b/d": {Endpoint: "http://host/path"},
	} {
		_, err := Open(place, o)
		require.Error(t, err, place)
	}
}
