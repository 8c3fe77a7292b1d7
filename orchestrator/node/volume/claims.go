package volume

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/component-helpers/storage/ephemeral"
	storagehelpers "k8s.io/component-helpers/storage/volume"
)

// claims are the persistent volumes of drivers that pods of this node use.
type claims struct {
	cfg Config
	lg  *zap.Logger

	mu     sync.Mutex
	locks  map[string]*sync.Mutex // by persistent volume
	active map[string]*claimed
}

// claimed is a volume in use.
type claimed struct {
	req     Request
	claim   types.NamespacedName
	pod     *corev1.Pod // that is told about it
	checked time.Time   // when the API server was asked for its size
	refused int64       // the size in bytes that it could not grow to
}

func newClaims(cfg Config, lg *zap.Logger) *claims {
	return &claims{cfg: cfg, lg: lg, locks: map[string]*sync.Mutex{}, active: map[string]*claimed{}}
}

// lock holds a persistent volume until the function that it returns is called.
func (c *claims) lock(pv string) (unlock func()) {
	c.mu.Lock()
	l := c.locks[pv]
	if l == nil {
		l = &sync.Mutex{}
		c.locks[pv] = l
	}
	c.mu.Unlock()
	l.Lock()
	return l.Unlock
}

func (c *claims) plugin(driver string) Provisioned {
	for _, p := range c.cfg.Plugins {
		if p.Driver() == driver {
			return p
		}
	}
	return nil
}

func (c *claims) target(r Request) string {
	return filepath.Join(c.cfg.Mounts, r.Driver, r.Name, "globalmount")
}

// marker is the file that says that a pod uses a persistent volume.
func (c *claims) marker(uid types.UID, volume string) string {
	return filepath.Join(c.cfg.Dir, string(uid), "volumes", "kubernetes.io~csi", volume+".json")
}

// acquire mounts a persistent volume for a pod, unless it is mounted. It returns where, or the device.
func (c *claims) acquire(ctx context.Context, pod *corev1.Pod, volume string, claim types.NamespacedName, r Request) (path, device string, err error) {
	plugin := c.plugin(r.Driver)
	if plugin == nil {
		return "", "", fmt.Errorf("driver name %s not found in the list of registered CSI drivers", r.Driver)
	}
	defer c.lock(r.Name)()
	text, err := json.Marshal(r)
	if err != nil {
		return "", "", err
	}
	marker := c.marker(pod.UID, volume)
	if err := os.MkdirAll(filepath.Dir(marker), 0o750); err != nil {
		return "", "", err
	}
	// written first: what is mounted after a crash is known to be this pod's
	if err := writeFile(marker, text); err != nil {
		return "", "", err
	}
	if r.Block {
		device, err = plugin.Attach(ctx, r)
	} else {
		path = c.target(r)
		if err = os.MkdirAll(path, 0o750); err == nil {
			err = plugin.Mount(ctx, r, path)
		}
	}
	if err != nil {
		return "", "", err
	}
	c.mu.Lock()
	if c.active[r.Name] == nil {
		c.active[r.Name] = &claimed{req: r, claim: claim, pod: pod, checked: c.cfg.Clock.Now()}
	}
	c.mu.Unlock()
	return path, device, nil
}

// writeFile puts a file in place at once.
func writeFile(path string, text []byte) error {
	temp := path + ".tmp"
	if err := os.WriteFile(temp, text, 0o600); err != nil {
		return err
	}
	return os.Rename(temp, path)
}

// releaseAll says that a pod uses none of its persistent volumes any more.
func (c *claims) releaseAll(ctx context.Context, uid types.UID) error {
	markers, err := filepath.Glob(c.marker(uid, "*"))
	if err != nil {
		return err
	}
	var errs []error
	for _, m := range markers {
		r, err := readMarker(m)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		errs = append(errs, c.release(ctx, r, m))
	}
	return errors.Join(errs...)
}

func readMarker(path string) (Request, error) {
	var r Request
	b, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(b, &r)
	}
	if err != nil {
		return r, fmt.Errorf("volume: %s: %w", path, err)
	}
	return r, nil
}

