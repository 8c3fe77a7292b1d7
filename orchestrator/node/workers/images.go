package workers

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// failure is why a container could not be started, as its status says it.
type failure struct {
	reason  string
	message string
	image   string    // that could not be pulled
	retry   time.Time // zero: after the usual pause
	at      time.Time // when it failed
}

func (f *failure) Error() string { return f.reason + ": " + f.message }

// Reasons of containers that wait.
const (
	reasonCreating       = "ContainerCreating"
	reasonInitializing   = "PodInitializing"
	reasonCrashLoop      = "CrashLoopBackOff"
	reasonErrPull        = "ErrImagePull"
	reasonPullBackOff    = "ImagePullBackOff"
	reasonNeverPull      = "ErrImageNeverPull"
	reasonInvalidImage   = "InvalidImageName"
	reasonInspect        = "ImageInspectError"
	reasonRegistry       = "RegistryUnavailable"
	reasonSignature      = "SignatureValidationFailed"
	reasonConfigError    = "CreateContainerConfigError"
	reasonCreateError    = "CreateContainerError"
	reasonRunError       = "RunContainerError"
	reasonPostStartError = "PostStartHookError"
)

// puller gets images, a bounded number at the same time, and spaces attempts at those that fail.
type puller struct {
	images  runtimeapi.ImageServiceClient
	slots   chan struct{}
	backOff backOff

	mu     sync.Mutex
	failed map[pullKey]pullFailure
}

type pullKey struct {
	uid   types.UID
	image string
}

type pullFailure struct {
	wait  time.Duration // before the next attempt
	until time.Time
	last  failure
}

func newPuller(images runtimeapi.ImageServiceClient, most int, b backOff) *puller {
	return &puller{images: images, slots: make(chan struct{}, most), backOff: b, failed: map[pullKey]pullFailure{}}
}

// forget drops what failed for a pod.
func (pl *puller) forget(uid types.UID) {
	pl.mu.Lock()
	defer pl.mu.Unlock()
	for k := range pl.failed {
		if k.uid == uid {
			delete(pl.failed, k)
		}
	}
}

// image is an image that is there.
type image struct {
	ref  string // by which the runtime knows it
	user imageUser
}

// imageName is the shape of names of images: [host[:port]/]path[:tag][@digest].
var imageName = regexp.MustCompile(`^(?:[a-zA-Z0-9](?:[a-zA-Z0-9.-]*[a-zA-Z0-9])?(?::[0-9]+)?/|\[[0-9a-fA-F:]+\](?::[0-9]+)?/)?[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*(?::[\w][\w.-]{0,127})?(?:@[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,})?$`)

// imageID is a bare ID, which names an image only as long as it is there.
var imageID = regexp.MustCompile(`^(sha256:)?[0-9a-f]{64}$`)

// withTag gives a name that says neither tag nor digest the tag latest.
func withTag(name string) string {
	if strings.Contains(name, "@") || strings.LastIndex(name, ":") > strings.LastIndex(name, "/") || imageID.MatchString(name) {
		return name
	}
	return name + ":latest"
}

// ensureImage makes the image of a container available.
func (ws *Workers) ensureImage(ctx context.Context, p *corev1.Pod, s start, config *runtimeapi.PodSandboxConfig) (image, *failure) {
	c := s.container
	fail := func(reason, format string, args ...any) (image, *failure) {
		f := &failure{reason: reason, message: fmt.Sprintf(format, args...)}
		ws.event(p, c, corev1.EventTypeWarning, eventFailed, "%s", f.message)
		return image{}, f
	}
	if !imageName.MatchString(c.Image) && !imageID.MatchString(c.Image) {
		return fail(reasonInvalidImage, "Failed to apply default image tag %q: couldn't parse image name %q: invalid reference format", c.Image, c.Image)
	}
	spec := &runtimeapi.ImageSpec{Image: withTag(c.Image), UserSpecifiedImage: c.Image}
	have, err := ws.inspect(ctx, spec)
	if err != nil {
		return fail(reasonInspect, "Failed to inspect image %q: %s", c.Image, message(err))
	}
	policy := pullPolicy(c)
	if have != nil && policy != corev1.PullAlways {
		ws.event(p, c, corev1.EventTypeNormal, eventPulled, "Container image %q already present on machine and can be accessed by the pod", c.Image)
		return *have, nil
	}
	if policy == corev1.PullNever {
		return fail(reasonNeverPull, "Container image %q is not present with pull policy of Never", c.Image)
	}
	return ws.pull(ctx, p, c, spec, config)
}

// pullPolicy is the container's, or the default: a name without tag, or with the tag latest, is pulled always.
func pullPolicy(c *corev1.Container) corev1.PullPolicy {
	if c.ImagePullPolicy != "" {
		return c.ImagePullPolicy
	}
	if strings.HasSuffix(withTag(c.Image), ":latest") {
		return corev1.PullAlways
	}
	return corev1.PullIfNotPresent
}

