//go:build linux

package credentials

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/keelson-io/keelson/orchestrator/cluster/nodetest"
)

func bundles() behaviours {
	alive := &metav1.LabelSelector{MatchLabels: map[string]string{"signer.alive": "true"}}
	nothing := &metav1.LabelSelector{MatchLabels: map[string]string{"signer.alive": "unknown"}}
	return behaviours{
		"should be able to mount a single ClusterTrustBundle by name":                                                                                                     bundleByName,
		"should be able to specify multiple CTB volumes":                                                                                                                  bundleVolumes,
		"should be able to mount a big number (>100) of CTBs":                                                                                                             manyBundles,
		"should be capable to mount multiple trust bundles by signer+labels can combine multiple CTBs with signer name and label selector":                                selected(alive, nil, "alive-1", "alive-2"),
		"should be capable to mount multiple trust bundles by signer+labels can combine all signer CTBs with an empty label selector":                                     selected(&metav1.LabelSelector{}, nil, "alive-1", "alive-2", "dead"),
		"should be capable to mount multiple trust bundles by signer+labels should start if only signer name and nil label selector + optional=true":                      selected(nil, ptr.To(true)),
		"should be capable to mount multiple trust bundles by signer+labels should start if only signer name and explicit label selector matches nothing + optional=true": selected(nothing, ptr.To(true)),
		"should prevent a pod from starting if: sets optional=false and no trust bundle matches query": prevented(func(ns string) *corev1.ClusterTrustBundleProjection {
			return &corev1.ClusterTrustBundleProjection{SignerName: ptr.To(signer(ns)), LabelSelector: nothing}
		}),
		"should prevent a pod from starting if: sets optional=false and the configured CTB does not exist": prevented(func(string) *corev1.ClusterTrustBundleProjection {
			return &corev1.ClusterTrustBundleProjection{Name: ptr.To("does-not-exist")}
		}),
	}
}

// signer is the signer of a test.
func signer(ns string) string { return "test.test/" + ns }

// bundle makes a trust bundle with the certificate of a new authority, which is returned. Without a signer it is anybody's.
func bundle(t *testing.T, name, signer string, labels map[string]string) string {
	t.Helper()
	cert := newAuthority(t, name).pem()
	publish(t, name, signer, cert, labels)
	return cert
}

