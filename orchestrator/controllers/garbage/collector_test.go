package garbage

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/metadata/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/keelson-io/keelson/internal/clock"
	"github.com/keelson-io/keelson/orchestrator/controllers/inventory"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	thingGVR = schema.GroupVersionResource{Group: "example.com", Version: "v1", Resource: "things"}
	thingGVK = schema.GroupVersionKind{Group: "example.com", Version: "v1", Kind: "Thing"}
)

// mapper maps Things, and nothing else.
type mapper struct{ *meta.DefaultRESTMapper }

func (mapper) Reset() {}

// server is an API server of metadata, with deletion as it is in Kubernetes.
type server struct {
	t       *testing.T
	client  *fake.FakeMetadataClient
	mu      sync.Mutex
	version int64
	stop    context.CancelFunc
	done    chan struct{}
}

func thing(name string, owners ...string) *metav1.PartialObjectMetadata {
	m := &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: types.UID(name), ResourceVersion: "1"}}
	m.SetGroupVersionKind(thingGVK)
	for _, o := range owners {
		name, block := strings.CutSuffix(o, "!")
		m.OwnerReferences = append(m.OwnerReferences, metav1.OwnerReference{
			APIVersion: "example.com/v1", Kind: "Thing", Name: name, UID: types.UID(name), BlockOwnerDeletion: &block,
		})
	}
	return m
}

// start runs a collector over things. An owner with an exclamation mark is blocked by its dependent.
func start(t *testing.T, things ...*metav1.PartialObjectMetadata) *server {
	scheme := fake.NewTestScheme()
	require.NoError(t, metav1.AddMetaToScheme(scheme))
	scheme.AddKnownTypeWithName(thingGVK, &metav1.PartialObjectMetadata{})
	scheme.AddKnownTypeWithName(thingGVK.GroupVersion().WithKind("ThingList"), &metav1.PartialObjectMetadataList{})
	var objects []runtime.Object
	for _, m := range things {
		objects = append(objects, m)
	}
	s := &server{t: t, client: fake.NewSimpleMetadataClient(scheme, objects...), version: 1, done: make(chan struct{})}
	s.client.PrependReactor("delete", "*", func(a clienttesting.Action) (bool, runtime.Object, error) {
		d := a.(clienttesting.DeleteActionImpl)
		return true, nil, s.delete(d.Name, d.DeleteOptions)
	})
	s.client.PrependReactor("patch", "*", func(a clienttesting.Action) (bool, runtime.Object, error) {
		p := a.(clienttesting.PatchAction)
		m, err := s.patch(p.GetName(), p.GetPatch())
		return true, m, err
	})
	rm := meta.NewDefaultRESTMapper([]schema.GroupVersion{thingGVK.GroupVersion()})
	rm.AddSpecific(thingGVK, thingGVR, thingGVR.GroupVersion().WithResource("thing"), meta.RESTScopeNamespace)
	inv := inventory.New(inventory.Config{Metadata: s.client, Clock: clock.Real, Resources: func() ([]inventory.Resource, error) {
		return []inventory.Resource{{GroupVersionResource: thingGVR, Kind: thingGVK.Kind, Namespaced: true}}, nil
	}})
	c := New(Config{Metadata: s.client, Mapper: mapper{rm}, Inventory: inv})
	ctx, cancel := context.WithCancel(context.Background())
	s.stop = cancel
	var running sync.WaitGroup
	running.Go(func() { _ = inv.Run(ctx) })
	running.Go(func() { _ = c.Run(ctx) })
	go func() { defer close(s.done); running.Wait() }()
	t.Cleanup(func() { cancel(); <-s.done })
	return s
}

func (s *server) get(name string) (*metav1.PartialObjectMetadata, error) {
	o, err := s.client.Tracker().Get(thingGVR, "ns", name)
	if err != nil {
		return nil, err
	}
	return o.(*metav1.PartialObjectMetadata).DeepCopy(), nil
}

func (s *server) put(m *metav1.PartialObjectMetadata) error {
	if m.DeletionTimestamp != nil && len(m.Finalizers) == 0 {
		return s.client.Tracker().Delete(thingGVR, "ns", m.Name)
	}
	s.version++
	m.ResourceVersion = strconv.FormatInt(s.version, 10)
	return s.client.Tracker().Update(thingGVR, m, "ns")
}

