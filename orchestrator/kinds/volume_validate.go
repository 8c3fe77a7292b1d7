package kinds

import (
	"fmt"
	"path"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/diff"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func validatePersistentVolume(o *corev1.PersistentVolume) field.ErrorList {
	var p problems
	spec, s := field.NewPath("spec"), &o.Spec
	if len(s.AccessModes) == 0 {
		p.required(spec.Child("accessModes"), "")
	}
	p.accessModes(spec.Child("accessModes"), s.AccessModes)
	p.volumeCapacity(spec.Child("capacity"), s.Capacity)
	if s.PersistentVolumeReclaimPolicy != "" {
		oneOf(&p, spec.Child("persistentVolumeReclaimPolicy"), s.PersistentVolumeReclaimPolicy,
			corev1.PersistentVolumeReclaimDelete, corev1.PersistentVolumeReclaimRecycle, corev1.PersistentVolumeReclaimRetain)
	}
	if a := s.NodeAffinity; a != nil {
		if at := spec.Child("nodeAffinity", "required"); a.Required == nil {
			p.required(at, "must specify required node constraints")
		} else {
			p.nodeSelector(at, a.Required)
		}
	}
	p.volumeSource(spec, o)
	if v := s.HostPath; v != nil && path.Clean(v.Path) == "/" && s.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimRecycle {
		p.forbidden(spec.Child("persistentVolumeReclaimPolicy"), "may not be 'recycle' for a hostPath mount of '/'")
	}
	if s.StorageClassName != "" {
		p.name(spec.Child("storageClassName"), s.StorageClassName)
	}
	p.volumeMode(spec.Child("volumeMode"), s.VolumeMode)
	if at, c := spec.Child("volumeAttributesClassName"), s.VolumeAttributesClassName; c != nil {
		if *c == "" {
			p.required(at, "an empty string is disallowed")
		} else {
			p.name(at, *c)
		}
		if s.CSI == nil {
			p.required(spec.Child("csi"), "has to be specified when using volumeAttributesClassName")
		}
	}
	if _, noted := o.Annotations[corev1.MountOptionAnnotation]; noted && !takesMountOptions(s) {
		p.forbidden(field.NewPath("metadata", "annotations", corev1.MountOptionAnnotation), "may not specify mount options for this volume type")
	}
	return p.list
}

func takesMountOptions(s *corev1.PersistentVolumeSpec) bool {
	return s.GCEPersistentDisk != nil || s.AWSElasticBlockStore != nil || s.Glusterfs != nil || s.NFS != nil || s.RBD != nil || s.Quobyte != nil ||
		s.ISCSI != nil || s.Cinder != nil || s.CephFS != nil || s.AzureFile != nil || s.VsphereVolume != nil || s.AzureDisk != nil ||
		s.PhotonPersistentDisk != nil
}

func (p *problems) accessModes(at *field.Path, modes []corev1.PersistentVolumeAccessMode) {
	known := []corev1.PersistentVolumeAccessMode{corev1.ReadOnlyMany, corev1.ReadWriteMany, corev1.ReadWriteOnce, corev1.ReadWriteOncePod}
	onePod, other := false, false
	for _, m := range modes {
		before := len(p.list)
		oneOf(p, at, m, known...)
		onePod = onePod || m == corev1.ReadWriteOncePod
		other = other || m != corev1.ReadWriteOncePod && len(p.list) == before
	}
	if onePod && other {
		p.forbidden(at, "may not use ReadWriteOncePod with other access modes")
	}
}

func (p *problems) volumeMode(at *field.Path, m *corev1.PersistentVolumeMode) {
	if m != nil {
		oneOf(p, at, *m, corev1.PersistentVolumeBlock, corev1.PersistentVolumeFilesystem)
	}
}

