package collect

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/keelson-io/keelson/internal/clock"
)

// Images is the part of a CRI image service that is needed.
type Images interface {
	ListImages(ctx context.Context, in *runtimeapi.ListImagesRequest, opts ...grpc.CallOption) (*runtimeapi.ListImagesResponse, error)
	RemoveImage(ctx context.Context, in *runtimeapi.RemoveImageRequest, opts ...grpc.CallOption) (*runtimeapi.RemoveImageResponse, error)
}

// Containers is the part of a CRI runtime that is needed.
type Containers interface {
	ListContainers(ctx context.Context, in *runtimeapi.ListContainersRequest, opts ...grpc.CallOption) (*runtimeapi.ListContainersResponse, error)
}

// Config is what a Collector is made of. Images, Containers, Pods and Space must be set.
type Config struct {
	Images     Images
	Containers Containers
	// Pods are those that are to run.
	Pods func() []*corev1.Pod
	// Space is what is left of the file system of images and its size, in bytes; false: it cannot be measured.
	Space func(ctx context.Context) (available, capacity int64, ok bool)
	// Dead removes dead containers that nobody restarts; nil: there are none.
	Dead   func(ctx context.Context) error
	Policy Policy
	// Warn tells of what could not be freed; nil: nobody.
	Warn   func(reason, message string)
	Clock  clock.Clock // nil: clock.Real
	Logger *zap.Logger // nil: none
}

const (
	// every is the time between two rounds.
	every       = 5 * time.Minute
	callTimeout = 2 * time.Minute
)

// Collector is described in the package comment.
type Collector struct {
	cfg     Config
	removed *prometheus.CounterVec

	mu     sync.Mutex // held for a round
	ledger ledger
}

// New makes a Collector. Run it.
func New(cfg Config) (*Collector, error) {
	if cfg.Images == nil || cfg.Containers == nil || cfg.Pods == nil || cfg.Space == nil {
		return nil, errors.New("collect: images, containers, pods and the space of images are needed")
	}
	if p := cfg.Policy; p.High < 0 || p.High > 100 || p.Low < 0 || p.Low > 100 || p.High > 0 && p.Low > p.High {
		return nil, fmt.Errorf("collect: thresholds %d and %d are no percentages, or the low one is the higher", p.High, p.Low)
	}
	if p := cfg.Policy; p.MaxAge > 0 && p.MaxAge <= p.MinAge {
		return nil, fmt.Errorf("collect: images that go after %s cannot stay for %s", p.MaxAge, p.MinAge)
	}
	if cfg.Warn == nil {
		cfg.Warn = func(string, string) {}
	}
	if cfg.Clock == nil {
		cfg.Clock = clock.Real
	}
	if cfg.Logger == nil {
		cfg.Logger = zap.NewNop()
	}
	return &Collector{cfg: cfg, removed: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "kubelet_image_garbage_collected_total", Help: "Images that were removed because nobody used them, by why.",
	}, []string{"reason"})}, nil
}

// Metrics count what was removed.
func (c *Collector) Metrics() []prometheus.Collector { return []prometheus.Collector{c.removed} }

// Run makes rounds until ctx ends.
func (c *Collector) Run(ctx context.Context) error {
	t := c.cfg.Clock.NewTimer(0)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C():
		}
		if err := c.round(ctx); err != nil && ctx.Err() == nil {
			c.cfg.Logger.Warn("images cannot be collected", zap.Error(err))
			c.cfg.Warn("ImageGCFailed", err.Error())
		}
		t.Reset(every)
	}
}

