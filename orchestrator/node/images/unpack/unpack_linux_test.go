package unpack

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/keelson-io/keelson/internal/testkit"
	"github.com/keelson-io/keelson/orchestrator/node/images/overlay"
)

// item is an entry of an archive.
type item struct {
	name string
	body string
	h    tar.Header // what else there is
}

func dir(name string, mode int64) item {
	return item{name: name, h: tar.Header{Typeflag: tar.TypeDir, Mode: mode}}
}
func file(name, body string) item { return item{name: name, body: body, h: tar.Header{Mode: 0o644}} }
func symlink(name, to string) item {
	return item{name: name, h: tar.Header{Typeflag: tar.TypeSymlink, Linkname: to}}
}
func hardlink(name, to string) item {
	return item{name: name, h: tar.Header{Typeflag: tar.TypeLink, Linkname: to}}
}
func gone(name string) item {
	return file(filepath.Join(filepath.Dir(name), ".wh."+filepath.Base(name)), "")
}

var then = time.Unix(1234567890, 0)

func archive(t testing.TB, items ...item) []byte {
	t.Helper()
	var b bytes.Buffer
	tw := tar.NewWriter(&b)
	for _, i := range items {
		h := i.h
		h.Name, h.Size = i.name, int64(len(i.body))
		if h.ModTime.IsZero() {
			h.ModTime = then
		}
		require.NoError(t, tw.WriteHeader(&h))
		_, err := tw.Write([]byte(i.body))
		require.NoError(t, err)
	}
	require.NoError(t, tw.Close())
	return b.Bytes()
}

// layer unpacks items on top of the directories of other layers, the lowest first.
func layer(t testing.TB, below []string, items ...item) string {
	t.Helper()
	to := t.TempDir()
	opts := Options{OnParents: true}
	for i := range below {
		opts.Parents = append(opts.Parents, below[len(below)-1-i])
	}
	_, err := Layer(context.Background(), bytes.NewReader(archive(t, items...)), to, opts)
	require.NoError(t, err)
	return to
}

// show mounts layers, the lowest first, and lists what is seen: "path" for directories, "path=content", "path->target".
func show(t testing.TB, layers ...string) []string {
	t.Helper()
	spec := overlay.Spec{Target: filepath.Join(t.TempDir(), "target"), Empty: t.TempDir()}
	require.NoError(t, os.Mkdir(spec.Target, 0o755))
	for i := range layers {
		spec.Lower = append(spec.Lower, layers[len(layers)-1-i])
	}
	require.NoError(t, overlay.Mount(spec))
	defer func() { require.NoError(t, overlay.Unmount(spec.Target)) }()
	return list(t, spec.Target)
}

func list(t testing.TB, root string) (out []string) {
	t.Helper()
	require.NoError(t, filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		rel, _ := filepath.Rel(root, p)
		switch {
		case err != nil || rel == ".":
			return err
		case d.IsDir():
			out = append(out, rel)
		case d.Type()&fs.ModeSymlink != 0:
			to, err := os.Readlink(p)
			out = append(out, rel+"->"+to)
			return err
		case d.Type().IsRegular():
			b, err := os.ReadFile(p)
			out = append(out, rel+"="+string(b))
			return err
		default:
			out = append(out, rel+"!"+d.Type().String())
		}
		return nil
	}))
	return out
}

