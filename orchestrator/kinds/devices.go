package kinds

import (
	"strings"
	"time"

	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"
)

// deviceKinds are those of resource.k8s.io.
func deviceKinds() []*Kind {
	return []*Kind{deviceClassKind(), deviceTaintRuleKind(), resourceClaimKind(), resourceClaimTemplateKind(), resourceSliceKind()}
}

func deviceClassKind() *Kind {
	return with(Kind{
		GroupVersionKind: resourcev1.SchemeGroupVersion.WithKind("DeviceClass"), Resource: "deviceclasses", Singular: "deviceclass",
		Place: "deviceclasses", New: func() Object { return &resourcev1.DeviceClass{} },
		NewList:    func() runtime.Object { return &resourcev1.DeviceClassList{} },
		NameErrors: validation.NameIsDNSSubdomain, Lifecycle: Lifecycle{Generation: true, Unconditional: true},
		Columns: []metav1.TableColumnDefinition{nameColumn, ageColumn},
	}, Rules[*resourcev1.DeviceClass]{
		Ratchets:       true,
		Validate:       func(o *resourcev1.DeviceClass) field.ErrorList { return validateDeviceClass(o, nil) },
		ValidateUpdate: validateDeviceClass,
		Spec:           func(o *resourcev1.DeviceClass) any { return &o.Spec },
		Row:            func(o *resourcev1.DeviceClass, now time.Time) []any { return []any{o.Name, age(o, now)} },
	})
}

func deviceTaintRuleKind() *Kind {
	doc := resourcev1.DeviceTaint{}.SwaggerDoc()
	return with(Kind{
		GroupVersionKind: resourcev1.SchemeGroupVersion.WithKind("DeviceTaintRule"), Resource: "devicetaintrules", Singular: "devicetaintrule",
		Place: "devicetaintrules", New: func() Object { return &resourcev1.DeviceTaintRule{} },
		NewList:    func() runtime.Object { return &resourcev1.DeviceTaintRuleList{} },
		NameErrors: validation.NameIsDNSSubdomain, Lifecycle: Lifecycle{Generation: true},
		Columns: []metav1.TableColumnDefinition{
			nameColumn, textColumn("Key", doc["key"]), textColumn("Value", doc["value"]), textColumn("Effect", doc["effect"]),
			textColumn("TimeAdded", doc["timeAdded"]), ageColumn,
		},
	}, Rules[*resourcev1.DeviceTaintRule]{
		Create: func(o *resourcev1.DeviceTaintRule) { stampTaint(&o.Spec.Taint, nil) },
		Update: func(o, old *resourcev1.DeviceTaintRule) { stampTaint(&o.Spec.Taint, &old.Spec.Taint) },

		Ratchets:       true,
		Validate:       func(o *resourcev1.DeviceTaintRule) field.ErrorList { return validateDeviceTaintRule(o, nil) },
		ValidateUpdate: validateDeviceTaintRule,
		ValidateStatus: func(o, _ *resourcev1.DeviceTaintRule) field.ErrorList {
			var p problems
			at := field.NewPath("status", "conditions")
			p.add(metav1validation.ValidateConditions(o.Status.Conditions, at)...)
			if n := len(o.Status.Conditions); n > resourcev1.DeviceTaintRuleStatusMaxConditions {
				p.add(field.TooMany(at, n, resourcev1.DeviceTaintRuleStatusMaxConditions))
			}
			return p.list
		},
		Spec: func(o *resourcev1.DeviceTaintRule) any { return &o.Spec }, Status: func(o *resourcev1.DeviceTaintRule) any { return &o.Status },
		Row: func(o *resourcev1.DeviceTaintRule, now time.Time) []any {
			t, added := &o.Spec.Taint, ""
			if t.TimeAdded != nil {
				added = since(t.TimeAdded.Time, now)
			}
			return []any{o.Name, t.Key, t.Value, string(t.Effect), added, age(o, now)}
		},
	})
}

// stampTaint notes when a taint was added, or got another effect, unless that was said.
func stampTaint(t, old *resourcev1.DeviceTaint) {
	if t.TimeAdded == nil || old != nil && t.Effect != old.Effect && t.TimeAdded.Equal(old.TimeAdded) {
		t.TimeAdded = &metav1.Time{Time: time.Now().Truncate(time.Second)}
	}
}

