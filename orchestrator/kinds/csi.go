package kinds

import (
	"fmt"
	"slices"
	"strings"
	"time"

	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"
)

const (
	// minAllocatableSeconds is how often at most a node asks a driver how many volumes it can take.
	minAllocatableSeconds = 10
	maxNodeIDBytes        = 256
)

func csiDriverKind() *Kind {
	doc := storagev1.CSIDriverSpec{}.SwaggerDoc()
	flag := func(name, field string) metav1.TableColumnDefinition {
		return metav1.TableColumnDefinition{Name: name, Type: "boolean", Description: doc[field]}
	}
	return with(Kind{
		GroupVersionKind: storagev1.SchemeGroupVersion.WithKind("CSIDriver"), Resource: "csidrivers", Singular: "csidriver", Place: "csidrivers",
		New: func() Object { return &storagev1.CSIDriver{} }, NewList: func() runtime.Object { return &storagev1.CSIDriverList{} },
		NameErrors: validation.NameIsDNSSubdomain, Lifecycle: Lifecycle{Generation: true},
		Columns: []metav1.TableColumnDefinition{
			nameColumn,
			flag("AttachRequired", "attachRequired"),
			flag("PodInfoOnMount", "podInfoOnMount"),
			flag("StorageCapacity", "storageCapacity"),
			textColumn("TokenRequests", doc["tokenRequests"]),
			flag("RequiresRepublish", "requiresRepublish"),
			textColumn("Modes", doc["volumeLifecycleModes"]),
			ageColumn,
		},
	}, Rules[*storagev1.CSIDriver]{
		Default:  defaultCSIDriver,
		Validate: validateCSIDriver, ValidateUpdate: validateCSIDriverUpdate, Warnings: csiDriverWarnings,
		Spec: func(o *storagev1.CSIDriver) any { return &o.Spec },
		Row:  csiDriverRow,
	})
}

func defaultCSIDriver(o *storagev1.CSIDriver) {
	s := &o.Spec
	fill(&s.AttachRequired, true)
	fill(&s.PodInfoOnMount, false)
	fill(&s.StorageCapacity, false)
	fill(&s.FSGroupPolicy, storagev1.ReadWriteOnceWithFSTypeFSGroupPolicy)
	if len(s.VolumeLifecycleModes) == 0 {
		s.VolumeLifecycleModes = []storagev1.VolumeLifecycleMode{storagev1.VolumeLifecyclePersistent}
	}
	fill(&s.RequiresRepublish, false)
	fill(&s.SELinuxMount, false)
	fill(&s.PreventPodSchedulingIfMissing, false)
}

func csiDriverRow(o *storagev1.CSIDriver, now time.Time) []any {
	s := &o.Spec
	modes := make([]string, len(s.VolumeLifecycleModes))
	for i, m := range s.VolumeLifecycleModes {
		modes[i] = string(m)
	}
	tokens := unsetCell
	if s.TokenRequests != nil {
		audiences := make([]string, len(s.TokenRequests))
		for i := range s.TokenRequests {
			audiences[i] = s.TokenRequests[i].Audience
		}
		tokens = strings.Join(audiences, ",")
	}
	return []any{
		o.Name, ptr.Deref(s.AttachRequired, true), ptr.Deref(s.PodInfoOnMount, false), ptr.Deref(s.StorageCapacity, false), tokens,
		ptr.Deref(s.RequiresRepublish, false), orText(strings.Join(modes, ","), noCell), age(o, now),
	}
}

