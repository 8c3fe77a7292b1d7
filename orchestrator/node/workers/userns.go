package workers

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/utils/ptr"
)

// userRange is how many users and groups a pod's user namespace has.
const userRange = 65536

// users hands out ranges of the host's user and group IDs to pods with user namespaces of their own, so that no two pods share
// any. A range is recorded in the pod's directory before it is used.
type users struct {
	dir   string // of pods
	start uint32 // first ID of the first range
	count int    // of ranges

	mu    sync.Mutex
	taken map[types.UID]int // index of the range
	used  map[int]bool
}

// idRecord is the content of the file in the pod's directory; kubelets write the same.
type idRecord struct {
	UIDs []idMapping `json:"uidMappings"`
	GIDs []idMapping `json:"gidMappings"`
}

type idMapping struct {
	HostID      uint32 `json:"hostId"`
	ContainerID uint32 `json:"containerId"`
	Length      uint32 `json:"length"`
}

func ownUsers(p *corev1.Pod) bool { return !ptr.Deref(p.Spec.HostUsers, true) }

func newUsers(dir string, start uint32, count int) *users {
	return &users{dir: dir, start: start, count: count, taken: map[types.UID]int{}, used: map[int]bool{}}
}

// recover takes up the ranges that earlier runs gave to pods.
func (u *users) recover() error {
	files, err := filepath.Glob(filepath.Join(u.dir, "*", "userns"))
	if err != nil {
		return err
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, f := range files {
		raw, err := os.ReadFile(f)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("workers: users of a pod: %w", err)
		}
		var r idRecord
		if err := json.Unmarshal(raw, &r); err != nil || len(r.UIDs) != 1 || r.UIDs[0].HostID < u.start {
			return fmt.Errorf("workers: %s does not say which users the pod has; remove it if the pod is gone", f)
		}
		i := int((r.UIDs[0].HostID - u.start) / userRange)
		u.taken[types.UID(filepath.Base(filepath.Dir(f)))], u.used[i] = i, true
	}
	return nil
}

// take gives a pod its range, if it wants one and has none yet.
func (u *users) take(p *corev1.Pod) error {
	if !ownUsers(p) {
		return nil
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if _, ok := u.taken[p.UID]; ok {
		return nil
	}
	i := 0
	for u.used[i] {
		i++
	}
	if i >= u.count {
		return fmt.Errorf("workers: all %d ranges of users are taken by pods with hostUsers: false", u.count)
	}
	m := []idMapping{{HostID: u.start + uint32(i)*userRange, Length: userRange}}
	if err := writeJSON(filepath.Join(u.dir, string(p.UID), "userns"), idRecord{UIDs: m, GIDs: m}); err != nil {
		return fmt.Errorf("workers: users of a pod: %w", err)
	}
	u.taken[p.UID], u.used[i] = i, true
	return nil
}

// free gives up the range of a pod that has ended.
func (u *users) free(uid types.UID) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	i, ok := u.taken[uid]
	if !ok {
		return nil
	}
	if err := os.Remove(filepath.Join(u.dir, string(uid), "userns")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	delete(u.taken, uid)
	delete(u.used, i)
	return nil
}

// mappings are the range of a pod as the runtime wants it, nil if it has the users of the node.
func (u *users) mappings(p *corev1.Pod) []*runtimeapi.IDMapping {
	if !ownUsers(p) {
		return nil
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	i, ok := u.taken[p.UID]
	if !ok {
		return nil
	}
	return []*runtimeapi.IDMapping{{HostId: u.start + uint32(i)*userRange, Length: userRange}}
}

// IDMappings are the users and groups of a pod that has a user namespace of its own, nil if it has none.
func (ws *Workers) IDMappings(p *corev1.Pod) (uids, gids []*runtimeapi.IDMapping) {
	m := ws.users.mappings(p)
	return m, m
}

func (u *users) options(p *corev1.Pod) *runtimeapi.UserNamespace {
	if m := u.mappings(p); m != nil {
		return &runtimeapi.UserNamespace{Mode: runtimeapi.NamespaceMode_POD, Uids: m, Gids: m}
	}
	if p.Spec.HostUsers != nil {
		return &runtimeapi.UserNamespace{Mode: runtimeapi.NamespaceMode_NODE}
	}
	return nil
}

// writeJSON replaces a file atomically.
func writeJSON(path string, v any) error {
	raw, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		return err
	}
	tmp := path + ".new"
	if err := os.WriteFile(tmp, raw, 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}
