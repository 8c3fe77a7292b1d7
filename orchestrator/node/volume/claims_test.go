package volume

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
)

// bound is a claim and the volume that it is bound to.
func bound(name, size string, src corev1.PersistentVolumeSource, set ...func(*corev1.PersistentVolumeClaim, *corev1.PersistentVolume)) []runtime.Object {
	pvc := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, UID: types.UID("uid-" + name)},
		Spec: corev1.PersistentVolumeClaimSpec{VolumeName: "pv-" + name}, Status: corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimBound, Capacity: corev1.ResourceList{"storage": resource.MustParse(size)}}}
	pv := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "pv-" + name}, Spec: corev1.PersistentVolumeSpec{PersistentVolumeSource: src,
		Capacity: corev1.ResourceList{"storage": resource.MustParse(size)}, ClaimRef: &corev1.ObjectReference{UID: pvc.UID}}}
	for _, s := range set {
		s(pvc, pv)
	}
	return []runtime.Object{pvc, pv}
}

func fromClaim(name string) corev1.Volume {
	return volume("data", corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: name}})
}

func imageSource(path string) corev1.PersistentVolumeSource {
	return corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{Driver: HostPathDriver, VolumeHandle: "h", FSType: "ext4", VolumeAttributes: map[string]string{AttributePath: path}}}
}

// noLoops fails a test that leaves a loop device of its files.
func noLoops(t *testing.T, image string) {
	t.Helper()
	t.Cleanup(func() {
		eventually(t, "loop devices are detached", func() bool { l, err := loopsOf(image); return err == nil && len(l) == 0 })
	})
}