func resourceClaimKind() *Kind {
	return with(Kind{
		GroupVersionKind: resourcev1.SchemeGroupVersion.WithKind("ResourceClaim"), Resource: "resourceclaims", Singular: "resourceclaim",
		Namespaced: true, Place: "resourceclaims", New: func() Object { return &resourcev1.ResourceClaim{} },
		NewList:    func() runtime.Object { return &resourcev1.ResourceClaimList{} },
		NameErrors: validation.NameIsDNSSubdomain, Lifecycle: Lifecycle{Unconditional: true},
		Columns: []metav1.TableColumnDefinition{
			nameColumn, textColumn("State", "A summary of the current state (allocated, pending, reserved, etc.)."), ageColumn,
		},
	}, Rules[*resourcev1.ResourceClaim]{
		Default:  func(o *resourcev1.ResourceClaim) { defaultDeviceClaim(&o.Spec.Devices) },
		Create:   func(o *resourcev1.ResourceClaim) { dropDerived(&o.Spec.Devices) },
		Ratchets: true,
		Validate: func(o *resourcev1.ResourceClaim) field.ErrorList {
			var p problems
			p.deviceClaim(field.NewPath("spec", "devices"), &o.Spec.Devices)
			return p.list
		},
		ValidateUpdate: func(o, old *resourcev1.ResourceClaim) field.ErrorList {
			var p problems
			p.fixed(field.NewPath("spec"), o.Spec, old.Spec)
			return p.list
		},
		UpdateStatus: dropFreedDevices, ValidateStatus: validateResourceClaimStatus,
		Spec: func(o *resourcev1.ResourceClaim) any { return &o.Spec }, Status: func(o *resourcev1.ResourceClaim) any { return &o.Status },
		Row: func(o *resourcev1.ResourceClaim, now time.Time) []any {
			return []any{o.Name, claimState(o), age(o, now)}
		},
	})
}

func claimState(o *resourcev1.ResourceClaim) string {
	var states []string
	if o.DeletionTimestamp != nil {
		states = append(states, "deleted")
	}
	switch {
	case o.Status.Allocation != nil && len(o.Status.ReservedFor) > 0:
		states = append(states, "allocated", "reserved")
	case o.Status.Allocation != nil:
		states = append(states, "allocated")
	case o.DeletionTimestamp == nil:
		states = append(states, "pending")
	}
	return strings.Join(states, ",")
}

func resourceClaimTemplateKind() *Kind {
	return with(Kind{
		GroupVersionKind: resourcev1.SchemeGroupVersion.WithKind("ResourceClaimTemplate"), Resource: "resourceclaimtemplates",
		Singular: "resourceclaimtemplate", Namespaced: true, Place: "resourceclaimtemplates",
		New:        func() Object { return &resourcev1.ResourceClaimTemplate{} },
		NewList:    func() runtime.Object { return &resourcev1.ResourceClaimTemplateList{} },
		NameErrors: validation.NameIsDNSSubdomain, Lifecycle: Lifecycle{Unconditional: true},
		Columns: []metav1.TableColumnDefinition{nameColumn, ageColumn},
	}, Rules[*resourcev1.ResourceClaimTemplate]{
		Default: func(o *resourcev1.ResourceClaimTemplate) { defaultDeviceClaim(&o.Spec.Spec.Devices) },
		Create:  func(o *resourcev1.ResourceClaimTemplate) { dropDerived(&o.Spec.Spec.Devices) },
		Validate: func(o *resourcev1.ResourceClaimTemplate) field.ErrorList {
			var p problems
			spec := field.NewPath("spec")
			p.labels(spec.Child("metadata", "labels"), o.Spec.Labels)
			p.add(validation.ValidateAnnotations(o.Spec.Annotations, spec.Child("metadata", "annotations"))...)
			p.deviceClaim(spec.Child("spec", "devices"), &o.Spec.Spec.Devices)
			return p.list
		},
		ValidateUpdate: func(o, old *resourcev1.ResourceClaimTemplate) field.ErrorList {
			return validation.ValidateImmutableField(o.Spec, old.Spec, field.NewPath("spec"))
		},
		Row: func(o *resourcev1.ResourceClaimTemplate, now time.Time) []any { return []any{o.Name, age(o, now)} },
	})
}