func (s *server) delete(name string, o metav1.DeleteOptions) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	m, err := s.get(name)
	if err != nil {
		return err
	}
	if p := o.Preconditions; p != nil && (p.UID != nil && *p.UID != m.UID || p.ResourceVersion != nil && *p.ResourceVersion != m.ResourceVersion) {
		return apierrors.NewConflict(thingGVR.GroupResource(), name, errors.New("precondition"))
	}
	if o.PropagationPolicy != nil {
		m.Finalizers = slices.DeleteFunc(m.Finalizers, func(f string) bool {
			return f == metav1.FinalizerOrphanDependents || f == metav1.FinalizerDeleteDependents
		})
		switch *o.PropagationPolicy {
		case metav1.DeletePropagationForeground:
			m.Finalizers = append(m.Finalizers, metav1.FinalizerDeleteDependents)
		case metav1.DeletePropagationOrphan:
			m.Finalizers = append(m.Finalizers, metav1.FinalizerOrphanDependents)
		}
	}
	if m.DeletionTimestamp == nil {
		now := metav1.Now()
		m.DeletionTimestamp = &now
	}
	return s.put(m)
}

func (s *server) patch(name string, body []byte) (*metav1.PartialObjectMetadata, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m, err := s.get(name)
	if err != nil {
		return nil, err
	}
	var p struct {
		Metadata struct {
			UID             types.UID                `json:"uid"`
			ResourceVersion string                   `json:"resourceVersion"`
			OwnerReferences *[]metav1.OwnerReference `json:"ownerReferences"`
			Finalizers      *[]string                `json:"finalizers"`
		} `json:"metadata"`
	}
	if err := json.Unmarshal(body, &p); err != nil {
		return nil, err
	}
	if p.Metadata.UID != m.UID || p.Metadata.ResourceVersion != m.ResourceVersion {
		return nil, apierrors.NewConflict(thingGVR.GroupResource(), name, errors.New("another version"))
	}
	if r := p.Metadata.OwnerReferences; r != nil {
		m.OwnerReferences = *r
	}
	if f := p.Metadata.Finalizers; f != nil {
		m.Finalizers = *f
	}
	return m, s.put(m)
}

// remain waits until these things are left, with so many owners each ("name" or "name:owners").
func (s *server) remain(want ...string) {
	s.t.Helper()
	slices.Sort(want)
	var got []string
	ok := func() bool {
		l, err := s.client.Resource(thingGVR).Namespace("ns").List(context.Background(), metav1.ListOptions{})
		require.NoError(s.t, err)
		got = nil
		for _, m := range l.Items {
			n := m.Name
			if len(m.OwnerReferences) > 0 {
				n += fmt.Sprintf(":%d", len(m.OwnerReferences))
			}
			if m.DeletionTimestamp != nil {
				n += " (going)"
			}
			got = append(got, n)
		}
		slices.Sort(got)
		return slices.Equal(got, want)
	}
	for end := time.Now().Add(15 * time.Second); time.Now().Before(end); time.Sleep(2 * time.Millisecond) {
		if ok() {
			return
		}
	}
	require.Equal(s.t, want, got)
}

func (s *server) remove(name string, p metav1.DeletionPropagation) {
	s.t.Helper()
	require.NoError(s.t, s.delete(name, metav1.DeleteOptions{PropagationPolicy: &p}))
}

func family() []*metav1.PartialObjectMetadata {
	return []*metav1.PartialObjectMetadata{
		thing("d"), thing("rs1", "d!"), thing("rs2", "d!"), thing("p1", "rs1!"), thing("p2", "rs1!"), thing("p3", "rs2!"), thing("lone"), thing("shared", "rs1", "lone"),
	}
}

func TestBackground(t *testing.T) {
	s := start(t, family()...)
	s.remove("d", metav1.DeletePropagationBackground)
	s.remain("lone", "shared:1")
}

func TestForeground(t *testing.T) {
	things := family()
	things[3].Finalizers = []string{"mine"} // p1 takes its time
	s := start(t, things...)
	s.remove("d", metav1.DeletePropagationForeground)
	s.remain("d (going)", "lone", "p1:1 (going)", "rs1:1 (going)", "shared:1")
	s.mu.Lock()
	m, err := s.get("p1")
	require.NoError(t, err)
	m.Finalizers = nil
	require.NoError(t, s.put(m))
	s.mu.Unlock()
	s.remain("lone", "shared:1")
}