// Reclaim removes dead containers, and all images that may go. enough says after each whether that will do.
func (c *Collector) Reclaim(ctx context.Context, enough func() bool) error {
	var errs []error
	if c.cfg.Dead != nil {
		errs = append(errs, c.cfg.Dead(ctx))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if enough() {
		return errors.Join(errs...)
	}
	if err := c.look(ctx); err != nil {
		return errors.Join(append(errs, err)...)
	}
	_, err := c.remove(ctx, c.ledger.spare(c.cfg.Clock.Now(), c.cfg.Policy), "space", func(int64) bool { return enough() })
	return errors.Join(append(errs, err)...)
}

// round removes what is too old, and what there is no space for.
func (c *Collector) round(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.look(ctx); err != nil {
		return err
	}
	p, now := c.cfg.Policy, c.cfg.Clock.Now()
	_, err := c.remove(ctx, c.ledger.old(now, p), "age", func(int64) bool { return false })
	available, capacity, ok := c.cfg.Space(ctx)
	if !ok || capacity <= 0 || p.High == 0 || p.High == 100 || 100-available*100/capacity < int64(p.High) {
		return err
	}
	target := capacity * int64(100-p.Low) / 100
	need := target - available
	c.cfg.Logger.Info("the file system of images is full", zap.Int64("available", available), zap.Int64("capacity", capacity), zap.Int64("need", need))
	// Sizes count layers twice that images share, and some runtimes free them later: what is seen first counts.
	freed, removeErr := c.remove(ctx, c.ledger.spare(now, p), "space", func(freed int64) bool {
		left, _, ok := c.cfg.Space(ctx)
		return freed >= need || ok && left >= target
	})
	if left, _, ok := c.cfg.Space(ctx); freed < need && !(ok && left >= target) && ctx.Err() == nil {
		c.cfg.Warn("FreeDiskSpaceFailed", fmt.Sprintf("Failed to garbage collect required amount of images. Attempted to free %d bytes, but only found %d bytes eligible to free.", need, freed))
	}
	return errors.Join(err, removeErr)
}

// remove removes images in turn until done says so, and returns how large they were.
func (c *Collector) remove(ctx context.Context, which []candidate, why string, done func(freed int64) bool) (freed int64, err error) {
	var errs []error
	for _, i := range which {
		if ctx.Err() != nil || done(freed) {
			break
		}
		call, cancel := context.WithTimeout(ctx, callTimeout)
		_, err := c.cfg.Images.RemoveImage(call, &runtimeapi.RemoveImageRequest{Image: &runtimeapi.ImageSpec{Image: i.id}})
		cancel()
		if err != nil && status.Code(err) != codes.NotFound {
			errs = append(errs, fmt.Errorf("collect: image %s: %w", i.id, err))
			continue
		}
		freed += i.size
		delete(c.ledger.records, i.id)
		c.removed.WithLabelValues(why).Inc()
		c.cfg.Logger.Info("an image that nobody uses is removed", zap.String("image", i.id), zap.Int64("size", i.size), zap.String("why", why))
	}
	return freed, errors.Join(errs...)
}

// look brings the ledger up to date. Images are listed before those who use them, so that one that is pulled meanwhile is not seen
// rather than seen without its user.
func (c *Collector) look(ctx context.Context) error {
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	list, err := c.cfg.Images.ListImages(call, &runtimeapi.ListImagesRequest{})
	if err != nil {
		return fmt.Errorf("collect: images: %w", err)
	}
	containers, err := c.cfg.Containers.ListContainers(call, &runtimeapi.ListContainersRequest{})
	if err != nil {
		return fmt.Errorf("collect: containers: %w", err)
	}
	used := map[string]bool{}
	for _, k := range containers.Containers {
		for _, name := range []string{k.ImageId, k.ImageRef, k.GetImage().GetImage()} {
			used[name] = true
		}
	}
	for _, p := range c.cfg.Pods() {
		for _, name := range namesOf(p) {
			used[name] = true
		}
	}
	var all []Image
	for _, i := range list.Images {
		in := i.Pinned || used[i.Id]
		for _, name := range append(i.RepoTags, i.RepoDigests...) {
			in = in || used[name] || used[short(name)]
		}
		all = append(all, Image{ID: i.Id, Size: int64(i.Size), Used: in})
	}
	c.ledger.update(c.cfg.Clock.Now(), all)
	return nil
}

// namesOf are the images of a pod's containers and volumes, with the tag latest where there is none.
func namesOf(p *corev1.Pod) (out []string) {
	add := func(name string) {
		if name != "" && !strings.Contains(name, "@") && strings.LastIndex(name, ":") <= strings.LastIndex(name, "/") {
			name += ":latest"
		}
		out = append(out, short(name))
	}
	for i := range p.Spec.InitContainers {
		add(p.Spec.InitContainers[i].Image)
	}
	for i := range p.Spec.Containers {
		add(p.Spec.Containers[i].Image)
	}
	for i := range p.Spec.EphemeralContainers {
		add(p.Spec.EphemeralContainers[i].Image)
	}
	for _, v := range p.Spec.Volumes {
		if v.Image != nil {
			add(v.Image.Reference)
		}
	}
	return out
}

// short is a name without what every runtime adds to names that say no registry.
func short(name string) string {
	return strings.TrimPrefix(strings.TrimPrefix(name, "docker.io/"), "library/")
}