func (p *problems) volumeCapacity(at *field.Path, l corev1.ResourceList) {
	if len(l) == 0 {
		p.required(at, "")
	}
	if _, ok := l[corev1.ResourceStorage]; !ok || len(l) > 1 {
		p.add(field.NotSupported(at, l, []corev1.ResourceName{corev1.ResourceStorage}))
	}
	inNames(l, func(name corev1.ResourceName, q resource.Quantity) {
		p.basicQuantity(at.Key(string(name)), q)
		p.quantityPositive(at.Key(string(name)), q)
	})
}

func (p *problems) basicQuantity(at *field.Path, q resource.Quantity) {
	if q.Value() < 0 {
		p.invalid(at, q.Value(), "must be a valid resource quantity")
	}
}

func (p *problems) quantityPositive(at *field.Path, q resource.Quantity) bool {
	if q.Sign() <= 0 {
		p.invalid(at, q.String(), "must be greater than zero")
	}
	return q.Sign() > 0
}

// flexVolume is never one too many in Kubernetes.
const flexVolume = "flexVolume"

// volumeCheck is one of the things that a volume may be.
type volumeCheck struct {
	name  string // of its field
	set   bool
	check func(at *field.Path)
}

// volumeSource requires a volume to be one thing.
func (p *problems) volumeSource(spec *field.Path, o *corev1.PersistentVolume) {
	found := false
	for _, c := range append(p.diskVolumes(o), p.driverVolumes(spec, o)...) {
		switch {
		case !c.set:
		case found && c.name != flexVolume:
			p.forbidden(spec.Child(c.name), "may not specify more than 1 volume type")
		default:
			found = true
			c.check(spec.Child(c.name))
		}
	}
	if !found {
		p.required(spec, "must specify a volume type")
	}
}

// diskVolumes are the first half of what a volume may be, in the order in which they are looked at.
func (p *problems) diskVolumes(o *corev1.PersistentVolume) []volumeCheck {
	s := &o.Spec
	return []volumeCheck{
		{"hostPath", s.HostPath != nil, func(at *field.Path) { p.hostPath(at, s.HostPath) }},
		{"gcePersistentDisk", s.GCEPersistentDisk != nil, func(at *field.Path) { p.gcePersistentDisk(at, s.GCEPersistentDisk) }},
		{"awsElasticBlockStore", s.AWSElasticBlockStore != nil, func(at *field.Path) { p.awsElasticBlockStore(at, s.AWSElasticBlockStore) }},
		{"glusterfs", s.Glusterfs != nil, func(at *field.Path) { p.glusterfs(at, s.Glusterfs) }},
		{"flocker", s.Flocker != nil, func(at *field.Path) { p.flocker(at, s.Flocker) }},
		{"nfs", s.NFS != nil, func(at *field.Path) { p.nfs(at, s.NFS) }},
		{"rbd", s.RBD != nil, func(at *field.Path) {
			p.some(at.Child("monitors"), s.RBD.CephMonitors)
			p.needs(at, "image", s.RBD.RBDImage)
		}},
		{"quobyte", s.Quobyte != nil, func(at *field.Path) { p.quobyte(at, s.Quobyte) }},
		{"cephfs", s.CephFS != nil, func(at *field.Path) { p.some(at.Child("monitors"), s.CephFS.Monitors) }},
		{"iscsi", s.ISCSI != nil, func(at *field.Path) {
			v, secret := s.ISCSI, (*string)(nil)
			if v.SecretRef != nil {
				secret = &v.SecretRef.Name
			}
			p.iscsi(at, o.Name, v.TargetPortal, v.IQN, v.Lun, v.InitiatorName, secret, v.DiscoveryCHAPAuth || v.SessionCHAPAuth)
		}},
		{"cinder", s.Cinder != nil, func(at *field.Path) {
			p.needs(at, "volumeID", s.Cinder.VolumeID)
			if r := s.Cinder.SecretRef; r != nil {
				p.needs(at.Child("secretRef"), "name", r.Name, "namespace", r.Namespace)
			}
		}},
		{"fc", s.FC != nil, func(at *field.Path) { p.fibreChannel(at, s.FC) }},
	}
}

