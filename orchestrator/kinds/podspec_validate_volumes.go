package kinds

import (
	"fmt"
	"path"
	"reflect"
	"strings"
	"unicode"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// podVolumes checks the volumes of a pod and remembers those that are well-formed.
func (p *podCheck) podVolumes(at *field.Path) {
	p.volumes = make(map[string]*corev1.VolumeSource, len(p.spec.Volumes))
	named := p.meta != nil && p.meta.Name != "" // else it is not known what its claims are called
	made := sets.Set[string]{}
	for i := range p.spec.Volumes {
		if v := &p.spec.Volumes[i]; named && v.Ephemeral != nil {
			made.Insert(p.meta.Name + "-" + v.Name)
		}
	}
	for i := range p.spec.Volumes {
		v, at, before := &p.spec.Volumes[i], at.Index(i), len(p.list)
		p.podVolume(v, at)
		if p.have(at.Child("name"), v.Name) {
			p.label(at.Child("name"), v.Name)
		}
		if p.volumes[v.Name] != nil {
			p.duplicate(at.Child("name"), v.Name)
		}
		if len(p.list) == before {
			p.volumes[v.Name] = &v.VolumeSource
		}
		if c := v.PersistentVolumeClaim; c != nil && made.Has(c.ClaimName) {
			p.invalid(at.Child("persistentVolumeClaim", "claimName"), c.ClaimName, "must not reference a PVC that gets created for an ephemeral volume")
		}
	}
}

// podVolume requires a volume to be one thing.
func (p *podCheck) podVolume(v *corev1.Volume, at *field.Path) {
	found := false
	for _, checks := range [][]volumeCheck{p.localVolumes(v, at), p.remoteVolumes(v, at)} {
		for _, c := range checks {
			switch {
			case !c.set:
			case found:
				p.forbidden(at.Child(c.name), "may not specify more than 1 volume type")
			default:
				found = true
				if c.name == "downwarAPI" { // the field is misspelled in the message above, and only there
					c.name = "downwardAPI"
				}
				c.check(at.Child(c.name))
			}
		}
	}
	if !found {
		p.required(at, "must specify a volume type")
	}
}

// localVolumes are those that Kubernetes provides.
func (p *podCheck) localVolumes(volume *corev1.Volume, at *field.Path) []volumeCheck {
	v := &volume.VolumeSource
	return []volumeCheck{
		{"emptyDir", v.EmptyDir != nil, func(at *field.Path) {
			if q := v.EmptyDir.SizeLimit; q != nil && q.Sign() < 0 {
				p.forbidden(at.Child("sizeLimit"), "SizeLimit field must be a valid resource quantity")
			}
		}},
		{"hostPath", v.HostPath != nil, func(at *field.Path) { p.hostPath(at, v.HostPath) }},
		{"gitRepo", v.GitRepo != nil, func(at *field.Path) {
			p.needs(at, "repository", v.GitRepo.Repository)
			p.descending(at.Child("directory"), v.GitRepo.Directory)
		}},
		{"gcePersistentDisk", v.GCEPersistentDisk != nil, func(*field.Path) { p.gcePersistentDisk(at.Child("persistentDisk"), v.GCEPersistentDisk) }},
		{"awsElasticBlockStore", v.AWSElasticBlockStore != nil, func(at *field.Path) { p.awsElasticBlockStore(at, v.AWSElasticBlockStore) }},
		{"secret", v.Secret != nil, func(at *field.Path) {
			p.needs(at, "secretName", v.Secret.SecretName)
			p.fileMode(at.Child("defaultMode"), v.Secret.DefaultMode)
			p.keyPaths(at.Child("items"), v.Secret.Items)
		}},
		{"nfs", v.NFS != nil, func(at *field.Path) { p.nfs(at, v.NFS) }},
		{"iscsi", v.ISCSI != nil, func(*field.Path) { p.podISCSI(volume, at) }},
		{"glusterfs", v.Glusterfs != nil, func(at *field.Path) { p.needs(at, "endpoints", v.Glusterfs.EndpointsName, "path", v.Glusterfs.Path) }},
		{"flocker", v.Flocker != nil, func(at *field.Path) { p.flocker(at, v.Flocker) }},
		{"persistentVolumeClaim", v.PersistentVolumeClaim != nil, func(at *field.Path) { p.needs(at, "claimName", v.PersistentVolumeClaim.ClaimName) }},
		{"rbd", v.RBD != nil, func(at *field.Path) {
			p.some(at.Child("monitors"), v.RBD.CephMonitors)
			p.needs(at, "image", v.RBD.RBDImage)
		}},
		{"cinder", v.Cinder != nil, func(at *field.Path) {
			p.needs(at, "volumeID", v.Cinder.VolumeID)
			p.secretRef(at, v.Cinder.SecretRef)
		}},
		{"cephFS", v.CephFS != nil, func(*field.Path) { p.some(at.Child("cephfs", "monitors"), v.CephFS.Monitors) }},
		{"quobyte", v.Quobyte != nil, func(at *field.Path) { p.quobyte(at, v.Quobyte) }},
		{"downwarAPI", v.DownwardAPI != nil, func(at *field.Path) {
			p.fileMode(at.Child("defaultMode"), v.DownwardAPI.DefaultMode)
			for i := range v.DownwardAPI.Items {
				p.downwardFile(&v.DownwardAPI.Items[i], at)
			}
		}},
	}
}

// remoteVolumes are the others.
func (p *podCheck) remoteVolumes(volume *corev1.Volume, at *field.Path) []volumeCheck {
	v := &volume.VolumeSource
	return []volumeCheck{
		{"fc", v.FC != nil, func(at *field.Path) { p.fibreChannel(at, v.FC) }},
		{"flexVolume", v.FlexVolume != nil, func(at *field.Path) {
			p.needs(at, "driver", v.FlexVolume.Driver)
			p.flexOptions(at.Child("options"), v.FlexVolume.Options)
		}},
		{"configMap", v.ConfigMap != nil, func(at *field.Path) {
			p.needs(at, "name", v.ConfigMap.Name)
			p.fileMode(at.Child("defaultMode"), v.ConfigMap.DefaultMode)
			p.keyPaths(at.Child("items"), v.ConfigMap.Items)
		}},
		{"azureFile", v.AzureFile != nil, func(at *field.Path) {
			p.needs(at, "secretName", v.AzureFile.SecretName, "shareName", v.AzureFile.ShareName)
		}},
		{"vsphereVolume", v.VsphereVolume != nil, func(at *field.Path) { p.needs(at, "volumePath", v.VsphereVolume.VolumePath) }},
		{"photonPersistentDisk", v.PhotonPersistentDisk != nil, func(at *field.Path) { p.needs(at, "pdID", v.PhotonPersistentDisk.PdID) }},
		{"portworxVolume", v.PortworxVolume != nil, func(at *field.Path) { p.needs(at, "volumeID", v.PortworxVolume.VolumeID) }},
		{"azureDisk", v.AzureDisk != nil, func(at *field.Path) { p.azureDisk(at, v.AzureDisk) }},
		{"storageos", v.StorageOS != nil, func(at *field.Path) {
			if p.have(at.Child("volumeName"), v.StorageOS.VolumeName) {
				p.label(at.Child("volumeName"), v.StorageOS.VolumeName)
			}
			if n := v.StorageOS.VolumeNamespace; n != "" {
				p.label(at.Child("volumeNamespace"), n)
			}
			p.secretRef(at, v.StorageOS.SecretRef)
		}},
		{"projected", v.Projected != nil, func(at *field.Path) { p.projected(v.Projected, at) }},
		{"scaleIO", v.ScaleIO != nil, func(at *field.Path) {
			p.needs(at, "gateway", v.ScaleIO.Gateway, "system", v.ScaleIO.System, "volumeName", v.ScaleIO.VolumeName)
		}},
		{"csi", v.CSI != nil, func(at *field.Path) {
			p.csiDriver(at.Child("driver"), v.CSI.Driver)
			if r := v.CSI.NodePublishSecretRef; r != nil && p.have(at.Child("nodePublishSecretRef", "name"), r.Name) {
				p.name(at.Child("name"), r.Name)
			}
		}},
		{"ephemeral", v.Ephemeral != nil, func(*field.Path) { p.ephemeralVolume(volume, at) }},
		{"image", v.Image != nil, func(at *field.Path) {
			p.needs(at, "reference", v.Image.Reference)
			p.pullPolicy(at.Child("pullPolicy"), v.Image.PullPolicy)
		}},
	}
}

func (p *podCheck) pullPolicy(at *field.Path, policy corev1.PullPolicy) {
	mustBeOneOf(&p.problems, at, policy, corev1.PullAlways, corev1.PullIfNotPresent, corev1.PullNever)
}

func (p *problems) secretRef(at *field.Path, r *corev1.LocalObjectReference) {
	if r != nil {
		p.needs(at.Child("secretRef"), "name", r.Name)
	}
}

const badMode = "must be a number between 0 and 0777 (octal), both inclusive"

// fileMode checks the mode of a file, which may be absent.
func (p *problems) fileMode(at *field.Path, mode *int32) {
	if mode != nil && (*mode < 0 || *mode > 0o777) {
		p.invalid(at, *mode, badMode)
	}
}

// descending checks that a path stays in its directory.
func (p *problems) descending(at *field.Path, name string) {
	if path.IsAbs(name) {
		p.invalid(at, name, "must be a relative path")
	}
	p.noBacksteps(at, name)
}

// ownPath checks that a path stays in its directory, and is not one that the kubelet keeps for itself.
func (p *problems) ownPath(at *field.Path, name string) {
	p.descending(at, name)
	if strings.HasPrefix(name, "..") && !strings.HasPrefix(name, "../") {
		p.invalid(at, name, "must not start with '..'")
	}
}

func (p *problems) keyPaths(at *field.Path, items []corev1.KeyToPath) {
	for i := range items {
		p.keyPath(at.Index(i), &items[i])
	}
}

func (p *problems) keyPath(at *field.Path, k *corev1.KeyToPath) {
	p.needs(at, "key", k.Key, "path", k.Path)
	p.ownPath(at.Child("path"), k.Path)
	p.fileMode(at.Child("mode"), k.Mode)
}

// podISCSI checks an iSCSI volume. Its messages differ from those for persistent volumes.
func (p *podCheck) podISCSI(volume *corev1.Volume, at *field.Path) {
	v, in := volume.ISCSI, at.Child("iscsi")
	name := func(at *field.Path, name string) {
		if form := iscsiNames[name[:min(3, len(name))]]; form == nil {
			p.invalid(at, name, "must be valid format starting with iqn, eui, or naa")
		} else if !form.MatchString(name) {
			p.invalid(at, name, "must be valid format")
		}
	}
	p.needs(in, "targetPortal", v.TargetPortal)
	if p.have(in.Child("iqn"), v.IQN) {
		name(in.Child("iqn"), v.IQN)
	}
	p.upTo255(in.Child("lun"), v.Lun)
	if (v.DiscoveryCHAPAuth || v.SessionCHAPAuth) && v.SecretRef == nil {
		p.required(in.Child("secretRef"), "")
	}
	if v.InitiatorName == nil {
		return
	}
	name(in.Child("initiatorname"), *v.InitiatorName)
	if len(volume.Name+":"+v.TargetPortal) > 64 {
		p.invalid(at.Child("name"), volume.Name, "Total length of <volume name>:<iscsi.targetPortal> must be under 64 characters if iscsi.initiatorName is specified.")
	}
}

// ephemeralVolume checks a volume for which a claim is made.
func (p *podCheck) ephemeralVolume(volume *corev1.Volume, at *field.Path) {
	in := at.Child("ephemeral", "volumeClaimTemplate")
	if t := volume.Ephemeral.VolumeClaimTemplate; t == nil {
		p.required(in, "")
	} else {
		p.claimTemplateMeta(in.Child("metadata"), &t.ObjectMeta)
		p.claimSpec(in.Child("spec"), &t.Spec)
	}
	if p.meta == nil || p.meta.Name == "" || volume.Name == "" {
		return
	}
	claim := p.meta.Name + "-" + volume.Name
	for _, m := range validation.NameIsDNSSubdomain(claim, false) {
		p.invalid(at.Child("name"), volume.Name, fmt.Sprintf("PVC name %q: %v", claim, m))
	}
}

// claimTemplateMeta allows a template's claims only what is made of it.
func (p *problems) claimTemplateMeta(at *field.Path, m *metav1.ObjectMeta) {
	p.add(validation.ValidateAnnotations(m.Annotations, at.Child("annotations"))...)
	p.labels(at.Child("labels"), m.Labels)
	p.onlyFields(at, *m, "cannot be set", "Annotations", "Labels")
}

// onlyFields allows some fields of a struct, by their names in Go.
func (p *problems) onlyFields(at *field.Path, value any, message string, allowed ...string) {
	v, ok := reflect.ValueOf(value), sets.New(allowed...)
	for i := range v.NumField() {
		if name := v.Type().Field(i).Name; !ok.Has(name) && !v.Field(i).IsZero() {
			p.forbidden(at.Child(string(unicode.ToLower(rune(name[0])))+name[1:]), message)
		}
	}
}

// downwardFile checks a file that tells something of the pod.
func (p *podCheck) downwardFile(f *corev1.DownwardAPIVolumeFile, at *field.Path) {
	p.needs(at, "path", f.Path)
	p.ownPath(at.Child("path"), f.Path)
	switch {
	case f.FieldRef != nil:
		p.fieldRef(f.FieldRef, fileFields, at.Child("fieldRef"))
		if f.ResourceFieldRef != nil {
			p.invalid(at, "resource", "fieldRef and resourceFieldRef can not be specified simultaneously")
		}
	case f.ResourceFieldRef != nil:
		p.resourceRef(f.ResourceFieldRef, true, at.Child("resourceFieldRef"))
	default:
		p.required(at, "one of fieldRef and resourceFieldRef is required")
	}
	p.fileMode(at.Child("mode"), f.Mode)
}

// mounts checks where a container mounts volumes.
func (p *podCheck) mounts(c *corev1.Container, at *field.Path) {
	devices, paths := deviceSets(c)
	seen := sets.Set[string]{}
	for i := range c.VolumeMounts {
		m, here := &c.VolumeMounts[i], at.Index(i)
		p.have(here.Child("name"), m.Name)
		if p.volumes[m.Name] == nil {
			p.notFound(here.Child("name"), m.Name)
		}
		p.have(here.Child("mountPath"), m.MountPath)
		if seen.Has(m.MountPath) {
			p.invalid(here.Child("mountPath"), m.MountPath, "must be unique")
		}
		seen.Insert(m.MountPath)
		if devices.Has(m.Name) {
			p.invalid(here.Child("name"), m.Name, "must not already exist in volumeDevices")
		}
		if paths.Has(m.MountPath) {
			p.invalid(here.Child("mountPath"), m.MountPath, "must not already exist as a path in volumeDevices")
		}
		if m.SubPath != "" {
			p.descending(at.Child("subPath"), m.SubPath)
		}
		if m.SubPathExpr != "" {
			if m.SubPath != "" {
				p.invalid(here.Child("subPathExpr"), m.SubPathExpr, "subPathExpr and subPath are mutually exclusive")
			}
			p.descending(at.Child("subPathExpr"), m.SubPathExpr)
		}
		p.propagation(c, m, at)
	}
}

// propagation checks what a mount shares with the host. Its paths name no mount.
func (p *podCheck) propagation(c *corev1.Container, m *corev1.VolumeMount, at *field.Path) {
	if mode := m.MountPropagation; mode != nil {
		at := at.Child("mountPropagation")
		oneOf(&p.problems, at, *mode, corev1.MountPropagationBidirectional, corev1.MountPropagationHostToContainer, corev1.MountPropagationNone)
		privileged := c.SecurityContext != nil && c.SecurityContext.Privileged != nil && *c.SecurityContext.Privileged
		if *mode == corev1.MountPropagationBidirectional && !privileged {
			p.forbidden(at, "Bidirectional mount propagation is available only to privileged containers")
		}
	}
	if m.RecursiveReadOnly == nil {
		return
	}
	at = at.Child("recursiveReadOnly")
	oneOf(&p.problems, at, *m.RecursiveReadOnly, corev1.RecursiveReadOnlyDisabled, corev1.RecursiveReadOnlyEnabled, corev1.RecursiveReadOnlyIfPossible)
	switch *m.RecursiveReadOnly {
	case corev1.RecursiveReadOnlyEnabled, corev1.RecursiveReadOnlyIfPossible:
		if !m.ReadOnly {
			p.forbidden(at, "may only be specified when readOnly is true")
		}
		if m.MountPropagation != nil && *m.MountPropagation != corev1.MountPropagationNone {
			p.forbidden(at, "may only be specified when mountPropagation is None or not specified")
		}
	}
}

// deviceSets are the names and paths of a container's devices. A later one of the same name counts.
func deviceSets(c *corev1.Container) (names, paths sets.Set[string]) {
	byName := make(map[string]string, len(c.VolumeDevices))
	for _, d := range c.VolumeDevices {
		byName[d.Name] = d.DevicePath
	}
	return bothSets(byName)
}

func mountSets(c *corev1.Container) (names, paths sets.Set[string]) {
	byName := make(map[string]string, len(c.VolumeMounts))
	for _, m := range c.VolumeMounts {
		byName[m.Name] = m.MountPath
	}
	return bothSets(byName)
}

func bothSets(m map[string]string) (keys, values sets.Set[string]) {
	keys, values = sets.Set[string]{}, sets.Set[string]{}
	for k, v := range m {
		keys.Insert(k)
		values.Insert(v)
	}
	return keys, values
}

// devices checks which volumes a container gets as devices.
func (p *podCheck) devices(c *corev1.Container, at *field.Path) {
	mounts, mountPaths := mountSets(c)
	names, paths := sets.Set[string]{}, sets.Set[string]{}
	for i, d := range c.VolumeDevices {
		at := at.Index(i)
		nameAt, pathAt := at.Child("name"), at.Child("devicePath")
		p.have(nameAt, d.Name)
		if names.Has(d.Name) {
			p.invalid(nameAt, d.Name, "must be unique")
		}
		if v := p.volumes[d.Name]; v == nil {
			p.notFound(nameAt, d.Name)
		} else if v.PersistentVolumeClaim == nil && v.Ephemeral == nil {
			p.invalid(nameAt, d.Name, "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode")
		}
		p.have(pathAt, d.DevicePath)
		if paths.Has(d.DevicePath) {
			p.invalid(pathAt, d.DevicePath, "must be unique")
		}
		if leaves(d.DevicePath) {
			p.invalid(pathAt, d.DevicePath, "can not contain backsteps ('..')")
		} else {
			paths.Insert(d.DevicePath)
		}
		if mounts.Has(d.Name) {
			p.invalid(nameAt, d.Name, "must not already exist in volumeMounts")
		}
		if mountPaths.Has(d.DevicePath) {
			p.invalid(pathAt, d.DevicePath, "must not already exist as a path in volumeMounts")
		}
		if d.Name != "" {
			names.Insert(d.Name)
		}
	}
}

// leaves says that a path leaves its directory.
func leaves(name string) bool {
	var p problems
	p.noBacksteps(nil, name)
	return len(p.list) > 0
}

// resourceClaims checks the claims for devices.
func (p *podCheck) resourceClaims(at *field.Path) {
	p.claims = sets.Set[string]{}
	for _, c := range p.spec.ResourceClaims {
		if c.Name != "" {
			p.claims.Insert(c.Name)
		}
	}
	seen := map[string]bool{}
	for i := range p.spec.ResourceClaims {
		c, at := &p.spec.ResourceClaims[i], at.Index(i)
		if p.meta != nil && hasKey(p.meta.Annotations, corev1.MirrorPodAnnotationKey) {
			p.forbidden(field.NewPath(""), "static pods do not support resource claims")
			continue
		}
		switch {
		case c.Name == "":
			p.required(at.Child("name"), "")
		case seen[c.Name]:
			p.duplicate(at.Child("name"), c.Name)
		default:
			p.label(at.Child("name"), c.Name)
			seen[c.Name] = true
		}
		switch one, other := c.ResourceClaimName != nil, c.ResourceClaimTemplateName != nil; {
		case one && other:
			p.invalid(at, *c, "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified")
		case !one && !other:
			p.invalid(at, *c, "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`")
		}
		if n := c.ResourceClaimName; n != nil {
			p.name(at.Child("resourceClaimName"), *n)
		}
		if n := c.ResourceClaimTemplateName; n != nil {
			p.name(at.Child("resourceClaimTemplateName"), *n)
		}
	}
}

func hasKey[T any](m map[string]T, key string) bool {
	_, ok := m[key]
	return ok
}

// userAnnotations checks what a pod says of itself to the signer of its certificate.
func (p *problems) userAnnotations(at *field.Path, m map[string]string) {
	for k := range m {
		p.add(utilvalidation.IsDomainPrefixedKey(at, strings.ToLower(k))...)
	}
	if validation.ValidateAnnotationsSize(m) != nil {
		p.add(field.TooLong(at, "", validation.TotalAnnotationSizeLimitB))
	}
}
