package volume

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"reflect"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/keelson-io/keelson/orchestrator/node/environ/downward"
)

// defaultMode is that of files whose volume names none.
const defaultMode = int32(0o644)

// files makes a volume of files from the API, or brings it up to date.
func (v *Volumes) files(ctx context.Context, p *podVolumes, vol *corev1.Volume) (*made, error) {
	return v.writeFiles(&collection{volumes: v, ctx: ctx, p: p, latest: true}, vol)
}

func (v *Volumes) writeFiles(c *collection, vol *corev1.Volume) (*made, error) {
	kind, inMemory := "projected", true
	switch {
	case vol.ConfigMap != nil:
		kind, inMemory = "configmap", false
	case vol.Secret != nil:
		kind = "secret"
	case vol.DownwardAPI != nil:
		kind = "downward-api"
	}
	c.begin(vol.Name)
	if err := c.volume(vol); err != nil {
		return nil, err
	}
	pod := c.p.pod
	dir := v.volumeDir(pod.UID, kind, vol.Name)
	if err := makeDir(dir, 0o777); err != nil {
		return nil, err
	}
	if inMemory { // secrets are never written to a disk
		if err := mountMemory(dir, v.memorySize(pod, nil)); err != nil {
			return nil, err
		}
	}
	group := groupOf(pod)
	w := &writer{dir: dir, group: group, now: func() string { return v.cfg.Clock.Now().UTC().Format(versionDir) }}
	if group != nil {
		if err := w.own(dir, 0o777, nil); err != nil {
			return nil, err
		}
	}
	changed, err := w.write(c.payload)
	if err != nil {
		return nil, err
	}
	if changed {
		v.metrics.written.WithLabelValues(kind).Inc()
	}
	return &made{path: dir, readOnly: true}, nil
}

// renewFiles brings all volumes of files of a pod up to date. latest asks the API server, else watches tell. It sets when
// the next renewal is due.
func (v *Volumes) renewFiles(ctx context.Context, p *podVolumes, latest bool) error {
	c := &collection{volumes: v, ctx: ctx, p: p, latest: latest}
	var errs []error
	for i := range p.pod.Spec.Volumes {
		vol := &p.pod.Spec.Volumes[i]
		if p.volumes[vol.Name] == nil || (vol.ConfigMap == nil && vol.Secret == nil && vol.DownwardAPI == nil && vol.Projected == nil) {
			continue
		}
		if _, err := v.writeFiles(c, vol); err != nil {
			errs = append(errs, fmt.Errorf("MountVolume.SetUp failed for volume %q : %w", vol.Name, err))
		}
	}
	if len(errs) > 0 {
		return &SetupError{Errs: errs}
	}
	return nil
}

// sameDownward says whether files of the downward API are the same for two versions of a pod.
func sameDownward(a, b *corev1.Pod) bool {
	if a == b {
		return true
	}
	if !maps.Equal(a.Labels, b.Labels) || !maps.Equal(a.Annotations, b.Annotations) || len(a.Spec.Containers) != len(b.Spec.Containers) {
		return false
	}
	for i := range a.Spec.Containers {
		if !reflect.DeepEqual(a.Spec.Containers[i].Resources, b.Spec.Containers[i].Resources) {
			return false
		}
	}
	return true
}

// collection gathers the files of one volume of a pod.
type collection struct {
	volumes *Volumes
	ctx     context.Context
	p       *podVolumes
	latest  bool
	name    string // of the volume
	payload payload
}

func (c *collection) begin(volume string) { c.name, c.payload = volume, payload{} }

// volume gathers all of a volume.
func (c *collection) volume(vol *corev1.Volume) error {
	switch {
	case vol.ConfigMap != nil:
		src := vol.ConfigMap
		return c.configMap(src.Name, src.Items, isTrue(src.Optional), modeOr(src.DefaultMode), src.DefaultUser)
	case vol.Secret != nil:
		src := vol.Secret
		return c.secret(src.SecretName, src.Items, isTrue(src.Optional), modeOr(src.DefaultMode), src.DefaultUser)
	case vol.DownwardAPI != nil:
		src := vol.DownwardAPI
		return c.downward(src.Items, modeOr(src.DefaultMode), src.DefaultUser)
	}
	var errs []error
	for i := range vol.Projected.Sources {
		src := &vol.Projected.Sources[i]
		if err := c.projection(i, src, modeOr(vol.Projected.DefaultMode), vol.Projected.DefaultUser); err != nil {
			errs = append(errs, err)
		}
	}
	switch len(errs) {
	case 0:
		return nil
	case 1:
		return errs[0]
	}
	text := ""
	for _, err := range errs {
		text += ", " + err.Error()
	}
	return errors.New("[" + text[2:] + "]")
}