// driverVolumes are the second half.
func (p *problems) driverVolumes(spec *field.Path, o *corev1.PersistentVolume) []volumeCheck {
	s := &o.Spec
	return []volumeCheck{
		{flexVolume, s.FlexVolume != nil, func(at *field.Path) {
			p.needs(at, "driver", s.FlexVolume.Driver)
			p.flexOptions(at.Child("options"), s.FlexVolume.Options)
		}},
		{"azureFile", s.AzureFile != nil, func(at *field.Path) {
			p.needs(at, "secretName", s.AzureFile.SecretName, "shareName", s.AzureFile.ShareName)
			if n := s.AzureFile.SecretNamespace; n != nil {
				p.needs(at, "secretNamespace", *n)
			}
		}},
		{"vsphereVolume", s.VsphereVolume != nil, func(at *field.Path) { p.needs(at, "volumePath", s.VsphereVolume.VolumePath) }},
		{"photonPersistentDisk", s.PhotonPersistentDisk != nil, func(at *field.Path) { p.needs(at, "pdID", s.PhotonPersistentDisk.PdID) }},
		{"portworxVolume", s.PortworxVolume != nil, func(at *field.Path) { p.needs(at, "volumeID", s.PortworxVolume.VolumeID) }},
		{"azureDisk", s.AzureDisk != nil, func(at *field.Path) { p.azureDisk(at, s.AzureDisk) }},
		{"scaleIO", s.ScaleIO != nil, func(at *field.Path) {
			p.needs(at, "gateway", s.ScaleIO.Gateway, "system", s.ScaleIO.System, "volumeName", s.ScaleIO.VolumeName)
		}},
		{"local", s.Local != nil, func(at *field.Path) {
			p.localPath(at, s.Local)
			if s.NodeAffinity == nil {
				p.required(spec.Child("nodeAffinity"), "Local volume requires node affinity")
			}
		}},
		{"storageos", s.StorageOS != nil, func(at *field.Path) { p.storageOS(at, s.StorageOS) }},
		{"csi", s.CSI != nil, func(at *field.Path) { p.csiVolume(at, s.CSI) }},
	}
}

func (p *problems) some(at *field.Path, list []string) {
	if len(list) == 0 {
		p.required(at, "")
	}
}

func (p *problems) glusterfs(at *field.Path, v *corev1.GlusterfsPersistentVolumeSource) {
	p.needs(at, "endpoints", v.EndpointsName, "path", v.Path)
	if n := v.EndpointsNamespace; n != nil {
		if *n == "" {
			p.invalid(at.Child("endpointsNamespace"), *n, "if the endpointnamespace is set, it must be a valid namespace name")
		} else {
			p.each(at.Child("endpointsNamespace"), *n, validation.ValidateNamespaceName(*n, false))
		}
	}
}

func (p *problems) storageOS(at *field.Path, v *corev1.StorageOSPersistentVolumeSource) {
	if p.have(at.Child("volumeName"), v.VolumeName) {
		p.label(at.Child("volumeName"), v.VolumeName)
	}
	if v.VolumeNamespace != "" {
		p.label(at.Child("volumeNamespace"), v.VolumeNamespace)
	}
	if r := v.SecretRef; r != nil {
		p.needs(at.Child("secretRef"), "name", r.Name, "namespace", r.Namespace)
	}
}

func (p *problems) csiVolume(at *field.Path, v *corev1.CSIPersistentVolumeSource) {
	p.csiDriver(at.Child("driver"), v.Driver)
	p.needs(at, "volumeHandle", v.VolumeHandle)
	for _, s := range []struct {
		name string
		ref  *corev1.SecretReference
	}{
		{"controllerPublishSecretRef", v.ControllerPublishSecretRef}, {"controllerExpandSecretRef", v.ControllerExpandSecretRef},
		{"nodePublishSecretRef", v.NodePublishSecretRef}, {"nodeExpandSecretRef", v.NodeExpandSecretRef},
	} {
		if s.ref == nil {
			continue
		}
		at := at.Child(s.name)
		if p.have(at.Child("name"), s.ref.Name) {
			p.subdomain(at.Child("name"), s.ref.Name)
		}
		if p.have(at.Child("namespace"), s.ref.Namespace) {
			p.label(at.Child("namespace"), s.ref.Namespace)
		}
	}
}

