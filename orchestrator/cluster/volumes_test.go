package cluster_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	volumehelpers "k8s.io/component-helpers/storage/volume"
	"k8s.io/utils/ptr"

	"github.com/keelson-io/keelson/orchestrator/cluster"
	"github.com/keelson-io/keelson/orchestrator/cluster/clustertest"
)

// storageUser makes claims and pods in a namespace.
type storageUser struct {
	*testing.T
	kubernetes.Interface
	ns string
}

func (u *storageUser) claims(class, name string) *corev1.PersistentVolumeClaim {
	c := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PersistentVolumeClaimSpec{
		AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
		Resources:   corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}},
	}}
	if class != "" {
		c.Spec.StorageClassName = &class
	}
	c, err := u.CoreV1().PersistentVolumeClaims(u.ns).Create(u.Context(), c, metav1.CreateOptions{})
	require.NoError(u, err)
	return c
}

func (u *storageUser) claim(name string) *corev1.PersistentVolumeClaim {
	c, err := u.CoreV1().PersistentVolumeClaims(u.ns).Get(u.Context(), name, metav1.GetOptions{})
	require.NoError(u, err)
	return c
}

func (u *storageUser) runs(name string, v corev1.VolumeSource, change ...func(*corev1.PodSpec)) {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PodSpec{
		Containers: []corev1.Container{{Name: "c", Image: "c"}}, Volumes: []corev1.Volume{{Name: "data", VolumeSource: v}},
	}}
	for _, f := range change {
		f(&p.Spec)
	}
	_, err := u.CoreV1().Pods(u.ns).Create(u.Context(), p, metav1.CreateOptions{})
	require.NoError(u, err)
}

func (u *storageUser) pod(name string) *corev1.Pod {
	p, err := u.CoreV1().Pods(u.ns).Get(u.Context(), name, metav1.GetOptions{})
	require.NoError(u, err)
	return p
}

func (u *storageUser) eventually(f func() bool, what string) {
	u.Helper()
	require.Eventually(u, f, time.Minute, 10*time.Millisecond, what)
}

// placed waits for a pod's node, and for a volume of a claim that is on it.
func (u *storageUser) placed(pod, claim string) string {
	u.Helper()
	u.eventually(func() bool { return u.pod(pod).Spec.NodeName != "" }, pod+" gets a node")
	node, err := u.CoreV1().Nodes().Get(u.Context(), u.pod(pod).Spec.NodeName, metav1.GetOptions{})
	require.NoError(u, err)
	c := u.claim(claim)
	require.NotEmpty(u, c.Spec.VolumeName, "it is bound before the pod is")
	u.eventually(func() bool { return u.claim(claim).Status.Phase == corev1.ClaimBound }, "the phase says so, in a write that follows")
	v, err := u.CoreV1().PersistentVolumes().Get(u.Context(), c.Spec.VolumeName, metav1.GetOptions{})
	require.NoError(u, err)
	require.NotNil(u, v.Spec.NodeAffinity)
	require.NoError(u, volumehelpers.CheckNodeAffinity(v, node.Labels))
	return node.Name
}

// says waits until a pod is told why it is not placed.
func (u *storageUser) says(pod, message string) {
	u.Helper()
	u.eventually(func() bool {
		return slices.ContainsFunc(u.pod(pod).Status.Conditions, func(c corev1.PodCondition) bool {
			return c.Type == corev1.PodScheduled && c.Reason == corev1.PodReasonUnschedulable && c.Message == message
		})
	}, message)
}

func ofClaim(name string) corev1.VolumeSource {
	return corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: name}}
}

