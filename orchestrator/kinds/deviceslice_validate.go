package kinds

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/validate/content"
	"k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func validateResourceSlice(o, old *resourcev1.ResourceSlice) field.ErrorList {
	var p problems
	at, s := field.NewPath("spec"), &o.Spec
	p.csiDriver(at.Child("driver"), s.Driver)
	p.poolName(at.Child("pool", "name"), s.Pool.Name)
	if n := s.Pool.ResourceSliceCount; n <= 0 {
		p.invalid(at.Child("pool", "resourceSliceCount"), n, "must be greater than zero")
	}
	if n := s.Pool.Generation; n < 0 {
		p.invalid(at.Child("pool", "generation"), n, "must be greater than or equal to zero")
	}
	if old != nil {
		p.add(validation.ValidateImmutableField(s.Pool.Name, old.Spec.Pool.Name, at.Child("pool", "name"))...)
		p.add(validation.ValidateImmutableField(s.Driver, old.Spec.Driver, at.Child("driver"))...)
		p.add(validation.ValidateImmutableField(s.NodeName, old.Spec.NodeName, at.Child("nodeName"))...)
	}
	p.sliceNodes(at, s)
	if s.SharedCounters != nil && s.Devices != nil {
		p.invalid(at, "", "only one of `sharedCounters` or `devices` is allowed")
	}
	most := resourcev1.ResourceSliceMaxDevices
	if slices.ContainsFunc(s.Devices, func(d resourcev1.Device) bool { return len(d.Taints) > 0 || len(d.ConsumesCounters) > 0 }) {
		most = resourcev1.ResourceSliceMaxDevicesWithAdvancedFeatures
	}
	before := map[string]*resourcev1.Device{}
	if old != nil {
		for i := range old.Spec.Devices {
			before[old.Spec.Devices[i].Name] = &old.Spec.Devices[i]
		}
	}
	each := s.PerDeviceNodeSelection != nil && *s.PerDeviceNodeSelection
	fewUnique(&p, at.Child("devices"), s.Devices, most, func(d *resourcev1.Device) string { return d.Name }, func(at *field.Path, d *resourcev1.Device) {
		p.device(at, d, before[d.Name])
		p.deviceNodes(at, d, each)
	})
	fewUnique(&p, at.Child("sharedCounters"), s.SharedCounters, resourcev1.ResourceSliceMaxCounterSets,
		func(c *resourcev1.CounterSet) string { return c.Name }, func(at *field.Path, c *resourcev1.CounterSet) {
			p.counters(at, "name", c.Name, c.Counters, resourcev1.ResourceSliceMaxCountersPerCounterSet)
		})
	return p.list
}

// choice is fields of which one must be set.
type choice struct{ set []string }

func (c *choice) take(name string) { c.set = append(c.set, "`"+name+"`") }

// choiceOfNode notes a name, which must not be empty.
func (p *problems) choiceOfNode(c *choice, at *field.Path, name *string, empty string) {
	switch {
	case name == nil:
	case *name == "":
		p.invalid(at.Child("nodeName"), *name, empty)
	default:
		c.take("nodeName")
		p.name(at.Child("nodeName"), *name)
	}
}

// choiceOfFlag notes a flag, which must not be false.
func (p *problems) choiceOfFlag(c *choice, at *field.Path, name string, flag *bool) {
	switch {
	case flag == nil:
	case *flag:
		c.take(name)
	default:
		p.invalid(at.Child(name), *flag, "must be either unset or set to true")
	}
}

func (p *problems) sliceNodes(at *field.Path, s *resourcev1.ResourceSliceSpec) {
	var c choice
	p.choiceOfNode(&c, at, s.NodeName, "must be either unset or set to a non-empty string")
	if s.NodeSelector != nil {
		c.take("nodeSelector")
		p.nodeSelector(at.Child("nodeSelector"), s.NodeSelector)
		if terms := s.NodeSelector.NodeSelectorTerms; len(terms) != 1 { // so that selectors of several slices can be merged
			p.invalid(at.Child("nodeSelector", "nodeSelectorTerms"), terms, "must have exactly one node selector term")
		}
	}
	p.choiceOfFlag(&c, at, "allNodes", s.AllNodes)
	p.choiceOfFlag(&c, at, "perDeviceNodeSelection", s.PerDeviceNodeSelection)
	const one = "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required"
	switch {
	case len(c.set) == 0:
		p.required(at, one)
	case len(c.set) > 1:
		p.invalid(at, "{"+strings.Join(c.set, ", ")+"}", one+", but multiple fields are set")
	}
}

// deviceNodes checks where a device is, if each says so for itself.
func (p *problems) deviceNodes(at *field.Path, d *resourcev1.Device, each bool) {
	if !each {
		if d.NodeName != nil || d.NodeSelector != nil || d.AllNodes != nil {
			p.invalid(at, nil, "`nodeName`, `nodeSelector` and `allNodes` can only be set if `perDeviceNodeSelection` is set to true in the ResourceSlice spec")
		}
		return
	}
	var c choice
	p.choiceOfNode(&c, at, d.NodeName, "must not be empty")
	if d.NodeSelector != nil {
		c.take("nodeSelector")
		p.nodeSelector(at.Child("nodeSelector"), d.NodeSelector)
	}
	p.choiceOfFlag(&c, at, "allNodes", d.AllNodes)
	const one = "exactly one of `nodeName`, `nodeSelector`, or `allNodes` is required when `perDeviceNodeSelection` is set to true in the ResourceSlice spec"
	switch {
	case len(c.set) == 0:
		p.required(at, one)
	case len(c.set) > 1:
		p.invalid(at, "{"+strings.Join(c.set, ", ")+"}", one)
	}
}

