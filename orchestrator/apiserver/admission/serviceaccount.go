package admission

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/utils/ptr"
)

// Where a pod finds its service account's token, and for how long one is good.
const (
	tokenMountPath   = "/var/run/secrets/kubernetes.io/serviceaccount"
	tokenVolume      = "kube-api-access-"
	tokenSeconds     = 60*60 + 7
	mirrorAnnotation = corev1.MirrorPodAnnotationKey
)

// A controller makes the account that pods have by default when their namespace is made. A pod that is made in the same moment
// waits for it.
const (
	defaultAccount  = "default"
	defaultAttempts = 20
	defaultInterval = 50 * time.Millisecond
)

// ServiceAccount gives new pods their service account, its pull secrets, and a volume with its token.
type ServiceAccount struct {
	Lookup Lookup
}

var serviceAccounts = schema.GroupResource{Resource: "serviceaccounts"}

// Mutate completes a new pod.
func (p *ServiceAccount) Mutate(ctx context.Context, a *Attributes) error {
	pod, ok := newPod(a)
	if !ok {
		return nil
	}
	if _, mirror := pod.Annotations[mirrorAnnotation]; mirror {
		if pod.Spec.ServiceAccountName != "" {
			return apierrors.NewForbidden(a.Kind.GroupResource(), a.Name, fmt.Errorf("a mirror pod may not reference service accounts"))
		}
		return nil
	}
	if pod.Spec.ServiceAccountName == "" {
		pod.Spec.ServiceAccountName = defaultAccount
	}
	pod.Spec.DeprecatedServiceAccount = pod.Spec.ServiceAccountName
	sa, err := p.get(ctx, a.Namespace, pod.Spec.ServiceAccountName)
	if err != nil {
		return apierrors.NewForbidden(a.Kind.GroupResource(), a.Name,
			fmt.Errorf("error looking up service account %s/%s: %w", a.Namespace, pod.Spec.ServiceAccountName, err))
	}
	if ptr.Deref(pod.Spec.AutomountServiceAccountToken, ptr.Deref(sa.AutomountServiceAccountToken, true)) {
		mountToken(pod)
	}
	if len(pod.Spec.ImagePullSecrets) == 0 {
		pod.Spec.ImagePullSecrets = slices.Clone(sa.ImagePullSecrets)
	}
	return nil
}

func (p *ServiceAccount) get(ctx context.Context, namespace, name string) (*corev1.ServiceAccount, error) {
	o, err := p.Lookup.Get(ctx, serviceAccounts, namespace, name, false)
	if apierrors.IsNotFound(err) {
		o, err = p.Lookup.Get(ctx, serviceAccounts, namespace, name, true)
	}
	for i := 0; i < defaultAttempts && name == defaultAccount && apierrors.IsNotFound(err); i++ {
		select {
		case <-time.After(defaultInterval):
			o, err = p.Lookup.Get(ctx, serviceAccounts, namespace, name, true)
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	if err != nil {
		return nil, err
	}
	sa, ok := objectOf[*corev1.ServiceAccount](o)
	if !ok {
		return nil, fmt.Errorf("%s/%s is no service account", namespace, name)
	}
	return sa, nil
}

// mountToken adds the volume, and mounts it in every container that has nothing else at that place.
func mountToken(pod *corev1.Pod) {
	name := ""
	for _, v := range pod.Spec.Volumes {
		if v.Projected != nil && len(v.Name) > len(tokenVolume) && v.Name[:len(tokenVolume)] == tokenVolume {
			name = v.Name
		}
	}
	used := false
	fresh := name == ""
	if fresh {
		name = tokenVolume + suffix()
	}
	mount := func(containers []corev1.Container) {
		for i := range containers {
			c := &containers[i]
			if !slices.ContainsFunc(c.VolumeMounts, func(m corev1.VolumeMount) bool { return m.MountPath == tokenMountPath }) {
				c.VolumeMounts = append(c.VolumeMounts, corev1.VolumeMount{Name: name, ReadOnly: true, MountPath: tokenMountPath})
				used = true
			}
		}
	}
	mount(pod.Spec.InitContainers)
	mount(pod.Spec.Containers)
	if !used || !fresh {
		return
	}
	pod.Spec.Volumes = append(pod.Spec.Volumes, corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{
		DefaultMode: ptr.To(corev1.ProjectedVolumeSourceDefaultMode),
		Sources: []corev1.VolumeProjection{
			{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token", ExpirationSeconds: ptr.To(int64(tokenSeconds))}},
			{ConfigMap: &corev1.ConfigMapProjection{
				LocalObjectReference: corev1.LocalObjectReference{Name: "kube-root-ca.crt"}, Items: []corev1.KeyToPath{{Key: "ca.crt", Path: "ca.crt"}},
			}},
			{DownwardAPI: &corev1.DownwardAPIProjection{Items: []corev1.DownwardAPIVolumeFile{
				{Path: "namespace", FieldRef: &corev1.ObjectFieldSelector{APIVersion: "v1", FieldPath: "metadata.namespace"}},
			}}},
		},
	}}})
}

func suffix() string {
	const runes = "bcdfghjklmnpqrstvwxz2456789"
	b := make([]byte, 5)
	for i := range b {
		b[i] = runes[rand.IntN(len(runes))]
	}
	return string(b)
}
