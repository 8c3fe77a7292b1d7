//go:build linux

package crisuite

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// Images by name: each has the same files and a configuration of its own.
var configs = map[string]v1.Config{
	"box":   {Entrypoint: []string{"/box"}, Cmd: []string{"out", "from the image"}, Env: []string{"FROM=image", "KEPT=image"}},
	"pause": {Entrypoint: []string{"/box", "pause"}},
	"named": {
		Entrypoint: []string{"/box"}, Cmd: []string{"pause"}, User: "alice", WorkingDir: "/made/by/runtime", StopSignal: "SIGUSR2",
		Env: []string{"PATH=/nowhere"},
	},
	"numbered": {Entrypoint: []string{"/box"}, User: "1234:2345"},
	"bare":     {},
}

// Ref is the reference of one of the suite's images in a registry.
func Ref(registry, image string) string { return registry + "/suite/" + image + ":1" }

// Registry starts a registry on the loopback that has the suite's images, and answers its host and port. It ends with the test.
func Registry(t testing.TB) string {
	t.Helper()
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(server.Close)
	host := strings.TrimPrefix(server.URL, "http://")
	layer := files(t)
	for image, config := range configs {
		if err := push(Ref(host, image), layer, config); err != nil {
			t.Fatal(err)
		}
	}
	return host
}

func push(to string, layer v1.Layer, config v1.Config) error {
	ref, err := name.ParseReference(to)
	if err != nil {
		return err
	}
	img, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		return err
	}
	file, err := img.ConfigFile()
	if err != nil {
		return err
	}
	file = file.DeepCopy()
	file.Config, file.OS, file.Architecture = config, "linux", arch()
	if img, err = mutate.ConfigFile(img, file); err != nil {
		return err
	}
	return remote.Write(ref, img)
}

// files is the one layer: the program and a few files.
func files(t testing.TB) v1.Layer {
	t.Helper()
	program := Program(t)
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	add := func(h tar.Header, data []byte) {
		h.Size = int64(len(data))
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(data); err != nil {
			t.Fatal(err)
		}
	}
	for _, dir := range []string{"etc", "proc", "sys", "dev", "tmp", "home", "home/alice", "data", "data/sub"} {
		h := tar.Header{Name: dir + "/", Typeflag: tar.TypeDir, Mode: 0o755}
		if dir == "tmp" {
			h.Mode = 0o1777
		}
		add(h, nil)
	}
	add(tar.Header{Name: "box", Mode: 0o755}, program)
	add(tar.Header{Name: "plain", Mode: 0o644}, []byte("not a program\n"))
	add(tar.Header{Name: "data/sub/file", Mode: 0o644}, []byte("from the image\n"))
	add(tar.Header{Name: "etc/passwd", Mode: 0o644}, []byte("root:x:0:0:root:/root:/box\nalice:x:1001:1002::/home/alice:/box\nbob:x:1003:1003::/:/box\n"))
	add(tar.Header{Name: "etc/group", Mode: 0o644}, []byte("root:x:0:\nalice:x:1002:\nwheel:x:50000:alice,bob\nstaff:x:50001:bob\n"))
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(buf.Bytes())), nil })
	if err != nil {
		t.Fatal(err)
	}
	return layer
}

// Program builds box, a static program.
func Program(t testing.TB) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "box")
	cmd := exec.Command("go", "build", "-ldflags", "-s -w", "-o", path, "github.com/keelson-io/keelson/orchestrator/node/runtime/crisuite/box")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatal(fmt.Errorf("box: %w: %s", err, out))
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}
