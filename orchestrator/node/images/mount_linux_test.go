package images

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/keelson-io/keelson/internal/testkit"
	"github.com/keelson-io/keelson/orchestrator/node/images/overlay"
)

// have pulls an image of layers and returns its name.
func have(t testing.TB, s *Store, name string, layers ...content) string {
	t.Helper()
	img, err := s.Pull(context.Background(), PullRequest{Ref: serve(t).put(t, name, image(t, layers...))})
	require.NoError(t, err)
	return img.RepoTags[0]
}

// TestMountLayers: layers are shared between images, lean on each other where they must, and cover each other.
func TestMountLayers(t *testing.T) {
	testkit.Root(t)
	testkit.NoLeaks(t, t.Name())
	s := open(t, Config{})
	base := content{"d/": nil, "d/a": text("1"), "x": text("1")}
	leans := content{"d/b": text("2")} // does not describe d
	for _, tc := range []struct {
		name   string
		layers []content
		want   map[string]string
		dirs   int // unpacked layers that are new
	}{
		{"base", []content{base}, map[string]string{"d/a": "1", "x": "1"}, 1},
		{"one more", []content{base, {"y": text("2")}}, map[string]string{"d/a": "1", "x": "1", "y": "2"}, 1},
		{"leans", []content{base, leans}, map[string]string{"d/a": "1", "d/b": "2", "x": "1"}, 1},
		{"leans on another", []content{{"d/": nil, "d/z": text("0")}, leans}, map[string]string{"d/b": "2", "d/z": "0"}, 2},
		{"the same twice", []content{base, {"x": nil}, base}, map[string]string{"d/a": "1", "x": "1"}, 1},
		{"twice in a row", []content{base, base}, map[string]string{"d/a": "1", "x": "1"}, 0},
		{"the same that leans, twice", []content{base, leans, {"d/": nil, "d/b": nil}, leans}, map[string]string{"d/a": "1", "d/b": "2", "x": "1"}, 2},
		{"opaque root", []content{base, {".wh..wh..opq": text(""), "n": text("3")}}, map[string]string{"n": "3"}, 1},
		{"empty layer", []content{{}}, map[string]string{}, 1},
		{"no layers", nil, map[string]string{}, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			before := len(held(t, s, layersDir))
			ref := have(t, s, "i:v1", tc.layers...)
			require.Equal(t, tc.want, shown(t, s, ref))
			require.Equal(t, before+tc.dirs, len(held(t, s, layersDir)))
			target := filepath.Join(t.TempDir(), "rw")
			require.NoError(t, s.Mount(context.Background(), MountRequest{Key: "rw", Image: ref, Target: target}))
			require.NoError(t, os.WriteFile(filepath.Join(target, "new"), nil, 0o600))
			require.NoError(t, s.Unmount("rw"))
		})
	}
	for _, img := range must(s.List()) {
		_, err := s.Remove(img.ID)
		require.NoError(t, err)
	}
	tidy(t, s)
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// TestMountRoot: the root directory of a container looks as the image says.
func TestMountRoot(t *testing.T) {
	testkit.Root(t)
	testkit.NoLeaks(t, t.Name())
	dir := t.TempDir()
	require.NoError(t, os.Chmod(dir, 0o751)) //nolint:gosec // it is what is looked at
	require.NoError(t, os.Chown(dir, 5, 6))
	s := open(t, Config{})
	_, err := s.Build(context.Background(), BuildRequest{Names: []string{"root"}, Dir: dir, Owners: true})
	require.NoError(t, err)
	_, err = s.Build(context.Background(), BuildRequest{Names: []string{"top"}, Base: "root", Files: map[string]string{"/f": script(t, "f", "")}})
	require.NoError(t, err)
	maps := []IDMapping{{ContainerID: 0, HostID: 300000, Size: 65536}}
	for _, tc := range []struct {
		req  MountRequest
		uid  uint32
		mode uint32
	}{
		{MountRequest{Image: "root"}, 5, 0o751},
		{MountRequest{Image: "top"}, 5, 0o751},
		{MountRequest{Image: "top", UIDs: maps, GIDs: maps}, 300005, 0o751},
	} {
		target := filepath.Join(t.TempDir(), "target")
		tc.req.Key, tc.req.Target = "k", target
		require.NoError(t, s.Mount(context.Background(), tc.req))
		var st unix.Stat_t
		require.NoError(t, unix.Stat(target, &st))
		require.Equal(t, tc.uid, st.Uid)
		require.Equal(t, tc.mode, st.Mode&0o7777)
		require.NoError(t, s.Unmount("k"))
	}
	err = s.Mount(context.Background(), MountRequest{Key: "k", Image: "root", Target: t.TempDir(), UIDs: maps})
	require.ErrorIs(t, err, ErrInvalid)
}

