package volume

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	authenticationv1 "k8s.io/api/authentication/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/utils/ptr"

	"github.com/keelson-io/keelson/internal/clock"
)

func TestFilesOfObjects(t *testing.T) {
	cm := configMap("settings", "colour", "red", "size", "9")
	cm.BinaryData = map[string][]byte{"blob": {0, 1}}
	f := newFixture(t, cm, secret("login", "password", "s3cret"))
	pod := podWith("web",
		volume("all", fromConfigMap("settings", false)),
		volume("some", fromConfigMap("settings", false, corev1.KeyToPath{Key: "colour", Path: "a/b/colour", Mode: ptr.To[int32](0o400)}, corev1.KeyToPath{Key: "size", Path: "a/size"})),
		volume("secret", fromSecret("login", false)),
		volume("none", fromConfigMap("gone", true)),
		volume("nokey", fromSecret("login", true, corev1.KeyToPath{Key: "gone", Path: "x"}, corev1.KeyToPath{Key: "password", Path: "pw"})),
		volume("down", corev1.VolumeSource{DownwardAPI: &corev1.DownwardAPIVolumeSource{DefaultMode: ptr.To[int32](0o440), Items: []corev1.DownwardAPIVolumeFile{
			{Path: "labels", FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.labels"}},
			{Path: "cpu", ResourceFieldRef: &corev1.ResourceFieldSelector{ContainerName: "main", Resource: "limits.cpu"}},
		}}}),
		volume("mix", corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{DefaultMode: ptr.To[int32](0o444), Sources: []corev1.VolumeProjection{
			{ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: corev1.LocalObjectReference{Name: "settings"}, Items: []corev1.KeyToPath{{Key: "colour", Path: "cfg/colour"}}}},
			{Secret: &corev1.SecretProjection{LocalObjectReference: corev1.LocalObjectReference{Name: "login"}, Items: []corev1.KeyToPath{{Key: "password", Path: "cfg/password"}}}},
			{DownwardAPI: &corev1.DownwardAPIProjection{Items: []corev1.DownwardAPIVolumeFile{{Path: "name", FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.name"}}}}},
		}}}),
	)
	f.setup(t, pod)
	for volume, want := range map[string]string{
		"all":    "blob -rw-r--r-- \x00\x01\ncolour -rw-r--r-- red\nsize -rw-r--r-- 9",
		"some":   "a/b/colour -r-------- red\na/size -rw-r--r-- 9",
		"secret": "password -rw-r--r-- s3cret",
		"none":   "",
		"nokey":  "pw -rw-r--r-- s3cret",
		"down":   "cpu -r--r----- 2\nlabels -r--r----- app=\"web\"",
		"mix":    "cfg/colour -r--r--r-- red\ncfg/password -r--r--r-- s3cret\nname -r--r--r-- web",
	} {
		if got := listing(t, f.path(t, pod, volume)); got != want {
			t.Errorf("%s: got %q, want %q", volume, got, want)
		}
		m, err := mounted(f.path(t, pod, volume))
		if err != nil {
			t.Fatal(err)
		}
		onDisk := volume == "all" || volume == "some" || volume == "none"
		if onDisk != (m == nil) {
			t.Errorf("%s: mounted: %v", volume, m)
		}
	}
	mounts, err := f.Mounts(pod, &pod.Spec.Containers[0], nil)
	if err != nil || len(mounts) != 7 || !mounts[0].Readonly || mounts[0].ContainerPath != "/all" {
		t.Errorf("got %v, %v", mounts, err)
	}
}

func TestMissingObjects(t *testing.T) {
	f := newFixture(t, configMap("settings"), secret("login"))
	for _, c := range []struct {
		src  corev1.VolumeSource
		want string
	}{
		{fromConfigMap("y", false), `configmap "y" not found`},
		{fromSecret("y", false), `secret "y" not found`},
		{fromConfigMap("settings", false, corev1.KeyToPath{Key: "k", Path: "k"}), "configmap references non-existent config key: k"},
		{fromSecret("login", false, corev1.KeyToPath{Key: "k", Path: "k"}), "references non-existent secret key: k"},
		{corev1.VolumeSource{NFS: &corev1.NFSVolumeSource{}}, "no volume plugin matched"},
		{corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
			{ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: corev1.LocalObjectReference{Name: "a"}}}, {Secret: &corev1.SecretProjection{LocalObjectReference: corev1.LocalObjectReference{Name: "b"}}},
		}}}, `[configmap "a" not found, secret "b" not found]`},
		{fromConfigMap("settings", false, corev1.KeyToPath{Key: "k", Path: "k"}), "configmap references non-existent config key: k"},
	} {
		pod := podWith("web", volume("x", c.src))
		err := f.Setup(context.Background(), pod)
		var setup *SetupError
		if !errors.As(err, &setup) || len(setup.Errs) != 1 || setup.Errs[0].Error() != `MountVolume.SetUp failed for volume "x" : `+c.want {
			t.Errorf("got %v, want %s", err, c.want)
		}
		if err := f.Teardown(context.Background(), pod.UID); err != nil {
			t.Error(err)
		}
	}
}

