package volume

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"google.golang.org/grpc"
)

func memory(size string) corev1.VolumeSource {
	src := &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory}
	if size != "" {
		src.SizeLimit = ptr.To(resource.MustParse(size))
	}
	return corev1.VolumeSource{EmptyDir: src}
}

func TestEmptyDirs(t *testing.T) {
	f := newFixture(t)
	pod := podWith("web", volume("disk", corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{SizeLimit: ptr.To(resource.MustParse("1Mi"))}}), volume("small", memory("1Mi")), volume("node", memory("")), volume("big", memory("1Ti")))
	f.setup(t, pod)
	for name, want := range map[string]uint64{"small": 1 << 20, "node": 64 << 20, "big": 64 << 20} {
		var st unix.Statfs_t
		if err := unix.Statfs(f.path(t, pod, name), &st); err != nil || st.Type != unix.TMPFS_MAGIC || st.Blocks*uint64(st.Bsize) != want {
			t.Errorf("%s: type %x, %d bytes, %v", name, st.Type, st.Blocks*uint64(st.Bsize), err)
		}
	}
	if err := os.WriteFile(filepath.Join(f.path(t, pod, "small"), "f"), make([]byte, 2<<20), 0o644); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("more than it holds: %v", err)
	}
	disk := f.path(t, pod, "disk")
	if info, err := os.Stat(disk); err != nil || info.Mode() != os.ModeDir|0o777 {
		t.Errorf("got %v, %v", info.Mode(), err)
	}
	must(t, os.WriteFile(filepath.Join(disk, "f"), make([]byte, 3<<20), 0o644), os.Link(filepath.Join(disk, "f"), filepath.Join(disk, "g")))
	stats, err := f.Stats(pod.UID)
	if err != nil || len(stats) != 4 {
		t.Fatalf("got %v, %v", stats, err)
	}
	if s := stats[1]; s.Name != "disk" || s.Used < 3<<20 || s.Used > 4<<20 || s.InodesUsed != 2 || !s.Ephemeral || s.Limit != 1<<20 || s.Capacity == 0 {
		t.Errorf("got %+v", s)
	}
	if s := stats[3]; s.Name != "small" || s.Capacity != 1<<20 || s.Ephemeral {
		t.Errorf("got %+v", s)
	}
	// an agent that starts again finds what there is, and does not touch it
	must(t, os.Chmod(filepath.Join(disk, "f"), 0o600))
	f.open(t)
	must(t, f.Setup(context.Background(), pod))
	if _, err := os.Stat(filepath.Join(disk, "f")); err != nil {
		t.Errorf("after a restart: %v", err)
	}
	below, err := mountsBelow(f.podDir(pod.UID))
	if err != nil || len(below) != 3 {
		t.Errorf("mounts: %v, %v", below, err)
	}
}

func TestPodMemoryBoundsVolumes(t *testing.T) {
	limits := func(s string) corev1.ResourceRequirements {
		return corev1.ResourceRequirements{Limits: corev1.ResourceList{"memory": resource.MustParse(s)}}
	}
	always := ptr.To(corev1.ContainerRestartPolicyAlways)
	for want, spec := range map[int64]corev1.PodSpec{
		0:        {Containers: []corev1.Container{{Resources: limits("1Mi")}, {}}},
		3 << 20:  {Containers: []corev1.Container{{Resources: limits("1Mi")}, {Resources: limits("2Mi")}}},
		9 << 20:  {Containers: []corev1.Container{{Resources: limits("1Mi")}}, InitContainers: []corev1.Container{{Resources: limits("9Mi")}}},
		10 << 20: {Containers: []corev1.Container{{Resources: limits("1Mi")}}, InitContainers: []corev1.Container{{Resources: limits("9Mi"), RestartPolicy: always}}},
		5 << 20:  {Containers: []corev1.Container{{}}, Resources: ptr.To(limits("5Mi"))},
	} {
		if got := podMemory(&corev1.Pod{Spec: spec}); got != want {
			t.Errorf("got %d, want %d", got, want)
		}
	}
}