// validateCSIDriver does not look for the fields that are always defaulted.
func validateCSIDriver(o *storagev1.CSIDriver) field.ErrorList {
	var p problems
	spec, s := field.NewPath("spec"), &o.Spec
	if g := s.FSGroupPolicy; g != nil {
		oneOf(&p, spec.Child("fsGroupPolicy"), *g,
			storagev1.FileFSGroupPolicy, storagev1.NoneFSGroupPolicy, storagev1.ReadWriteOnceWithFSTypeFSGroupPolicy)
	}
	seen := map[string]bool{}
	for i := range s.TokenRequests {
		r, at := &s.TokenRequests[i], spec.Child("tokenRequests").Index(i)
		if seen[r.Audience] {
			p.duplicate(at.Child("audience"), r.Audience)
			continue
		}
		seen[r.Audience] = true
		switch at := at.Child("expirationSeconds"); {
		case r.ExpirationSeconds == nil:
		case *r.ExpirationSeconds < minTokenSeconds:
			p.invalid(at, *r.ExpirationSeconds, "may not specify a duration less than 10 minutes")
		case *r.ExpirationSeconds > maxTokenSeconds:
			p.invalid(at, *r.ExpirationSeconds, "may not specify a duration larger than 2^32 seconds")
		}
	}
	for _, m := range s.VolumeLifecycleModes {
		if m != storagev1.VolumeLifecyclePersistent && m != storagev1.VolumeLifecycleEphemeral {
			p.add(field.NotSupported(spec.Child("volumeLifecycleModes"), m,
				[]storagev1.VolumeLifecycleMode{storagev1.VolumeLifecyclePersistent, storagev1.VolumeLifecycleEphemeral}))
		}
	}
	if n := s.NodeAllocatableUpdatePeriodSeconds; n != nil && *n < minAllocatableSeconds {
		p.invalid(spec.Child("nodeAllocatableUpdatePeriodSeconds"), *n, "must be greater than or equal to 10 seconds")
	}
	if s.ServiceAccountTokenInSecrets != nil && len(s.TokenRequests) == 0 {
		p.invalid(spec.Child("serviceAccountTokenInSecrets"), *s.ServiceAccountTokenInSecrets,
			"serviceAccountTokenInSecrets is set but no tokenRequests are specified")
	}
	return p.list
}

func validateCSIDriverUpdate(o, old *storagev1.CSIDriver) field.ErrorList {
	var p problems
	spec := field.NewPath("spec")
	// The path is misspelt in Kubernetes.
	p.add(validation.ValidateImmutableField(o.Spec.AttachRequired, old.Spec.AttachRequired, spec.Child("attachedRequired"))...)
	p.add(validation.ValidateImmutableField(o.Spec.VolumeLifecycleModes, old.Spec.VolumeLifecycleModes, spec.Child("volumeLifecycleModes"))...)
	return p.list
}

func csiDriverWarnings(o, old *storagev1.CSIDriver) []string {
	s := &o.Spec
	if len(s.TokenRequests) == 0 || s.ServiceAccountTokenInSecrets != nil || old != nil && equality.Semantic.DeepEqual(s.TokenRequests, old.Spec.TokenRequests) {
		return nil
	}
	return []string{"spec.serviceAccountTokenInSecrets is unset; if supported by this CSI driver, set to true to prevent possible logging of tokens in volume attributes"}
}

func csiNodeKind() *Kind {
	return with(Kind{
		GroupVersionKind: storagev1.SchemeGroupVersion.WithKind("CSINode"), Resource: "csinodes", Singular: "csinode", Place: "csinodes",
		New: func() Object { return &storagev1.CSINode{} }, NewList: func() runtime.Object { return &storagev1.CSINodeList{} },
		NameErrors: validation.NameIsDNSSubdomain,
		Columns: []metav1.TableColumnDefinition{
			nameColumn, countColumn("Drivers", "Drivers indicates the number of CSI drivers registered on the node"), ageColumn,
		},
	}, Rules[*storagev1.CSINode]{
		// Without CSIVolumeHealth, an alpha feature, nobody writes the status.
		Create:   func(o *storagev1.CSINode) { o.Status = storagev1.CSINodeStatus{} },
		Update:   func(o, old *storagev1.CSINode) { old.Status.DeepCopyInto(&o.Status) },
		Validate: validateCSINode, ValidateUpdate: validateCSINodeUpdate,
		Row: func(o *storagev1.CSINode, now time.Time) []any {
			return []any{o.Name, int64(len(o.Spec.Drivers)), age(o, now)}
		},
	})
}

func validateCSINode(o *storagev1.CSINode) field.ErrorList {
	var p problems
	seen := map[string]bool{}
	for i := range o.Spec.Drivers {
		d, at := &o.Spec.Drivers[i], field.NewPath("spec", "drivers").Index(i)
		p.csiDriver(at.Child("name"), d.Name)
		if id := at.Child("nodeID"); p.have(id, d.NodeID) && len(d.NodeID) > maxNodeIDBytes {
			p.invalid(id, d.NodeID, fmt.Sprintf("must be %d characters or less", maxNodeIDBytes))
		}
		if a := d.Allocatable; a != nil && a.Count != nil {
			p.notNegative(at.Child("allocatable", "count"), int64(*a.Count))
		}
		unique(&p, seen, at.Child("name"), d.Name)
		keys := map[string]bool{}
		for _, k := range d.TopologyKeys {
			p.have(at, k)
			unique(&p, keys, at, k)
			p.qualifiedName(at, k)
		}
	}
	return p.list
}