func validatePersistentVolumeUpdate(o, old *corev1.PersistentVolume) field.ErrorList {
	var p problems
	is, was := o.Spec.PersistentVolumeSource, old.Spec.PersistentVolumeSource
	if is.CSI != nil && was.CSI != nil && was.CSI.ControllerExpandSecretRef == nil { // which may be set once
		is.CSI = is.CSI.DeepCopy()
		is.CSI.ControllerExpandSecretRef = nil
	}
	if !equality.Semantic.DeepEqual(is, was) {
		p.forbidden(field.NewPath("spec", "persistentvolumesource"), fmt.Sprintf("spec.persistentvolumesource is immutable after creation\n%v", diff.Diff(was, is)))
	}
	p.add(validation.ValidateImmutableField(o.Spec.VolumeMode, old.Spec.VolumeMode, field.NewPath("volumeMode"))...)
	if a := old.Spec.NodeAffinity; a != nil && !equality.Semantic.DeepEqual(o.Spec.NodeAffinity, a) &&
		!equality.Semantic.DeepEqual(o.Spec.NodeAffinity, withNewLabels(a, o.Spec.NodeAffinity)) {
		p.invalid(field.NewPath("nodeAffinity"), o.Spec.NodeAffinity, validation.FieldImmutableErrorMsg+", except for updating from beta label to GA")
	}
	if old.Spec.VolumeAttributesClassName != nil && o.Spec.VolumeAttributesClassName == nil {
		p.forbidden(field.NewPath("spec", "volumeAttributesClassName"), "update from non-nil value to nil is forbidden")
	}
	return p.list
}

// withNewLabels returns an affinity that says what an old one says with the labels' names of today, where the new one does.
func withNewLabels(old, now *corev1.VolumeNodeAffinity) *corev1.VolumeNodeAffinity {
	renamed := map[string]string{
		corev1.LabelFailureDomainBetaZone: corev1.LabelTopologyZone, corev1.LabelFailureDomainBetaRegion: corev1.LabelTopologyRegion,
		"beta.kubernetes.io/os": corev1.LabelOSStable, "beta.kubernetes.io/arch": corev1.LabelArchStable, corev1.LabelInstanceType: corev1.LabelInstanceTypeStable,
	}
	a := old.DeepCopy()
	if a.Required == nil || now == nil || now.Required == nil || len(now.Required.NodeSelectorTerms) != len(a.Required.NodeSelectorTerms) {
		return a
	}
	for i := range a.Required.NodeSelectorTerms {
		then, today := a.Required.NodeSelectorTerms[i].MatchExpressions, now.Required.NodeSelectorTerms[i].MatchExpressions
		for j := range min(len(then), len(today)) {
			if renamed[then[j].Key] == today[j].Key {
				then[j].Key = today[j].Key
			}
		}
	}
	return a
}

func validatePersistentVolumeStatus(o, _ *corev1.PersistentVolume) field.ErrorList {
	var p problems
	p.have(field.NewPath("resourceVersion"), o.ResourceVersion)
	return p.list
}

