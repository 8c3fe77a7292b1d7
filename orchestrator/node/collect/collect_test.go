package collect

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// disk is a node's images, which take all of its file system of 1000 bytes that is used.
type disk struct {
	images     []*runtimeapi.Image
	containers []*runtimeapi.Container
	pods       []*corev1.Pod
	others     int64 // what else is used
	lazy       bool  // what is removed is freed later
	lag        int64
	refuses    string // the ID of an image that cannot be removed
	gone       []string
	warnings   []string
	dead       int
}

func (d *disk) ListImages(context.Context, *runtimeapi.ListImagesRequest, ...grpc.CallOption) (*runtimeapi.ListImagesResponse, error) {
	return &runtimeapi.ListImagesResponse{Images: slices.Clone(d.images)}, nil
}

func (d *disk) ListContainers(context.Context, *runtimeapi.ListContainersRequest, ...grpc.CallOption) (*runtimeapi.ListContainersResponse, error) {
	return &runtimeapi.ListContainersResponse{Containers: d.containers}, nil
}

func (d *disk) RemoveImage(_ context.Context, in *runtimeapi.RemoveImageRequest, _ ...grpc.CallOption) (*runtimeapi.RemoveImageResponse, error) {
	id := in.Image.Image
	if id == d.refuses {
		return nil, errors.New("it does not want to")
	}
	d.gone = append(d.gone, id)
	d.images = slices.DeleteFunc(d.images, func(i *runtimeapi.Image) bool {
		if i.Id == id && d.lazy {
			d.lag += int64(i.Size)
		}
		return i.Id == id
	})
	return &runtimeapi.RemoveImageResponse{}, nil
}

func (d *disk) available() int64 {
	n := 1000 - d.others - d.lag
	for _, i := range d.images {
		n -= int64(i.Size)
	}
	return n
}

func (d *disk) add(id string, size uint64, names ...string) *runtimeapi.Image {
	i := &runtimeapi.Image{Id: id, Size: size, RepoTags: names}
	d.images = append(d.images, i)
	return i
}

func on(t *testing.T, d *disk, p Policy, f func(*Collector)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		c, err := New(Config{
			Images: d, Containers: d, Policy: p, Pods: func() []*corev1.Pod { return d.pods },
			Space: func(context.Context) (int64, int64, bool) { return d.available(), 1000, true },
			Warn:  func(reason, message string) { d.warnings = append(d.warnings, reason+": "+message) },
			Dead: func(context.Context) error {
				d.dead++
				d.containers = nil
				return nil
			},
		})
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error)
		go func() { done <- c.Run(ctx) }()
		synctest.Wait()
		f(c)
		cancel()
		require.NoError(t, <-done)
	})
}

func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

var usual = Policy{High: 85, Low: 80, MinAge: 2 * time.Minute}

// TestOldestUnusedGoesFirst: between the thresholds nothing happens; above, just as much goes as is needed.
func TestOldestUnusedGoesFirst(t *testing.T) {
	d := &disk{}
	for i := range 8 {
		d.add(fmt.Sprint("i", i), 100)
	}
	d.containers = []*runtimeapi.Container{{ImageId: "i0"}, {ImageRef: "i1"}, {Image: &runtimeapi.ImageSpec{Image: "i2"}}}
	on(t, d, usual, func(c *Collector) {
		pass(time.Hour)
		require.Empty(t, d.gone, "80 % are used")
		d.containers = d.containers[1:] // i0 was used until now
		d.images[3].Pinned = true
		d.others = 50
		pass(every)
		require.Equal(t, []string{"i4"}, d.gone, "85 % are used: down to 80")
		d.others = 150
		pass(every)
		require.Equal(t, []string{"i4", "i5"}, d.gone)
		d.others = 600
		pass(every)
		require.Equal(t, []string{"i4", "i5", "i6", "i7", "i0"}, d.gone, "i0 goes last, i1, i2 and i3 stay")
		require.Equal(t, []string{"FreeDiskSpaceFailed: Failed to garbage collect required amount of images. Attempted to free 400 bytes, but only found 300 bytes eligible to free."}, d.warnings)
		require.EqualValues(t, 5, testutil.ToFloat64(c.removed.WithLabelValues("space")))
	})
}