// validateCSINodeUpdate lets drivers come and go, and change nothing but how many volumes there may be.
func validateCSINodeUpdate(o, old *storagev1.CSINode) field.ErrorList {
	var p problems
	for i := range old.Spec.Drivers {
		for j := range o.Spec.Drivers {
			was, is := old.Spec.Drivers[i], o.Spec.Drivers[j]
			if was.Name == is.Name {
				was.Allocatable, is.Allocatable = nil, nil
				p.add(validation.ValidateImmutableField(&is, &was, field.NewPath("spec", "drivers"))...)
			}
		}
	}
	return p.list
}

func csiStorageCapacityKind() *Kind {
	doc := storagev1.CSIStorageCapacity{}.SwaggerDoc()
	return with(Kind{
		GroupVersionKind: storagev1.SchemeGroupVersion.WithKind("CSIStorageCapacity"), Resource: "csistoragecapacities",
		Singular: "csistoragecapacity", Namespaced: true, Place: "csistoragecapacities",
		New: func() Object { return &storagev1.CSIStorageCapacity{} }, NewList: func() runtime.Object { return &storagev1.CSIStorageCapacityList{} },
		NameErrors: validation.NameIsDNSSubdomain,
		Columns: []metav1.TableColumnDefinition{
			nameColumn, textColumn("StorageClassName", doc["storageClassName"]), textColumn("Capacity", doc["capacity"]),
		},
	}, Rules[*storagev1.CSIStorageCapacity]{
		Ratchets: true,
		Validate: func(o *storagev1.CSIStorageCapacity) field.ErrorList { return validateCSIStorageCapacity(o, nil) },
		ValidateUpdate: func(o, old *storagev1.CSIStorageCapacity) field.ErrorList {
			p := problems{list: validateCSIStorageCapacity(o, old)}
			p.add(validation.ValidateImmutableField(o.NodeTopology, old.NodeTopology, field.NewPath("nodeTopology"))...)
			p.add(validation.ValidateImmutableField(o.StorageClassName, old.StorageClassName, field.NewPath("storageClassName"))...)
			return p.list
		},
		Warnings: func(o, _ *storagev1.CSIStorageCapacity) []string { return topologyWarnings(o.NodeTopology) },
		Row: func(o *storagev1.CSIStorageCapacity, _ time.Time) []any {
			capacity := unsetCell
			if o.Capacity != nil {
				capacity = o.Capacity.String()
			}
			return []any{o.Name, o.StorageClassName, capacity}
		},
	})
}

func validateCSIStorageCapacity(o, old *storagev1.CSIStorageCapacity) field.ErrorList {
	var p problems
	var options metav1validation.LabelSelectorValidationOptions
	if old != nil {
		options.AllowInvalidLabelValueInSelector = len(metav1validation.ValidateLabelSelector(old.NodeTopology, options, nil)) > 0
	}
	p.add(metav1validation.ValidateLabelSelector(o.NodeTopology, options, field.NewPath("nodeTopology"))...)
	p.name(field.NewPath("storageClassName"), o.StorageClassName)
	if o.Capacity != nil {
		p.quantityNotNegative(field.NewPath("capacity"), *o.Capacity)
	}
	return p.list
}

// topologyWarnings tells of labels of nodes that are not used any more.
func topologyWarnings(s *metav1.LabelSelector) (l []string) {
	if s == nil {
		return nil
	}
	at := field.NewPath("nodeTopology")
	for i, e := range s.MatchExpressions {
		if advice := deprecatedNodeLabels()[e.Key]; advice != "" {
			l = append(l, at.Child("matchExpressions").Index(i).Child("key").String()+": "+e.Key+" is "+advice)
		}
	}
	for k := range s.MatchLabels {
		if advice := deprecatedNodeLabels()[k]; advice != "" {
			l = append(l, at.Child("matchLabels").Child(k).String()+": "+advice)
		}
	}
	slices.Sort(l)
	return l
}
