package scheduler_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	v1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	volumehelpers "k8s.io/component-helpers/storage/volume"
	"k8s.io/utils/ptr"

	"github.com/keelson-io/keelson/orchestrator/scheduler"
	"github.com/keelson-io/keelson/orchestrator/scheduler/config"
)

// builtin runs a scheduler with the built-in plugins until the function that it returns is called.
func (w *world) builtin(t *testing.T) (stop func()) {
	c := config.Default()
	s, err := scheduler.New(scheduler.Config{
		Client: w.client, Informers: informers.NewSharedInformerFactory(w.client, 0), Configuration: c, Plugin: scheduler.Builtin(w.client, c),
	})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	return func() {
		cancel()
		require.NoError(t, <-done)
	}
}

func storageClass(name, provisioner string) *storagev1.StorageClass {
	return &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: name}, Provisioner: provisioner, VolumeBindingMode: ptr.To(storagev1.VolumeBindingWaitForFirstConsumer)}
}

func oneGi() v1.ResourceList { return v1.ResourceList{v1.ResourceStorage: resource.MustParse("1Gi")} }

func newClaim(name, class string) *v1.PersistentVolumeClaim {
	return &v1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID("uid-" + name)},
		Spec: v1.PersistentVolumeClaimSpec{
			StorageClassName: &class, AccessModes: []v1.PersistentVolumeAccessMode{v1.ReadWriteOnce}, Resources: v1.VolumeResourceRequirements{Requests: oneGi()},
		},
	}
}

// newVolume is a volume that is on a node.
func newVolume(name, class, node string) *v1.PersistentVolume {
	return &v1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID("uid-" + name)},
		Spec: v1.PersistentVolumeSpec{
			StorageClassName: class, AccessModes: []v1.PersistentVolumeAccessMode{v1.ReadWriteOnce}, Capacity: oneGi(),
			NodeAffinity: &v1.VolumeNodeAffinity{Required: &v1.NodeSelector{NodeSelectorTerms: []v1.NodeSelectorTerm{{
				MatchExpressions: []v1.NodeSelectorRequirement{{Key: v1.LabelHostname, Operator: v1.NodeSelectorOpIn, Values: []string{node}}},
			}}}},
		},
		Status: v1.PersistentVolumeStatus{Phase: v1.VolumeAvailable},
	}
}

func hostNode(name string) *v1.Node {
	n := newNode(name, "4")
	n.Labels = map[string]string{v1.LabelHostname: name}
	return n
}

func claiming(name string, claims ...string) *v1.Pod {
	p := newPod(name, "100m")
	for _, c := range claims {
		p.Spec.Volumes = append(p.Spec.Volumes, v1.Volume{Name: c, VolumeSource: v1.VolumeSource{PersistentVolumeClaim: &v1.PersistentVolumeClaimVolumeSource{ClaimName: c}}})
	}
	return p
}

func (w *world) claim(name string) *v1.PersistentVolumeClaim {
	c, err := w.client.CoreV1().PersistentVolumeClaims("default").Get(w.Context(), name, metav1.GetOptions{})
	require.NoError(w, err)
	return c.DeepCopy()
}

func (w *world) volume(name string) *v1.PersistentVolume {
	v, err := w.client.CoreV1().PersistentVolumes().Get(w.Context(), name, metav1.GetOptions{})
	require.NoError(w, err)
	return v.DeepCopy()
}

func (w *world) changeClaim(name string, change func(*v1.PersistentVolumeClaim)) {
	c := w.claim(name)
	change(c)
	_, err := w.client.CoreV1().PersistentVolumeClaims("default").Update(w.Context(), c, metav1.UpdateOptions{})
	require.NoError(w, err)
}

// bindTo does what the controller of volumes does.
func (w *world) bindTo(claim, volume string) {
	w.changeClaim(claim, func(c *v1.PersistentVolumeClaim) {
		c.Spec.VolumeName = volume
		metav1.SetMetaDataAnnotation(&c.ObjectMeta, volumehelpers.AnnBindCompleted, "yes")
		c.Status.Phase = v1.ClaimBound
	})
}

