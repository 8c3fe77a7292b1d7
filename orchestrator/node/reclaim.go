package node

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"time"

	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	volumehelpers "k8s.io/component-helpers/storage/volume"

	"github.com/keelson-io/keelson/orchestrator/node/volume"
)

// volumeFinalizer keeps a volume until its file is removed.
const volumeFinalizer = volume.HostPathDriver + "/node"

// reclaimEvery is the time between two looks at volumes that are to go.
const reclaimEvery = 2 * time.Second

// reclaimer removes the files of deleted volumes that are on this node.
type reclaimer struct {
	client  kubernetes.Interface
	volumes corelisters.PersistentVolumeLister
	node    func() *corev1.Node
	lg      *zap.Logger
}

// run works until ctx ends.
func (r *reclaimer) run(ctx context.Context) error {
	t := time.NewTicker(reclaimEvery)
	defer t.Stop()
	for {
		select {
		case <-t.C:
		case <-ctx.Done():
			return nil
		}
		for _, v := range r.doomed() {
			if err := r.remove(ctx, v); err != nil && ctx.Err() == nil {
				r.lg.Warn("a volume could not be removed", zap.String("volume", v.Name), zap.Error(err))
			}
		}
	}
}

// doomed are the deleted volumes that are on this node and that no claim keeps.
func (r *reclaimer) doomed() (out []*corev1.PersistentVolume) {
	node := r.node()
	all, err := r.volumes.List(labels.Everything())
	if err != nil || node == nil {
		return nil
	}
	for _, v := range all {
		if v.DeletionTimestamp == nil || v.Spec.CSI == nil || v.Spec.CSI.Driver != volume.HostPathDriver || !slices.Contains(v.Finalizers, volumeFinalizer) {
			continue
		}
		if v.Spec.NodeAffinity != nil && volumehelpers.CheckNodeAffinity(v, node.Labels) == nil && len(v.Finalizers) == 1 {
			out = append(out, v)
		}
	}
	return out
}

// remove removes the file of a volume, then the finalizer. While the file is mounted it waits: a pod still ends.
func (r *reclaimer) remove(ctx context.Context, v *corev1.PersistentVolume) error {
	dir := v.Spec.CSI.VolumeAttributes[volume.AttributePath]
	if filepath.IsAbs(dir) && filepath.Base(dir) == v.Name { // it was made for this volume alone
		if used, err := volume.InUse(filepath.Join(dir, volume.ImageName)); err != nil || used {
			return err
		}
		if err := os.Remove(filepath.Join(dir, volume.ImageName)); err != nil && !os.IsNotExist(err) {
			return err
		}
		if err := os.Remove(dir); err != nil && !os.IsNotExist(err) {
			return err
		}
	}
	left := slices.DeleteFunc(slices.Clone(v.Finalizers), func(f string) bool { return f == volumeFinalizer })
	b, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": v.UID, "resourceVersion": v.ResourceVersion, "finalizers": left}})
	if err != nil {
		return err
	}
	_, err = r.client.CoreV1().PersistentVolumes().Patch(ctx, v.Name, types.MergePatchType, b, metav1.PatchOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}