// device checks a device. Its capacities and taints are not checked again if they are as they were.
func (p *problems) device(at *field.Path, d, old *resourcev1.Device) {
	p.label(at.Child("name"), d.Name)
	if n := len(d.Attributes) + len(d.Capacity); n > resourcev1.ResourceSliceMaxAttributesAndCapacitiesPerDevice {
		p.invalid(at, n, fmt.Sprintf("the total number of attributes and capacities must not exceed %d", resourcev1.ResourceSliceMaxAttributesAndCapacitiesPerDevice))
	}
	for _, name := range slices.Sorted(maps.Keys(d.Attributes)) {
		a := d.Attributes[name]
		p.deviceQualifiedName(at.Child("attributes"), string(name))
		p.deviceAttribute(at.Child("attributes").Key(string(name)), &a)
	}
	if old == nil || !equality.Semantic.DeepEqual(d.Capacity, old.Capacity) {
		shared := d.AllowMultipleAllocations != nil && *d.AllowMultipleAllocations
		for _, name := range slices.Sorted(maps.Keys(d.Capacity)) {
			c, at := d.Capacity[name], at.Child("capacity")
			p.deviceQualifiedName(at, string(name))
			switch at := at.Key(string(name)).Child("requestPolicy"); {
			case c.RequestPolicy == nil:
			case shared:
				p.requestPolicy(at, c.Value, c.RequestPolicy)
			default:
				p.forbidden(at, "allowMultipleAllocations must be true")
			}
		}
	}
	if old == nil || !equality.Semantic.DeepEqual(d.Taints, old.Taints) {
		few(p, at.Child("taints"), d.Taints, resourcev1.DeviceTaintsMaxLength, func(at *field.Path, t *resourcev1.DeviceTaint) { p.deviceTaint(at, t, "") })
	}
	fewUnique(p, at.Child("consumesCounters"), d.ConsumesCounters, resourcev1.ResourceSliceMaxDeviceCounterConsumptionsPerDevice,
		func(c *resourcev1.DeviceCounterConsumption) string { return c.CounterSet },
		func(at *field.Path, c *resourcev1.DeviceCounterConsumption) {
			p.counters(at, "counterSet", c.CounterSet, c.Counters, resourcev1.ResourceSliceMaxCountersPerDeviceCounterConsumption)
		})
	p.bindingConditions(at, d.BindingConditions, d.BindingFailureConditions)
}

// counters checks numbers that devices share, in a set whose name is in the field.
func (p *problems) counters(at *field.Path, nameField, name string, counters map[string]resourcev1.Counter, limit int) {
	if p.have(at.Child(nameField), name) {
		p.label(at.Child(nameField), name)
	}
	switch at := at.Child("counters"); {
	case len(counters) == 0:
		p.required(at, "")
	case len(counters) > limit:
		p.add(field.TooMany(at, len(counters), limit))
	default:
		for _, k := range slices.Sorted(maps.Keys(counters)) {
			p.label(at, k)
		}
	}
}

// deviceQualifiedName checks the name of an attribute, which may have the domain of a driver before it.
func (p *problems) deviceQualifiedName(at *field.Path, name string) {
	parts := strings.Split(name, "/")
	switch {
	case len(parts) == 1:
		p.cIdentifier(at, name)
	case len(parts) == 2:
		if parts[0] == "" {
			p.invalid(at, "", "the domain must not be empty")
		} else {
			p.csiDriver(at, parts[0])
		}
		if parts[1] == "" {
			p.invalid(at, "", "the name must not be empty")
		} else {
			p.cIdentifier(at, parts[1])
		}
	}
}

func (p *problems) cIdentifier(at *field.Path, id string) {
	if len(id) > resourcev1.DeviceMaxIDLength {
		p.add(field.TooLong(at, "", resourcev1.DeviceMaxIDLength))
	}
	p.each(at, id, content.IsCIdentifier(id))
}

// semver is a version as of semver.org 2.0.0: numbers, a pre-release, a build.
var semver = regexp.MustCompile(`^(0|[1-9]\d*)(\.(0|[1-9]\d*)){2}` +
	`(-(0|[1-9]\d*|\d*[A-Za-z-][\dA-Za-z-]*)(\.(0|[1-9]\d*|\d*[A-Za-z-][\dA-Za-z-]*))*)?(\+[\dA-Za-z-]+(\.[\dA-Za-z-]+)*)?$`)

func (p *problems) deviceAttribute(at *field.Path, a *resourcev1.DeviceAttribute) {
	n := 0
	if a.BoolValue != nil {
		n++
	}
	if a.IntValue != nil {
		n++
	}
	for _, text := range []struct {
		name  string
		value *string
	}{{"string", a.StringValue}, {"version", a.VersionValue}} {
		if text.value == nil {
			continue
		}
		n++
		at := at.Child(text.name)
		if text.name == "version" && !semver.MatchString(*text.value) {
			p.invalid(at, *text.value, "must be a string compatible with semver.org spec 2.0.0")
		}
		if len(*text.value) > resourcev1.DeviceAttributeMaxValueLength {
			p.add(field.TooLong(at, "", resourcev1.DeviceAttributeMaxValueLength))
		}
	}
	switch {
	case n == 0:
		p.invalid(at, "", "exactly one value must be specified")
	case n > 1:
		p.invalid(at, *a, "exactly one value must be specified")
	}
}
