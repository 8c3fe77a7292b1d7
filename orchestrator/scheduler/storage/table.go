package storage

import (
	"maps"

	v1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/component-helpers/storage/ephemeral"
	volumehelpers "k8s.io/component-helpers/storage/volume"
)

// Key names a claim.
type Key = types.NamespacedName

// KeyOf is the key of a claim.
func KeyOf(c *v1.PersistentVolumeClaim) Key { return Key{Namespace: c.Namespace, Name: c.Name} }

// ClaimOf names the claim of a volume of a pod; false if it has none.
func ClaimOf(pod *v1.Pod, volume *v1.Volume) (Key, bool) {
	switch {
	case volume.PersistentVolumeClaim != nil:
		return Key{Namespace: pod.Namespace, Name: volume.PersistentVolumeClaim.ClaimName}, true
	case volume.Ephemeral != nil:
		return Key{Namespace: pod.Namespace, Name: ephemeral.VolumeClaimName(pod, volume)}, true
	}
	return Key{}, false
}

type volumeSet map[string]*v1.PersistentVolume

// Table is what is known of storage.
type Table struct {
	claims     map[Key]*v1.PersistentVolumeClaim
	volumes    volumeSet
	free       map[string]volumeSet // volumes without a claim, by class
	reserved   map[Key]volumeSet    // volumes with a claim, by it
	classes    map[string]*storagev1.StorageClass
	nodes      map[string]*storagev1.CSINode
	drivers    map[string]*storagev1.CSIDriver
	capacities map[string]map[Key]*storagev1.CSIStorageCapacity // by class
	attached   map[string]map[string]*storagev1.VolumeAttachment
	held       held
	board      board
}

// New makes an empty table.
func New() *Table {
	return &Table{
		claims: map[Key]*v1.PersistentVolumeClaim{}, volumes: volumeSet{}, free: map[string]volumeSet{}, reserved: map[Key]volumeSet{},
		classes: map[string]*storagev1.StorageClass{}, nodes: map[string]*storagev1.CSINode{}, drivers: map[string]*storagev1.CSIDriver{},
		capacities: map[string]map[Key]*storagev1.CSIStorageCapacity{}, attached: map[string]map[string]*storagev1.VolumeAttachment{},
		held: newHeld(),
	}
}

// Set takes an object that came or changed. Those of other kinds are ignored.
func (t *Table) Set(obj any) {
	switch o := obj.(type) {
	case *v1.PersistentVolumeClaim:
		t.claims[KeyOf(o)] = o
		t.held.sawClaim(KeyOf(o), o)
		t.board.post(claimTopic(KeyOf(o)), o)
	case *v1.PersistentVolume:
		t.unlist(o.Name)
		t.volumes[o.Name] = o
		if r := o.Spec.ClaimRef; r != nil {
			put(t.reserved, Key{Namespace: r.Namespace, Name: r.Name}, o.Name, o)
		} else {
			put(t.free, volumehelpers.GetPersistentVolumeClass(o), o.Name, o)
		}
		t.held.sawVolume(o.Name, o)
		t.board.post(volumeTopic(o.Name), o)
	case *storagev1.StorageClass:
		t.classes[o.Name] = o
	case *storagev1.CSINode:
		t.nodes[o.Name] = o
	case *storagev1.CSIDriver:
		t.drivers[o.Name] = o
	case *storagev1.CSIStorageCapacity:
		put(t.capacities, o.StorageClassName, Key{Namespace: o.Namespace, Name: o.Name}, o)
	case *storagev1.VolumeAttachment:
		put(t.attached, o.Spec.NodeName, o.Name, o)
	}
}

// Remove takes an object that is gone.
func (t *Table) Remove(obj any) {
	switch o := obj.(type) {
	case *v1.PersistentVolumeClaim:
		delete(t.claims, KeyOf(o))
		t.held.sawClaim(KeyOf(o), nil)
		t.board.post(claimTopic(KeyOf(o)), nil)
	case *v1.PersistentVolume:
		t.unlist(o.Name)
		delete(t.volumes, o.Name)
		t.held.sawVolume(o.Name, nil)
		t.board.post(volumeTopic(o.Name), nil)
	case *storagev1.StorageClass:
		delete(t.classes, o.Name)
	case *storagev1.CSINode:
		delete(t.nodes, o.Name)
	case *storagev1.CSIDriver:
		delete(t.drivers, o.Name)
	case *storagev1.CSIStorageCapacity:
		take(t.capacities, o.StorageClassName, Key{Namespace: o.Namespace, Name: o.Name})
	case *storagev1.VolumeAttachment:
		take(t.attached, o.Spec.NodeName, o.Name)
	}
}

