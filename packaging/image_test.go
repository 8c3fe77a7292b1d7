//go:build linux

package packaging

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/keelson-io/keelson/server/servertest"
)

// words is the list behind the last instruction of a name.
func words(t *testing.T, dockerfile, instruction string) (out []string) {
	all := regexp.MustCompile(`(?m)^`+instruction+` (\[.*\])$`).FindAllStringSubmatch(dockerfile, -1)
	require.NotEmpty(t, all, instruction)
	require.NoError(t, json.Unmarshal([]byte(all[len(all)-1][1]), &out))
	return out
}

// TestImage runs the binary as the image of the Dockerfile does: from a root directory in which there is nothing else.
func TestImage(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root may change the root directory")
	}
	binary := servertest.Keelson(t)
	dockerfile := read(t, "Dockerfile")
	require.Regexp(t, `(?m)^COPY --from=build /src/bin/ /usr/local/bin/$`, dockerfile)

	root := t.TempDir()
	bin := filepath.Join(root, "usr/local/bin")
	for _, dir := range []string{bin, filepath.Join(root, "var/lib"), filepath.Join(root, "tmp")} {
		require.NoError(t, os.MkdirAll(dir, 0o755))
	}
	data, err := os.ReadFile(binary)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(bin, "keelson"), data, 0o755))
	for _, link := range []string{"etcd", "etcdctl", "etcdutl"} {
		require.NoError(t, os.Symlink("keelson", filepath.Join(bin, link)))
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	inside := func(argv ...string) *exec.Cmd {
		cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
		cmd.Path, cmd.Dir, cmd.Env = argv[0], "/", []string{"PATH=/usr/local/bin"}
		cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: root}
		return cmd
	}

	client, peer := "http://"+servertest.FreeAddr(t), "http://"+servertest.FreeAddr(t)
	member := inside(append(append(words(t, dockerfile, "ENTRYPOINT"), words(t, dockerfile, "CMD")...), // the last of a flag counts
		"--listen-client-urls="+client, "--advertise-client-urls="+client, "--listen-peer-urls="+peer,
		"--initial-advertise-peer-urls="+peer, "--initial-cluster=default="+peer)...)
	var log strings.Builder
	member.Stderr = &log
	require.NoError(t, member.Start())
	put, err := inside("/usr/local/bin/etcdctl", "--endpoints="+client, "--dial-timeout=30s", "--command-timeout=30s", "put", "k", "v").CombinedOutput()
	require.NoError(t, member.Process.Signal(syscall.SIGTERM))
	_ = member.Wait()
	require.NoError(t, err, "%s\n%s", put, log.String())
	require.Equal(t, "OK\n", string(put))
	require.DirExists(t, filepath.Join(root, "var/lib/keelson/member/wal"))
}