// inspect is an image that is there, nil if it is not.
func (ws *Workers) inspect(ctx context.Context, spec *runtimeapi.ImageSpec) (*image, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	r, err := ws.cfg.Images.ImageStatus(ctx, &runtimeapi.ImageStatusRequest{Image: spec})
	if gone(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if r.Image == nil || r.Image.Id == "" {
		return nil, nil
	}
	i := &image{ref: r.Image.Id, user: imageUser{name: r.Image.Username}}
	switch {
	case r.Image.Uid != nil:
		i.user = imageUser{uid: &r.Image.Uid.Value}
	case r.Image.Username == "": // an image that names nobody runs as root
		i.user = imageUser{uid: new(int64)}
	}
	return i, nil
}

// pull pulls an image, unless it failed a short time ago.
func (ws *Workers) pull(ctx context.Context, p *corev1.Pod, c *corev1.Container, spec *runtimeapi.ImageSpec, config *runtimeapi.PodSandboxConfig) (image, *failure) {
	pl, key, now := ws.puller, pullKey{p.UID, spec.Image}, ws.cfg.Clock.Now()
	pl.mu.Lock()
	f, failed := pl.failed[key]
	pl.mu.Unlock()
	if failed && now.Before(f.until) {
		return image{}, &f.last
	}
	select {
	case pl.slots <- struct{}{}:
		defer func() { <-pl.slots }()
	case <-ctx.Done():
		return image{}, &failure{reason: reasonErrPull, message: ctx.Err().Error()}
	}
	ws.event(p, c, corev1.EventTypeNormal, eventPulling, "Pulling image %q", c.Image)
	begun := ws.cfg.Clock.Now()
	got, size, err := ws.pullAs(ctx, p, spec, config)
	if err != nil {
		last := failure{reason: pullReason(err), message: message(err), image: c.Image}
		if ctx.Err() != nil {
			return image{}, &last
		}
		ws.event(p, c, corev1.EventTypeWarning, eventFailed, "Failed to pull image %q: %s", c.Image, last.message)
		wait := pl.backOff.after(f.wait)
		last.retry = ws.cfg.Clock.Now().Add(wait)
		pl.mu.Lock()
		pl.failed[key] = pullFailure{wait: wait, until: last.retry, last: last}
		pl.mu.Unlock()
		return image{}, &last
	}
	pl.mu.Lock()
	delete(pl.failed, key)
	pl.mu.Unlock()
	end := ws.cfg.Clock.Now()
	ws.metrics.pulls.WithLabelValues(sizeClass(size)).Observe(end.Sub(begun).Seconds())
	ws.event(p, c, corev1.EventTypeNormal, eventPulled, "Successfully pulled image %q in %s (%s including waiting). Image size: %d bytes.",
		c.Image, end.Sub(begun).Truncate(time.Millisecond), end.Sub(now).Truncate(time.Millisecond), size)
	return got, nil
}

// patience is for how long a container says why it failed before it says that it waits for another attempt.
const patience = 3 * time.Second

// shown is the reason and the message of a container that failed to start and waits.
func (f *failure) shown(p *corev1.Pod, name string, now time.Time) *corev1.ContainerStateWaiting {
	w := &corev1.ContainerStateWaiting{Reason: f.reason, Message: f.message}
	if now.Sub(f.at) < patience {
		return w
	}
	switch {
	case f.image != "":
		w.Reason, w.Message = reasonPullBackOff, fmt.Sprintf("Back-off pulling image %q: %s: %s", f.image, f.reason, f.message)
	case f.reason == reasonRunError || f.reason == reasonPostStartError:
		w.Reason, w.Message = reasonCrashLoop, crashLoop(p, name, f.retry.Sub(f.at))
	}
	return w
}

// pullReason is the reason that the runtime gives for a pull that failed.
func pullReason(err error) string {
	for _, reason := range []string{reasonRegistry, reasonSignature} {
		if strings.HasPrefix(message(err), reason) {
			return reason
		}
	}
	return reasonErrPull
}

// pullAs pulls with each of the pod's credentials in turn, or without any.
func (ws *Workers) pullAs(ctx context.Context, p *corev1.Pod, spec *runtimeapi.ImageSpec, config *runtimeapi.PodSandboxConfig) (image, uint64, error) {
	auths, missing := ws.loginsFor(ctx, p, spec.Image)
	if len(missing) > 0 {
		ws.missingSecrets(p, missing)
	}
	if len(auths) == 0 {
		auths = []*runtimeapi.AuthConfig{nil}
	}
	var errs []error
	for _, auth := range auths {
		r, err := ws.cfg.Images.PullImage(ctx, &runtimeapi.PullImageRequest{Image: spec, Auth: auth, SandboxConfig: config})
		if err != nil {
			errs = append(errs, errors.New(message(err)))
			continue
		}
		got, err := ws.inspect(ctx, &runtimeapi.ImageSpec{Image: r.ImageRef})
		if err != nil {
			return image{}, 0, err
		}
		if got == nil {
			return image{}, 0, fmt.Errorf("image %s was pulled as %s and is gone again", spec.Image, r.ImageRef)
		}
		got.ref = r.ImageRef
		return *got, ws.imageSize(ctx, r.ImageRef), nil
	}
	if len(errs) > 1 {
		errs = slices.CompactFunc(errs, func(a, b error) bool { return a.Error() == b.Error() })
	}
	return image{}, 0, errors.Join(errs...)
}

// imageSize is the size of an image in bytes, 0 if it is not known.
func (ws *Workers) imageSize(ctx context.Context, ref string) uint64 {
	r, err := ws.cfg.Images.ImageStatus(ctx, &runtimeapi.ImageStatusRequest{Image: &runtimeapi.ImageSpec{Image: ref}})
	if err != nil {
		return 0
	}
	return r.GetImage().GetSize()
}
