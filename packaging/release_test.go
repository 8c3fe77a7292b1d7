package packaging

import (
	"debug/elf"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/keelson-io/keelson/server/servertest"
)

// TestStressRelease builds a release of this machine's platform twice: it is static, complete, and both are the same.
func TestStressRelease(t *testing.T) {
	servertest.Stress(t)
	if runtime.GOOS != "linux" {
		t.Skip("the script wants GNU tar")
	}
	var sums []string
	for range 2 {
		dist := t.TempDir()
		out, err := exec.Command("./release.sh", "v0.0.1", dist, "linux/"+runtime.GOARCH).CombinedOutput()
		require.NoError(t, err, "%s", out)
		sums = append(sums, read(t, dist+"/SHA256SUMS"))
		check := exec.Command("sha256sum", "-c", "SHA256SUMS")
		check.Dir = dist
		out, err = check.CombinedOutput()
		require.NoError(t, err, "%s", out)

		name := filepath.Join(dist, "keelson-v0.0.1-linux-"+runtime.GOARCH)
		var bill struct {
			Components []struct{ Name, Version string }
		}
		require.NoError(t, json.Unmarshal([]byte(read(t, name+".cdx.json")), &bill))
		require.Greater(t, len(bill.Components), 50)
		require.Contains(t, read(t, name+".cdx.json"), `"go.etcd.io/bbolt"`)

		require.NoError(t, exec.Command("tar", "-xzf", name+".tar.gz", "-C", dist).Run())
		for _, program := range []string{"keelson", "etcd", "etcdctl", "etcdutl"} {
			out, err := exec.Command(filepath.Join(name, program), "version").CombinedOutput()
			if program == "etcd" {
				out, err = exec.Command(filepath.Join(name, program), "--version").CombinedOutput()
			}
			require.NoError(t, err, "%s: %s", program, out)
		}
		for _, file := range []string{"LICENSE", "config/one.yaml", "systemd/keelson.service", "certificates.sh"} {
			require.FileExists(t, filepath.Join(name, file))
		}
		binary, err := elf.Open(filepath.Join(name, "keelson"))
		require.NoError(t, err)
		for _, p := range binary.Progs {
			require.NotEqual(t, elf.PT_INTERP, p.Type, "the binary is not static")
		}
		require.NoError(t, binary.Close())
		require.NoError(t, os.RemoveAll(dist))
	}
	require.Equal(t, sums[0], sums[1], "two builds differ:\n%s", strings.Join(sums, "\n"))
}
