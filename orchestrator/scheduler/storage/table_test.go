package storage

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	volumehelpers "k8s.io/component-helpers/storage/volume"
)

// model is a table without indices: objects, and what each pod has decided that was not seen yet.
type model struct {
	claims  map[Key]*v1.PersistentVolumeClaim
	volumes map[string]*v1.PersistentVolume
	matches map[types.UID]map[string]Key
	nodes   map[types.UID]map[Key]string
}

func (m *model) candidates(c *v1.PersistentVolumeClaim) (names []string) {
	for name, v := range m.volumes {
		if r := v.Spec.ClaimRef; r != nil {
			if r.Namespace == c.Namespace && r.Name == c.Name {
				names = append(names, name)
			}
			continue
		}
		mine, others := false, false
		for _, held := range m.matches {
			if k, is := held[name]; is {
				mine, others = mine || k == KeyOf(c), others || k != KeyOf(c)
			}
		}
		if !others && v.Spec.StorageClassName == *c.Spec.StorageClassName {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

func (m *model) selected(k Key) string {
	for _, held := range m.nodes {
		if n := held[k]; n != "" {
			return n
		}
	}
	if c := m.claims[k]; c != nil {
		return c.Annotations[volumehelpers.AnnSelectedNode]
	}
	return ""
}

func (m *model) forget(volume string, claim Key) {
	for _, held := range m.matches {
		delete(held, volume)
	}
	for _, held := range m.nodes {
		delete(held, claim)
	}
}

// TestTable does the same to a table and to a model of it, at random, and compares what they answer.
func TestTable(t *testing.T) {
	for seed := range uint64(200) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 1))
			table := New()
			m := &model{claims: map[Key]*v1.PersistentVolumeClaim{}, volumes: map[string]*v1.PersistentVolume{}, matches: map[types.UID]map[string]Key{}, nodes: map[types.UID]map[Key]string{}}
			for range 60 {
				step(r, table, m)
				for k, c := range m.claims {
					seen := table.Claim(k)
					require.Equal(t, m.selected(k), seen.Annotations[volumehelpers.AnnSelectedNode], k)
					var names []string
					for _, v := range table.Candidates(c) {
						names = append(names, v.Name)
						require.True(t, v.Spec.ClaimRef == nil || volumehelpers.IsVolumeBoundToClaim(v, c))
					}
					slices.Sort(names)
					require.Equal(t, m.candidates(c), names, k)
				}
			}
			for pod := range 3 {
				table.Release(types.UID(fmt.Sprint("pod", pod)))
			}
			require.Zero(t, table.Held())
		})
	}
}

// step changes an object, has a pod decide something that the table allows, or lets a pod go.
func step(r *rand.Rand, table *Table, m *model) {
	claim := Key{Namespace: "ns", Name: fmt.Sprint("c", r.IntN(3))}
	volume, pod := fmt.Sprint("v", r.IntN(4)), types.UID(fmt.Sprint("pod", r.IntN(3)))
	class := fmt.Sprint("class", r.IntN(2))
	switch r.IntN(6) {
	case 0:
		c := &v1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: claim.Name, UID: types.UID(claim.Name)}, Spec: v1.PersistentVolumeClaimSpec{StorageClassName: &class}}
		if r.IntN(3) == 0 {
			c.Annotations = map[string]string{volumehelpers.AnnSelectedNode: "n9"}
			m.forget("", claim)
		}
		m.claims[claim] = c
		table.Set(c)
	case 1:
		v := &v1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: volume}, Spec: v1.PersistentVolumeSpec{StorageClassName: class}}
		if r.IntN(3) == 0 {
			v.Spec.ClaimRef = &v1.ObjectReference{Namespace: "ns", Name: claim.Name}
			m.forget(volume, Key{})
		}
		m.volumes[volume] = v
		table.Set(v)
	case 2:
		if v := m.volumes[volume]; v != nil && r.IntN(2) == 0 {
			m.forget(volume, Key{})
			delete(m.volumes, volume)
			table.Remove(v)
		} else if c := m.claims[claim]; c != nil {
			m.forget("", claim)
			delete(m.claims, claim)
			table.Remove(c)
		}
	case 3: // a match
		c := m.claims[claim]
		if c == nil {
			return
		}
		if names := m.candidates(c); len(names) > 0 {
			v := m.volumes[names[r.IntN(len(names))]]
			table.Hold(pod, "", &Decision{Matches: []Match{{Claim: c, Volume: v}}})
			if v.Spec.ClaimRef == nil {
				note(m.matches, pod, v.Name, claim)
			}
		}
	case 4: // a node
		if c := m.claims[claim]; c != nil {
			node := m.selected(claim)
			if node == "" {
				node = class
			}
			table.Hold(pod, node, &Decision{Provision: []*v1.PersistentVolumeClaim{c}})
			if c.Annotations[volumehelpers.AnnSelectedNode] != node {
				note(m.nodes, pod, claim, node)
			}
		}
	case 5:
		delete(m.matches, pod)
		delete(m.nodes, pod)
		table.Release(pod)
	}
}

func note[K, V comparable](m map[types.UID]map[K]V, pod types.UID, k K, v V) {
	if m[pod] == nil {
		m[pod] = map[K]V{}
	}
	m[pod][k] = v
}

// TestWatch tells of what happens to the claims and volumes of a decision, and of nothing else.
func TestWatch(t *testing.T) {
	table := New()
	c := &v1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "c"}}
	v := &v1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "v"}}
	table.Set(c)
	w := table.Watch(&Decision{Matches: []Match{{Claim: c, Volume: v}}})
	_, seen := w.Claim(KeyOf(c))
	require.False(t, seen)
	table.Set(&v1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "other"}})
	require.Empty(t, w.News())
	table.Set(v)
	table.Remove(c)
	require.Len(t, w.News(), 1)
	last, seen := w.Claim(KeyOf(c))
	require.True(t, seen)
	require.Nil(t, last)
	now, _ := w.Volume("v")
	require.Same(t, v, now)
	w.Close()
	require.Empty(t, table.board.watches)
}