func TestProvisionedVolumes(t *testing.T) {
	f := newFixture(t)
	disk := filepath.Join(f.dir, "disk")
	noLoops(t, filepath.Join(disk, ImageName))
	for _, o := range bound("data", "64Mi", imageSource(disk)) {
		must(t, f.client.Tracker().Add(o))
	}
	one, two := podWith("one", fromClaim("data")), podWith("two", fromClaim("data"))
	one.Spec.SecurityContext = &corev1.PodSecurityContext{FSGroup: ptr.To[int64](4321)}
	must(t, f.Setup(context.Background(), one), f.Setup(context.Background(), two))
	path := f.path(t, one, "data")
	if path != f.path(t, two, "data") {
		t.Error("it is mounted twice")
	}
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil || st.Gid != 4321 {
		t.Errorf("group %d, %v", st.Gid, err)
	}
	must(t, os.WriteFile(filepath.Join(path, "kept"), []byte("data"), 0o644))
	// it fills up to its size, and not beyond
	full, err := os.Create(filepath.Join(path, "full"))
	must(t, err)
	written := 0
	for chunk := make([]byte, 1<<20); err == nil && written < 128; written++ {
		_, err = full.Write(chunk)
	}
	must(t, full.Close())
	if !errors.Is(err, unix.ENOSPC) || written < 40 || written > 64 {
		t.Errorf("%d MiB were written: %v", written, err)
	}
	if info, err := os.Stat(filepath.Join(disk, ImageName)); err != nil || info.Size() != 64<<20 {
		t.Errorf("the image: %v, %v", info, err)
	}
	if s, err := f.Stats(one.UID); err != nil || len(s) != 1 || s[0].Claim.Name != "data" || s[0].Capacity < 40<<20 || s[0].Capacity > 64<<20 || s[0].Ephemeral {
		t.Errorf("got %+v, %v", s, err)
	}
	must(t, f.Teardown(context.Background(), one.UID))
	if m, err := mounted(path); err != nil || m == nil {
		t.Errorf("another pod uses it: %v, %v", m, err)
	}
	f.open(t) // the agent restarts
	must(t, f.Setup(context.Background(), two), f.Teardown(context.Background(), two.UID))
	if m, err := mounted(path); err != nil || m != nil {
		t.Errorf("nobody uses it: %v, %v", m, err)
	}
	must(t, f.Setup(context.Background(), one))
	if got := read(t, filepath.Join(f.path(t, one, "data"), "kept")); got != "data" {
		t.Errorf("what was written: %q", got)
	}
	must(t, f.Teardown(context.Background(), one.UID))
	if left, _ := os.ReadDir(filepath.Join(f.cfg.Mounts, HostPathDriver)); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

// TestOneDevicePerImage mounts a volume again while something still holds the file system of the last time.
func TestOneDevicePerImage(t *testing.T) {
	f := newFixture(t)
	disk := filepath.Join(f.dir, "disk")
	image := filepath.Join(disk, ImageName)
	noLoops(t, image)
	for _, o := range bound("data", "16Mi", imageSource(disk)) {
		must(t, f.client.Tracker().Add(o))
	}
	pod := podWith("one", fromClaim("data"))
	ctx := context.Background()
	must(t, f.Setup(ctx, pod))
	path := f.path(t, pod, "data")
	busy, err := os.Create(filepath.Join(path, "busy"))
	must(t, err)
	if err := f.Teardown(ctx, pod.UID); !errors.Is(err, unix.EBUSY) {
		t.Errorf("a file is open: %v", err)
	}
	must(t, busy.Close())
	// as the mount namespace of a container that has not ended
	clone, err := unix.OpenTree(unix.AT_FDCWD, path, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	must(t, err)
	must(t, f.Teardown(ctx, pod.UID))
	before, err := loopsOf(image)
	must(t, err)
	again := podWith("two", fromClaim("data"))
	must(t, f.Setup(ctx, again))
	after, err := loopsOf(image)
	must(t, err)
	if len(before) != 1 || len(after) != 1 || before[0] != after[0] {
		t.Errorf("devices: %v, then %v", before, after)
	}
	must(t, os.WriteFile(filepath.Join(f.path(t, again, "data"), "new"), []byte("x"), 0o644))
	var st unix.Stat_t
	if err := unix.Fstatat(clone, "new", &st, 0); err != nil {
		t.Errorf("it is another file system: %v", err)
	}
	must(t, unix.Close(clone), f.Teardown(ctx, again.UID))
}

// mayGrowMounted says whether this machine lets file systems grow while they are mounted.
func mayGrowMounted(t *testing.T) bool {
	t.Helper()
	var head unix.CapUserHeader
	var data [2]unix.CapUserData
	head.Version = unix.LINUX_CAPABILITY_VERSION_3
	must(t, unix.Capget(&head, &data[0]))
	return data[0].Effective&(1<<unix.CAP_SYS_RESOURCE) != 0
}

func TestGrowth(t *testing.T) {
	f := newFixture(t)
	disk := filepath.Join(f.dir, "disk")
	noLoops(t, filepath.Join(disk, ImageName))
	for _, o := range bound("data", "32Mi", imageSource(disk)) {
		must(t, f.client.Tracker().Add(o))
	}
	ctx := context.Background()
	pod := podWith("one", fromClaim("data"))
	must(t, f.Setup(ctx, pod))
	must(t, os.WriteFile(filepath.Join(f.path(t, pod, "data"), "kept"), []byte("data"), 0o644))
	pv, err := f.client.CoreV1().PersistentVolumes().Get(ctx, "pv-data", metav1.GetOptions{})
	must(t, err)
	pv.Spec.Capacity["storage"] = resource.MustParse("96Mi")
	_, err = f.client.CoreV1().PersistentVolumes().Update(ctx, pv, metav1.UpdateOptions{})
	must(t, err)
	pvc, err := f.client.CoreV1().PersistentVolumeClaims("shop").Get(ctx, "data", metav1.GetOptions{})
	must(t, err)
	pvc.Status.Conditions = []corev1.PersistentVolumeClaimCondition{{Type: corev1.PersistentVolumeClaimFileSystemResizePending, Status: corev1.ConditionTrue}, {Type: "Other"}}
	_, err = f.client.CoreV1().PersistentVolumeClaims("shop").UpdateStatus(ctx, pvc, metav1.UpdateOptions{})
	must(t, err)
	capacity := func() int64 {
		s, err := f.Stats(pod.UID)
		must(t, err)
		return s[0].Capacity
	}
	f.stop() // what Run does when it is time is done here
	a := f.claims.active["pv-data"]
	a.checked = a.checked.Add(-sizePoll)
	f.claims.growOne(ctx, a)
	if mayGrowMounted(t) {
		if c := capacity(); c < 64<<20 {
			t.Errorf("capacity %d while it is mounted", c)
		}
	} else {
		if c := capacity(); c > 32<<20 {
			t.Errorf("capacity %d, though it may not grow while it is mounted", c)
		}
		select {
		case e := <-f.events.Events:
			if !strings.Contains(e, "VolumeResizeFailed") || !strings.Contains(e, ErrGrowOffline.Error()) {
				t.Errorf("got %q", e)
			}
		default:
			t.Error("the pod is not told")
		}
		if err := f.Teardown(ctx, pod.UID); err != nil {
			t.Fatal(err)
		}
		must(t, f.Setup(ctx, pod))
		if c := capacity(); c < 64<<20 {
			t.Errorf("capacity %d after it was mounted again", c)
		}
	}
	if got := read(t, filepath.Join(f.path(t, pod, "data"), "kept")); got != "data" {
		t.Errorf("what was written: %q", got)
	}
	pvc, err = f.client.CoreV1().PersistentVolumeClaims("shop").Get(ctx, "data", metav1.GetOptions{})
	must(t, err)
	if q := pvc.Status.Capacity["storage"]; q.String() != "96Mi" || len(pvc.Status.Conditions) != 1 {
		t.Errorf("the claim says %s, %v", q.String(), pvc.Status.Conditions)
	}
	must(t, f.Teardown(ctx, pod.UID))
}

func TestBlockVolumes(t *testing.T) {
	f := newFixture(t)
	disk := filepath.Join(f.dir, "disk")
	noLoops(t, filepath.Join(disk, ImageName))
	for _, o := range bound("data", "8Mi", imageSource(disk), func(_ *corev1.PersistentVolumeClaim, pv *corev1.PersistentVolume) {
		pv.Spec.VolumeMode = ptr.To(corev1.PersistentVolumeBlock)
	}) {
		must(t, f.client.Tracker().Add(o))
	}
	pod := podWith("one", fromClaim("data"))
	if err := f.Setup(context.Background(), pod); err == nil || !strings.Contains(err.Error(), "volume data has volumeMode Block, but is specified in volumeMounts") {
		t.Errorf("got %v", err)
	}
	must(t, f.Teardown(context.Background(), pod.UID))
	pod.Spec.Containers[0].VolumeMounts = nil
	pod.Spec.Containers[0].VolumeDevices = []corev1.VolumeDevice{{Name: "data", DevicePath: "/dev/xda"}}
	must(t, f.Setup(context.Background(), pod))
	devices, err := f.Devices(pod, &pod.Spec.Containers[0])
	must(t, err)
	if len(devices) != 1 || devices[0].ContainerPath != "/dev/xda" || devices[0].Permissions != "mrw" {
		t.Errorf("got %v", devices)
	}
	b, err := os.ReadFile(devices[0].HostPath)
	if err != nil || len(b) != 8<<20 {
		t.Errorf("%d bytes, %v", len(b), err)
	}
	f.stop()
	for _, want := range []bool{true, false} {
		r := f.claims.active["pv-data"].req
		r.Size = 12 << 20
		if grown, err := f.claims.growLocked(context.Background(), r); err != nil || grown != want {
			t.Errorf("it grew: %t, %v, want %t", grown, err, want)
		}
		if size, err := sizeOfDevice(devices[0].HostPath); err != nil || size != 12<<20 {
			t.Errorf("the device has %d bytes, %v", size, err)
		}
	}
	f.open(t)
	must(t, f.Setup(context.Background(), pod))
	if again, err := f.Devices(pod, &pod.Spec.Containers[0]); err != nil || again[0].HostPath != devices[0].HostPath {
		t.Errorf("after a restart: %v, %v", again, err)
	}
	must(t, f.Teardown(context.Background(), pod.UID))
}

func TestClaims(t *testing.T) {
	f := newFixture(t)
	dir := filepath.Join(f.dir, "local")
	must(t, os.Mkdir(dir, 0o755))
	local := corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{Path: dir}}
	host := corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: dir}}
	type claimSet = func(*corev1.PersistentVolumeClaim, *corev1.PersistentVolume)
	affinity := func(_ *corev1.PersistentVolumeClaim, pv *corev1.PersistentVolume) {
		pv.Spec.NodeAffinity = &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchExpressions: []corev1.NodeSelectorRequirement{{Key: "disk", Operator: corev1.NodeSelectorOpExists}}}}}}
	}
	for name, c := range map[string]struct {
		src corev1.PersistentVolumeSource
		set claimSet
		err string
	}{
		"local":   {src: local},
		"host":    {src: host},
		"missing": {src: corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{Path: dir + "/no"}}, err: "does not exist"},
		"other":   {src: corev1.PersistentVolumeSource{NFS: &corev1.NFSVolumeSource{}}, err: "no volume plugin matched"},
		"driver":  {src: corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{Driver: "x.y"}}, err: "driver name x.y not found in the list of registered CSI drivers"},
		"path":    {src: imageSource("rel"), err: "not an absolute path"},
		"ending": {src: local, set: func(c *corev1.PersistentVolumeClaim, _ *corev1.PersistentVolume) {
			c.DeletionTimestamp = ptr.To(metav1.Now())
		}, err: "error processing PVC shop/ending: PVC is being deleted"},
		"pending": {src: local, set: func(c *corev1.PersistentVolumeClaim, _ *corev1.PersistentVolume) {
			c.Status.Phase = corev1.ClaimPending
		}, err: "PVC is not bound"},
		"foreign": {src: local, set: func(_ *corev1.PersistentVolumeClaim, pv *corev1.PersistentVolume) { pv.Spec.ClaimRef.UID = "x" }, err: "does not point to claim.UID uid-foreign"},
		"far":     {src: local, set: affinity, err: "storage node affinity check failed"},
		"image":   {src: imageSource(dir + "/image"), set: affinity, err: `storage node affinity check failed for volume "pv-image" : no matching NodeSelectorTerms`},
	} {
		var sets []claimSet
		if c.set != nil {
			sets = append(sets, c.set)
		}
		for _, o := range bound(name, "1Mi", c.src, sets...) {
			must(t, f.client.Tracker().Add(o))
		}
		pod := podWith(name, fromClaim(name))
		err := f.Setup(context.Background(), pod)
		if (err == nil) != (c.err == "") || (err != nil && !strings.Contains(err.Error(), c.err)) {
			t.Errorf("%s: %v", name, err)
		}
		if err == nil && f.path(t, pod, "data") != dir {
			t.Errorf("%s: it is at %s", name, f.path(t, pod, "data"))
		}
		must(t, f.Teardown(context.Background(), pod.UID))
	}
	gone := podWith("gone", fromClaim("gone"))
	if err := f.Setup(context.Background(), gone); err == nil || !strings.Contains(err.Error(), "failed to fetch PVC from API server") {
		t.Errorf("got %v", err)
	}
	must(t, f.Teardown(context.Background(), gone.UID))
	if _, err := os.Stat(dir); err != nil {
		t.Error("the node's directory is gone")
	}
	if _, err := os.Stat(dir + "/image"); err == nil {
		t.Error("another node's volume was made here")
	}
}