func resourceSliceKind() *Kind {
	doc := resourcev1.ResourceSliceSpec{}.SwaggerDoc()
	return with(Kind{
		GroupVersionKind: resourcev1.SchemeGroupVersion.WithKind("ResourceSlice"), Resource: "resourceslices", Singular: "resourceslice",
		Place: "resourceslices", New: func() Object { return &resourcev1.ResourceSlice{} },
		NewList:    func() runtime.Object { return &resourcev1.ResourceSliceList{} },
		NameErrors: validation.NameIsDNSSubdomain, Lifecycle: Lifecycle{Generation: true, Unconditional: true},
		FieldNames: []string{resourcev1.ResourceSliceSelectorNodeName, resourcev1.ResourceSliceSelectorDriver, resourcev1.ResourceSliceSelectorPoolName},
		Columns: []metav1.TableColumnDefinition{
			nameColumn, textColumn("Node", doc["nodeName"]), textColumn("Driver", doc["driver"]),
			textColumn("Pool", resourcev1.ResourcePool{}.SwaggerDoc()["name"]), ageColumn,
		},
	}, Rules[*resourcev1.ResourceSlice]{
		Create: prepareSlice, Update: func(o, _ *resourcev1.ResourceSlice) { prepareSlice(o) },
		Ratchets:       true,
		Validate:       func(o *resourcev1.ResourceSlice) field.ErrorList { return validateResourceSlice(o, nil) },
		ValidateUpdate: validateResourceSlice,
		Warnings: func(o, _ *resourcev1.ResourceSlice) []string {
			if d := o.Spec.Driver; d != strings.ToLower(d) {
				return []string{`spec.driver: driver names should be lowercase; "` + d + `" contains uppercase characters`}
			}
			return nil
		},
		Spec: func(o *resourcev1.ResourceSlice) any { return &o.Spec },
		Fields: func(o *resourcev1.ResourceSlice) map[string]string {
			return map[string]string{
				resourcev1.ResourceSliceSelectorNodeName: sliceNode(o), resourcev1.ResourceSliceSelectorDriver: o.Spec.Driver,
				resourcev1.ResourceSliceSelectorPoolName: o.Spec.Pool.Name,
			}
		},
		Row: func(o *resourcev1.ResourceSlice, now time.Time) []any {
			return []any{o.Name, sliceNode(o), o.Spec.Driver, o.Spec.Pool.Name, age(o, now)}
		},
	})
}

func sliceNode(o *resourcev1.ResourceSlice) string { return ptr.Deref(o.Spec.NodeName, "") }

// defaultDeviceClaim asks for one device where nothing is said.
func defaultDeviceClaim(c *resourcev1.DeviceClaim) {
	one := func(mode *resourcev1.DeviceAllocationMode, count *int64) {
		fillZero(mode, resourcev1.DeviceAllocationModeExactCount)
		if *mode == resourcev1.DeviceAllocationModeExactCount {
			fillZero(count, 1)
		}
	}
	for i := range c.Requests {
		r := &c.Requests[i]
		if r.Exactly != nil {
			one(&r.Exactly.AllocationMode, &r.Exactly.Count)
		}
		for j := range r.FirstAvailable {
			one(&r.FirstAvailable[j].AllocationMode, &r.FirstAvailable[j].Count)
		}
	}
}

// dropDerived drops what belongs to DRADerivedAttributes, an alpha feature.
func dropDerived(c *resourcev1.DeviceClaim) {
	for i := range c.Requests {
		r := &c.Requests[i]
		if r.Exactly != nil {
			r.Exactly.DerivedAttributes = nil
		}
		for j := range r.FirstAvailable {
			r.FirstAvailable[j].DerivedAttributes = nil
		}
	}
}

// prepareSlice notes when taints were added, and drops what belongs to alpha features.
func prepareSlice(o *resourcev1.ResourceSlice) {
	o.Spec.PartitionTypeAttribute, o.Spec.SkipNodeOperations = nil, nil
	for i := range o.Spec.Devices {
		d := &o.Spec.Devices[i]
		for j := range d.Taints {
			stampTaint(&d.Taints[j], nil)
		}
		d.NodeAllocatableResources = nil
		for j := range d.ConsumesCounters {
			d.ConsumesCounters[j].CompatibilityGroups = nil
		}
		for k, a := range d.Attributes {
			a.BoolValues, a.IntValues, a.StringValues, a.VersionValues = nil, nil, nil, nil
			d.Attributes[k] = a
		}
	}
}

// dropFreedDevices drops what drivers have said of devices that the claim does not have any more.
func dropFreedDevices(o, old *resourcev1.ResourceClaim) {
	freed := allocatedDevices(old.Status.Allocation)
	for id := range allocatedDevices(o.Status.Allocation) {
		delete(freed, id)
	}
	var kept []resourcev1.AllocatedDeviceStatus
	for i := range o.Status.Devices {
		if d := &o.Status.Devices[i]; !freed[deviceOf(d)] {
			kept = append(kept, *d)
		}
	}
	o.Status.Devices = kept
}

// deviceID names a device, or a share of one, as messages have it.
func deviceID(driver, pool, device, share string) string {
	return strings.TrimSuffix(driver+"/"+pool+"/"+device+"/"+share, "/")
}

func deviceOf(s *resourcev1.AllocatedDeviceStatus) string {
	return deviceID(s.Driver, s.Pool, s.Device, ptr.Deref(s.ShareID, ""))
}

func allocatedDevices(a *resourcev1.AllocationResult) map[string]bool {
	all := map[string]bool{}
	if a == nil {
		return all
	}
	for i := range a.Devices.Results {
		r := &a.Devices.Results[i]
		all[deviceID(r.Driver, r.Pool, r.Device, string(ptr.Deref(r.ShareID, "")))] = true
	}
	return all
}
