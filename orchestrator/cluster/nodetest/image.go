//go:build linux

package nodetest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Image is the name of the image of tools.
const Image = "toolbox:1"

// EchoImage is the name of an image on top of it that has an entrypoint, "echo entry", and arguments, "by default".
const EchoImage = "echo:1"

// files of the image, beside the tools.
var users = map[string]string{
	"etc/passwd": "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000::/home/app:/bin/sh\n",
	"etc/group":  "root:x:0:\napp:x:1000:\nextra:x:3000:app\n",
}

// toolbox makes the root directory of the image of tools, once for a lab.
func (l *Lab) toolbox() (dir string, err error) {
	dir = filepath.Join(l.Dir, "rootfs")
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	root, err := repository()
	if err != nil {
		return "", err
	}
	for _, d := range []string{"bin", "etc", "tmp", "root", "home/app"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return "", err
		}
	}
	for name, text := range users {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			return "", err
		}
	}
	program := filepath.Join(dir, "bin", "toolbox")
	build := exec.Command("go", "build", "-ldflags", "-s -w", "-o", program, "./orchestrator/cluster/nodetest/toolbox")
	build.Dir, build.Env = root, append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("nodetest: the toolbox: %w: %s", err, out)
	}
	names, err := exec.Command(program, "help").Output()
	if err != nil {
		return "", err
	}
	for _, name := range strings.Fields(string(names)) {
		if err := os.Symlink("toolbox", filepath.Join(dir, "bin", name)); err != nil {
			return "", err
		}
	}
	return dir, os.Chmod(filepath.Join(dir, "tmp"), 0o777|os.ModeSticky)
}

// install puts the image of tools into the store of a machine. node is the node's directory.
func (l *Lab) install(keelson, node string) error {
	dir, err := l.toolbox()
	if err != nil {
		return err
	}
	for _, image := range [][]string{
		{"-t", Image, "--dir", dir, "--env", "PATH=/bin", "--env", "FROM_IMAGE=yes", "--cmd", "sleep"},
		{"-t", EchoImage, "--from", Image, "--file", filepath.Join(dir, "etc/group") + ":/etc/group", "--entrypoint", "echo", "--entrypoint", "entry", "--cmd", "by", "--cmd", "default"},
	} {
		args := append([]string{"image", "--root", filepath.Join(node, "images"), "build"}, image...)
		if out, err := exec.Command(keelson, args...).CombinedOutput(); err != nil {
			return fmt.Errorf("nodetest: the image: %w: %s", err, out)
		}
	}
	return nil
}

// Build makes an image of a program of this repository, a package path as ./examples/web, and puts it into the store of a machine.
func (c *Cluster) Build(t testing.TB, m *Machine, pkg, tag string) {
	t.Helper()
	root, err := repository()
	require.NoError(t, err)
	program := filepath.Join(t.TempDir(), filepath.Base(pkg))
	build := exec.Command("go", "build", "-o", program, pkg)
	build.Dir, build.Env = root, append(os.Environ(), "CGO_ENABLED=0")
	out, err := build.CombinedOutput()
	require.NoError(t, err, "%s", out)
	out, err = exec.Command(c.keelson, "image", "--root", filepath.Join(m.node(), "images"), "build", "-t", tag, program).CombinedOutput()
	require.NoError(t, err, "%s", out)
}

// Repository is the repository's root directory.
func Repository(t testing.TB) string {
	t.Helper()
	root, err := repository()
	require.NoError(t, err)
	return root
}
