package rights

import (
	"sync"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	storagev1 "k8s.io/api/storage/v1"

	"github.com/keelson-io/keelson/orchestrator/kinds"
)

// Things that a node may have to do with.
const (
	podThing            = "pods"
	secretThing         = "secrets"
	configMapThing      = "configmaps"
	serviceAccountThing = "serviceaccounts"
	claimThing          = "persistentvolumeclaims"
	volumeThing         = "persistentvolumes"
	resourceClaimThing  = "resourceclaims"
	attachmentThing     = "volumeattachments"
	sliceThing          = "resourceslices"
	certificateThing    = "podcertificaterequests"
)

// thing names an object by its resource, namespace and name.
type thing struct{ resource, namespace, name string }

// Graph knows which objects belong to which node:
//
//	node <- pod <- secret, config map, service account, volume claim, resource claim
//	node <- pod <- volume claim <- volume <- secret
//	node <- volume attachment, resource slice, pod certificate request
type Graph struct {
	mu      sync.RWMutex
	placed  map[thing]string         // what is at one node: pods, attachments, slices, certificate requests
	needs   map[thing][]thing        // of a pod
	users   map[thing]map[string]int // node -> number of its pods that need the thing
	volumes map[string]volume
	mounts  map[thing]map[string]bool // secret -> names of volumes that need it
}

type volume struct {
	claim   thing
	secrets []thing
}

// NewGraph returns a Graph without objects.
func NewGraph() *Graph {
	return &Graph{
		placed: map[thing]string{}, needs: map[thing][]thing{}, users: map[thing]map[string]int{},
		volumes: map[string]volume{}, mounts: map[thing]map[string]bool{},
	}
}

// Set puts objects in, or in the place of those with the same names: pods, persistent volumes, volume attachments, resource
// slices and pod certificate requests. Others are ignored.
func (g *Graph) Set(objects ...kinds.Object) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, o := range objects {
		t, ok := thingOf(o)
		if !ok {
			continue
		}
		g.remove(t)
		switch o := o.(type) {
		case *corev1.Pod:
			g.pod(t, o)
		case *corev1.PersistentVolume:
			g.volume(o)
		case *storagev1.VolumeAttachment:
			g.place(t, o.Spec.NodeName)
		case *resourcev1.ResourceSlice:
			if o.Spec.NodeName != nil {
				g.place(t, *o.Spec.NodeName)
			}
		case *certificatesv1.PodCertificateRequest:
			g.place(t, string(o.Spec.NodeName))
		}
	}
}

// Remove takes objects out.
func (g *Graph) Remove(objects ...kinds.Object) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, o := range objects {
		if t, ok := thingOf(o); ok {
			g.remove(t)
		}
	}
}

func thingOf(o kinds.Object) (thing, bool) {
	var resource string
	switch o.(type) {
	case *corev1.Pod:
		resource = podThing
	case *corev1.PersistentVolume:
		resource = volumeThing
	case *storagev1.VolumeAttachment:
		resource = attachmentThing
	case *resourcev1.ResourceSlice:
		resource = sliceThing
	case *certificatesv1.PodCertificateRequest:
		resource = certificateThing
	default:
		return thing{}, false
	}
	return thing{resource, o.GetNamespace(), o.GetName()}, true
}

func (g *Graph) place(t thing, node string) {
	if node != "" {
		g.placed[t] = node
	}
}

func (g *Graph) pod(t thing, p *corev1.Pod) {
	node := p.Spec.NodeName
	if node == "" {
		return
	}
	g.place(t, node)
	// Kubelets create mirror pods: they must not get rights by what they write into them.
	if _, mirror := p.Annotations[corev1.MirrorPodAnnotationKey]; mirror {
		return
	}
	seen := map[thing]bool{}
	eachNeed(p, func(resource, name string) {
		n := thing{resource, p.Namespace, name}
		if name == "" || seen[n] {
			return
		}
		seen[n] = true
		g.needs[t] = append(g.needs[t], n)
		if g.users[n] == nil {
			g.users[n] = map[string]int{}
		}
		g.users[n][node]++
	})
}

func (g *Graph) volume(v *corev1.PersistentVolume) {
	ref := v.Spec.ClaimRef
	if ref == nil {
		return
	}
	vol := volume{claim: thing{claimThing, ref.Namespace, ref.Name}}
	eachVolumeSecret(&v.Spec.PersistentVolumeSource, ref.Namespace, func(namespace, name string) {
		if name == "" || namespace == "" {
			return
		}
		s := thing{secretThing, namespace, name}
		vol.secrets = append(vol.secrets, s)
		if g.mounts[s] == nil {
			g.mounts[s] = map[string]bool{}
		}
		g.mounts[s][v.Name] = true
	})
	g.volumes[v.Name] = vol
}

func (g *Graph) remove(t thing) {
	if t.resource == volumeThing {
		for _, s := range g.volumes[t.name].secrets {
			if delete(g.mounts[s], t.name); len(g.mounts[s]) == 0 {
				delete(g.mounts, s)
			}
		}
		delete(g.volumes, t.name)
		return
	}
	node := g.placed[t]
	for _, n := range g.needs[t] {
		users := g.users[n]
		if users[node]--; users[node] == 0 {
			delete(users, node)
		}
		if len(users) == 0 {
			delete(g.users, n)
		}
	}
	delete(g.needs, t)
	delete(g.placed, t)
}

// has reports whether an object belongs to a node.
func (g *Graph) has(node string, t thing) bool {
	g.mu.RLock()
	defer g.mu.RUnlock()
	switch t.resource {
	case podThing, attachmentThing, sliceThing, certificateThing:
		return node != "" && g.placed[t] == node
	case volumeThing:
		return g.users[g.volumes[t.name].claim][node] > 0
	}
	if g.users[t][node] > 0 {
		return true
	}
	if t.resource == secretThing {
		for name := range g.mounts[t] {
			if g.users[g.volumes[name].claim][node] > 0 {
				return true
			}
		}
	}
	return false
}