// TestLayers: what an overlay of unpacked layers shows.
func TestLayers(t *testing.T) {
	testkit.Root(t)
	testkit.NoLeaks(t, t.Name())
	for _, tc := range []struct {
		name   string
		layers [][]item
		want   []string
	}{
		{"a file is replaced", [][]item{{file("a", "1")}, {file("a", "2")}}, []string{"a=2"}},
		{"a file is removed", [][]item{{file("a", "1"), file("b", "1")}, {gone("a")}}, []string{"b=1"}},
		{"a directory is removed", [][]item{{dir("d/", 0o755), file("d/a", "1")}, {gone("d")}}, nil},
		{"what is below goes, what is of the layer stays", [][]item{{file("a", "1")}, {gone("a"), file("a", "2")}}, []string{"a=2"}},
		{"the same in the other order", [][]item{{file("a", "1")}, {file("a", "2"), gone("a")}}, []string{"a=2"}},
		{"a directory anew", [][]item{{dir("d/", 0o755), file("d/a", "1")}, {gone("d"), dir("d/", 0o755), file("d/b", "2")}}, []string{"d", "d/b=2"}},
		{"a directory anew, the other order", [][]item{{dir("d/", 0o755), file("d/a", "1")}, {dir("d/", 0o755), file("d/b", "2"), gone("d")}}, []string{"d", "d/b=2"}},
		{"a directory anew, that no entry describes", [][]item{{dir("d/", 0o755), file("d/a", "1")}, {gone("d"), file("d/b", "2")}}, []string{"d", "d/b=2"}},
		{"opaque", [][]item{{dir("d/", 0o755), file("d/a", "1")}, {dir("d/", 0o755), file("d/.wh..wh..opq", ""), file("d/b", "2")}}, []string{"d", "d/b=2"}},
		{"opaque at the end", [][]item{{dir("d/", 0o755), file("d/a", "1")}, {file("d/b", "2"), file("d/.wh..wh..opq", "")}}, []string{"d", "d/b=2"}},
		{"housekeeping of aufs", [][]item{{file("a", "1")}, {file(".wh..wh.plnk", ""), file(".wh..wh.orph/x", "")}}, []string{"a=1"}},
		{"a file becomes a directory", [][]item{{file("a", "1")}, {dir("a/", 0o755), file("a/b", "2")}}, []string{"a", "a/b=2"}},
		{"a directory becomes a file", [][]item{{dir("a/", 0o755), file("a/b", "1")}, {file("a", "2")}}, []string{"a=2"}},
		{"twice in one layer", [][]item{{file("a", "1"), file("a", "2"), symlink("a", "b"), file("a", "3")}}, []string{"a=3"}},
		{"a directory is replaced in one layer", [][]item{{dir("d/", 0o755), file("d/a", "1"), file("d", "2")}}, []string{"d=2"}},
		{"through a link", [][]item{{dir("usr/lib/", 0o755), symlink("lib", "usr/lib"), file("lib/a", "1")}}, []string{"lib->usr/lib", "usr", "usr/lib", "usr/lib/a=1"}},
		{"through an absolute link", [][]item{{dir("x/", 0o755), symlink("x/y", "/z"), dir("z/", 0o755), file("x/y/a", "1")}}, []string{"x", "x/y->/z", "z", "z/a=1"}},
		{"through a link to nothing", [][]item{{symlink("lib", "usr/lib"), file("lib/a", "1")}}, []string{"lib->usr/lib", "usr", "usr/lib", "usr/lib/a=1"}},
		{"a link of a layer below is hidden", [][]item{{dir("usr/lib/", 0o755), symlink("lib", "usr/lib")}, {file("lib/a", "1")}}, []string{"lib", "lib/a=1", "usr", "usr/lib"}},
		{"hard links", [][]item{{file("a", "1"), hardlink("b", "a"), hardlink("c", "./b")}}, []string{"a=1", "b=1", "c=1"}},
		{"a hard link to a layer below", [][]item{{dir("d/", 0o755), file("d/a", "1")}, {hardlink("b", "d/a")}}, []string{"b=1", "d", "d/a=1"}},
		{"a hard link to two below", [][]item{{file("a", "1")}, {file("x", "1")}, {hardlink("b", "a")}}, []string{"a=1", "b=1", "x=1"}},
		{"a hard link to a link", [][]item{{symlink("a", "x"), hardlink("b", "a")}}, []string{"a->x", "b->x"}},
		{"names are relative to the root", [][]item{{file("/a", "1"), file("./b", "2"), file("d/../c", "3")}}, []string{"a=1", "b=2", "c=3"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var dirs []string
			for _, items := range tc.layers {
				dirs = append(dirs, layer(t, dirs, items...))
			}
			require.Equal(t, tc.want, show(t, dirs...))
		})
	}
}

