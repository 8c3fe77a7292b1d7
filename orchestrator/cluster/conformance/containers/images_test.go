//go:build linux

package containers

import (
	"archive/tar"
	"bytes"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"

	"github.com/keelson-io/keelson/orchestrator/cluster/nodetest"
)

func images() behaviours {
	return behaviours{"ImageVolume should succeed with pod and pull policy of Always": imageVolume}
}

// hosted is an image in a registry on the machine, with a file. The registry is reached from both sides.
func hosted(t *testing.T, path, text string) string {
	t.Helper()
	store := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	here := httptest.NewServer(store)
	t.Cleanup(here.Close)
	var there net.Listener
	require.NoError(t, cluster.One.Do(func() (err error) {
		there, err = net.Listen("tcp", "127.0.0.1:0")
		return err
	}))
	s := &http.Server{Handler: store}
	go func() { _ = s.Serve(there) }() // it ends when it is closed
	t.Cleanup(func() { _ = s.Close() })

	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	require.NoError(t, w.WriteHeader(&tar.Header{Name: path, Mode: 0o644, Size: int64(len(text))}))
	_, err := io.WriteString(w, text)
	require.NoError(t, err)
	require.NoError(t, w.Close())
	image, err := mutate.AppendLayers(empty.Image, static.NewLayer(layer.Bytes(), types.DockerUncompressedLayer))
	require.NoError(t, err)
	ref, err := name.ParseReference(strings.TrimPrefix(here.URL, "http://") + "/data:1")
	require.NoError(t, err)
	require.NoError(t, remote.Write(ref, image, remote.WithContext(t.Context())))
	return there.Addr().String() + "/data:1"
}

func imageVolume(t *testing.T, ns string) {
	image := hosted(t, "etc/data.json", "from the image")
	pod := nodetest.Pod("app", "sleep")
	pod.Spec.Volumes = []corev1.Volume{{Name: "image", VolumeSource: corev1.VolumeSource{Image: &corev1.ImageVolumeSource{Reference: image, PullPolicy: corev1.PullAlways}}}}
	pod.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "image", MountPath: "/volume"}}
	cluster.Started(t, ns, pod)
	require.Equal(t, "from the image", cluster.Exec(t, ns, "app", "main", "cat", "/volume/etc/data.json"))
	_, err := cluster.TryExec(t.Context(), ns, "app", "main", "touch", "/volume/file")
	require.ErrorContains(t, err, "read-only file system")
}