func warnOfPersistentVolume(o, _ *corev1.PersistentVolume) (warnings []string) {
	warn := func(at *field.Path, message string) { warnings = append(warnings, at.String()+": "+message) }
	notes, spec, s := field.NewPath("metadata", "annotations"), field.NewPath("spec"), &o.Spec
	for _, a := range [][2]string{
		{corev1.BetaStorageClassAnnotation, `deprecated since v1.8; use "storageClassName" attribute instead`},
		{corev1.MountOptionAnnotation, `deprecated since v1.31; use "mountOptions" attribute instead`},
	} {
		if _, ok := o.Annotations[a[0]]; ok {
			warn(notes.Key(a[0]), a[1])
		}
	}
	if s.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimRecycle {
		warn(spec.Child("persistentVolumeReclaimPolicy"), "The Recycle reclaim policy is deprecated. Instead, the recommended approach is to use dynamic provisioning.")
	}
	if s.NodeAffinity != nil && s.NodeAffinity.Required != nil {
		for i, t := range s.NodeAffinity.Required.NodeSelectorTerms {
			for j, r := range t.MatchExpressions {
				if m, ok := deprecatedNodeLabels()[r.Key]; ok {
					warn(spec.Child("nodeAffinity", "required", "nodeSelectorTerms").Index(i).Child("matchExpressions").Index(j).Child("key"), r.Key+" is "+m)
				}
			}
		}
	}
	for _, v := range []struct {
		name, message string
		set           bool
	}{
		{"cephfs", "deprecated in v1.28, non-functional in v1.31+", s.CephFS != nil},
		{"photonPersistentDisk", "deprecated in v1.11, non-functional in v1.16+", s.PhotonPersistentDisk != nil},
		{"scaleIO", "deprecated in v1.16, non-functional in v1.22+", s.ScaleIO != nil},
		{"storageOS", "deprecated in v1.22, non-functional in v1.25+", s.StorageOS != nil},
		{"glusterfs", "deprecated in v1.25, non-functional in v1.26+", s.Glusterfs != nil},
		{"rbd", "deprecated in v1.28, non-functional in v1.31+", s.RBD != nil},
	} {
		if v.set {
			warn(spec.Child(v.name), v.message)
		}
	}
	return warnings
}

// deprecatedNodeLabels are labels of nodes that are not used any more, with what to do.
func deprecatedNodeLabels() map[string]string {
	return map[string]string{
		"beta.kubernetes.io/arch":                       `deprecated since v1.14; use "kubernetes.io/arch" instead`,
		"beta.kubernetes.io/os":                         `deprecated since v1.14; use "kubernetes.io/os" instead`,
		"failure-domain.beta.kubernetes.io/region":      `deprecated since v1.17; use "topology.kubernetes.io/region" instead`,
		"failure-domain.beta.kubernetes.io/zone":        `deprecated since v1.17; use "topology.kubernetes.io/zone" instead`,
		"beta.kubernetes.io/instance-type":              `deprecated since v1.17; use "node.kubernetes.io/instance-type" instead`,
		"app.kubernetes.io/created-by":                  `deprecated since v1.9`,
		"scheduler.alpha.kubernetes.io/preferAvoidPods": `deprecated since v1.22; use Taints and Tolerations instead`,
		"node-role.kubernetes.io/master":                `use "node-role.kubernetes.io/control-plane" instead`,
	}
}

func warnOfClaimSpec(at *field.Path, s *corev1.PersistentVolumeClaimSpec) (warnings []string) {
	for _, part := range []struct {
		name string
		list corev1.ResourceList
	}{{"requests", s.Resources.Requests}, {"limits", s.Resources.Limits}} {
		if q := part.list[corev1.ResourceStorage]; q.MilliValue()%1000 != 0 {
			warnings = append(warnings, fmt.Sprintf("%s: fractional byte value %q is invalid, must be an integer",
				at.Child("resources", part.name).Key(string(corev1.ResourceStorage)), q.String()))
		}
	}
	return warnings
}

func warnOfPersistentVolumeClaim(o, _ *corev1.PersistentVolumeClaim) (warnings []string) {
	if _, ok := o.Annotations[corev1.BetaStorageClassAnnotation]; ok {
		warnings = append(warnings, field.NewPath("metadata", "annotations").Key(corev1.BetaStorageClassAnnotation).String()+
			`: deprecated since v1.8; use "storageClassName" attribute instead`)
	}
	return append(warnings, warnOfClaimSpec(field.NewPath("spec"), &o.Spec)...)
}
