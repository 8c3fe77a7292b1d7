package workers

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/yaml"
)

// Annotations of static pods and of their mirrors on the API server.
const (
	annotationSource = "kubernetes.io/config.source"
	annotationConfig = "kubernetes.io/config.hash"
	annotationSeen   = "kubernetes.io/config.seen"
	annotationMirror = "kubernetes.io/config.mirror"
)

// maxManifest is how large the file of a static pod may be, in bytes.
const maxManifest = 10 << 20

func isMirror(p *corev1.Pod) bool {
	_, ok := p.Annotations[annotationMirror]
	return ok
}

// isStatic is whether a pod comes from a file. Its mirror does not.
func isStatic(p *corev1.Pod) bool {
	s, ok := p.Annotations[annotationSource]
	return ok && s != "api" && !isMirror(p)
}

// mirrors are the pods on the API server that stand for static pods, by namespace and name.
type mirrors struct {
	mu   sync.Mutex
	pods map[string]*corev1.Pod
}

func newMirrors() *mirrors { return &mirrors{pods: map[string]*corev1.Pod{}} }

func key(p *corev1.Pod) string { return p.Namespace + "/" + p.Name }

// of is the mirror of a static pod; nil if it has none, or one of another version of the file.
func (m *mirrors) of(p *corev1.Pod) *corev1.Pod {
	if !isStatic(p) {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if have := m.pods[key(p)]; have != nil && have.Annotations[annotationMirror] == p.Annotations[annotationConfig] && have.DeletionTimestamp == nil {
		return have
	}
	return nil
}

func (m *mirrors) set(p *corev1.Pod) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if have := m.pods[key(p)]; have == nil || have.UID != p.UID || newer(p, have) {
		m.pods[key(p)] = p
	}
}

func (m *mirrors) remove(p *corev1.Pod) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if have := m.pods[key(p)]; have != nil && have.UID == p.UID {
		delete(m.pods, key(p))
	}
}

func (m *mirrors) all() (list []*corev1.Pod) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, p := range m.pods {
		list = append(list, p)
	}
	return list
}

// ParseStatic reads the manifest of a static pod. Its name becomes that of the node's, and its UID follows from what it says, so
// that another version of it is another pod.
func ParseStatic(raw []byte, path, node string) (*corev1.Pod, error) {
	if len(raw) > maxManifest {
		return nil, fmt.Errorf("workers: %s: a manifest has at most %d bytes", path, maxManifest)
	}
	p := &corev1.Pod{}
	if err := yaml.UnmarshalStrict(raw, p); err != nil {
		return nil, fmt.Errorf("workers: %s: %w", path, err)
	}
	switch {
	case p.Kind != "Pod" || p.APIVersion != "v1":
		return nil, fmt.Errorf("workers: %s: a static pod has to be a v1 Pod, not %s %s", path, p.APIVersion, p.Kind)
	case p.Name == "":
		return nil, fmt.Errorf("workers: %s: the pod has no name", path)
	case len(p.Spec.Containers) == 0:
		return nil, fmt.Errorf("workers: %s: the pod has no containers", path)
	}
	for _, n := range []string{p.Name, p.Namespace} {
		if strings.ContainsAny(n, "/\\\x00") || strings.Contains(n, "..") {
			return nil, fmt.Errorf("workers: %s: %q is not a name", path, n)
		}
	}
	sum := sha256.New()
	_, _ = fmt.Fprintf(sum, "%s\n%s\n", node, path)
	_, _ = sum.Write(bytes.TrimSpace(raw))
	if p.UID == "" {
		p.UID = types.UID(hex.EncodeToString(sum.Sum(nil)[:16]))
	}
	p.Name += "-" + strings.ToLower(node)
	set(&p.Namespace, metav1.NamespaceDefault)
	if p.Annotations == nil {
		p.Annotations = map[string]string{}
	}
	p.Annotations[annotationSource], p.Annotations[annotationConfig] = "file", string(p.UID)
	p.Generation = 1
	p.Spec.NodeName = node
	if p.Spec.Tolerations == nil {
		p.Spec.Tolerations = []corev1.Toleration{{Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute}}
	}
	p.Status = corev1.PodStatus{Phase: corev1.PodPending}
	setPodDefaults(&p.Spec)
	return p, nil
}

// watchStatic keeps the static pods as the files in their directory say.
func (ws *Workers) watchStatic(ctx context.Context) {
	dir := ws.cfg.Options.StaticDir
	seen := map[string]*corev1.Pod{} // by path
	var first sync.Once
	if dir == "" {
		close(ws.read)
	}
	for dir != "" {
		found, err := ws.readStatic(dir, seen)
		if err != nil {
			ws.log.Warn("static pods cannot be read", zap.String("dir", dir), zap.Error(err))
		} else {
			ws.replaceStatic(seen, found)
			seen = found
			first.Do(func() { close(ws.read) })
			ws.dropMirrors(ctx)
		}
		if sleep(ctx, ws.cfg.Clock, ws.cfg.Options.StaticEvery) != nil {
			return
		}
	}
	select { // mirrors of pods from the time when there was a directory
	case <-ctx.Done():
	case <-ws.synced:
		ws.dropMirrors(ctx)
	}
}