func TestAttributes(t *testing.T) {
	testkit.Root(t)
	caps := "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
	to := layer(t, nil,
		item{"./", "", tar.Header{Typeflag: tar.TypeDir, Mode: 0o711, Uid: 3, Gid: 4}},
		item{"f", "body", tar.Header{Mode: 0o4755, Uid: 1, Gid: 2, PAXRecords: map[string]string{
			"SCHILY.xattr.security.capability": caps, "SCHILY.xattr.user.a": "b", "SCHILY.xattr.trusted.overlay.redirect": "/etc",
			"SCHILY.xattr.security.selinux": "x", "SCHILY.xattr.user.overlay.opaque": "y", "SCHILY.xattr.trusted.x": "y",
		}}},
		item{"tmp/", "", tar.Header{Typeflag: tar.TypeDir, Mode: 0o1777, Uid: 5}},
		file("tmp/x", ""),
		item{"null", "", tar.Header{Typeflag: tar.TypeChar, Mode: 0o666, Devmajor: 1, Devminor: 3}},
		item{"fifo", "", tar.Header{Typeflag: tar.TypeFifo, Mode: 0o600}},
		item{"link", "", tar.Header{Typeflag: tar.TypeSymlink, Linkname: "/etc/passwd", Uid: 7, Mode: 0o777}},
	)
	for _, tc := range []struct {
		name string
		mode uint32
		uid  uint32
	}{
		{"", unix.S_IFDIR | 0o711, 3}, {"f", unix.S_IFREG | 0o4755, 1}, {"tmp", unix.S_IFDIR | 0o1777, 5}, {"null", unix.S_IFCHR | 0o666, 0},
		{"fifo", unix.S_IFIFO | 0o600, 0}, {"link", unix.S_IFLNK | 0o777, 7},
	} {
		var st unix.Stat_t
		require.NoError(t, unix.Lstat(filepath.Join(to, tc.name), &st))
		require.Equal(t, fmt.Sprintf("%o", tc.mode), fmt.Sprintf("%o", st.Mode), tc.name)
		require.Equal(t, tc.uid, st.Uid, tc.name)
		require.Equal(t, then.Unix(), st.Mtim.Sec, "the time of %q", tc.name)
	}
	got := map[string]string{}
	buf := make([]byte, 4096)
	n, err := unix.Llistxattr(filepath.Join(to, "f"), buf)
	require.NoError(t, err)
	for attr := range strings.SplitSeq(strings.TrimRight(string(buf[:n]), "\x00"), "\x00") {
		value := make([]byte, 4096)
		n, err := unix.Lgetxattr(filepath.Join(to, "f"), attr, value)
		require.NoError(t, err)
		got[attr] = string(value[:n])
	}
	require.Equal(t, map[string]string{"security.capability": caps, "user.a": "b"}, got)
	var st unix.Stat_t
	require.NoError(t, unix.Lstat(filepath.Join(to, "null"), &st))
	require.Equal(t, unix.Mkdev(1, 3), st.Rdev)
}

// TestImplicitDirectories: directories that a layer goes through without describing them look as they do below.
func TestImplicitDirectories(t *testing.T) {
	testkit.Root(t)
	low := layer(t, nil, item{"tmp/", "", tar.Header{Typeflag: tar.TypeDir, Mode: 0o1777, Uid: 9, Gid: 8, PAXRecords: map[string]string{"SCHILY.xattr.user.a": "b"}}})
	mid := layer(t, nil, file("other", ""))
	top := layer(t, []string{low, mid}, file("tmp/new/x", ""))
	var st unix.Stat_t
	require.NoError(t, unix.Lstat(filepath.Join(top, "tmp"), &st))
	require.Equal(t, uint32(unix.S_IFDIR|0o1777), st.Mode)
	require.Equal(t, uint32(9), st.Uid)
	require.Equal(t, then.Unix(), st.Mtim.Sec)
	value := make([]byte, 8)
	n, err := unix.Lgetxattr(filepath.Join(top, "tmp"), "user.a", value)
	require.NoError(t, err)
	require.Equal(t, "b", string(value[:n]))
	require.NoError(t, unix.Lstat(filepath.Join(top, "tmp/new"), &st))
	require.Equal(t, uint32(unix.S_IFDIR|0o755), st.Mode)

	// What is hidden between does not count.
	hides := layer(t, []string{low}, gone("tmp"))
	top = layer(t, []string{low, hides}, file("tmp/x", ""))
	require.NoError(t, unix.Lstat(filepath.Join(top, "tmp"), &st))
	require.Equal(t, uint32(unix.S_IFDIR|0o755), st.Mode)
	require.Zero(t, st.Uid)
}