func TestStaticVolumes(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, hostNode("n1"), hostNode("n2"), storageClass("local", volumehelpers.NotSupportedProvisioner),
			newVolume("v1", "local", "n2"), newClaim("a", "local"), newClaim("b", "local"))
		stop := w.builtin(t)
		defer stop()
		w.create(claiming("p", "a"))
		settled(time.Second)
		require.Empty(t, w.pod("p").Spec.NodeName, "it waits for its claim")
		require.Equal(t, types.UID("uid-a"), w.volume("v1").Spec.ClaimRef.UID)
		w.create(claiming("q", "b"))
		settled(time.Second)
		require.Equal(t, "0/2 nodes are available: 2 node(s) didn't find available persistent volumes to bind. preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling.", condition(w.pod("q"), v1.PodScheduled).Message)
		w.bindTo("a", "v1")
		settled(time.Second)
		require.Equal(t, "n2", w.pod("p").Spec.NodeName)
		_, err := w.client.CoreV1().PersistentVolumes().Create(t.Context(), newVolume("v2", "local", "n1"), metav1.CreateOptions{})
		require.NoError(t, err)
		settled(time.Minute)
		require.Equal(t, types.UID("uid-b"), w.volume("v2").Spec.ClaimRef.UID, "a new volume is worth another try")
		w.bindTo("b", "v2")
		settled(time.Second)
		require.Equal(t, "n1", w.pod("q").Spec.NodeName)
	})
}

// TestProvisionedVolumes lets a provisioner make a volume, give up, make it in the wrong place, and be slow.
func TestProvisionedVolumes(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, hostNode("n1"), storageClass("made", "x.csi"), newClaim("a", "made"), newClaim("slow", "made"), newClaim("c", "made"))
		stop := w.builtin(t)
		defer func() { stop() }()
		w.create(claiming("p", "a"))
		settled(time.Second)
		require.Equal(t, "n1", w.claim("a").Annotations[volumehelpers.AnnSelectedNode])
		require.Empty(t, w.pod("p").Spec.NodeName)

		// it gave up, and is asked again
		w.changeClaim("a", func(c *v1.PersistentVolumeClaim) { delete(c.Annotations, volumehelpers.AnnSelectedNode) })
		settled(time.Second)
		require.Contains(t, condition(w.pod("p"), v1.PodScheduled).Message, `provisioning failed for PVC "a"`)
		settled(10 * time.Second)
		require.Equal(t, "n1", w.claim("a").Annotations[volumehelpers.AnnSelectedNode])

		// the scheduler starts again in the midst
		stop()
		stop = w.builtin(t)
		settled(time.Second)
		_, err := w.client.CoreV1().PersistentVolumes().Create(t.Context(), newVolume("made-a", "made", "n1"), metav1.CreateOptions{})
		require.NoError(t, err)
		w.bindTo("a", "made-a")
		settled(time.Second)
		require.Equal(t, "n1", w.pod("p").Spec.NodeName)

		// one that takes too long is waited for once more
		w.create(claiming("q", "slow"))
		settled(11 * time.Minute)
		require.Contains(t, condition(w.pod("q"), v1.PodScheduled).Message, `running PreBind plugin "VolumeBinding": binding volumes: context deadline exceeded`)
		_, err = w.client.CoreV1().PersistentVolumes().Create(t.Context(), newVolume("made-slow", "made", "n1"), metav1.CreateOptions{})
		require.NoError(t, err)
		w.bindTo("slow", "made-slow")
		settled(time.Minute)
		require.Equal(t, "n1", w.pod("q").Spec.NodeName)

		// a volume that is elsewhere is not taken for good
		w.create(claiming("r", "c"))
		settled(time.Second)
		_, err = w.client.CoreV1().PersistentVolumes().Create(t.Context(), newVolume("made-c", "made", "n7"), metav1.CreateOptions{})
		require.NoError(t, err)
		w.bindTo("c", "made-c")
		settled(time.Minute)
		require.Equal(t, "0/1 nodes are available: 1 node(s) had volume node affinity conflict. preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.", condition(w.pod("r"), v1.PodScheduled).Message)
		_, err = w.client.CoreV1().Nodes().Create(t.Context(), hostNode("n7"), metav1.CreateOptions{})
		require.NoError(t, err)
		settled(time.Minute)
		require.Equal(t, "n7", w.pod("r").Spec.NodeName)
	})
}