// release unmounts a volume when its last pod is gone. The marker goes last, so that a call that fails is made again.
func (c *claims) release(ctx context.Context, r Request, marker string) error {
	defer c.lock(r.Name)()
	users, err := c.users(r.Name)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(users, func(m string) bool { return m != marker }) {
		if err := c.takeDown(ctx, r); err != nil {
			return err
		}
	}
	if err := os.Remove(marker); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// takeDown unmounts a volume and lets its device go.
func (c *claims) takeDown(ctx context.Context, r Request) error {
	c.mu.Lock()
	delete(c.active, r.Name)
	c.mu.Unlock()
	dir := filepath.Dir(c.target(r))
	if err := unmountStrictly(dir); err != nil {
		return err
	}
	if plugin := c.plugin(r.Driver); plugin != nil {
		if err := plugin.Release(ctx, r); err != nil {
			return err
		}
	}
	return removeTree(dir)
}

// users are the markers of the pods that use a persistent volume.
func (c *claims) users(pv string) ([]string, error) {
	all, err := filepath.Glob(filepath.Join(c.cfg.Dir, "*", "volumes", "kubernetes.io~csi", "*.json"))
	if err != nil {
		return nil, err
	}
	var users []string
	for _, m := range all {
		r, err := readMarker(m)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if r.Name == pv {
			users = append(users, m)
		}
	}
	return users, nil
}

// orphans takes down what is mounted without a pod that uses it.
func (c *claims) orphans(ctx context.Context) error {
	dirs, err := filepath.Glob(filepath.Join(c.cfg.Mounts, "*", "*", "globalmount"))
	if err != nil {
		return err
	}
	var errs []error
	for _, dir := range dirs {
		pv := filepath.Base(filepath.Dir(dir))
		driver := filepath.Base(filepath.Dir(filepath.Dir(dir)))
		if c.plugin(driver) == nil {
			continue
		}
		errs = append(errs, func() error {
			defer c.lock(pv)()
			users, err := c.users(pv)
			if err != nil || len(users) > 0 {
				return err
			}
			top := filepath.Dir(dir)
			if err := unmountStrictly(top); err != nil {
				return err
			}
			return removeTree(top)
		}())
	}
	return errors.Join(errs...)
}

// claim makes a volume of a claim, or of a claim that was made for this pod.
func (v *Volumes) claim(ctx context.Context, pod *corev1.Pod, vol *corev1.Volume) (*made, error) {
	name, readOnly := "", false
	if src := vol.PersistentVolumeClaim; src != nil {
		name, readOnly = src.ClaimName, src.ReadOnly
	} else {
		name = ephemeral.VolumeClaimName(pod, vol)
	}
	pvc, pv, err := v.bound(ctx, pod, vol, name)
	if err != nil {
		return nil, fmt.Errorf("error processing PVC %s/%s: %w", pod.Namespace, name, err)
	}
	block := pv.Spec.VolumeMode != nil && *pv.Spec.VolumeMode == corev1.PersistentVolumeBlock
	if err := checkMode(pod, vol.Name, block); err != nil {
		return nil, err
	}
	if err := checkNode(pv, v.cfg.Node()); err != nil {
		return nil, err
	}
	m, err := v.persistent(ctx, pod, vol.Name, pvc, pv, block)
	if err != nil {
		return nil, err
	}
	m.readOnly = m.readOnly || readOnly
	m.claim = &types.NamespacedName{Namespace: pvc.Namespace, Name: pvc.Name}
	if m.path == "" || m.host || m.readOnly || v.isDone(pod.UID, vol.Name) {
		return m, nil
	}
	if err := giveTo(m.path, groupOf(pod), false, changePolicyOf(pod)); err != nil {
		return nil, err
	}
	return m, v.done(pod.UID, vol.Name)
}

// checkNode refuses a volume that is another node's: it would be made anew here, empty.
func checkNode(pv *corev1.PersistentVolume, node *corev1.Node) error {
	switch {
	case pv.Spec.NodeAffinity == nil:
		return nil
	case node == nil:
		return fmt.Errorf("storage node affinity check failed for volume %q : the labels of this node are not known yet", pv.Name)
	}
	if err := storagehelpers.CheckNodeAffinity(pv, node.Labels); err != nil {
		return fmt.Errorf("storage node affinity check failed for volume %q : %w", pv.Name, err)
	}
	return nil
}

// bound reads a claim and the volume that it is bound to.
func (v *Volumes) bound(ctx context.Context, pod *corev1.Pod, vol *corev1.Volume, name string) (*corev1.PersistentVolumeClaim, *corev1.PersistentVolume, error) {
	pvc, err := v.cfg.Client.CoreV1().PersistentVolumeClaims(pod.Namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return nil, nil, fmt.Errorf("failed to fetch PVC from API server: %w", err)
	}
	if vol.Ephemeral != nil {
		if err := ephemeral.VolumeIsForPod(pod, pvc); err != nil {
			return nil, nil, err
		}
	}
	switch {
	case pvc.DeletionTimestamp != nil:
		return nil, nil, errors.New("PVC is being deleted")
	case pvc.Status.Phase != corev1.ClaimBound:
		return nil, nil, errors.New("PVC is not bound")
	case pvc.Spec.VolumeName == "":
		return nil, nil, errors.New("PVC has empty pvc.Spec.VolumeName")
	}
	pv, err := v.cfg.Client.CoreV1().PersistentVolumes().Get(ctx, pvc.Spec.VolumeName, metav1.GetOptions{})
	switch {
	case err != nil:
		return nil, nil, fmt.Errorf("failed to fetch PV %s from API server: %w", pvc.Spec.VolumeName, err)
	case pv.Spec.ClaimRef == nil:
		return nil, nil, fmt.Errorf("found PV object %s but it has a nil pv.Spec.ClaimRef indicating it is not yet bound to the claim", pv.Name)
	case pv.Spec.ClaimRef.UID != pvc.UID:
		return nil, nil, fmt.Errorf("found PV object %s but its pv.Spec.ClaimRef.UID %s does not point to claim.UID %s", pv.Name, pv.Spec.ClaimRef.UID, pvc.UID)
	}
	return pvc, pv, nil
}

// checkMode compares how containers use a volume with what it is.
func checkMode(pod *corev1.Pod, volume string, block bool) error {
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			mounts := slices.ContainsFunc(list[i].VolumeMounts, func(m corev1.VolumeMount) bool { return m.Name == volume })
			devices := slices.ContainsFunc(list[i].VolumeDevices, func(d corev1.VolumeDevice) bool { return d.Name == volume })
			switch {
			case mounts && block:
				return fmt.Errorf("volume %s has volumeMode Block, but is specified in volumeMounts", volume)
			case devices && !block:
				return fmt.Errorf("volume %s has volumeMode Filesystem, but is specified in volumeDevices", volume)
			}
		}
	}
	return nil
}

