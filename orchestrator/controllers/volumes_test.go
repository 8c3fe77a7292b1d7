package controllers

import (
	"fmt"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	volumehelpers "k8s.io/component-helpers/storage/volume"
	"k8s.io/utils/ptr"
)

func claim(name, size string, change func(c *corev1.PersistentVolumeClaim)) *corev1.PersistentVolumeClaim {
	c := &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: "claim-1"},
		Spec: corev1.PersistentVolumeClaimSpec{
			AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, StorageClassName: ptr.To(""),
			Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(size)}},
		},
	}
	if change != nil {
		change(c)
	}
	return c
}

func volume(name, size string, change func(p *corev1.PersistentVolume)) *corev1.PersistentVolume {
	p := &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: name, ResourceVersion: "1"},
		Spec: corev1.PersistentVolumeSpec{
			Capacity: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(size)}, AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			PersistentVolumeReclaimPolicy: corev1.PersistentVolumeReclaimRetain,
			PersistentVolumeSource:        corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/" + name}},
		},
	}
	if change != nil {
		change(p)
	}
	return p
}

func storageClass(name string, mode storagev1.VolumeBindingMode, provisioner string) *storagev1.StorageClass {
	return &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: name}, Provisioner: provisioner, VolumeBindingMode: &mode, AllowVolumeExpansion: ptr.To(true)}
}

func startVolumes(t *testing.T, objects ...runtime.Object) *world {
	w := newWorld(t, objects...)
	c, err := NewPersistentVolume(w.client, w.factory, w.events, nil)
	require.NoError(t, err)
	w.run(c)
	return w
}

func (w *world) claim(name string) *corev1.PersistentVolumeClaim {
	c, err := w.client.CoreV1().PersistentVolumeClaims("ns").Get(w.ctx, name, metav1.GetOptions{})
	require.NoError(w.t, err)
	return c
}

// claimIs waits until a claim has a phase and a volume.
func (w *world) claimIs(name string, phase corev1.PersistentVolumeClaimPhase, volume string) {
	w.t.Helper()
	eventually(w.t, func() error {
		if c := w.claim(name); c.Status.Phase != phase || c.Spec.VolumeName != volume {
			return fmt.Errorf("%s %q", c.Status.Phase, c.Spec.VolumeName)
		}
		return nil
	})
}

// volumeIs waits until a volume has a phase, "" if it is gone.
func (w *world) volumeIs(name string, phase corev1.PersistentVolumePhase) {
	w.t.Helper()
	eventually(w.t, func() error {
		p, err := w.client.CoreV1().PersistentVolumes().Get(w.ctx, name, metav1.GetOptions{})
		switch {
		case phase == "" && err == nil:
			return fmt.Errorf("%s is there", name)
		case phase == "":
			return nil
		case err != nil:
			return err
		case p.Status.Phase != phase:
			return fmt.Errorf("%s is %s", name, p.Status.Phase)
		}
		return nil
	})
}

func TestVolumesBind(t *testing.T) {
	w := startVolumes(t, volume("small", "1Gi", nil), volume("large", "10Gi", nil), volume("fits", "5Gi", nil), claim("c", "2Gi", nil))
	w.claimIs("c", corev1.ClaimBound, "fits")
	w.volumeIs("fits", corev1.VolumeBound)
	w.volumeIs("large", corev1.VolumeAvailable)
	c := w.claim("c")
	require.Equal(t, "yes", c.Annotations[volumehelpers.AnnBindCompleted])
	require.Equal(t, "5Gi", c.Status.Capacity.Storage().String())

	// A volume without its claim is released, and nobody gets it.
	require.NoError(t, w.client.CoreV1().PersistentVolumeClaims("ns").Delete(w.ctx, "c", metav1.DeleteOptions{}))
	w.volumeIs("fits", corev1.VolumeReleased)
	_, err := w.client.CoreV1().PersistentVolumeClaims("ns").Create(w.ctx, claim("d", "2Gi", nil), metav1.CreateOptions{})
	require.NoError(t, err)
	w.claimIs("d", corev1.ClaimBound, "large")
	require.NoError(t, w.client.CoreV1().PersistentVolumes().Delete(w.ctx, "large", metav1.DeleteOptions{}))
	w.claimIs("d", corev1.ClaimLost, "large")
}

