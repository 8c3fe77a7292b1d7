package cluster

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"k8s.io/client-go/tools/clientcmd"
)

func TestKubeconfig(t *testing.T) {
	path := filepath.Join(t.TempDir(), "new", "config")
	require.NoError(t, WriteKubeconfig(path, "https://127.0.0.1:6443", []byte("ca"), []byte("cert"), []byte("key")))
	info, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	c, err := clientcmd.BuildConfigFromFlags("", path)
	require.NoError(t, err)
	require.Equal(t, "https://127.0.0.1:6443", c.Host)
	require.Equal(t, "cert", string(c.CertData))

	// Other clusters stay; one of an earlier start is replaced.
	f, err := clientcmd.LoadFromFile(path)
	require.NoError(t, err)
	f.Clusters["other"] = f.Clusters[contextName].DeepCopy()
	f.CurrentContext = "other"
	require.NoError(t, clientcmd.WriteToFile(*f, path))
	require.NoError(t, WriteKubeconfig(path, "https://127.0.0.1:7443", []byte("ca"), []byte("cert"), []byte("key")))
	f, err = clientcmd.LoadFromFile(path)
	require.NoError(t, err)
	require.Len(t, f.Clusters, 2)
	require.Equal(t, "https://127.0.0.1:7443", f.Clusters[f.Contexts[f.CurrentContext].Cluster].Server)

	require.NoError(t, os.WriteFile(path, []byte("{nonsense"), 0o600))
	require.ErrorContains(t, WriteKubeconfig(path, "x", nil, nil, nil), path)
}