// replaceStatic ends the static pods that are no more, and starts those that are new.
func (ws *Workers) replaceStatic(old, now map[string]*corev1.Pod) {
	still := map[types.UID]bool{}
	for _, p := range now {
		still[p.UID] = true
	}
	for _, p := range old {
		if !still[p.UID] {
			ws.mu.Lock()
			w := ws.workers[p.UID]
			delete(ws.back, p.UID)
			ws.mu.Unlock()
			if w != nil {
				w.remove()
			}
		}
	}
	for path, p := range now {
		if old[path] != p {
			ws.set(p)
		}
	}
}

// readStatic reads the manifests of a directory. One that cannot be read counts as it was.
func (ws *Workers) readStatic(dir string, before map[string]*corev1.Pod) (map[string]*corev1.Pod, error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) { // a directory that is not there has no pods
		return nil, err
	}
	found := map[string]*corev1.Pod{}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		if e.IsDir() || strings.HasPrefix(e.Name(), ".") || !slices.Contains([]string{".yaml", ".yml", ".json"}, filepath.Ext(path)) {
			continue
		}
		raw, err := os.ReadFile(path)
		var p *corev1.Pod
		if err == nil {
			p, err = ParseStatic(raw, path, ws.cfg.NodeName)
		}
		switch old := before[path]; {
		case err != nil:
			ws.log.Warn("static pod is not taken", zap.String("path", path), zap.Error(err))
			if old != nil {
				found[path] = old
			}
		case old != nil && old.UID == p.UID:
			found[path] = old
		default:
			p.CreationTimestamp = metav1.Time{Time: ws.cfg.Clock.Now()}
			p.Annotations[annotationSeen] = ws.cfg.Clock.Now().Format(time.RFC3339Nano)
			found[path] = p
		}
	}
	return found, nil
}

// makeMirror makes the mirror of a static pod.
func (ws *Workers) makeMirror(ctx context.Context, p *corev1.Pod) error {
	node := ws.cfg.Node()
	if node == nil || node.UID == "" {
		return fmt.Errorf("workers: mirror of %s: the node is not registered", p.Name)
	}
	m := p.DeepCopy()
	m.UID, m.ResourceVersion, m.Generation, m.Status = "", "", 0, corev1.PodStatus{}
	m.Annotations[annotationMirror] = p.Annotations[annotationConfig]
	m.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: node.Name, UID: node.UID, Controller: ptr.To(true)}}
	made, err := ws.cfg.Client.CoreV1().Pods(p.Namespace).Create(ctx, m, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		have, err := ws.cfg.Client.CoreV1().Pods(p.Namespace).Get(ctx, p.Name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if have.Annotations[annotationMirror] == m.Annotations[annotationMirror] && have.DeletionTimestamp == nil {
			ws.mirrors.set(have)
			return nil
		}
		if err := ws.deleteMirror(ctx, have); err != nil {
			return err
		}
		made, err = ws.cfg.Client.CoreV1().Pods(p.Namespace).Create(ctx, m, metav1.CreateOptions{})
		if err != nil {
			return err
		}
	} else if err != nil {
		return err
	}
	ws.mirrors.set(made)
	return nil
}

func (ws *Workers) deleteMirror(ctx context.Context, m *corev1.Pod) error {
	err := ws.cfg.Client.CoreV1().Pods(m.Namespace).Delete(ctx, m.Name, metav1.DeleteOptions{GracePeriodSeconds: ptr.To(int64(0)), Preconditions: metav1.NewUIDPreconditions(string(m.UID))})
	if apierrors.IsNotFound(err) {
		err = nil
	}
	if err == nil {
		ws.mirrors.remove(m)
	}
	return err
}

// dropMirrors deletes mirrors of pods that no file describes any more.
func (ws *Workers) dropMirrors(ctx context.Context) {
	select {
	case <-ws.synced:
	default:
		return
	}
	static := map[string]bool{}
	for _, w := range ws.all() {
		static[key(w.pod())] = static[key(w.pod())] || isStatic(w.pod())
	}
	for _, m := range ws.mirrors.all() {
		if static[key(m)] {
			continue
		}
		if err := ws.deleteMirror(ctx, m); err != nil {
			ws.log.Warn("mirror of a pod that is gone cannot be deleted", podFields(m, err)...)
		}
	}
}

// waitsForNamesake is whether an earlier version of a static pod is still there.
func (ws *Workers) waitsForNamesake(w *worker, p *corev1.Pod) bool {
	if !isStatic(p) {
		return false
	}
	for _, other := range ws.all() {
		other.mu.Lock()
		same := other != w && other.spec.removed && key(other.spec.pod) == key(p)
		other.mu.Unlock()
		if same {
			return true
		}
	}
	return false
}