// unlist takes a volume, as it is known, out of the indices.
func (t *Table) unlist(name string) {
	o := t.volumes[name]
	if o == nil {
		return
	}
	if r := o.Spec.ClaimRef; r != nil {
		take(t.reserved, Key{Namespace: r.Namespace, Name: r.Name}, name)
		return
	}
	take(t.free, volumehelpers.GetPersistentVolumeClass(o), name)
}

func put[A, B comparable, V any, M ~map[B]V](m map[A]M, a A, b B, v V) {
	if m[a] == nil {
		m[a] = M{}
	}
	m[a][b] = v
}

func take[A, B comparable, V any, M ~map[B]V](m map[A]M, a A, b B) {
	if delete(m[a], b); len(m[a]) == 0 {
		delete(m, a)
	}
}

// Claim returns nil if there is none. It has the node that was selected for it.
func (t *Table) Claim(k Key) *v1.PersistentVolumeClaim {
	c := t.claims[k]
	node, is := t.held.nodeOf(k)
	if c == nil || !is {
		return c
	}
	n := *c
	n.Annotations = maps.Clone(c.Annotations)
	if n.Annotations == nil {
		n.Annotations = map[string]string{}
	}
	n.Annotations[volumehelpers.AnnSelectedNode] = node
	return &n
}

// Volume returns nil if there is none. It is as the API server has it: what is held is not seen.
func (t *Table) Volume(name string) *v1.PersistentVolume { return t.volumes[name] }

// Candidates are the volumes that a claim may be matched with, as far as others do not hold them: those without a claim, of
// its class, and those that are reserved for it.
func (t *Table) Candidates(c *v1.PersistentVolumeClaim) []*v1.PersistentVolume {
	key, class := KeyOf(c), volumehelpers.GetPersistentVolumeClaimClass(c)
	out := make([]*v1.PersistentVolume, 0, len(t.free[class])+len(t.reserved[key]))
	for name, v := range t.free[class] {
		holder, is := t.held.claimOf(name)
		switch {
		case !is:
			out = append(out, v)
		case holder == key:
			n := *v
			n.Spec.ClaimRef = &v1.ObjectReference{Kind: "PersistentVolumeClaim", Namespace: c.Namespace, Name: c.Name, UID: c.UID}
			out = append(out, &n)
		}
	}
	for _, v := range t.reserved[key] {
		out = append(out, v)
	}
	return out
}

// Class returns nil if there is none.
func (t *Table) Class(name string) *storagev1.StorageClass { return t.classes[name] }

// CSINode returns nil if there is none.
func (t *Table) CSINode(name string) *storagev1.CSINode { return t.nodes[name] }

// Driver returns nil if there is none.
func (t *Table) Driver(name string) *storagev1.CSIDriver { return t.drivers[name] }

// Capacities are what drivers say about room for volumes of a class. Only to be read.
func (t *Table) Capacities(class string) map[Key]*storagev1.CSIStorageCapacity {
	return t.capacities[class]
}

// Attachments are those of volumes to a node, by name. Only to be read.
func (t *Table) Attachments(node string) map[string]*storagev1.VolumeAttachment {
	return t.attached[node]
}

// DriverOf names the CSI driver of a claim's volume and the volume within it; a volume that will be made goes by its claim. It is
// false if the driver is not known, or none.
func (t *Table) DriverOf(c *v1.PersistentVolumeClaim) (driver, handle string, ok bool) {
	if c.Spec.VolumeName == "" {
		class := t.classes[volumehelpers.GetPersistentVolumeClaimClass(c)]
		if class == nil {
			return "", "", false
		}
		return class.Provisioner, KeyOf(c).String(), true
	}
	v := t.volumes[c.Spec.VolumeName]
	if v == nil || v.Spec.CSI == nil {
		return "", "", false
	}
	return v.Spec.CSI.Driver, v.Spec.CSI.VolumeHandle, true
}