// TestOpaqueRoot: overlayfs shows what lies below an opaque root, so it is for the caller to leave it out.
func TestOpaqueRoot(t *testing.T) {
	testkit.Root(t)
	for _, opaque := range []bool{false, true} {
		items := []item{file("b", "")}
		if opaque {
			items = append(items, file(".wh..wh..opq", ""))
		}
		res, err := Layer(context.Background(), bytes.NewReader(archive(t, items...)), t.TempDir(), Options{})
		require.NoError(t, err)
		require.Equal(t, opaque, res.Opaque)
	}
	low := layer(t, nil, item{"d/", "", tar.Header{Typeflag: tar.TypeDir, Mode: 0o700}})
	top := layer(t, []string{low, layer(t, nil, file(".wh..wh..opq", ""))}, file("d/a", ""))
	info, err := os.Stat(filepath.Join(top, "d"))
	require.NoError(t, err)
	require.Equal(t, fs.FileMode(0o755), info.Mode().Perm(), "what is hidden has no say")
}

func TestNeedsParents(t *testing.T) {
	testkit.Root(t)
	for _, tc := range []struct {
		name  string
		items []item
		want  error
	}{
		{"complete", []item{dir("a/", 0o755), file("a/b", "")}, nil},
		{"complete, the directory last", []item{file("a/b", ""), dir("a/", 0o755)}, nil},
		{"implicit", []item{file("a/b", "")}, ErrNeedsParents},
		{"implicit, and replaced", []item{file("a/b", ""), file("a", "")}, nil},
		{"a link to nothing", []item{hardlink("a", "b")}, ErrNeedsParents},
		{"a whiteout in an implicit one", []item{gone("a/b")}, ErrNeedsParents},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := Layer(context.Background(), bytes.NewReader(archive(t, tc.items...)), t.TempDir(), Options{})
			require.ErrorIs(t, err, tc.want)
		})
	}
}

func TestRefused(t *testing.T) {
	testkit.Root(t)
	for _, tc := range []struct {
		name  string
		items []item
		text  string
	}{
		{"a forged whiteout", []item{{"a", "", tar.Header{Typeflag: tar.TypeChar}}}, "0/0"},
		{"a hard link to nothing", []item{hardlink("a", "../../../../etc/passwd")}, "no such file"},
		{"a hard link to a directory", []item{dir("d/", 0o755), hardlink("a", "d")}, "is no file"},
		{"a hard link to a whiteout", []item{gone("x"), hardlink("a", "x")}, "is no file"},
		{"the root is no directory", []item{symlink("./", "/etc")}, "no directory"},
		{"a whiteout of nothing", []item{file(".wh..", "")}, "whiteout"},
		{"below a file", []item{file("a", ""), file("a/b", "")}, "is no directory"},
		{"links in a circle", []item{symlink("a", "b"), symlink("b", "a"), file("a/x", "")}, "too many levels"},
		{"an owner that is none", []item{{"a", "", tar.Header{Uid: -1}}}, "owner"},
		{"an odd type", []item{{"a", "", tar.Header{Typeflag: 'Z'}}}, "type"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := Layer(context.Background(), bytes.NewReader(archive(t, tc.items...)), t.TempDir(), Options{OnParents: true})
			require.ErrorContains(t, err, tc.text)
		})
	}
}