func TestOrphan(t *testing.T) {
	s := start(t, family()...)
	s.remove("d", metav1.DeletePropagationOrphan)
	s.remain("lone", "p1:1", "p2:1", "p3:1", "rs1", "rs2", "shared:2")
	s.remove("rs1", metav1.DeletePropagationBackground)
	s.remain("lone", "p3:1", "rs2", "shared:1")
}

// TestAbsentOwner has things whose owners never were there, or are others of their name.
func TestAbsentOwner(t *testing.T) {
	impostor := thing("x", "owner")
	impostor.OwnerReferences[0].UID = "another"
	unknown := thing("y", "owner")
	unknown.OwnerReferences[0].Kind = "Unheard"
	unknown.OwnerReferences[0].UID = "unheard"
	s := start(t, thing("owner"), thing("child", "owner"), thing("stray", "nobody"), impostor, unknown)
	s.remain("child:1", "owner", "y:1")
}

// TestCircle deletes things that own each other.
// TestUnseenOwner has an owner of a resource that is not watched yet, which exists when it is looked up and is gone soon after.
func TestUnseenOwner(t *testing.T) {
	s := start(t)
	var looks atomic.Int64
	s.client.PrependReactor("get", "things", func(a clienttesting.Action) (bool, runtime.Object, error) {
		if a.(clienttesting.GetAction).GetName() != "unseen" || looks.Add(1) > 4 {
			return false, nil, nil
		}
		return true, thing("unseen"), nil
	})
	require.NoError(t, s.client.Tracker().Create(thingGVR, thing("dependent", "unseen"), "ns"))
	s.remain()
	require.Greater(t, looks.Load(), int64(4))
}

func TestCircle(t *testing.T) {
	for _, policy := range []metav1.DeletionPropagation{metav1.DeletePropagationBackground, metav1.DeletePropagationForeground} {
		s := start(t, thing("a", "c!"), thing("b", "a!"), thing("c", "b!"), thing("z"))
		s.remain("a:1", "b:1", "c:1", "z")
		s.remove("a", policy)
		s.remain("z")
	}
}

// TestModel deletes random things of random families, and compares what remains with what should.
func TestModel(t *testing.T) {
	for seed := range uint64(30) {
		rng := rand.New(rand.NewPCG(seed, 1))
		owners := map[string][]string{}
		var things []*metav1.PartialObjectMetadata
		var names []string
		for i := range 40 {
			name := fmt.Sprintf("t%d", i)
			var refs []string
			for range rng.IntN(3) {
				if i > 0 {
					if o := names[rng.IntN(i)]; !slices.Contains(owners[name], o) {
						owners[name] = append(owners[name], o)
						if rng.IntN(2) == 0 {
							o += "!"
						}
						refs = append(refs, o)
					}
				}
			}
			names = append(names, name)
			things = append(things, thing(name, refs...))
		}
		s := start(t, things...)
		gone := map[string]bool{}
		for range 5 {
			victim := names[rng.IntN(len(names))]
			if gone[victim] {
				continue
			}
			policy := []metav1.DeletionPropagation{metav1.DeletePropagationBackground, metav1.DeletePropagationForeground, metav1.DeletePropagationOrphan}[rng.IntN(3)]
			s.remove(victim, policy)
			gone[victim] = true
			expect(names, owners, gone, victim, policy == metav1.DeletePropagationOrphan)
			var want []string
			for _, n := range names {
				switch k := len(owners[n]); {
				case gone[n]:
				case k > 0:
					want = append(want, fmt.Sprintf("%s:%d", n, k))
				default:
					want = append(want, n)
				}
			}
			s.remain(want...)
		}
		s.stop()
		<-s.done
	}
}

// expect is the naive model: references to what is gone vanish, and what loses its last one that way goes as well, unless it
// was orphaned.
func expect(names []string, owners map[string][]string, gone map[string]bool, victim string, orphan bool) {
	for changed := true; changed; {
		changed = false
		for _, n := range names {
			if gone[n] {
				continue
			}
			kept := slices.DeleteFunc(slices.Clone(owners[n]), func(o string) bool { return gone[o] })
			if len(kept) == len(owners[n]) {
				continue
			}
			orphaned := orphan && slices.Contains(owners[n], victim)
			owners[n] = kept
			changed = true
			if len(kept) == 0 && !orphaned {
				gone[n] = true
			}
		}
	}
}