// projection gathers one source of a projected volume. Later ones win where paths meet.
func (c *collection) projection(i int, src *corev1.VolumeProjection, mode int32, user *int64) error {
	switch {
	case src.ConfigMap != nil:
		return c.configMap(src.ConfigMap.Name, src.ConfigMap.Items, isTrue(src.ConfigMap.Optional), mode, user)
	case src.Secret != nil:
		return c.secret(src.Secret.Name, src.Secret.Items, isTrue(src.Secret.Optional), mode, user)
	case src.DownwardAPI != nil:
		return c.downward(src.DownwardAPI.Items, mode, user)
	case src.ServiceAccountToken != nil:
		return c.token(i, src.ServiceAccountToken, mode, user)
	case src.ClusterTrustBundle != nil:
		return c.trustBundle(src.ClusterTrustBundle, mode, user)
	case src.PodCertificate != nil:
		return c.certificate(i, src.PodCertificate, mode, user)
	}
	return nil
}

// object reads an object that the pod refers to, and notes that it does. A missing one that is optional is nil.
func (c *collection) object(kind, name string, optional bool) (metav1.Object, error) {
	k := objectKey{kind, c.p.pod.Namespace, name}
	obj, err := c.volumes.sources.get(c.ctx, k, c.latest)
	switch {
	case apierrors.IsNotFound(err):
		c.p.seen[k] = nil
		if optional {
			return nil, nil
		}
		return nil, err
	case err != nil:
		return nil, err
	}
	c.p.seen[k] = obj
	return obj, nil
}

func (c *collection) configMap(name string, items []corev1.KeyToPath, optional bool, mode int32, user *int64) error {
	obj, err := c.object(kindConfigMap, name, optional)
	if err != nil {
		return err
	}
	data := map[string][]byte{}
	if cm, ok := obj.(*corev1.ConfigMap); ok {
		for k, v := range cm.Data {
			data[k] = []byte(v)
		}
		maps.Copy(data, cm.BinaryData)
	}
	return c.keys(data, items, optional, mode, user, "configmap references non-existent config key: ")
}

func (c *collection) secret(name string, items []corev1.KeyToPath, optional bool, mode int32, user *int64) error {
	obj, err := c.object(kindSecret, name, optional)
	if err != nil {
		return err
	}
	data := map[string][]byte{}
	if s, ok := obj.(*corev1.Secret); ok {
		maps.Copy(data, s.Data)
	}
	return c.keys(data, items, optional, mode, user, "references non-existent secret key: ")
}

// keys puts the data of an object into files: all keys, or those of items.
func (c *collection) keys(data map[string][]byte, items []corev1.KeyToPath, optional bool, mode int32, user *int64, missing string) error {
	if len(items) == 0 {
		for k, v := range data {
			c.payload[k] = file{data: v, mode: os.FileMode(mode), user: user}
		}
		return nil
	}
	for _, item := range items {
		v, ok := data[item.Key]
		switch {
		case !ok && optional:
			continue
		case !ok:
			return errors.New(missing + item.Key)
		}
		c.payload[item.Path] = file{data: v, mode: os.FileMode(either(item.Mode, mode)), user: eitherUser(item.User, user)}
	}
	return nil
}

func (c *collection) downward(items []corev1.DownwardAPIVolumeFile, mode int32, user *int64) error {
	pod, node := c.p.pod, c.volumes.cfg.Node()
	var ips []string
	for _, ip := range pod.Status.PodIPs {
		ips = append(ips, ip.IP)
	}
	var allocatable corev1.ResourceList
	if node != nil {
		allocatable = node.Status.Allocatable
	}
	for i := range items {
		item := &items[i]
		text, err := "", error(nil)
		switch {
		case item.FieldRef != nil:
			text, err = downward.Field(pod, item.FieldRef.FieldPath, downward.AddressesOf(pod, ips, node))
		case item.ResourceFieldRef != nil:
			text, err = downward.Resource(pod, nil, item.ResourceFieldRef, allocatable)
		}
		if err != nil {
			return err
		}
		c.payload[item.Path] = file{data: []byte(text), mode: os.FileMode(either(item.Mode, mode)), user: eitherUser(item.User, user)}
	}
	return nil
}

// private is the mode and owner of a file that only the pod's user may read: its group is added by the writer.
func (c *collection) private(mode int32, user *int64) (os.FileMode, *int64) {
	if user == nil {
		user = userOf(c.p.pod)
	}
	if user != nil || groupOf(c.p.pod) != nil {
		return 0o600, user
	}
	return os.FileMode(mode), nil
}

// again says that the pod's files have to be renewed at a time, at the latest.
func (c *collection) again(at time.Time) {
	if c.p.renew.IsZero() || at.Before(c.p.renew) {
		c.p.renew = at
	}
}

func modeOr(mode *int32) int32 { return either(mode, defaultMode) }

func either(own *int32, common int32) int32 {
	if own != nil {
		return *own
	}
	return common
}

func eitherUser(own, common *int64) *int64 {
	if own != nil {
		return own
	}
	return common
}

func isTrue(b *bool) bool { return b != nil && *b }
