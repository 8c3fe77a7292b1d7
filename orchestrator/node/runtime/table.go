//go:build linux

package runtime

import (
	"cmp"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// sandbox is one that exists.
type sandbox struct {
	id    string
	usage sampler
	page  page
	gate  sync.RWMutex // held for reading by operations on containers, for writing by those on the sandbox itself

	mu   sync.Mutex // guards what follows
	rec  sandboxRecord
	shim shimClient    // nil when there is none
	stop func()        // ends the following of its events
	over chan struct{} // closed when its events are not followed any more
}

// record is a copy of what is known.
func (s *sandbox) record() sandboxRecord {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.rec
}

// client is the sandbox's shim, nil when there is none.
func (s *sandbox) client() shimClient {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.shim
}

// ready tells whether containers can run in it.
func (r sandboxRecord) ready() bool { return r.Phase == made && r.Reason == "" }

// container is one that exists.
type container struct {
	id      string
	sandbox *sandbox
	op      sync.Mutex // held by the one operation that changes it
	page    page
	usage   sampler

	mu     sync.Mutex // guards what follows
	rec    containerRecord
	exited chan struct{} // closed when its process has ended
}

// record is a copy of what is known.
func (c *container) record() containerRecord {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.rec
}

// table holds all sandboxes and containers by their IDs, and the names that they have taken.
type table struct {
	mu         sync.RWMutex
	sandboxes  map[string]*sandbox
	containers map[string]*container
	names      map[string]string // name -> ID of its holder
}

func newTable() *table {
	return &table{sandboxes: map[string]*sandbox{}, containers: map[string]*container{}, names: map[string]string{}}
}

// idBytes is the length of an ID, before it is written in hexadecimal.
const idBytes = 16

// newID makes a name for something: 32 hexadecimal digits.
func newID() string {
	var b [idBytes]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

func sandboxName(m *runtimeapi.PodSandboxMetadata) string {
	return fmt.Sprintf("%s_%s_%s_%d", m.GetName(), m.GetNamespace(), m.GetUid(), m.GetAttempt())
}

func containerName(m *runtimeapi.ContainerMetadata, sandbox string) string {
	return fmt.Sprintf("%s_%s_%d", m.GetName(), sandbox, m.GetAttempt())
}

// reserve takes a name.
func (t *table) reserve(what, name, id string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if holder, ok := t.names[name]; ok {
		return status.Errorf(codes.AlreadyExists, "runtime: the name %q is taken by %s %s", name, what, holder)
	}
	t.names[name] = id
	return nil
}

func (t *table) release(name string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.names, name)
}

func (t *table) addSandbox(s *sandbox) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.sandboxes[s.id] = s
}

// knows tells whether a container has not been removed meanwhile.
func (t *table) knows(c *container) bool {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.containers[c.id] == c
}

func (t *table) addContainer(c *container) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.containers[c.id] = c
}

// dropSandbox forgets a sandbox with its name.
func (t *table) dropSandbox(s *sandbox) {
	name := sandboxName(s.record().Config.v.GetMetadata())
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.sandboxes, s.id)
	delete(t.names, name)
}

// dropContainer forgets a container with its name.
func (t *table) dropContainer(c *container) {
	name := containerName(c.record().Config.v.GetMetadata(), c.sandbox.id)
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.containers, c.id)
	delete(t.names, name)
}

// sandbox finds one by its ID or the unique beginning of it.
func (t *table) sandbox(id string) (*sandbox, error) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return lookup(t.sandboxes, "sandbox", id)
}

// container finds one by its ID or the unique beginning of it.
func (t *table) container(id string) (*container, error) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return lookup(t.containers, "container", id)
}

func lookup[T any](all map[string]T, what, id string) (T, error) {
	if v, ok := all[id]; ok {
		return v, nil
	}
	var found []string
	if id != "" {
		for full := range all {
			if strings.HasPrefix(full, id) {
				found = append(found, full)
			}
		}
	}
	var none T
	switch len(found) {
	case 0:
		return none, status.Errorf(codes.NotFound, "runtime: no %s %q", what, id)
	case 1:
		return all[found[0]], nil
	}
	return none, status.Errorf(codes.InvalidArgument, "runtime: %q is the beginning of %d IDs of a %s", id, len(found), what)
}

// allSandboxes lists them, the newest first.
func (t *table) allSandboxes() []*sandbox {
	t.mu.RLock()
	all := slices.Collect(maps.Values(t.sandboxes))
	t.mu.RUnlock()
	at := map[*sandbox]int64{}
	for _, s := range all {
		at[s] = s.record().CreatedAt.UnixNano()
	}
	slices.SortFunc(all, func(a, b *sandbox) int { return cmp.Or(cmp.Compare(at[b], at[a]), cmp.Compare(a.id, b.id)) })
	return all
}

// allContainers lists them, or those of a sandbox, the newest first.
func (t *table) allContainers(sandbox string) []*container {
	t.mu.RLock()
	var all []*container
	for _, c := range t.containers {
		if sandbox == "" || c.sandbox.id == sandbox {
			all = append(all, c)
		}
	}
	t.mu.RUnlock()
	at := map[*container]int64{}
	for _, c := range all {
		at[c] = c.record().CreatedAt.UnixNano()
	}
	slices.SortFunc(all, func(a, b *container) int { return cmp.Or(cmp.Compare(at[b], at[a]), cmp.Compare(a.id, b.id)) })
	return all
}