func TestWhatIsNeededStays(t *testing.T) {
	d := &disk{others: 500}
	d.add("a", 100, "docker.io/library/app:latest")
	d.add("b", 100, "registry.example/b:1")
	d.add("c", 100, "registry.example/volume:1")
	d.add("e", 100, "registry.example/other:1")
	d.pods = []*corev1.Pod{{Spec: corev1.PodSpec{
		Containers: []corev1.Container{{Image: "app"}}, InitContainers: []corev1.Container{{Image: "registry.example/b:1"}},
		Volumes: []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{Image: &corev1.ImageVolumeSource{Reference: "registry.example/volume:1"}}}},
	}}}
	on(t, d, usual, func(*Collector) {
		require.Equal(t, []string{"e"}, d.gone)
		require.Len(t, d.images, 3)
	})
}

func TestAges(t *testing.T) {
	d := &disk{others: 700}
	on(t, d, Policy{High: 85, Low: 80, MinAge: 20 * time.Minute, MaxAge: time.Hour}, func(c *Collector) {
		d.add("young", 200)
		pass(every)
		require.Empty(t, d.gone, "it was pulled for somebody")
		pass(20 * time.Minute)
		require.Equal(t, []string{"young"}, d.gone)
		d.add("unused", 10)
		d.add("used", 10)
		d.containers = []*runtimeapi.Container{{ImageId: "used"}}
		pass(time.Hour)
		require.NotContains(t, d.gone, "unused")
		pass(11 * time.Minute)
		require.Equal(t, []string{"young", "unused"}, d.gone)
		require.EqualValues(t, 1, testutil.ToFloat64(c.removed.WithLabelValues("age")))
	})
}

// TestFreedLater: of a runtime that frees space later no more is removed than is needed.
func TestFreedLater(t *testing.T) {
	d := &disk{lazy: true, others: 50}
	for i := range 8 {
		d.add(fmt.Sprint("i", i), 100)
	}
	on(t, d, usual, func(*Collector) { require.Equal(t, []string{"i0"}, d.gone) })
}

func TestRefused(t *testing.T) {
	d := &disk{others: 800, refuses: "i0"}
	d.add("i0", 50)
	d.add("i1", 50)
	on(t, d, usual, func(*Collector) {
		require.Equal(t, []string{"i1"}, d.gone, "others go instead")
		require.Contains(t, d.warnings, "ImageGCFailed: collect: image i0: it does not want to")
	})
}

func TestReclaim(t *testing.T) {
	d := &disk{others: 100}
	for i := range 4 {
		d.add(fmt.Sprint("i", i), 100)
	}
	d.containers = []*runtimeapi.Container{{ImageId: "i1"}}
	on(t, d, usual, func(c *Collector) {
		require.NoError(t, c.Reclaim(context.Background(), func() bool { return d.dead > 0 }))
		require.Empty(t, d.gone, "the end of dead containers was enough")
		require.NoError(t, c.Reclaim(context.Background(), func() bool { return d.available() >= 700 }))
		require.Equal(t, []string{"i0", "i2"}, d.gone)
		require.NoError(t, c.Reclaim(context.Background(), func() bool { return false }))
		require.Equal(t, []string{"i0", "i2", "i3", "i1"}, d.gone, "i1 was that of a dead container")
	})
}

func TestPolicies(t *testing.T) {
	d := &disk{}
	for _, p := range []Policy{{High: 101}, {High: 50, Low: 60}, {High: -1}, {MinAge: time.Hour, MaxAge: time.Minute}} {
		_, err := New(Config{Images: d, Containers: d, Policy: p, Pods: func() []*corev1.Pod { return nil }, Space: func(context.Context) (int64, int64, bool) { return 0, 0, false }})
		require.Error(t, err, "%+v", p)
	}
}
