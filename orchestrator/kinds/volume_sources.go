package kinds

import (
	"net"
	"path"
	"regexp"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// iscsiNames are the forms of the names of iSCSI targets and initiators, by what they begin with.
var iscsiNames = map[string]*regexp.Regexp{
	"iqn": regexp.MustCompile(`iqn\.\d{4}-\d{2}\.([[:alnum:]-.]+)(:[^,;*&$|\s]+)$`),
	"eui": regexp.MustCompile(`^eui.[[:alnum:]]{16}$`),
	"naa": regexp.MustCompile(`^naa.[[:alnum:]]{32}$`),
}

// needs requires texts, given as pairs of a field's name and the text.
func (p *problems) needs(at *field.Path, pairs ...string) {
	for pair := range slices.Chunk(pairs, 2) {
		p.have(at.Child(pair[0]), pair[1])
	}
}

func (p *problems) upTo255(at *field.Path, n int32) {
	if n < 0 || n > 255 {
		p.invalid(at, n, utilvalidation.InclusiveRangeError(0, 255))
	}
}

// partition checks the number of a partition. 0 is allowed, although the message says otherwise.
func (p *problems) partition(at *field.Path, n int32) {
	if n < 0 || n > 255 {
		p.invalid(at, n, utilvalidation.InclusiveRangeError(1, 255))
	}
}

// noBacksteps refuses paths that leave their directory.
func (p *problems) noBacksteps(at *field.Path, name string) {
	if slices.Contains(strings.Split(name, "/"), "..") {
		p.invalid(at, name, "must not contain '..'")
	}
}

func (p *problems) hostPath(at *field.Path, v *corev1.HostPathVolumeSource) {
	if !p.have(at.Child("path"), v.Path) {
		return
	}
	p.noBacksteps(at.Child("path"), v.Path)
	if v.Type != nil {
		oneOf(p, at.Child("type"), *v.Type, corev1.HostPathUnset, corev1.HostPathBlockDev, corev1.HostPathCharDev, corev1.HostPathDirectory,
			corev1.HostPathDirectoryOrCreate, corev1.HostPathFile, corev1.HostPathFileOrCreate, corev1.HostPathSocket)
	}
}

func (p *problems) localPath(at *field.Path, v *corev1.LocalVolumeSource) {
	if p.have(at.Child("path"), v.Path) {
		p.noBacksteps(at.Child("path"), v.Path)
	}
}

func (p *problems) gcePersistentDisk(at *field.Path, v *corev1.GCEPersistentDiskVolumeSource) {
	p.needs(at, "pdName", v.PDName)
	p.partition(at.Child("partition"), v.Partition)
}

func (p *problems) awsElasticBlockStore(at *field.Path, v *corev1.AWSElasticBlockStoreVolumeSource) {
	p.needs(at, "volumeID", v.VolumeID)
	p.partition(at.Child("partition"), v.Partition)
}

func (p *problems) flocker(at *field.Path, v *corev1.FlockerVolumeSource) {
	switch {
	case v.DatasetName == "" && v.DatasetUUID == "":
		p.required(at, "one of datasetName and datasetUUID is required")
	case v.DatasetName != "" && v.DatasetUUID != "":
		p.invalid(at, "resource", "datasetName and datasetUUID can not be specified simultaneously")
	}
	if strings.Contains(v.DatasetName, "/") {
		p.invalid(at.Child("datasetName"), v.DatasetName, "must not contain '/'")
	}
}

func (p *problems) nfs(at *field.Path, v *corev1.NFSVolumeSource) {
	p.needs(at, "server", v.Server, "path", v.Path)
	if !path.IsAbs(v.Path) {
		p.invalid(at.Child("path"), v.Path, "must be an absolute path")
	}
}

func (p *problems) quobyte(at *field.Path, v *corev1.QuobyteVolumeSource) {
	const pairs = "must be a host:port pair or multiple pairs separated by commas"
	switch {
	case v.Registry == "":
		p.required(at.Child("registry"), pairs)
	case len(v.Tenant) > 64:
		p.required(at.Child("tenant"), "must be a UUID and may not exceed a length of 64 characters")
	default:
		for pair := range strings.SplitSeq(v.Registry, ",") {
			if _, _, err := net.SplitHostPort(pair); err != nil {
				p.invalid(at.Child("registry"), v.Registry, pairs)
			}
		}
	}
	p.needs(at, "volume", v.Volume)
}

func (p *problems) fibreChannel(at *field.Path, v *corev1.FCVolumeSource) {
	switch names, ids := len(v.TargetWWNs) > 0, len(v.WWIDs) > 0; {
	case !names && !ids:
		p.required(at.Child("targetWWNs"), "must specify either targetWWNs or wwids, but not both")
	case names && ids:
		p.invalid(at.Child("targetWWNs"), v.TargetWWNs, "targetWWNs and wwids can not be specified simultaneously")
	}
	switch {
	case len(v.TargetWWNs) == 0:
	case v.Lun == nil:
		p.required(at.Child("lun"), "lun is required if targetWWNs is specified")
	default:
		p.upTo255(at.Child("lun"), *v.Lun)
	}
}

func (p *problems) azureDisk(at *field.Path, v *corev1.AzureDiskVolumeSource) {
	p.needs(at, "diskName", v.DiskName, "diskURI", v.DataDiskURI)
	if v.CachingMode != nil {
		oneOf(p, at.Child("cachingMode"), *v.CachingMode, corev1.AzureDataDiskCachingNone, corev1.AzureDataDiskCachingReadOnly, corev1.AzureDataDiskCachingReadWrite)
	}
	if v.Kind == nil {
		return
	}
	oneOf(p, at.Child("kind"), *v.Kind, corev1.AzureDedicatedBlobDisk, corev1.AzureManagedDisk, corev1.AzureSharedBlobDisk)
	prefix, form := "https://", "https://{account-name}.blob.core.windows.net/{container-name}/{disk-name}.vhd"
	if *v.Kind == corev1.AzureManagedDisk {
		prefix, form = "/subscriptions/", "/subscriptions/{sub-id}/resourcegroups/{group-name}/providers/microsoft.compute/disks/{disk-id}"
	}
	if !strings.HasPrefix(v.DataDiskURI, prefix) {
		p.add(field.NotSupported(at.Child("diskURI"), v.DataDiskURI, []string{form}))
	}
}

// iscsi is what iSCSI volumes of pods and those of the cluster have in common. volume is the volume's name.
func (p *problems) iscsi(at *field.Path, volume, portal, iqn string, lun int32, initiator *string, secret *string, authenticated bool) {
	p.needs(at, "targetPortal", portal)
	if initiator != nil && len(volume+":"+portal) > 64 {
		p.invalid(at.Child("targetportal"), portal, "Total length of <volume name>:<iscsi.targetPortal> must be under 64 characters if iscsi.initiatorName is specified.")
	}
	if p.have(at.Child("iqn"), iqn) {
		p.iscsiName(at.Child("iqn"), iqn)
	}
	p.upTo255(at.Child("lun"), lun)
	if secret != nil {
		p.needs(at.Child("secretRef"), "name", *secret)
	} else if authenticated {
		p.required(at.Child("secretRef"), "")
	}
	if initiator != nil {
		p.iscsiName(at.Child("initiatorname"), *initiator)
	}
}

func (p *problems) iscsiName(at *field.Path, name string) {
	if form := iscsiNames[name[:min(3, len(name))]]; form == nil || !form.MatchString(name) {
		p.invalid(at, name, "must be valid format")
	}
}

// flexOptions keeps options of Kubernetes from users.
func (p *problems) flexOptions(at *field.Path, options map[string]string) {
	for k := range options {
		space, _, _ := strings.Cut(k, "/")
		if space = "." + strings.ToLower(space); strings.HasSuffix(space, ".kubernetes.io") || strings.HasSuffix(space, ".k8s.io") {
			p.invalid(at.Key(k), k, "kubernetes.io and k8s.io namespaces are reserved")
		}
	}
}

func (p *problems) csiDriver(at *field.Path, name string) {
	if !p.have(at, name) {
		return
	}
	if len(name) > 63 {
		p.add(field.TooLong(at, "", 63))
	}
	p.each(at, name, utilvalidation.IsDNS1123Subdomain(strings.ToLower(name)))
}

// nodeSelector checks which nodes are meant.
func (p *problems) nodeSelector(at *field.Path, s *corev1.NodeSelector) {
	at = at.Child("nodeSelectorTerms")
	if len(s.NodeSelectorTerms) == 0 {
		p.required(at, "must have at least one node selector term")
	}
	for i := range s.NodeSelectorTerms {
		p.nodeSelectorTerm(at.Index(i), &s.NodeSelectorTerms[i])
	}
}

func (p *problems) nodeSelectorTerm(at *field.Path, t *corev1.NodeSelectorTerm) {
	for i, r := range t.MatchExpressions {
		p.nodeRequirement(at.Child("matchExpressions").Index(i), &r)
	}
	for i, r := range t.MatchFields {
		at := at.Child("matchFields").Index(i)
		switch r.Operator {
		case corev1.NodeSelectorOpIn, corev1.NodeSelectorOpNotIn:
			if len(r.Values) != 1 {
				p.required(at.Child("values"), "must be only one value when `operator` is 'In' or 'NotIn' for node field selector")
			}
		default:
			p.invalid(at.Child("operator"), r.Operator, notAnOperator)
		}
		if r.Key != "metadata.name" {
			p.invalid(at.Child("key"), r.Key, "not a valid field selector key")
			continue
		}
		for j, v := range r.Values {
			p.name(at.Child("values").Index(j), v)
		}
	}
}

const notAnOperator = "not a valid selector operator"

func (p *problems) nodeRequirement(at *field.Path, r *corev1.NodeSelectorRequirement) {
	values := at.Child("values")
	switch r.Operator {
	case corev1.NodeSelectorOpIn, corev1.NodeSelectorOpNotIn:
		if len(r.Values) == 0 {
			p.required(values, "must be specified when `operator` is 'In' or 'NotIn'")
		}
	case corev1.NodeSelectorOpExists, corev1.NodeSelectorOpDoesNotExist:
		if len(r.Values) > 0 {
			p.forbidden(values, "may not be specified when `operator` is 'Exists' or 'DoesNotExist'")
		}
	case corev1.NodeSelectorOpGt, corev1.NodeSelectorOpLt:
		if len(r.Values) != 1 {
			p.required(values, "must be specified single value when `operator` is 'Lt' or 'Gt'")
		}
	default:
		p.invalid(at.Child("operator"), r.Operator, notAnOperator)
	}
	p.labelKey(at.Child("key"), r.Key)
	for i, v := range r.Values {
		p.each(values.Index(i), v, utilvalidation.IsValidLabelValue(v))
	}
}