func TestMountAgain(t *testing.T) {
	testkit.Root(t)
	testkit.NoLeaks(t, t.Name())
	ctx := context.Background()
	s := open(t, Config{})
	ref := have(t, s, "a:v1", content{"a": text("1")})
	other := have(t, s, "b:v1", content{"a": text("2")})
	target := filepath.Join(t.TempDir(), "target")
	req := MountRequest{Key: "k", Image: ref, Target: target}
	require.NoError(t, s.Mount(ctx, req))
	for name, change := range map[string]func(*MountRequest){
		"image": func(r *MountRequest) { r.Image = other }, "target": func(r *MountRequest) { r.Target += "2" },
		"mode": func(r *MountRequest) { r.ReadOnly = true },
	} {
		changed := req
		change(&changed)
		require.ErrorIs(t, s.Mount(ctx, changed), ErrInUse, name)
	}
	for _, key := range []string{"", ".", "..", "a/b", ".hidden", strings.Repeat("x", 300)} {
		require.ErrorIs(t, s.Mount(ctx, MountRequest{Key: key, Image: ref, Target: target}), ErrInvalid, key)
		require.ErrorIs(t, s.Unmount(key), ErrInvalid, key)
	}
	require.ErrorIs(t, s.Mount(ctx, MountRequest{Key: "none", Image: "none", Target: target + "3"}), ErrNotFound)
	require.Equal(t, []string{"k"}, s.Mounted())
	_, _, err := s.Usage("none")
	require.ErrorIs(t, err, ErrNotFound)

	// The mount goes, as it does when the mount namespace of the agent ends: the writable layer is taken up.
	require.NoError(t, os.WriteFile(filepath.Join(target, "new"), text("kept"), 0o600))
	require.NoError(t, overlay.Unmount(target))
	require.NoError(t, s.Mount(ctx, req))
	require.Equal(t, map[string]string{"a": "1", "new": "kept"}, files(t, target))

	// The machine goes down: the layer was never synced, and begins anew.
	require.NoError(t, overlay.Unmount(target))
	s.boot = "another"
	require.NoError(t, s.Mount(ctx, req))
	require.Equal(t, map[string]string{"a": "1"}, files(t, target))
	require.NoError(t, overlay.Unmount(target))
	require.NoError(t, s.Mount(ctx, req))

	// A note that was cut short is as good as none.
	require.NoError(t, s.Unmount("k"))
	require.NoError(t, os.MkdirAll(s.mountDir("cut"), 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(s.mountDir("cut"), mountFile), text("{"), 0o600))
	require.Equal(t, []string{"cut"}, s.Mounted())
	require.NoError(t, s.Unmount("cut"))
	require.Empty(t, s.Mounted())
}

// TestMountOverOthers: an overlay of somebody else is not taken for ours, nor taken away.
func TestMountOverOthers(t *testing.T) {
	testkit.Root(t)
	testkit.NoLeaks(t, t.Name())
	ctx := context.Background()
	s := open(t, Config{})
	ref := have(t, s, "a:v1", content{"a": text("1")})
	target := filepath.Join(t.TempDir(), "target")
	dirs := map[string]string{}
	for _, d := range []string{"lower", "upper", "work"} {
		dirs[d] = filepath.Join(t.TempDir(), d)
		require.NoError(t, os.Mkdir(dirs[d], 0o755))
	}
	require.NoError(t, os.Mkdir(target, 0o755))
	foreign := overlay.Spec{Lower: []string{dirs["lower"]}, Upper: dirs["upper"], Work: dirs["work"], Target: target}
	require.NoError(t, overlay.Mount(foreign))
	require.NoError(t, os.WriteFile(filepath.Join(target, "theirs"), text("x"), 0o600))
	defer func() { require.NoError(t, overlay.Unmount(target)) }()
	for _, readOnly := range []bool{false, true} {
		req := MountRequest{Key: "k", Image: ref, Target: target, ReadOnly: readOnly}
		require.ErrorIs(t, s.Mount(ctx, req), ErrInUse)
		require.NoError(t, s.Unmount("k"))
		require.Equal(t, map[string]string{"theirs": "x"}, files(t, target), "it is still there")
	}

	// Nor is the mount of another store, or that of another image under the same key whose note was lost.
	require.NoError(t, overlay.Unmount(target))
	req := MountRequest{Key: "k", Image: ref, Target: target}
	require.NoError(t, s.Mount(ctx, req))
	second := open(t, Config{})
	require.ErrorIs(t, second.Mount(ctx, MountRequest{Key: "k", Image: have(t, second, "a:v1", content{"a": text("1")}), Target: target}), ErrInUse)
	require.NoError(t, second.Unmount("k"))
	require.NoError(t, os.Remove(filepath.Join(s.mountDir("k"), mountFile)))
	require.ErrorIs(t, s.Mount(ctx, MountRequest{Key: "k", Image: have(t, s, "b:v1", content{"b": text("2")}), Target: target}), ErrInUse)
	require.NoError(t, overlay.Unmount(target))
	require.NoError(t, s.Unmount("k"))
}