func TestHugePages(t *testing.T) {
	f := newFixture(t)
	src := func(medium corev1.StorageMedium) corev1.Volume {
		return volume("huge", corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: medium}})
	}
	for _, c := range []struct {
		medium   corev1.StorageMedium
		requests []string
		err      string
	}{
		{"HugePages", nil, "there is no resource request for huge pages"},
		{"HugePages-2Mi", []string{"hugepages-1Gi"}, "there is no resource request for huge pages"},
		{"HugePages", []string{"hugepages-1Gi", "hugepages-2Mi"}, "multiple huge page sizes"},
		{"HugePages", []string{"hugepages-2Mi"}, ""},
		{"HugePages-2Mi", []string{"hugepages-2Mi"}, ""},
		{"Floppy", nil, `unknown storage medium "Floppy"`},
	} {
		pod := podWith("web", src(c.medium))
		pod.Spec.Containers[0].Resources.Requests = corev1.ResourceList{}
		for _, r := range c.requests {
			pod.Spec.Containers[0].Resources.Requests[corev1.ResourceName(r)] = resource.MustParse("2Mi")
		}
		err := f.Setup(context.Background(), pod)
		if (err == nil) != (c.err == "") || (err != nil && !strings.Contains(err.Error(), c.err)) {
			t.Errorf("%s with %v: %v", c.medium, c.requests, err)
		}
		if m, _ := mounted(f.volumeDir(pod.UID, "empty-dir", "huge")); (err == nil) != (m != nil && m.FSType == "hugetlbfs" && strings.Contains(m.VFSOptions, "pagesize=2M")) {
			t.Errorf("%s: mounted %+v", c.medium, m)
		}
		must(t, f.Teardown(context.Background(), pod.UID))
	}
}

func TestHostPaths(t *testing.T) {
	f := newFixture(t)
	at := func(name string) string { return filepath.Join(f.dir, name) }
	must(t, os.Mkdir(at("dir"), 0o755), os.WriteFile(at("file"), nil, 0o644))
	l, err := net.Listen("unix", at("sock"))
	must(t, err)
	defer l.Close()
	for _, c := range []struct {
		path string
		kind corev1.HostPathType
		err  string
	}{
		{at("dir"), "", ""}, {at("file"), "", ""}, {at("made1"), "", ""},
		{at("dir"), corev1.HostPathDirectory, ""}, {at("file"), corev1.HostPathDirectory, "is not a directory"}, {at("gone"), corev1.HostPathDirectory, "doesn't exist"},
		{at("x/y"), corev1.HostPathDirectoryOrCreate, ""}, {at("file"), corev1.HostPathDirectoryOrCreate, "is not a directory"},
		{at("file"), corev1.HostPathFile, ""}, {at("dir"), corev1.HostPathFile, "is not a file"}, {at("made2"), corev1.HostPathFileOrCreate, ""}, {at("no/such"), corev1.HostPathFileOrCreate, "no such file"},
		{at("sock"), corev1.HostPathSocket, ""}, {at("file"), corev1.HostPathSocket, "is not a socket file"},
		{"/dev/null", corev1.HostPathCharDev, ""}, {at("file"), corev1.HostPathCharDev, "is not a character device"}, {"/dev/null", corev1.HostPathBlockDev, "is not a block device"},
		{"/a/../b", "", "must not contain '..'"}, {at("dir"), "Odd", "Odd is an invalid volume type"},
	} {
		m, err := hostPath(&corev1.HostPathVolumeSource{Path: c.path, Type: &c.kind})
		if (err == nil) != (c.err == "") || (err != nil && !strings.Contains(err.Error(), c.err)) {
			t.Errorf("%s as %q: %v", c.path, c.kind, err)
		}
		if err == nil {
			if _, err := os.Stat(m.path); err != nil {
				t.Error(err)
			}
		}
	}
}

