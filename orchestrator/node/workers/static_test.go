package workers

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const manifest = `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"web"},"spec":{"containers":[{"name":"a","image":"img:1"}]}}`

func TestStaticPod(t *testing.T) {
	in(t, func(h *harness) {
		dir := t.TempDir()
		h.stop()
		h.cfg.Options.StaticDir = dir
		h.start()
		path := filepath.Join(dir, "web.json")
		require.NoError(t, os.WriteFile(path, []byte(manifest), 0o600))
		h.pass(6 * time.Second)
		m := h.api.pod("web-node")
		require.Equal(t, "Running a=running+", summary(m))
		require.Equal(t, "default", m.Namespace)
		require.Equal(t, "node-uid", string(m.OwnerReferences[0].UID))
		require.NotEmpty(t, m.Annotations["kubernetes.io/config.mirror"])
		first := m.UID

		h.restart()
		h.pass(time.Minute)
		require.Equal(t, first, h.api.pod("web-node").UID)
		require.Equal(t, "Running a=running+", summary(h.api.pod("web-node")))

		now := metav1.Now()
		h.api.change("web-node", func(p *corev1.Pod) { p.DeletionTimestamp = &now }) // a user deletes the mirror
		h.pass(2 * time.Minute)
		require.NotEqual(t, first, h.api.pod("web-node").UID)
		require.Equal(t, "Running a=running+", summary(h.api.pod("web-node")))
		require.EqualValues(t, 0, h.rt.container("a").status.Metadata.Attempt, "the pod itself does not notice")

		require.NoError(t, os.WriteFile(path, []byte(manifest[:len(manifest)-2]+`,"hostNetwork":true}}`), 0o600))
		h.pass(time.Minute)
		require.True(t, h.api.pod("web-node").Spec.HostNetwork)
		require.Equal(t, "Running a=running+", summary(h.api.pod("web-node")))
		require.Equal(t, "192.168.0.1", h.api.pod("web-node").Status.PodIP)

		require.NoError(t, os.WriteFile(path, []byte(`{`), 0o600)) // while it is being written it stays as it is
		h.pass(time.Minute)
		require.Equal(t, "Running a=running+", summary(h.api.pod("web-node")))

		require.NoError(t, os.Remove(path))
		h.pass(time.Minute)
		require.Nil(t, h.api.pod("web-node"))
		h.nothingLeft()
	})
}

func TestParseStatic(t *testing.T) {
	for _, c := range []struct{ raw, err string }{
		{manifest, ""},
		{`kind: Pod`, "has to be a v1 Pod"},
		{`{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a/b"},"spec":{"containers":[{"name":"a"}]}}`, "is not a name"},
		{`{"apiVersion":"v1","kind":"Pod","metadata":{},"spec":{"containers":[{"name":"a"}]}}`, "has no name"},
		{`{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a"}}`, "has no containers"},
		{`{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a"},"specs":{}}`, "unknown field"},
	} {
		_, err := ParseStatic([]byte(c.raw), "/x.yaml", "n")
		if c.err == "" {
			require.NoError(t, err)
			continue
		}
		require.ErrorContains(t, err, c.err)
	}
}

func FuzzParseStatic(f *testing.F) {
	f.Add([]byte(manifest))
	f.Add([]byte("apiVersion: v1\nkind: Pod\nmetadata: {name: x}\nspec: {containers: [{name: a, image: b}]}\n"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		p, err := ParseStatic(raw, "/x.yaml", "n")
		if err == nil && (p.Name == "" || p.Spec.NodeName != "n" || p.UID == "" || !isStatic(p)) {
			t.Fatalf("%+v", p)
		}
	})
}

func FuzzLogTail(f *testing.F) {
	f.Add([]byte("2026-01-01T00:00:00Z stdout P par\n2026-01-01T00:00:00Z stdout F tial\n"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if s := logTail(raw, 3, 10); len(s) > 40 { // bytes that are not text grow
			t.Fatalf("%q", s)
		}
	})
}

func FuzzLogins(f *testing.F) {
	f.Add([]byte(`{"auths":{"https://r/v1/":{"auth":"dTpw"}}}`), "r/x:1")
	f.Fuzz(func(t *testing.T, raw []byte, image string) {
		l, err := parseLogins(&corev1.Secret{Type: corev1.SecretTypeDockerConfigJson, Data: map[string][]byte{corev1.DockerConfigJsonKey: raw}})
		if err != nil {
			return
		}
		for _, x := range l {
			x.matches(fullImage(image))
		}
	})
}

func TestLeftoversAreSwept(t *testing.T) {
	in(t, func(h *harness) {
		h.stop()
		h.volumes.clean = 0
		for _, dir := range []string{filepath.Join(h.cfg.Dir, "uid-x", "containers"), filepath.Join(h.cfg.Logs, "ns_x_uid-y", "a")} {
			require.NoError(t, os.MkdirAll(dir, 0o750))
		}
		h.cgroups.pods["uid-z"] = true
		h.start()
		h.pass(time.Second)
		h.nothingLeft()
		require.Equal(t, 1, h.volumes.clean)
		h.pass(10 * time.Minute)
		require.Equal(t, 1, h.volumes.clean, "once is enough")
	})
}

// What is mounted for no pod is taken away when all pods are known, and again if that fails; not while the runtime is silent.
func TestVolumesOfNobodyAreRemoved(t *testing.T) {
	in(t, func(h *harness) {
		h.stop()
		h.rt.down, h.volumes.clean, h.volumes.err = true, 0, errors.New("busy")
		require.NoError(t, os.MkdirAll(filepath.Join(h.cfg.Dir, "uid-x"), 0o750))
		h.start()
		h.pass(2 * time.Minute)
		require.Zero(t, h.volumes.clean)
		h.rt.mu.Lock()
		h.rt.down = false
		h.rt.mu.Unlock()
		h.pass(2 * time.Minute)
		require.Equal(t, 2, h.volumes.clean)
		h.volumes.mu.Lock()
		h.volumes.err = nil
		h.volumes.mu.Unlock()
		h.pass(5 * time.Minute)
		require.Equal(t, 3, h.volumes.clean)
	})
}