// TestMountAfterCrash: a store that is opened after its process died finds its mounts again, and what was written in them.
func TestMountAfterCrash(t *testing.T) {
	testkit.Root(t)
	testkit.NoLeaks(t, t.Name())
	ctx := context.Background()
	dir := t.TempDir()
	s := openAt(t, dir, Config{})
	ref := have(t, s, "a:v1", content{"a": text("1")})
	for _, readOnly := range []bool{false, true} {
		target := filepath.Join(t.TempDir(), "target")
		req := MountRequest{Key: "k", Image: ref, Target: target, ReadOnly: readOnly}
		require.NoError(t, s.Mount(ctx, req))
		var was, is unix.Stat_t
		require.NoError(t, unix.Stat(target, &was))
		again := openAt(t, dir, Config{})
		require.NoError(t, again.Mount(ctx, req))
		require.NoError(t, unix.Stat(target, &is))
		require.Equal(t, was.Dev, is.Dev, "the mount is the one that there was")
		require.NoError(t, again.Unmount("k"))
		require.NoDirExists(t, target)
	}
}

// TestRemoveMounted: an image may go while it is mounted; its layers stay until it is unmounted, and it can be mounted again.
func TestRemoveMounted(t *testing.T) {
	testkit.Root(t)
	testkit.NoLeaks(t, t.Name())
	ctx := context.Background()
	s := open(t, Config{})
	ref := have(t, s, "a:v1", content{"d/": nil, "d/a": text("1")}, content{"d/b": text("2")})
	target := filepath.Join(t.TempDir(), "target")
	req := MountRequest{Key: "k", Image: ref, Target: target}
	require.NoError(t, s.Mount(ctx, req))
	removed, err := s.Prune(PruneRequest{All: true})
	require.NoError(t, err)
	require.Empty(t, removed, "it is in use")
	_, err = s.Remove(ref)
	require.NoError(t, err)
	_, err = s.Resolve(ref)
	require.ErrorIs(t, err, ErrNotFound)
	require.Equal(t, map[string]string{"d/a": "1", "d/b": "2"}, files(t, target))
	require.NoError(t, overlay.Unmount(target))
	require.NoError(t, s.Mount(ctx, req), "after a restart")
	require.Equal(t, map[string]string{"d/a": "1", "d/b": "2"}, files(t, target))
	require.NoError(t, s.Unmount("k"))
	tidy(t, s)
}

// TestUnsettled: layers that may not have reached the disk before the machine went down are unpacked again.
func TestUnsettled(t *testing.T) {
	testkit.Root(t)
	testkit.NoLeaks(t, t.Name())
	dir := filepath.Join(t.TempDir(), "store")
	s := openAt(t, dir, Config{Settle: time.Hour})
	ref := have(t, s, "a:v1", content{"a": text("1")}, content{"b": text("2")})
	keys := held(t, s, layersDir)
	require.Len(t, keys, 2)
	change := func(key string, f func(*meta)) {
		m, err := s.layerMeta(key)
		require.NoError(t, err)
		f(&m)
		require.NoError(t, os.WriteFile(filepath.Join(s.dir, layersDir, key, layerMeta), must(json.Marshal(m)), 0o600))
	}
	change(keys[0], func(m *meta) { m.Boot = "" })
	change(keys[1], func(m *meta) { m.Boot = "before" })
	next := openAt(t, dir, Config{Settle: time.Nanosecond})
	require.Equal(t, keys[:1], held(t, next, layersDir))
	require.Equal(t, map[string]string{"a": "1", "b": "2"}, shown(t, next, ref))
	require.Equal(t, keys, held(t, next, layersDir))
	require.Eventually(t, func() bool {
		m, err := next.layerMeta(keys[1])
		return err == nil && m.Boot == ""
	}, 20*time.Second, time.Millisecond, "it is on the disk for good")
	require.Empty(t, held(t, next, tmpDir))
}

