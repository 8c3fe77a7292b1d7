package rights

import (
	"cmp"

	corev1 "k8s.io/api/core/v1"
)

// eachNeed calls do with the resource and name of every object that a pod refers to, some of them often, some with no name.
func eachNeed(p *corev1.Pod, do func(resource, name string)) {
	do(serviceAccountThing, p.Spec.ServiceAccountName)
	for _, r := range p.Spec.ImagePullSecrets {
		do(secretThing, r.Name)
	}
	for i := range p.Spec.InitContainers {
		eachVariable(p.Spec.InitContainers[i].EnvFrom, p.Spec.InitContainers[i].Env, do)
	}
	for i := range p.Spec.Containers {
		eachVariable(p.Spec.Containers[i].EnvFrom, p.Spec.Containers[i].Env, do)
	}
	for i := range p.Spec.EphemeralContainers {
		eachVariable(p.Spec.EphemeralContainers[i].EnvFrom, p.Spec.EphemeralContainers[i].Env, do)
	}
	for i := range p.Spec.Volumes {
		v := &p.Spec.Volumes[i]
		eachInVolume(&v.VolumeSource, do)
		if v.Ephemeral != nil {
			do(claimThing, p.Name+"-"+v.Name)
		}
	}
	for i := range p.Spec.ResourceClaims {
		if name := p.Spec.ResourceClaims[i].ResourceClaimName; name != nil {
			do(resourceClaimThing, *name)
			continue
		}
		for _, s := range p.Status.ResourceClaimStatuses {
			if s.Name == p.Spec.ResourceClaims[i].Name && s.ResourceClaimName != nil {
				do(resourceClaimThing, *s.ResourceClaimName)
			}
		}
	}
	if s := p.Status.ExtendedResourceClaimStatus; s != nil {
		do(resourceClaimThing, s.ResourceClaimName)
	}
}

func eachVariable(from []corev1.EnvFromSource, vars []corev1.EnvVar, do func(resource, name string)) {
	for _, f := range from {
		if f.SecretRef != nil {
			do(secretThing, f.SecretRef.Name)
		}
		if f.ConfigMapRef != nil {
			do(configMapThing, f.ConfigMapRef.Name)
		}
	}
	for _, v := range vars {
		if v.ValueFrom == nil {
			continue
		}
		if r := v.ValueFrom.SecretKeyRef; r != nil {
			do(secretThing, r.Name)
		}
		if r := v.ValueFrom.ConfigMapKeyRef; r != nil {
			do(configMapThing, r.Name)
		}
	}
}

// eachInVolume finds what a volume refers to, all but the claim of an ephemeral one.
func eachInVolume(v *corev1.VolumeSource, do func(resource, name string)) {
	local := func(r *corev1.LocalObjectReference) {
		if r != nil {
			do(secretThing, r.Name)
		}
	}
	switch {
	case v.Secret != nil:
		do(secretThing, v.Secret.SecretName)
	case v.ConfigMap != nil:
		do(configMapThing, v.ConfigMap.Name)
	case v.PersistentVolumeClaim != nil:
		do(claimThing, v.PersistentVolumeClaim.ClaimName)
	case v.Projected != nil:
		for _, s := range v.Projected.Sources {
			if s.Secret != nil {
				do(secretThing, s.Secret.Name)
			}
			if s.ConfigMap != nil {
				do(configMapThing, s.ConfigMap.Name)
			}
		}
	case v.AzureFile != nil:
		do(secretThing, v.AzureFile.SecretName)
	case v.CephFS != nil:
		local(v.CephFS.SecretRef)
	case v.Cinder != nil:
		local(v.Cinder.SecretRef)
	case v.FlexVolume != nil:
		local(v.FlexVolume.SecretRef)
	case v.RBD != nil:
		local(v.RBD.SecretRef)
	case v.ScaleIO != nil:
		local(v.ScaleIO.SecretRef)
	case v.ISCSI != nil:
		local(v.ISCSI.SecretRef)
	case v.StorageOS != nil:
		local(v.StorageOS.SecretRef)
	case v.CSI != nil:
		local(v.CSI.NodePublishSecretRef)
	}
}

// eachVolumeSecret calls do with the secrets of a persistent volume that a kubelet needs; those for the controllers are left
// out. Some kinds of volumes find a secret for which they name no namespace in that of their claim.
func eachVolumeSecret(v *corev1.PersistentVolumeSource, claim string, do func(namespace, name string)) {
	here := func(r *corev1.SecretReference) {
		if r != nil {
			do(cmp.Or(r.Namespace, claim), r.Name)
		}
	}
	ref := func(r *corev1.SecretReference) {
		if r != nil {
			do(r.Namespace, r.Name)
		}
	}
	switch {
	case v.AzureFile != nil:
		namespace := claim
		if n := v.AzureFile.SecretNamespace; n != nil && *n != "" {
			namespace = *n
		}
		do(namespace, v.AzureFile.SecretName)
	case v.CephFS != nil:
		here(v.CephFS.SecretRef)
	case v.Cinder != nil:
		ref(v.Cinder.SecretRef)
	case v.FlexVolume != nil:
		here(v.FlexVolume.SecretRef)
	case v.RBD != nil:
		here(v.RBD.SecretRef)
	case v.ScaleIO != nil:
		here(v.ScaleIO.SecretRef)
	case v.ISCSI != nil:
		here(v.ISCSI.SecretRef)
	case v.StorageOS != nil && v.StorageOS.SecretRef != nil:
		do(v.StorageOS.SecretRef.Namespace, v.StorageOS.SecretRef.Name)
	case v.CSI != nil:
		ref(v.CSI.NodePublishSecretRef)
		ref(v.CSI.NodeStageSecretRef)
		ref(v.CSI.NodeExpandSecretRef)
	}
}