// TestTeardownSparesTheNode tears down while things of the node are mounted below the pod's directory.
func TestTeardownSparesTheNode(t *testing.T) {
	f := newFixture(t)
	data := filepath.Join(f.dir, "data")
	must(t, os.MkdirAll(filepath.Join(data, "deep"), 0o755), os.WriteFile(filepath.Join(data, "deep", "precious"), nil, 0o644))
	pod := podWith("web", volume("host", corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: data}}), volume("dir", corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}), volume("mem", memory("1Mi")))
	must(t, f.Setup(context.Background(), pod))
	pod.Spec.Containers[0].VolumeMounts[0].SubPath = "deep"
	mounts, err := f.Mounts(pod, &pod.Spec.Containers[0], nil)
	must(t, err)
	if read(t, filepath.Join(mounts[0].HostPath, "precious")) != "" || mounts[1].SelinuxRelabel != true {
		t.Errorf("got %v", mounts)
	}
	// a container with bidirectional propagation left mounts behind, one on the other
	inner := filepath.Join(f.path(t, pod, "dir"), "left")
	must(t, os.Mkdir(inner, 0o755), unix.Mount(data, inner, "", unix.MS_BIND, ""), unix.Mount(data, inner, "", unix.MS_BIND, ""))
	if err := removeTree(f.podDir(pod.UID)); err == nil || !strings.Contains(err.Error(), "is mounted") {
		t.Errorf("a directory with mounts was removed: %v", err)
	}
	busy, err := os.Open(f.path(t, pod, "mem"))
	must(t, err)
	defer busy.Close()
	others := filepath.Join(f.podDir(pod.UID), "etc-hosts")
	must(t, os.WriteFile(others, nil, 0o644))
	must(t, f.Teardown(context.Background(), pod.UID))
	for path, there := range map[string]bool{filepath.Join(data, "deep", "precious"): true, others: true, filepath.Join(f.podDir(pod.UID), "volumes"): false} {
		if _, err := os.Stat(path); (err == nil) != there {
			t.Errorf("%s: %v", path, err)
		}
	}
	must(t, f.Teardown(context.Background(), pod.UID), f.Remove(context.Background(), pod.UID))
	if _, err := os.Stat(f.podDir(pod.UID)); err == nil {
		t.Error("the pod's directory is left")
	}
	for _, uid := range []types.UID{"", ".", "..", "a/b"} {
		if err := f.Teardown(context.Background(), uid); err == nil {
			t.Errorf("%q: want an error", uid)
		}
	}
}

func TestOrphans(t *testing.T) {
	f := newFixture(t, configMap("settings", "k", "v"))
	lost, kept := podWith("lost", volume("mem", memory("1Mi")), volume("cm", fromConfigMap("settings", false))), podWith("kept", volume("mem", memory("1Mi")))
	f.setup(t, kept)
	must(t, f.Setup(context.Background(), lost))
	lost.Spec.Containers[0].VolumeMounts[1].SubPath = "k"
	_, err := f.Mounts(lost, &lost.Spec.Containers[0], nil)
	must(t, err)
	f.open(t) // nothing is known but what is on disk
	must(t, f.CleanOrphans(context.Background(), func(uid types.UID) bool { return uid == kept.UID }))
	if _, err := os.Stat(f.podDir(lost.UID)); err == nil {
		t.Error("the lost pod is left")
	}
	if below, _ := mountsBelow(f.cfg.Dir); len(below) != 1 {
		t.Errorf("mounts: %v", below)
	}
}

// registry is a runtime's image service.
type registry struct {
	runtimeapi.ImageServiceClient
	have  map[string]string
	auths []string
	fail  error
}

func (r *registry) ImageStatus(_ context.Context, in *runtimeapi.ImageStatusRequest, _ ...grpc.CallOption) (*runtimeapi.ImageStatusResponse, error) {
	if id, ok := r.have[in.Image.Image]; ok {
		return &runtimeapi.ImageStatusResponse{Image: &runtimeapi.Image{Id: id}}, nil
	}
	return &runtimeapi.ImageStatusResponse{}, nil
}

func (r *registry) PullImage(_ context.Context, in *runtimeapi.PullImageRequest, _ ...grpc.CallOption) (*runtimeapi.PullImageResponse, error) {
	r.auths = append(r.auths, in.Auth.GetUsername())
	if r.fail != nil || in.Auth.GetUsername() == "bad" {
		return nil, errors.Join(r.fail, errors.New("denied"))
	}
	return &runtimeapi.PullImageResponse{ImageRef: "sha256:pulled"}, nil
}

func TestImages(t *testing.T) {
	f := newFixture(t)
	images := &registry{have: map[string]string{"here:1": "sha256:here"}}
	f.open(t, func(c *Config) {
		c.Images = images
		c.Credentials = func(context.Context, *corev1.Pod, string) ([]*runtimeapi.AuthConfig, error) {
			return []*runtimeapi.AuthConfig{{Username: "bad"}, {Username: "good"}}, nil
		}
	})
	for _, c := range []struct {
		ref    string
		policy corev1.PullPolicy
		want   string
		err    string
		fail   error
	}{
		{ref: "here:1", policy: corev1.PullIfNotPresent, want: "sha256:here"}, {ref: "here:1", policy: corev1.PullNever, want: "sha256:here"}, {ref: "here:1", policy: corev1.PullAlways, want: "sha256:pulled"},
		{ref: "far:1", policy: corev1.PullIfNotPresent, want: "sha256:pulled"}, {ref: "far:1", policy: corev1.PullNever, err: `container image "far:1" is not present with pull policy of Never`},
		{ref: "far:1", fail: errors.New("no route"), err: `failed to pull image "far:1": no route`},
	} {
		images.fail = c.fail
		pod := podWith("web", volume("art", corev1.VolumeSource{Image: &corev1.ImageVolumeSource{Reference: c.ref, PullPolicy: c.policy}}))
		err := f.Setup(context.Background(), pod)
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%+v: %v", c, err)
			}
		} else {
			must(t, err)
			pod.Spec.Containers[0].VolumeMounts[0].SubPath = "models/small"
			m, err := f.Mounts(pod, &pod.Spec.Containers[0], nil)
			if err != nil || m[0].HostPath != "" || m[0].Image.GetImage() != c.want || m[0].ImageSubPath != "models/small" || !m[0].Readonly {
				t.Errorf("%+v: got %v, %v", c, m, err)
			}
		}
		must(t, f.Teardown(context.Background(), pod.UID))
	}
}

