package volume

import (
	"context"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/ptr"

	"github.com/keelson-io/keelson/internal/testkit"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fixture is a node's volumes over given objects.
type fixture struct {
	*Volumes
	client *fake.Clientset
	dir    string
	events *record.FakeRecorder
	stop   func() // ends what Run does; it may be called twice
}

// newFixture makes a fixture that leaves no mount behind.
func newFixture(t *testing.T, objects ...runtime.Object) *fixture {
	t.Helper()
	testkit.Root(t)
	dir := t.TempDir()
	testkit.NoLeaks(t, dir)
	f := &fixture{client: fake.NewClientset(objects...), dir: dir, events: record.NewFakeRecorder(100)}
	f.open(t)
	return f
}

// open makes the volumes anew, as an agent that starts again does.
func (f *fixture) open(t *testing.T, set ...func(*Config)) {
	t.Helper()
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}, Status: corev1.NodeStatus{Allocatable: corev1.ResourceList{"memory": resource.MustParse("64Mi"), "cpu": resource.MustParse("2")}}}
	cfg := Config{Dir: filepath.Join(f.dir, "pods"), Client: f.client, Node: func() *corev1.Node { return node }, Events: f.events, RecursiveReadOnly: func(*corev1.Pod) bool { return true }}
	for _, s := range set {
		s(&cfg)
	}
	v, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	f.Volumes = v
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = v.Run(ctx) })
	f.stop = func() { cancel(); wg.Wait() }
	t.Cleanup(f.stop)
}

// setup makes a pod's volumes, which are torn down when the test ends.
func (f *fixture) setup(t *testing.T, pod *corev1.Pod) {
	t.Helper()
	f.tearLater(t, pod)
	if err := f.Setup(context.Background(), pod); err != nil {
		t.Fatal(err)
	}
}

func (f *fixture) tearLater(t *testing.T, pod *corev1.Pod) {
	t.Cleanup(func() {
		if err := f.Teardown(context.Background(), pod.UID); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(f.podDir(pod.UID)); !os.IsNotExist(err) {
			t.Errorf("the pod's directory is left: %v", err)
		}
	})
}

func (f *fixture) path(t *testing.T, pod *corev1.Pod, volume string) string {
	t.Helper()
	p, err := f.Path(pod, volume)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func podWith(name string, volumes ...corev1.Volume) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, UID: types.UID("uid-" + name), Labels: map[string]string{"app": "web"}},
		Spec:       corev1.PodSpec{NodeName: "n1", ServiceAccountName: "robot", Volumes: volumes, Containers: []corev1.Container{{Name: "main"}}},
	}
	for _, v := range volumes {
		p.Spec.Containers[0].VolumeMounts = append(p.Spec.Containers[0].VolumeMounts, corev1.VolumeMount{Name: v.Name, MountPath: "/" + v.Name})
	}
	return p
}

func volume(name string, src corev1.VolumeSource) corev1.Volume {
	return corev1.Volume{Name: name, VolumeSource: src}
}

func configMap(name string, data ...string) *corev1.ConfigMap {
	cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, UID: types.UID(name), ResourceVersion: "1"}, Data: map[string]string{}}
	for i := 0; i < len(data); i += 2 {
		cm.Data[data[i]] = data[i+1]
	}
	return cm
}

func secret(name string, data ...string) *corev1.Secret {
	s := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, UID: types.UID(name), ResourceVersion: "1"}, Data: map[string][]byte{}}
	for i := 0; i < len(data); i += 2 {
		s.Data[data[i]] = []byte(data[i+1])
	}
	return s
}

func fromConfigMap(name string, optional bool, items ...corev1.KeyToPath) corev1.VolumeSource {
	return corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: name}, Items: items, Optional: ptr.To(optional)}}
}

func fromSecret(name string, optional bool, items ...corev1.KeyToPath) corev1.VolumeSource {
	return corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: name, Items: items, Optional: ptr.To(optional)}}
}

// listing is what a reader sees in a directory: "path mode content", sorted.
func listing(t *testing.T, dir string) string {
	t.Helper()
	var all []string
	var walk func(rel string)
	walk = func(rel string) {
		entries, err := os.ReadDir(filepath.Join(dir, rel))
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if strings.HasPrefix(e.Name(), "..") {
				continue
			}
			path := filepath.Join(rel, e.Name())
			info, err := os.Stat(filepath.Join(dir, path))
			if err != nil {
				t.Fatal(err)
			}
			if info.IsDir() {
				walk(path)
				continue
			}
			b, err := os.ReadFile(filepath.Join(dir, path))
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, path+" "+info.Mode().String()+" "+string(b))
		}
	}
	walk(".")
	sort.Strings(all)
	return strings.Join(all, "\n")
}

// eventually waits until a condition holds.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("it never came: %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}