// TestStaysInside: whatever an archive tries, nothing outside of the directory is made or changed.
func TestStaysInside(t *testing.T) {
	testkit.Root(t)
	base := t.TempDir()
	outside := filepath.Join(base, "outside")
	require.NoError(t, os.Mkdir(outside, 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(outside, "secret"), []byte("before"), 0o600))
	for i, items := range [][]item{
		{file("../outside/secret", "after"), file("/../../x", "")},
		{symlink("l", outside), file("l/secret", "after"), file("l/new", "")},
		{symlink("l", "../outside"), file("l/secret", "after")},
		{symlink("l", filepath.Join(outside, "secret")), file("l", "after")},
		{symlink("l", filepath.Join(outside, "secret")), hardlink("h", "l"), file("h", "after")},
		{symlink("l", outside), item{"l/", "", tar.Header{Typeflag: tar.TypeDir, Mode: 0o777, Uid: 5}}},
		{symlink("l", outside), gone("l/secret")},
		{symlink("l", outside), file("l/.wh..wh..opq", "")},
		{symlink("l", outside), hardlink("h", "l/secret")},
		{symlink("l", "/proc/self/cwd"), file("l/x", "")},
		{symlink("l", "."), symlink("l/m", "../../outside"), file("m/secret", "after")},
	} {
		to := filepath.Join(base, fmt.Sprint(i))
		require.NoError(t, os.Mkdir(to, 0o755))
		_, _ = Layer(context.Background(), bytes.NewReader(archive(t, items...)), to, Options{OnParents: true})
		require.Equal(t, []string{"secret=before"}, list(t, outside), "archive %d", i)
		info, err := os.Stat(outside)
		require.NoError(t, err)
		require.Equal(t, fs.FileMode(0o755), info.Mode().Perm(), "archive %d", i)
		require.Zero(t, info.Sys().(*syscall.Stat_t).Uid, "archive %d", i)
		found, err := filepath.Glob(filepath.Join(base, "x"))
		require.NoError(t, err)
		require.Empty(t, found)
	}
}

// TestManyDirectories goes through more directories than are kept open.
func TestManyDirectories(t *testing.T) {
	testkit.Root(t)
	var items []item
	for i := range 3 * kept {
		items = append(items, dir(fmt.Sprintf("d%d/", i), 0o755))
	}
	for i := range 3 * kept {
		items = append(items, file(fmt.Sprintf("d%d/f", i), "x"), hardlink(fmt.Sprintf("d%d/g", (i+kept)%(3*kept)), fmt.Sprintf("d%d/f", i)))
	}
	fds := open(t)
	to := layer(t, nil, items...)
	require.Len(t, list(t, to), 9*kept)
	require.Equal(t, fds, open(t), "files left open")
}

func open(t testing.TB) int {
	entries, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	return len(entries)
}

func TestCancelled(t *testing.T) {
	testkit.Root(t)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err := Layer(ctx, bytes.NewReader(archive(t, file("a", ""))), t.TempDir(), Options{})
	require.ErrorIs(t, err, context.Canceled)
	_, err = Layer(context.Background(), io.MultiReader(bytes.NewReader(archive(t, file("a", "x"))[:600]), failing{}), t.TempDir(), Options{})
	require.ErrorIs(t, err, errBroken)
}

type failing struct{}

var errBroken = errors.New("broken")

func (failing) Read([]byte) (int, error) { return 0, errBroken }

// FuzzLayer unpacks whatever comes, and looks whether anything outside has changed.
func FuzzLayer(f *testing.F) {
	testkit.Root(f)
	for _, items := range [][]item{
		{dir("a/", 0o755), file("a/b", "1"), gone("a/c"), file("a/.wh..wh..opq", "")},
		{symlink("l", "../outside"), file("l/secret", "2"), hardlink("h", "l/secret")},
		{item{"p", "", tar.Header{PAXRecords: map[string]string{"SCHILY.xattr.user.a": "b"}}}},
	} {
		f.Add(archive(f, items...))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		base := t.TempDir()
		outside, to := filepath.Join(base, "outside"), filepath.Join(base, "to")
		require.NoError(t, os.Mkdir(outside, 0o755))
		require.NoError(t, os.Mkdir(to, 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(outside, "secret"), []byte("before"), 0o600))
		fds := open(t)
		_, _ = Layer(context.Background(), bytes.NewReader(b), to, Options{OnParents: true})
		require.Equal(t, fds, open(t))
		require.Equal(t, []string{"secret=before"}, list(t, outside))
		entries, err := os.ReadDir(base)
		require.NoError(t, err)
		require.Len(t, entries, 2)
	})
}