// publish makes a trust bundle.
func publish(t *testing.T, name, signer, certs string, labels map[string]string) {
	t.Helper()
	if signer != "" {
		name = strings.ReplaceAll(signer, "/", ":") + ":" + name
	}
	all := cluster.Client.CertificatesV1().ClusterTrustBundles()
	_, err := all.Create(t.Context(), &certificatesv1.ClusterTrustBundle{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}, Spec: certificatesv1.ClusterTrustBundleSpec{SignerName: signer, TrustBundle: certs},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
}

// trusted makes some bundles of the test's signer, and one of another: certificates by the names of the bundles.
func trusted(t *testing.T, ns string) map[string]string {
	t.Helper()
	all := map[string]string{}
	for name, alive := range map[string]string{"alive-1": "true", "alive-2": "true", "dead": "false"} {
		all[name] = bundle(t, name, signer(ns), map[string]string{"signer.alive": alive})
	}
	bundle(t, "another", signer(ns)+"-2", map[string]string{"signer.alive": "true"})
	return all
}

// projected is the source of a file.
func projected(p corev1.ClusterTrustBundleProjection, path string) corev1.VolumeProjection {
	p.Path = path
	return corev1.VolumeProjection{ClusterTrustBundle: &p}
}

func bundleByName(t *testing.T, ns string) {
	want := bundle(t, ns+"-anybody", "", nil)
	log := cluster.Run(t, ns, projecting([]corev1.VolumeProjection{
		projected(corev1.ClusterTrustBundleProjection{Name: ptr.To(ns + "-anybody")}, "some.pem"),
		projected(corev1.ClusterTrustBundleProjection{Name: ptr.To("does-not-exist"), Optional: ptr.To(true)}, "none.pem"),
	}, "sh", "-c", "cat /credentials/some.pem /credentials/none.pem; stat /credentials/..data/some.pem"))
	require.Equal(t, []string{want}, chain(log))
	require.Contains(t, log, "-rw-r--r-- 0644 0 0 ")
}

func selected(by *metav1.LabelSelector, optional *bool, want ...string) func(t *testing.T, ns string) {
	return func(t *testing.T, ns string) {
		all := trusted(t, ns)
		log := cluster.Run(t, ns, projecting([]corev1.VolumeProjection{
			projected(corev1.ClusterTrustBundleProjection{SignerName: ptr.To(signer(ns)), LabelSelector: by, Optional: optional}, "bundle.pem"),
		}, "cat", "/credentials/bundle.pem"))
		var certs []string
		for _, name := range want {
			certs = append(certs, all[name])
		}
		require.ElementsMatch(t, certs, chain(log))
	}
}

func prevented(by func(ns string) *corev1.ClusterTrustBundleProjection) func(t *testing.T, ns string) {
	return func(t *testing.T, ns string) {
		p := by(ns)
		p.Optional = ptr.To(false)
		cluster.Create(t, ns, projecting([]corev1.VolumeProjection{projected(*p, "bundle.pem")}, "sleep"))
		nodetest.Until(t, "it is told why the pod does not start", func() (bool, any) {
			events, err := cluster.Client.CoreV1().Events(ns).List(t.Context(), metav1.ListOptions{FieldSelector: "reason=FailedMount"})
			require.NoError(t, err)
			return len(events.Items) > 0, events
		})
		got := cluster.Await(t, ns, "app", "waits", func(p *corev1.Pod) bool { return len(p.Status.ContainerStatuses) > 0 })
		require.Equal(t, corev1.PodPending, got.Status.Phase)
		require.NotNil(t, got.Status.ContainerStatuses[0].State.Waiting)
	}
}

func bundleVolumes(t *testing.T, ns string) {
	all := trusted(t, ns)
	anybody := bundle(t, ns+"-anybody", "", nil)
	pod := projecting([]corev1.VolumeProjection{projected(corev1.ClusterTrustBundleProjection{Name: ptr.To(ns + "-anybody")}, "some.pem")}, "cat", "/credentials/some.pem")
	other := projecting([]corev1.VolumeProjection{projected(corev1.ClusterTrustBundleProjection{
		SignerName: ptr.To(signer(ns)), LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"signer.alive": "false"}},
	}, "dead.pem")}, "cat", "/credentials/dead.pem")
	other.Spec.Volumes[0].Name, other.Spec.Containers[0].Name, other.Spec.Containers[0].VolumeMounts[0].Name = "second", "second", "second"
	pod.Spec.Volumes = append(pod.Spec.Volumes, other.Spec.Volumes...)
	pod.Spec.Containers = append(pod.Spec.Containers, other.Spec.Containers...)
	require.Equal(t, []string{anybody}, chain(cluster.Run(t, ns, pod)))
	require.Equal(t, []string{all["dead"]}, chain(cluster.Log(t, ns, "app", "second")))
}

// manyBundles mounts many of them in the three ways there are: a volume with many files, many volumes, one file.
func manyBundles(t *testing.T, ns string) {
	const n = 120
	var want []string
	var sources []corev1.VolumeProjection
	for i := range n {
		name := fmt.Sprintf("number-%d", i)
		want = append(want, bundle(t, name, signer(ns), nil))
		sources = append(sources, projected(corev1.ClusterTrustBundleProjection{Name: ptr.To(strings.ReplaceAll(signer(ns), "/", ":") + ":" + name)}, name+".pem"))
	}
	joined := projected(corev1.ClusterTrustBundleProjection{SignerName: ptr.To(signer(ns)), LabelSelector: &metav1.LabelSelector{}}, "all.pem")
	log := cluster.Run(t, ns, projecting(append(sources, joined), "cat", "/credentials/number-7.pem", "/credentials/all.pem"))
	require.Equal(t, want[7], chain(log)[0])
	require.ElementsMatch(t, want, chain(log)[1:])

	pod := nodetest.Pod("volumes", "cat", "/credentials/7/number-7.pem", "/credentials/119/number-119.pem")
	for i := range n {
		name := fmt.Sprintf("volume-%d", i)
		pod.Spec.Volumes = append(pod.Spec.Volumes, corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: sources[i : i+1]}}})
		pod.Spec.Containers[0].VolumeMounts = append(pod.Spec.Containers[0].VolumeMounts, corev1.VolumeMount{Name: name, MountPath: fmt.Sprintf("/credentials/%d", i)})
	}
	require.Equal(t, []string{want[7], want[119]}, chain(cluster.Run(t, ns, pod)))
}