func TestVolumesBoundByUsers(t *testing.T) {
	for name, c := range map[string]struct {
		volume func(p *corev1.PersistentVolume)
		claim  func(c *corev1.PersistentVolumeClaim)
		phase  corev1.PersistentVolumeClaimPhase
		of     string
	}{
		"the claim names it": {nil, func(c *corev1.PersistentVolumeClaim) { c.Spec.VolumeName = "v" }, corev1.ClaimBound, "v"},
		"the volume names it": {func(p *corev1.PersistentVolume) {
			p.Spec.ClaimRef = &corev1.ObjectReference{Namespace: "ns", Name: "c"}
		}, nil, corev1.ClaimBound, "v"},
		"the volume is for another": {func(p *corev1.PersistentVolume) {
			p.Spec.ClaimRef = &corev1.ObjectReference{Namespace: "ns", Name: "x"}
		}, nil, corev1.ClaimPending, ""},
		"another class": {func(p *corev1.PersistentVolume) { p.Spec.StorageClassName = "x" }, nil, corev1.ClaimPending, ""},
		"another mode":  {func(p *corev1.PersistentVolume) { p.Spec.AccessModes[0] = corev1.ReadWriteMany }, nil, corev1.ClaimPending, ""},
		"labels": {func(p *corev1.PersistentVolume) { p.Labels = map[string]string{"a": "b"} }, func(c *corev1.PersistentVolumeClaim) {
			c.Spec.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"a": "b"}}
		}, corev1.ClaimBound, "v"},
		"other labels": {nil, func(c *corev1.PersistentVolumeClaim) {
			c.Spec.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"a": "b"}}
		}, corev1.ClaimPending, ""},
	} {
		t.Run(name, func(t *testing.T) {
			startVolumes(t, volume("v", "1Gi", c.volume), claim("c", "1Gi", c.claim)).claimIs("c", c.phase, c.of)
		})
	}
}

func TestVolumesAreMade(t *testing.T) {
	host := func(name string) *corev1.Node {
		return machine(name, map[string]string{corev1.LabelHostname: name + ".host"})
	}
	class := func(c *corev1.PersistentVolumeClaim) { c.Spec.StorageClassName = ptr.To("standard") }
	w := startVolumes(t, host("a"), host("b"), storageClass("standard", storagev1.VolumeBindingWaitForFirstConsumer, HostPathProvisioner), claim("c", "1Gi", class))
	w.claimIs("c", corev1.ClaimPending, "")
	eventually(t, func() error { // the scheduler has chosen
		c := w.claim("c").DeepCopy()
		c.Annotations = map[string]string{volumehelpers.AnnSelectedNode: "b"}
		_, err := w.client.CoreV1().PersistentVolumeClaims("ns").Update(w.ctx, c, metav1.UpdateOptions{})
		return err
	})
	w.claimIs("c", corev1.ClaimBound, "pvc-claim-1")
	p, err := w.client.CoreV1().PersistentVolumes().Get(w.ctx, "pvc-claim-1", metav1.GetOptions{})
	require.NoError(t, err)
	require.Equal(t, "b.host", hostOf(p))
	require.Contains(t, p.Finalizers, nodeVolumeFinalizer)

	// It grows with its claim, and goes with it.
	eventually(t, func() error {
		c := w.claim("c").DeepCopy()
		c.Spec.Resources.Requests[corev1.ResourceStorage] = resource.MustParse("3Gi")
		_, err := w.client.CoreV1().PersistentVolumeClaims("ns").Update(w.ctx, c, metav1.UpdateOptions{})
		return err
	})
	eventually(t, func() error {
		p, err := w.client.CoreV1().PersistentVolumes().Get(w.ctx, "pvc-claim-1", metav1.GetOptions{})
		if err == nil && (p.Spec.Capacity.Storage().String() != "3Gi" || len(w.claim("c").Status.Conditions) != 1) {
			return fmt.Errorf("%v %v", p.Spec.Capacity, w.claim("c").Status)
		}
		return err
	})
	require.NoError(t, w.client.CoreV1().PersistentVolumeClaims("ns").Delete(w.ctx, "c", metav1.DeleteOptions{}))
	w.volumeIs("pvc-claim-1", "")
}

// TestVolumesCannotBeMadeThere gives the choice of a node back that is gone, or that volumes cannot be told to be on.
func TestVolumesCannotBeMadeThere(t *testing.T) {
	on := func(node string) func(c *corev1.PersistentVolumeClaim) {
		return func(c *corev1.PersistentVolumeClaim) {
			c.Spec.StorageClassName, c.Annotations = ptr.To("standard"), map[string]string{volumehelpers.AnnSelectedNode: node}
			c.UID = types.UID("on-" + node)
		}
	}
	w := startVolumes(t, machine("a", map[string]string{corev1.LabelHostname: "a"}), machine("nameless", nil),
		storageClass("standard", storagev1.VolumeBindingWaitForFirstConsumer, HostPathProvisioner),
		claim("gone", "1Gi", on("gone")), claim("nameless", "1Gi", on("nameless")))
	for _, name := range []string{"gone", "nameless"} {
		eventually(t, func() error {
			if c := w.claim(name); volumehelpers.IsDelayBindingProvisioning(c) || c.Status.Phase == corev1.ClaimBound {
				return fmt.Errorf("%v %v", c.Annotations, c.Status)
			}
			return nil
		})
	}
}