// persistent makes a persistent volume there for a pod.
func (v *Volumes) persistent(ctx context.Context, pod *corev1.Pod, volume string, pvc *corev1.PersistentVolumeClaim, pv *corev1.PersistentVolume, block bool) (*made, error) {
	switch src := &pv.Spec.PersistentVolumeSource; {
	case src.HostPath != nil && !block:
		return hostPath(src.HostPath)
	case src.Local != nil:
		return local(src.Local, block)
	case src.CSI != nil:
		size := pv.Spec.Capacity[corev1.ResourceStorage]
		r := Request{
			Name: pv.Name, Driver: src.CSI.Driver, Handle: src.CSI.VolumeHandle, Attributes: src.CSI.VolumeAttributes, FSType: src.CSI.FSType,
			MountOptions: pv.Spec.MountOptions, Size: size.Value(), ReadOnly: src.CSI.ReadOnly, Block: block,
		}
		key := types.NamespacedName{Namespace: pvc.Namespace, Name: pvc.Name}
		path, device, err := v.claims.acquire(ctx, pod, volume, key, r)
		if err != nil {
			return nil, err
		}
		if pending(pvc, pv) {
			_, err := v.claims.growLocked(ctx, r)
			if err == nil {
				err = v.claims.settle(ctx, key, pv)
			}
			if err != nil {
				v.lg.Warn("the status of a claim that has grown", zap.Stringer("claim", key), zap.Error(err))
			}
		}
		return &made{path: path, device: device, readOnly: src.CSI.ReadOnly}, nil
	}
	if block {
		return nil, errors.New("no volume plugin matched: this kind of volume cannot be a block device here")
	}
	return nil, errors.New("no volume plugin matched")
}

// local is a directory or a device of this node.
func local(src *corev1.LocalVolumeSource, block bool) (*made, error) {
	if slices.Contains(strings.Split(src.Path, "/"), "..") {
		return nil, fmt.Errorf("invalid path: %s must not contain '..'", src.Path)
	}
	info, err := os.Stat(src.Path)
	if err != nil {
		return nil, fmt.Errorf("path %q does not exist: %w", src.Path, err)
	}
	kind := kindOf(info.Mode())
	switch {
	case block && kind == "block device":
		return &made{device: src.Path}, nil
	case !block && kind == "directory":
		return &made{path: src.Path}, nil
	case block:
		return nil, fmt.Errorf("local volume %q is a %s, not a block device", src.Path, kind)
	}
	return nil, fmt.Errorf("local volume %q is a %s, not a directory", src.Path, kind)
}

// pending says that a claim does not know yet how large its volume is.
func pending(pvc *corev1.PersistentVolumeClaim, pv *corev1.PersistentVolume) bool {
	have, want := pvc.Status.Capacity[corev1.ResourceStorage], pv.Spec.Capacity[corev1.ResourceStorage]
	return have.Cmp(want) < 0
}

// settle tells a claim how large its volume is now.
func (c *claims) settle(ctx context.Context, key types.NamespacedName, pv *corev1.PersistentVolume) error {
	api := c.cfg.Client.CoreV1().PersistentVolumeClaims(key.Namespace)
	for range 5 {
		pvc, err := api.Get(ctx, key.Name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if !pending(pvc, pv) {
			return nil
		}
		pvc = pvc.DeepCopy()
		if pvc.Status.Capacity == nil {
			pvc.Status.Capacity = corev1.ResourceList{}
		}
		pvc.Status.Capacity[corev1.ResourceStorage] = pv.Spec.Capacity[corev1.ResourceStorage]
		delete(pvc.Status.AllocatedResourceStatuses, corev1.ResourceStorage)
		pvc.Status.Conditions = slices.DeleteFunc(pvc.Status.Conditions, func(c corev1.PersistentVolumeClaimCondition) bool {
			return c.Type == corev1.PersistentVolumeClaimResizing || c.Type == corev1.PersistentVolumeClaimFileSystemResizePending
		})
		if _, err = api.UpdateStatus(ctx, pvc, metav1.UpdateOptions{}); !apierrors.IsConflict(err) {
			return err
		}
	}
	return errors.New("others change it all the time")
}