func TestMountOptions(t *testing.T) {
	f := newFixture(t)
	f.open(t, func(c *Config) {
		c.IDMappings = func(*corev1.Pod) (uids, gids []*runtimeapi.IDMapping) {
			return []*runtimeapi.IDMapping{{HostId: 65536, Length: 65536}}, []*runtimeapi.IDMapping{{HostId: 65536, Length: 65536}}
		}
	})
	pod := podWith("web", volume("dir", corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}))
	f.setup(t, pod)
	one := func(set func(*corev1.VolumeMount)) (*runtimeapi.Mount, error) {
		c := pod.Spec.Containers[0].DeepCopy()
		set(&c.VolumeMounts[0])
		m, err := f.Mounts(pod, c, nil)
		if err != nil {
			return nil, err
		}
		return m[0], nil
	}
	m, err := one(func(v *corev1.VolumeMount) {
		v.MountPath, v.MountPropagation = "rel", ptr.To(corev1.MountPropagationBidirectional)
		v.BindMountOptions = []string{"noexec"}
	})
	if err != nil || m.ContainerPath != "/rel" || m.Propagation != runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL || m.Readonly || m.MountOptions[0] != "noexec" || m.UidMappings != nil {
		t.Errorf("got %v, %v", m, err)
	}
	pod.Spec.HostUsers = ptr.To(false)
	m, err = one(func(v *corev1.VolumeMount) {
		v.ReadOnly, v.RecursiveReadOnly = true, ptr.To(corev1.RecursiveReadOnlyEnabled)
		v.MountPropagation = ptr.To(corev1.MountPropagationNone)
	})
	if err != nil || !m.Readonly || !m.RecursiveReadOnly || len(m.UidMappings) != 1 || m.GidMappings[0].HostId != 65536 {
		t.Errorf("got %v, %v", m, err)
	}
	for want, set := range map[string]func(*corev1.VolumeMount){
		"but it is not read-only": func(v *corev1.VolumeMount) { v.RecursiveReadOnly = ptr.To(corev1.RecursiveReadOnlyEnabled) },
		"not compatible with propagation": func(v *corev1.VolumeMount) {
			v.ReadOnly, v.RecursiveReadOnly, v.MountPropagation = true, ptr.To(corev1.RecursiveReadOnlyIfPossible), ptr.To(corev1.MountPropagationHostToContainer)
		},
		"invalid MountPropagation mode":                            func(v *corev1.VolumeMount) { v.MountPropagation = ptr.To(corev1.MountPropagationMode("Odd")) },
		`cannot find volume "gone" to mount into container "main"`: func(v *corev1.VolumeMount) { v.Name = "gone" },
	} {
		if _, err := one(set); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

// TestStatsDoNotWait: a pod whose volumes are being made, which may be a pull, holds up nobody who measures the node.
func TestStatsDoNotWait(t *testing.T) {
	f := newFixture(t)
	pod := podWith("web", volume("dir", corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}))
	f.setup(t, pod)
	busy := f.of(pod)
	busy.mu.Lock()
	done := make(chan error, 1)
	go func() {
		_, err := f.Stats(pod.UID)
		done <- err
	}()
	err := <-done
	busy.mu.Unlock()
	if err == nil || !strings.Contains(err.Error(), "being made") {
		t.Errorf("got %v", err)
	}
	if s, err := f.ClaimStats(pod.UID); err != nil || len(s) != 0 {
		t.Errorf("got %v, %v: it has no claims", s, err)
	}
	if s, err := f.Stats(pod.UID); err != nil || len(s) != 1 {
		t.Errorf("got %v, %v", s, err)
	}
}