// TestKilled kills a process in the middle of everything: what it has left goes with the next start.
func TestKilled(t *testing.T) {
	testkit.Root(t)
	dir := filepath.Join(t.TempDir(), "store")
	if os.Getenv("KEELSON_IMAGES_VICTIM") != "" {
		victim(os.Getenv("KEELSON_IMAGES_VICTIM"))
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestKilled$")
	cmd.Env = append(os.Environ(), "KEELSON_IMAGES_VICTIM="+dir)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	buf := make([]byte, 5)
	_, err = out.Read(buf)
	require.NoError(t, err)
	require.Equal(t, "ready", string(buf))

	// While it lives, others leave alone what it works on.
	s := openAt(t, dir, Config{})
	require.NoError(t, s.sweep())
	require.Len(t, held(t, s, blobsDir), 1)
	require.Len(t, held(t, s, tmpDir), 2)
	_, err = flock(filepath.Join(s.dir, ingestDir, "locked"), unix.LOCK_EX|unix.LOCK_NB)
	require.ErrorIs(t, err, errLocked)

	require.NoError(t, cmd.Process.Kill())
	_ = cmd.Wait()
	s = openAt(t, dir, Config{})
	require.Empty(t, held(t, s, tmpDir))
	require.Empty(t, held(t, s, ingestDir))
	require.NoError(t, s.sweep())
	tidy(t, s)
}

// victim works on a store until it is killed.
func victim(dir string) {
	s, err := Open(dir, Config{})
	if err != nil {
		panic(err)
	}
	o, err := s.begin()
	if err != nil {
		panic(err)
	}
	sp, err := o.spool(strings.NewReader("a blob that no image needs yet"))
	if err != nil {
		panic(err)
	}
	if err := o.keep(sp); err != nil {
		panic(err)
	}
	if _, err := flock(filepath.Join(s.dir, ingestDir, "locked"), unix.LOCK_EX); err != nil {
		panic(err)
	}
	_, _ = os.Stdout.WriteString("ready")
	_ = syscall.Pause()
	select {}
}

// TestBlobsWithoutLayers: an image that was put in by somebody who may not unpack is unpacked by who mounts it.
func TestBlobsWithoutLayers(t *testing.T) {
	testkit.Root(t)
	testkit.NoLeaks(t, t.Name())
	s := open(t, Config{})
	ref := have(t, s, "a:v1", content{"a": text("1")})
	for _, key := range held(t, s, layersDir) {
		require.NoError(t, os.RemoveAll(filepath.Join(s.dir, layersDir, key)))
	}
	require.Equal(t, map[string]string{"a": "1"}, shown(t, s, ref))

	// And if the blob is broken, it is told.
	img, err := s.Resolve(ref)
	require.NoError(t, err)
	for _, key := range held(t, s, layersDir) {
		require.NoError(t, os.RemoveAll(filepath.Join(s.dir, layersDir, key)))
	}
	m := must(s.readBlob(digestOf(img.Manifest)))
	var doc v1.Manifest
	require.NoError(t, json.Unmarshal(m, &doc))
	require.NoError(t, os.WriteFile(s.blobPath(digestOf(doc.Layers[0].Digest.String())), text("garbage"), 0o600))
	err = s.Mount(context.Background(), MountRequest{Key: "k", Image: ref, Target: filepath.Join(t.TempDir(), "x")})
	require.ErrorContains(t, err, "malformed tar")
	require.NoError(t, s.Unmount("k"))
}

func TestManyLayers(t *testing.T) {
	testkit.Root(t)
	testkit.NoLeaks(t, t.Name())
	s := open(t, Config{})
	img := image(t)
	for i := range 130 {
		var err error
		img, err = mutate.AppendLayers(img, content{"f": text(strings.Repeat("x", i))}.layer(t))
		require.NoError(t, err)
	}
	ref := serve(t).put(t, "many:v1", img)
	_, err := s.Pull(context.Background(), PullRequest{Ref: ref})
	require.NoError(t, err)
	require.Equal(t, map[string]string{"f": strings.Repeat("x", 129)}, shown(t, s, ref))
}
