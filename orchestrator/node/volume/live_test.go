package volume_test

import (
	"context"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/utils/ptr"

	"github.com/keelson-io/keelson/internal/testkit"
	"github.com/keelson-io/keelson/orchestrator/cluster/clustertest"
	"github.com/keelson-io/keelson/orchestrator/node/volume"
)

// TestWithAServer makes volumes as a node is allowed to by a real API server: objects read and watched by name, a token of the
// pod's account, a claim, and the growth of its volume told.
func TestWithAServer(t *testing.T) {
	testkit.Root(t)
	dir := t.TempDir()
	testkit.NoLeaks(t, dir)
	c := clustertest.Start(t, clustertest.HollowNodes(0))
	admin, ns := c.Client(t, nil), c.Namespace(t)
	asNode := c.Client(t, func(rc *rest.Config) {
		rc.Impersonate = rest.ImpersonationConfig{UserName: "system:node:n1", Groups: []string{"system:nodes", "system:authenticated"}}
	})
	ctx := t.Context()
	_, err := admin.CoreV1().Nodes().Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}}, metav1.CreateOptions{})
	require.NoError(t, err)
	settings, err := admin.CoreV1().ConfigMaps(ns).Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "settings"}, Data: map[string]string{"k": "1"}}, metav1.CreateOptions{})
	require.NoError(t, err)
	login, err := admin.CoreV1().Secrets(ns).Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "login"}, Data: map[string][]byte{"k": []byte("1")}}, metav1.CreateOptions{})
	require.NoError(t, err)
	size := func(s string) corev1.ResourceList { return corev1.ResourceList{"storage": resource.MustParse(s)} }
	pv, err := admin.CoreV1().PersistentVolumes().Create(ctx, &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: ns}, Spec: corev1.PersistentVolumeSpec{
		Capacity: size("16Mi"), AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, StorageClassName: "manual",
		PersistentVolumeSource: corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{
			Driver: volume.HostPathDriver, VolumeHandle: ns, FSType: "ext4", VolumeAttributes: map[string]string{volume.AttributePath: filepath.Join(dir, "disk")},
		}},
	}}, metav1.CreateOptions{})
	require.NoError(t, err)
	pvc, err := admin.CoreV1().PersistentVolumeClaims(ns).Create(ctx, &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: "data"}, Spec: corev1.PersistentVolumeClaimSpec{
		AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, StorageClassName: ptr.To("manual"), VolumeName: pv.Name, Resources: corev1.VolumeResourceRequirements{Requests: size("16Mi")},
	}}, metav1.CreateOptions{})
	require.NoError(t, err)
	// bound by hand, in case no controller does it
	pv.Spec.ClaimRef = &corev1.ObjectReference{Kind: "PersistentVolumeClaim", APIVersion: "v1", Namespace: ns, Name: "data", UID: pvc.UID}
	_, _ = admin.CoreV1().PersistentVolumes().Update(ctx, pv, metav1.UpdateOptions{})
	require.Eventually(t, func() bool {
		pvc, err = admin.CoreV1().PersistentVolumeClaims(ns).Get(ctx, "data", metav1.GetOptions{})
		require.NoError(t, err)
		if pvc.Status.Phase != corev1.ClaimBound {
			pvc.Status.Phase, pvc.Status.Capacity = corev1.ClaimBound, size("8Mi")
			_, err = admin.CoreV1().PersistentVolumeClaims(ns).UpdateStatus(ctx, pvc, metav1.UpdateOptions{})
		}
		return err == nil && pvc.Status.Phase == corev1.ClaimBound
	}, time.Minute, 50*time.Millisecond)
	pod, err := admin.CoreV1().Pods(ns).Create(ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "web"}, Spec: corev1.PodSpec{
		NodeName: "n1", Containers: []corev1.Container{{Name: "main", Image: "x"}},
		Volumes: []corev1.Volume{
			{Name: "cm", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "settings"}}}},
			{Name: "sec", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "login"}}},
			{Name: "opt", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "later"}, Optional: ptr.To(true)}}},
			{Name: "data", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "data"}}},
		},
	}}, metav1.CreateOptions{})
	require.NoError(t, err)

	v, err := volume.New(volume.Config{Dir: filepath.Join(dir, "pods"), Client: asNode})
	require.NoError(t, err)
	run, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = v.Run(run) })
	t.Cleanup(func() {
		require.NoError(t, v.Teardown(context.Background(), pod.UID))
		cancel()
		wg.Wait()
	})
	require.Eventually(t, func() bool { // the authorizer sees the pod a little later, and the token's root certificates come
		err = v.Setup(ctx, pod)
		return err == nil
	}, time.Minute, 100*time.Millisecond, "%v", err)

	content := func(volume, file string) string {
		path, err := v.Path(pod, volume)
		require.NoError(t, err)
		b, _ := os.ReadFile(filepath.Join(path, file))
		return string(b)
	}
	sees := func(volume, file, want string) {
		t.Helper()
		require.Eventually(t, func() bool { return content(volume, file) == want }, time.Minute, 20*time.Millisecond, "%s/%s", volume, file)
	}
	sees("cm", "k", "1")
	sees("sec", "k", "1")
	settings.Data["k"], login.Data["k"] = "2", []byte("2")
	_, err = admin.CoreV1().ConfigMaps(ns).Update(ctx, settings, metav1.UpdateOptions{})
	require.NoError(t, err)
	_, err = admin.CoreV1().Secrets(ns).Update(ctx, login, metav1.UpdateOptions{})
	require.NoError(t, err)
	_, err = admin.CoreV1().ConfigMaps(ns).Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "later"}, Data: map[string]string{"k": "new"}}, metav1.CreateOptions{})
	require.NoError(t, err)
	sees("cm", "k", "2")
	sees("sec", "k", "2")
	sees("opt", "k", "new")
	var token string
	for _, vol := range pod.Spec.Volumes {
		if vol.Projected != nil {
			token = content(vol.Name, "token")
			require.Contains(t, content(vol.Name, "ca.crt"), "BEGIN CERTIFICATE")
			require.Equal(t, ns, content(vol.Name, "namespace"))
		}
	}
	asPod := c.Client(t, func(rc *rest.Config) {
		rc.CertData, rc.KeyData, rc.CertFile, rc.KeyFile, rc.BearerToken = nil, nil, "", "", token
	})
	_, err = asPod.Discovery().ServerVersion()
	require.NoError(t, err, "the pod's token")
	pvc, err = admin.CoreV1().PersistentVolumeClaims(ns).Get(ctx, "data", metav1.GetOptions{})
	require.NoError(t, err)
	require.Equal(t, "16Mi", pvc.Status.Capacity.Storage().String())
}