// TestSetupGoesOn makes what was missing when it is there.
func TestSetupGoesOn(t *testing.T) {
	f := newFixture(t, configMap("here", "k", "v"))
	pod := podWith("web", volume("a", fromConfigMap("here", false)), volume("b", fromConfigMap("late", false)))
	f.tearLater(t, pod)
	if err := f.Setup(context.Background(), pod); err == nil {
		t.Fatal("want an error")
	}
	if _, err := f.client.CoreV1().ConfigMaps("shop").Create(context.Background(), configMap("late", "x", "y"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	f.setup(t, pod)
	if got := listing(t, f.path(t, pod, "b")); got != "x -rw-r--r-- y" {
		t.Errorf("got %q", got)
	}
}

func TestEditsArrive(t *testing.T) {
	frozen := configMap("frozen", "k", "1")
	frozen.Immutable = ptr.To(true)
	f := newFixture(t, configMap("settings", "k", "1"), secret("login", "k", "1"), frozen)
	pod := podWith("web", volume("cm", fromConfigMap("settings", false)), volume("sec", fromSecret("login", false)), volume("opt", fromConfigMap("later", true)), volume("frozen", fromConfigMap("frozen", false)))
	f.setup(t, pod)
	ctx := context.Background()
	// the watches must be there before the edits: the fake API does not replay
	eventually(t, "watches", func() bool {
		f.sources.mu.Lock()
		defer f.sources.mu.Unlock()
		for _, s := range f.sources.objects {
			if !s.synced {
				return false
			}
		}
		return len(f.sources.objects) == 4
	})
	see := func(volume, want string) {
		t.Helper()
		eventually(t, volume+" is "+want, func() bool { return listing(t, f.path(t, pod, volume)) == want })
	}
	edit := configMap("settings", "k", "2", "new", "n")
	edit.ResourceVersion = "2"
	if _, err := f.client.CoreV1().ConfigMaps("shop").Update(ctx, edit, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	see("cm", "k -rw-r--r-- 2\nnew -rw-r--r-- n")
	other := secret("login", "k", "2")
	other.ResourceVersion = "2"
	if _, err := f.client.CoreV1().Secrets("shop").Update(ctx, other, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	see("sec", "k -rw-r--r-- 2")
	if _, err := f.client.CoreV1().ConfigMaps("shop").Create(ctx, configMap("later", "a", "b"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	see("opt", "a -rw-r--r-- b")
	if err := f.client.CoreV1().ConfigMaps("shop").Delete(ctx, "later", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	see("opt", "")
	pod = pod.DeepCopy()
	if err := f.Teardown(ctx, pod.UID); err != nil {
		t.Fatal(err)
	}
	f.sources.mu.Lock()
	defer f.sources.mu.Unlock()
	if len(f.sources.objects) != 0 {
		t.Errorf("watches are left: %v", f.sources.objects)
	}
	for _, a := range f.client.Actions() {
		if w, ok := a.(clienttesting.WatchAction); ok && strings.Contains(fmt.Sprint(w.GetWatchRestrictions().Fields), "frozen") {
			t.Error("an immutable object is watched")
		}
	}
}

func TestDownwardFollowsThePod(t *testing.T) {
	f := newFixture(t)
	pod := podWith("web", volume("down", corev1.VolumeSource{DownwardAPI: &corev1.DownwardAPIVolumeSource{Items: []corev1.DownwardAPIVolumeFile{{Path: "app", FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.labels['app']"}}}}}))
	f.setup(t, pod)
	newer := pod.DeepCopy()
	newer.Labels["app"] = "shop"
	if err := f.Setup(context.Background(), newer); err != nil {
		t.Fatal(err)
	}
	if got := listing(t, f.path(t, pod, "down")); got != "app -rw-r--r-- shop" {
		t.Errorf("got %q", got)
	}
}

func TestOwners(t *testing.T) {
	f := newFixture(t, configMap("settings", "k", "v"))
	pod := podWith("web", volume("cm", fromConfigMap("settings", false, corev1.KeyToPath{Key: "k", Path: "d/k", Mode: ptr.To[int32](0o400)})), volume("dir", corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}))
	pod.Spec.SecurityContext = &corev1.PodSecurityContext{FSGroup: ptr.To[int64](4321)}
	f.setup(t, pod)
	for path, mode := range map[string]uint32{
		filepath.Join(f.path(t, pod, "cm"), "d"):   unix.S_IFDIR | unix.S_ISGID | 0o755,
		filepath.Join(f.path(t, pod, "cm"), "d/k"): unix.S_IFREG | 0o440,
		f.path(t, pod, "dir"):                      unix.S_IFDIR | unix.S_ISGID | 0o777,
	} {
		var st unix.Stat_t
		if err := unix.Stat(path, &st); err != nil || st.Gid != 4321 || st.Mode != mode {
			t.Errorf("%s: group %d, mode %o (%v), want %o", path, st.Gid, st.Mode, err, mode)
		}
	}
}

// fakeTime is a clock that a test sets.
type fakeTime struct {
	clock.Clock
	now func() time.Time
}

func (f fakeTime) Now() time.Time { return f.now() }

func TestTokens(t *testing.T) {
	f := newFixture(t)
	now := time.Now()
	asked := 0
	var fail error
	f.client.PrependReactor("create", "serviceaccounts", func(a clienttesting.Action) (bool, runtime.Object, error) {
		if a.GetSubresource() != "token" {
			return false, nil, nil
		}
		req := a.(clienttesting.CreateAction).GetObject().(*authenticationv1.TokenRequest)
		if fail != nil {
			return true, nil, fail
		}
		asked++
		ref := req.Spec.BoundObjectRef
		req.Status.Token = fmt.Sprintf("token %d of %s for %v %s %s", asked, a.(clienttesting.CreateActionImpl).Name, req.Spec.Audiences, ref.Kind, ref.UID)
		req.Status.ExpirationTimestamp = metav1.NewTime(now.Add(time.Duration(*req.Spec.ExpirationSeconds) * time.Second))
		return true, req, nil
	})
	f.open(t, func(c *Config) { c.Clock = fakeTime{clock.Real, func() time.Time { return now }} })
	pod := podWith("web", volume("token", corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
		{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token", Audience: "bank", ExpirationSeconds: ptr.To[int64](1000)}},
	}}}))
	pod.Spec.SecurityContext = &corev1.PodSecurityContext{RunAsUser: ptr.To[int64](77)}
	f.stop() // what Run does when it is time is done here
	f.setup(t, pod)
	see := func(n int) {
		t.Helper()
		want := fmt.Sprintf("token -rw------- token %d of robot for [bank] Pod uid-web", n)
		if got := listing(t, f.path(t, pod, "token")); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	see(1)
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(f.path(t, pod, "token"), "token"), &st); err != nil || st.Uid != 77 {
		t.Errorf("owner %d, %v", st.Uid, err)
	}
	p := f.known(pod.UID)
	renew := func(at time.Duration) {
		now = now.Add(at)
		f.renew(context.Background(), pod.UID)
	}
	p.mu.Lock()
	if got := p.renew.Sub(now); got != 800*time.Second {
		t.Errorf("renewed after %v", got)
	}
	p.mu.Unlock()
	renew(799 * time.Second)
	see(1)
	renew(2 * time.Second)
	see(2)
	fail = errors.New("the API server is away")
	renew(900 * time.Second)
	see(2) // it is good for another while
	fail = nil
	renew(20 * time.Second)
	see(3)
}

func TestTrustBundles(t *testing.T) {
	const a, b = "-----BEGIN CERTIFICATE-----\nQQ==\n-----END CERTIFICATE-----\n", "-----BEGIN CERTIFICATE-----\nQg==\n-----END CERTIFICATE-----\n"
	bundle := func(name, signer, team, text string) *certificatesv1.ClusterTrustBundle {
		return &certificatesv1.ClusterTrustBundle{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"team": team}}, Spec: certificatesv1.ClusterTrustBundleSpec{SignerName: signer, TrustBundle: text}}
	}
	f := newFixture(t, bundle("one", "", "x", "noise\n"+b+a+b), bundle("s:1", "ex.com/s", "x", a), bundle("s:2", "ex.com/s", "y", b+a), bundle("t:1", "ex.com/t", "x", b))
	project := func(src corev1.ClusterTrustBundleProjection) (string, error) {
		src.Path = "ca.pem"
		pod := podWith("web", volume("ca", corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{{ClusterTrustBundle: &src}}}}))
		defer func() {
			if err := f.Teardown(context.Background(), pod.UID); err != nil {
				t.Error(err)
			}
		}()
		if err := f.Setup(context.Background(), pod); err != nil {
			return "", err
		}
		text, err := os.ReadFile(filepath.Join(f.path(t, pod, "ca"), "ca.pem"))
		return string(text), err
	}
	for _, c := range []struct {
		src  corev1.ClusterTrustBundleProjection
		want string
		err  string
	}{
		{corev1.ClusterTrustBundleProjection{Name: ptr.To("one")}, a + b, ""},
		{corev1.ClusterTrustBundleProjection{Name: ptr.To("gone")}, "", "not found"},
		{corev1.ClusterTrustBundleProjection{Name: ptr.To("gone"), Optional: ptr.To(true)}, "", ""},
		{corev1.ClusterTrustBundleProjection{SignerName: ptr.To("ex.com/s"), LabelSelector: &metav1.LabelSelector{}}, a + b, ""},
		{corev1.ClusterTrustBundleProjection{SignerName: ptr.To("ex.com/s"), LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"team": "x"}}}, a, ""},
		{corev1.ClusterTrustBundleProjection{SignerName: ptr.To("ex.com/s")}, "", "matched zero ClusterTrustBundles"},
	} {
		got, err := project(c.src)
		if got != c.want || (err == nil) != (c.err == "") || (err != nil && !strings.Contains(err.Error(), c.err)) {
			t.Errorf("%+v: got %q, %v", c.src, got, err)
		}
	}
}

func TestPodCertificates(t *testing.T) {
	f := newFixture(t, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "robot", UID: "sa"}})
	f.client.PrependReactor("create", "podcertificaterequests", func(a clienttesting.Action) (bool, runtime.Object, error) {
		req := a.(clienttesting.CreateAction).GetObject().(*certificatesv1.PodCertificateRequest)
		req = req.DeepCopy()
		kind := certificatesv1.PodCertificateRequestConditionTypeIssued
		if req.Spec.SignerName == "ex.com/no" {
			kind = certificatesv1.PodCertificateRequestConditionTypeDenied
		}
		req.Status = certificatesv1.PodCertificateRequestStatus{
			Conditions: []metav1.Condition{{Type: kind, Status: metav1.ConditionTrue, Reason: "Because", Message: "so"}}, CertificateChain: "CHAIN for " + string(req.Spec.PodUID) + "\n",
			BeginRefreshAt: ptr.To(metav1.NewTime(time.Now().Add(time.Hour))), NotAfter: ptr.To(metav1.NewTime(time.Now().Add(2 * time.Hour))),
		}
		return true, req, nil
	})
	src := func(signer string) corev1.Volume {
		return volume("cert", corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{{PodCertificate: &corev1.PodCertificateProjection{
			SignerName: signer, KeyType: "ECDSAP256", CredentialBundlePath: "bundle.pem", CertificateChainPath: "chain.pem",
		}}}}})
	}
	pod := podWith("web", src("ex.com/yes"))
	f.setup(t, pod)
	got := listing(t, f.path(t, pod, "cert"))
	if !strings.HasPrefix(got, "bundle.pem -rw-r--r-- -----BEGIN PRIVATE KEY-----\n") || !strings.Contains(got, "-----END PRIVATE KEY-----\nCHAIN for uid-web\n\nchain.pem -rw-r--r-- CHAIN for uid-web\n") {
		t.Errorf("got %q", got)
	}
	denied := podWith("denied", src("ex.com/no"))
	f.tearLater(t, denied)
	if err := f.Setup(context.Background(), denied); err == nil || !strings.Contains(err.Error(), "is denied: Because: so") {
		t.Errorf("got %v", err)
	}
}