func TestEphemeralClaims(t *testing.T) {
	f := newFixture(t)
	dir := filepath.Join(f.dir, "local")
	must(t, os.Mkdir(dir, 0o755))
	pod := podWith("web", volume("scratch", corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{VolumeClaimTemplate: &corev1.PersistentVolumeClaimTemplate{}}}))
	objects := bound("web-scratch", "1Mi", corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{Path: dir}})
	for _, o := range objects {
		must(t, f.client.Tracker().Add(o))
	}
	if err := f.Setup(context.Background(), pod); err == nil || !strings.Contains(err.Error(), "was not created for pod shop/web (pod is not owner)") {
		t.Errorf("got %v", err)
	}
	pvc := objects[0].(*corev1.PersistentVolumeClaim).DeepCopy()
	pvc.OwnerReferences = []metav1.OwnerReference{{Kind: "Pod", Name: pod.Name, UID: pod.UID, Controller: ptr.To(true)}}
	_, err := f.client.CoreV1().PersistentVolumeClaims("shop").Update(context.Background(), pvc, metav1.UpdateOptions{})
	must(t, err)
	f.setup(t, pod)
	if f.path(t, pod, "scratch") != dir {
		t.Errorf("it is at %s", f.path(t, pod, "scratch"))
	}
}