// TestWaitingForVolumesTakesNoTurn lets more pods wait for volumes than requests may be under way.
func TestWaitingForVolumesTakesNoTurn(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, hostNode("n1"), storageClass("made", "x.csi"))
		stop := w.builtin(t)
		defer stop()
		for i := range 70 {
			name := fmt.Sprint("c", i)
			_, err := w.client.CoreV1().PersistentVolumeClaims("default").Create(t.Context(), newClaim(name, "made"), metav1.CreateOptions{})
			require.NoError(t, err)
			p := claiming("p"+name, name)
			p.Spec.Containers[0].Resources.Requests = v1.ResourceList{v1.ResourceCPU: resource.MustParse("1m")}
			w.create(p)
		}
		settled(time.Second)
		require.Equal(t, "n1", w.claim("c69").Annotations[volumehelpers.AnnSelectedNode])
		w.create(newPod("plain", "1"))
		settled(time.Second)
		require.Equal(t, "n1", w.pod("plain").Spec.NodeName)
	})
}

// TestDeletedPodWaitsForNoVolume gives back what was held for a pod that was deleted.
func TestDeletedPodWaitsForNoVolume(t *testing.T) {
	bubble(t, func(t *testing.T) {
		small := hostNode("n1")
		small.Status.Allocatable[v1.ResourceCPU] = resource.MustParse("100m")
		w := newWorld(t, small, storageClass("made", "x.csi"), newClaim("a", "made"))
		stop := w.builtin(t)
		defer stop()
		w.create(claiming("p", "a"))
		settled(time.Second)
		w.create(newPod("next", "100m"))
		settled(time.Second)
		require.Empty(t, w.pod("next").Spec.NodeName)
		w.remove("p")
		settled(20 * time.Second)
		require.Equal(t, "n1", w.pod("next").Spec.NodeName)
	})
}

// TestPreemptionFreesAClaim has a pod give way that has a claim which one pod may use.
func TestPreemptionFreesAClaim(t *testing.T) {
	bubble(t, func(t *testing.T) {
		claim, volume := newClaim("once", "made"), newVolume("v", "made", "n1")
		claim.Spec.AccessModes = []v1.PersistentVolumeAccessMode{v1.ReadWriteOncePod}
		claim.Spec.VolumeName, claim.Status.Phase = "v", v1.ClaimBound
		claim.Annotations = map[string]string{volumehelpers.AnnBindCompleted: "yes"}
		volume.Spec.ClaimRef = &v1.ObjectReference{Namespace: "default", Name: "once", UID: claim.UID}
		low, high := claiming("low", "once"), claiming("high", "once")
		low.Spec.NodeName, high.Spec.Priority = "n1", ptr.To[int32](10)
		w := newWorld(t, hostNode("n1"), hostNode("n2"), storageClass("made", "x.csi"), claim, volume, low)
		stop := w.builtin(t)
		defer stop()
		w.create(claiming("equal", "once"))
		settled(time.Second)
		require.Contains(t, condition(w.pod("equal"), v1.PodScheduled).Message, "node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod access mode")
		w.create(high)
		settled(20 * time.Second)
		require.Equal(t, "n1", w.pod("high").Spec.NodeName)
		_, err := w.client.CoreV1().Pods("default").Get(t.Context(), "low", metav1.GetOptions{})
		require.True(t, apierrors.IsNotFound(err), "%v", err)
	})
}
