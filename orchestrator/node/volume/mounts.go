package volume

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"

	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/keelson-io/keelson/orchestrator/node/environ/expansion"
)

// Mounts are those of a container of a pod that Setup has made the volumes of. env are the container's variables, for
// subPathExpr.
func (v *Volumes) Mounts(pod *corev1.Pod, c *corev1.Container, env map[string]string) ([]*runtimeapi.Mount, error) {
	p := v.known(pod.UID)
	if p == nil {
		return nil, fmt.Errorf("volumes of pod %s/%s are not mounted", pod.Namespace, pod.Name)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	var uids, gids []*runtimeapi.IDMapping
	if pod.Spec.HostUsers != nil && !*pod.Spec.HostUsers {
		uids, gids = v.cfg.IDMappings(pod)
	}
	mounts := make([]*runtimeapi.Mount, 0, len(c.VolumeMounts))
	for i := range c.VolumeMounts {
		vm := &c.VolumeMounts[i]
		m := p.volumes[vm.Name]
		if m == nil || p.gone {
			return nil, fmt.Errorf("cannot find volume %q to mount into container %q", vm.Name, c.Name)
		}
		mount, err := v.mount(pod, c, i, m, env)
		if err != nil {
			return nil, err
		}
		mount.UidMappings, mount.GidMappings = uids, gids
		mounts = append(mounts, mount)
	}
	return mounts, nil
}

// mount is one mount of a container, the i-th.
func (v *Volumes) mount(pod *corev1.Pod, c *corev1.Container, i int, m *made, env map[string]string) (*runtimeapi.Mount, error) {
	vm := &c.VolumeMounts[i]
	if m.device != "" {
		return nil, fmt.Errorf("volume %s has volumeMode Block, but is specified in volumeMounts", vm.Name)
	}
	sub := vm.SubPath
	if vm.SubPathExpr != "" {
		var err error
		if sub, err = expansion.Strict(vm.SubPathExpr, expansion.Of(env)); err != nil {
			return nil, err
		}
	}
	if sub != "" {
		var err error
		if sub, err = checkSubPath(sub); err != nil {
			return nil, err
		}
	}
	path := vm.MountPath
	if !filepath.IsAbs(path) {
		path = filepath.Join("/", path)
	}
	out := &runtimeapi.Mount{ContainerPath: path, HostPath: m.path, Readonly: vm.ReadOnly || m.readOnly, SelinuxRelabel: !m.host, MountOptions: vm.BindMountOptions}
	if m.image != nil {
		out.HostPath, out.Image, out.Readonly = "", m.image, true
		if sub != "." {
			out.ImageSubPath = sub
		}
	} else if sub != "" && sub != "." {
		target := filepath.Join(v.podDir(pod.UID), "volume-subpaths", vm.Name, c.Name, strconv.Itoa(i))
		if err := bindSubPath(m.path, sub, target); err != nil {
			// what exactly is wrong could tell a container about the node's files
			v.lg.Warn("a subPath", zap.String("pod", pod.Namespace+"/"+pod.Name), zap.String("volume", vm.Name), zap.String("path", sub), zap.Error(err))
			return nil, fmt.Errorf("failed to prepare subPath for volumeMount %q of container %q", vm.Name, c.Name)
		}
		out.HostPath = target
	}
	var err error
	if out.Propagation, err = propagation(vm.MountPropagation); err != nil {
		return nil, err
	}
	out.RecursiveReadOnly, err = v.recursive(pod, vm)
	return out, err
}

func propagation(mode *corev1.MountPropagationMode) (runtimeapi.MountPropagation, error) {
	switch {
	case mode == nil, *mode == corev1.MountPropagationNone:
		return runtimeapi.MountPropagation_PROPAGATION_PRIVATE, nil
	case *mode == corev1.MountPropagationHostToContainer:
		return runtimeapi.MountPropagation_PROPAGATION_HOST_TO_CONTAINER, nil
	case *mode == corev1.MountPropagationBidirectional:
		return runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL, nil
	}
	return 0, fmt.Errorf("invalid MountPropagation mode: %q", *mode)
}

// recursive says whether what is mounted below a mount is read-only too.
func (v *Volumes) recursive(pod *corev1.Pod, vm *corev1.VolumeMount) (bool, error) {
	if vm.RecursiveReadOnly == nil || *vm.RecursiveReadOnly == corev1.RecursiveReadOnlyDisabled {
		return false, nil
	}
	if !vm.ReadOnly {
		return false, fmt.Errorf("volume %q requested recursive read-only mode, but it is not read-only", vm.Name)
	}
	if vm.MountPropagation != nil && *vm.MountPropagation != corev1.MountPropagationNone {
		return false, fmt.Errorf("volume %q requested recursive read-only mode, but it is not compatible with propagation %q", vm.Name, *vm.MountPropagation)
	}
	switch mode := *vm.RecursiveReadOnly; mode {
	case corev1.RecursiveReadOnlyIfPossible:
		return v.cfg.RecursiveReadOnly(pod), nil
	case corev1.RecursiveReadOnlyEnabled:
		if !v.cfg.RecursiveReadOnly(pod) {
			return false, fmt.Errorf("volume %q requested recursive read-only mode, but it is not supported by the runtime", vm.Name)
		}
		return true, nil
	default:
		return false, fmt.Errorf("unknown recursive read-only mode %q", mode)
	}
}

// Devices are the volumes that a container sees as block devices.
func (v *Volumes) Devices(pod *corev1.Pod, c *corev1.Container) ([]*runtimeapi.Device, error) {
	if len(c.VolumeDevices) == 0 {
		return nil, nil
	}
	p := v.known(pod.UID)
	if p == nil {
		return nil, fmt.Errorf("volumes of pod %s/%s are not mounted", pod.Namespace, pod.Name)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	var devices []*runtimeapi.Device
	for _, d := range c.VolumeDevices {
		m := p.volumes[d.Name]
		switch {
		case m == nil || p.gone:
			return nil, fmt.Errorf("cannot find volume %q to pass into container %q", d.Name, c.Name)
		case m.device == "":
			return nil, fmt.Errorf("volume %s has volumeMode Filesystem, but is specified in volumeDevices", d.Name)
		}
		permissions := "mrw"
		if m.readOnly {
			permissions = "mr"
		}
		devices = append(devices, &runtimeapi.Device{HostPath: m.device, ContainerPath: d.DevicePath, Permissions: permissions})
	}
	return devices, nil
}

// image pulls the image of a volume. The runtime mounts it into containers.
func (v *Volumes) image(ctx context.Context, pod *corev1.Pod, src *corev1.ImageVolumeSource) (*made, error) {
	if v.cfg.Images == nil {
		return nil, errors.New("the runtime has no images")
	}
	if src.Reference == "" {
		return nil, errors.New("an image volume without a reference")
	}
	spec := &runtimeapi.ImageSpec{Image: src.Reference, UserSpecifiedImage: src.Reference}
	if src.PullPolicy != corev1.PullAlways {
		status, err := v.cfg.Images.ImageStatus(ctx, &runtimeapi.ImageStatusRequest{Image: spec})
		if err != nil {
			return nil, fmt.Errorf("failed to inspect image %q: %w", src.Reference, err)
		}
		if status.Image != nil {
			return imageOf(status.Image.Id, src.Reference), nil
		}
	}
	if src.PullPolicy == corev1.PullNever {
		return nil, fmt.Errorf("container image %q is not present with pull policy of Never", src.Reference)
	}
	auths := []*runtimeapi.AuthConfig{nil}
	if v.cfg.Credentials != nil {
		own, err := v.cfg.Credentials(ctx, pod, src.Reference)
		if err != nil {
			return nil, fmt.Errorf("failed to pull image %q: %w", src.Reference, err)
		}
		if len(own) > 0 {
			auths = slices.Clone(own)
		}
	}
	var errs []error
	for _, auth := range auths {
		resp, err := v.cfg.Images.PullImage(ctx, &runtimeapi.PullImageRequest{Image: spec, Auth: auth})
		if err == nil {
			return imageOf(resp.ImageRef, src.Reference), nil
		}
		errs = append(errs, err)
	}
	return nil, fmt.Errorf("failed to pull image %q: %w", src.Reference, errors.Join(errs...))
}

func imageOf(id, reference string) *made {
	return &made{readOnly: true, image: &runtimeapi.ImageSpec{Image: id, UserSpecifiedImage: reference}}
}