// TestVolumesWithoutAPod makes the volume of a claim that waits for no pod on a node that its class allows.
func TestVolumesWithoutAPod(t *testing.T) {
	class := storageClass("near", storagev1.VolumeBindingImmediate, HostPathProvisioner)
	class.AllowedTopologies = []corev1.TopologySelectorTerm{{MatchLabelExpressions: []corev1.TopologySelectorLabelRequirement{{Key: "zone", Values: []string{"b", "c"}}}}}
	host := func(name, zone string) *corev1.Node {
		return machine(name, map[string]string{corev1.LabelHostname: name, "zone": zone})
	}
	w := startVolumes(t, host("n1", "a"), host("n2", "b"), machine("n0", map[string]string{corev1.LabelHostname: "n0"}), class,
		claim("c", "1Gi", func(c *corev1.PersistentVolumeClaim) { c.Spec.StorageClassName = ptr.To("near") }))
	w.claimIs("c", corev1.ClaimBound, "pvc-claim-1")
	p, err := w.client.CoreV1().PersistentVolumes().Get(w.ctx, "pvc-claim-1", metav1.GetOptions{})
	require.NoError(t, err)
	require.Equal(t, "n2", hostOf(p))
}

func TestVolumesOfOthers(t *testing.T) {
	w := startVolumes(t, storageClass("fast", storagev1.VolumeBindingImmediate, "csi.example"), claim("c", "1Gi", func(c *corev1.PersistentVolumeClaim) { c.Spec.StorageClassName = ptr.To("fast") }))
	eventually(t, func() error {
		if a := w.claim("c").Annotations; a[volumehelpers.AnnStorageProvisioner] != "csi.example" {
			return fmt.Errorf("%v", a)
		}
		return nil
	})
}

// TestVolumesInUse keeps a deleted claim until its pod has ended.
func TestVolumesInUse(t *testing.T) {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p"}, Spec: corev1.PodSpec{NodeName: "n", Volumes: []corev1.Volume{
		{Name: "v", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "used"}}},
	}}}
	w := newWorld(t, pod, claim("used", "1Gi", func(c *corev1.PersistentVolumeClaim) {
		c.DeletionTimestamp, c.Finalizers = ptr.To(metav1.Now()), []string{claimProtection}
	}),
		claim("free", "1Gi", func(c *corev1.PersistentVolumeClaim) {
			c.DeletionTimestamp, c.Finalizers = ptr.To(metav1.Now()), []string{claimProtection}
		}),
		claim("new", "1Gi", nil), volume("v", "1Gi", nil))
	c, err := NewVolumeProtection(w.client, w.factory, nil)
	require.NoError(t, err)
	w.run(c)
	finalizers := func(name string, want ...string) {
		t.Helper()
		eventually(t, func() error {
			if got := w.claim(name).Finalizers; !slices.Equal(got, want) {
				return fmt.Errorf("%s has %v", name, got)
			}
			return nil
		})
	}
	finalizers("free")
	finalizers("new", claimProtection)
	finalizers("used", claimProtection)
	pod = pod.DeepCopy()
	pod.Status.Phase = corev1.PodSucceeded
	_, err = w.client.CoreV1().Pods("ns").UpdateStatus(w.ctx, pod, metav1.UpdateOptions{})
	require.NoError(t, err)
	finalizers("used")
}

func TestEphemeralVolume(t *testing.T) {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p", UID: "p"}, Spec: corev1.PodSpec{Volumes: []corev1.Volume{
		{Name: "v", VolumeSource: corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{VolumeClaimTemplate: &corev1.PersistentVolumeClaimTemplate{Spec: claim("", "1Gi", nil).Spec}}}},
	}}}
	w := newWorld(t, pod)
	c, err := NewEphemeralVolume(w.client, w.factory, w.events, nil)
	require.NoError(t, err)
	w.run(c)
	eventually(t, func() error {
		c, err := w.client.CoreV1().PersistentVolumeClaims("ns").Get(w.ctx, "p-v", metav1.GetOptions{})
		if err == nil && !metav1.IsControlledBy(c, pod) {
			return fmt.Errorf("%v", c.OwnerReferences)
		}
		return err
	})
}