// TestVolumes has pods with claims placed: with volumes of the default class, which are made on the node that was chosen.
func TestVolumes(t *testing.T) {
	c := clustertest.Start(t, clustertest.HollowNodes(3))
	u := &storageUser{T: t, Interface: c.Client(t, nil), ns: c.Namespace(t)}
	const helpless = " preemption: 0/3 nodes are available: 3 Preemption is not helpful for scheduling."
	u.runs("first", ofClaim("data"))
	u.says("first", `0/3 nodes are available: persistentvolumeclaim "data" not found.`+helpless)
	require.Equal(t, "standard", *u.claims("", "data").Spec.StorageClassName)
	node := u.placed("first", "data")
	require.Equal(t, node, u.claim("data").Annotations[volumehelpers.AnnSelectedNode])

	// another pod of the claim goes to the same node, or nowhere
	u.runs("second", ofClaim("data"))
	require.Equal(t, node, u.placed("second", "data"))
	u.runs("third", ofClaim("data"), func(s *corev1.PodSpec) {
		s.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{
			NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchExpressions: []corev1.NodeSelectorRequirement{{Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpNotIn, Values: []string{node}}}}},
		}}}
	})
	u.says("third", "0/3 nodes are available: 1 node(s) didn't match Pod's node affinity/selector, 2 node(s) had volume node affinity conflict."+helpless)

	why, err := cluster.ExplainPod(t.Context(), c.Config, nil, u.ns, "third")
	require.NoError(t, err)
	conflicts := 0
	for _, n := range why.Nodes {
		for _, r := range n.Rejections {
			if r.String() == "VolumeBinding: node(s) had volume node affinity conflict" {
				conflicts++
			}
		}
	}
	require.Equal(t, 2, conflicts, "%v", why)

	// a claim that is made for the pod
	u.runs("scratch", corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{VolumeClaimTemplate: &corev1.PersistentVolumeClaimTemplate{Spec: corev1.PersistentVolumeClaimSpec{
		AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOncePod},
		Resources:   corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}},
	}}}})
	u.placed("scratch", "scratch-data")
	u.runs("thief", ofClaim("scratch-data"))
	u.eventually(func() bool {
		return len(u.pod("thief").Status.Conditions) > 0 && u.pod("thief").Status.Conditions[0].Reason == corev1.PodReasonUnschedulable
	}, "one pod only")

	// one that somebody else should bind, and nobody does
	_, err = u.StorageV1().StorageClasses().Create(t.Context(), &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: "now"}, Provisioner: "nobody.example.com"}, metav1.CreateOptions{})
	require.NoError(t, err)
	u.claims("now", "now")
	u.runs("now", ofClaim("now"))
	u.says("now", "0/3 nodes are available: pod has unbound immediate PersistentVolumeClaims."+helpless)
}

// TestVolumesAfterRestart stops everything while a pod waits for its volume, and starts it again: the volume is made by somebody
// else, on the node that was selected before.
func TestVolumesAfterRestart(t *testing.T) {
	dir := t.TempDir()
	c := clustertest.Start(t, clustertest.DataDir(dir))
	u := &storageUser{T: t, Interface: c.Client(t, nil), ns: c.Namespace(t)}
	_, err := u.StorageV1().StorageClasses().Create(t.Context(), &storagev1.StorageClass{
		ObjectMeta: metav1.ObjectMeta{Name: "slow"}, Provisioner: "slow.example.com", VolumeBindingMode: ptr.To(storagev1.VolumeBindingWaitForFirstConsumer),
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	u.claims("slow", "data")
	u.runs("p", ofClaim("data"))
	u.eventually(func() bool { return volumehelpers.IsDelayBindingProvisioning(u.claim("data")) }, "a node is selected")
	selected := u.claim("data").Annotations[volumehelpers.AnnSelectedNode]
	require.Empty(t, u.pod("p").Spec.NodeName)
	c.Stop()

	c = clustertest.Start(t, clustertest.DataDir(dir))
	u.Interface = c.Client(t, nil)
	node, err := u.CoreV1().Nodes().Get(t.Context(), selected, metav1.GetOptions{})
	require.NoError(t, err)
	claim := u.claim("data")
	_, err = u.CoreV1().PersistentVolumes().Create(t.Context(), &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: "made-" + string(claim.UID)},
		Spec: corev1.PersistentVolumeSpec{
			Capacity: claim.Spec.Resources.Requests, AccessModes: claim.Spec.AccessModes, StorageClassName: "slow",
			ClaimRef:               &corev1.ObjectReference{Kind: "PersistentVolumeClaim", APIVersion: "v1", Namespace: claim.Namespace, Name: claim.Name, UID: claim.UID},
			PersistentVolumeSource: corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{Driver: "slow.example.com", VolumeHandle: "x"}},
			NodeAffinity: &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
				MatchExpressions: []corev1.NodeSelectorRequirement{{Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: []string{node.Labels[corev1.LabelHostname]}}},
			}}}},
		},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	require.Equal(t, selected, u.placed("p", "data"), fmt.Sprint(claim.Annotations))
}
