package kinds

import (
	"context"

	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/operation"
	"k8s.io/apimachinery/pkg/api/validate"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/types"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// validateResourceClaimStatus checks what the scheduler, and then drivers, say of a claim.
func validateResourceClaimStatus(o, old *resourcev1.ResourceClaim) field.ErrorList {
	var p problems
	at, s := field.NewPath("status"), &o.Status
	fewUnique(&p, at.Child("reservedFor"), s.ReservedFor, resourcev1.ResourceClaimReservedForMaxSize,
		func(r *resourcev1.ResourceClaimConsumerReference) types.UID { return r.UID },
		func(at *field.Path, r *resourcev1.ResourceClaimConsumerReference) {
			p.have(at.Child("resource"), r.Resource)
			p.have(at.Child("name"), r.Name)
			p.have(at.Child("uid"), string(r.UID))
		})
	allocated := allocatedDevices(s.Allocation)
	fewUnique(&p, at.Child("devices"), s.Devices, len(s.Devices), deviceOf, func(at *field.Path, d *resourcev1.AllocatedDeviceStatus) {
		p.deviceStatus(at, d, allocated)
	})
	switch reserved := at.Child("reservedFor"); {
	case len(s.ReservedFor) == 0:
	case s.Allocation == nil:
		p.forbidden(reserved, "may not be specified when `allocated` is not set")
	case o.DeletionTimestamp != nil && hasNewConsumer(s.ReservedFor, old.Status.ReservedFor):
		p.forbidden(reserved, "new entries may not be added while `deallocationRequested` or `deletionTimestamp` are set")
	}
	switch at := at.Child("allocation"); {
	case s.Allocation == nil:
	case old.Status.Allocation == nil:
		p.allocation(at, s.Allocation, requestNames(&o.Spec.Devices))
	case !equality.Semantic.DeepEqual(s.Allocation, old.Status.Allocation):
		p.invalid(at, nil, "field cannot be modified once set")
	}
	return p.list
}

func hasNewConsumer(now, before []resourcev1.ResourceClaimConsumerReference) bool {
	known := make(map[resourcev1.ResourceClaimConsumerReference]bool, len(before))
	for _, r := range before {
		known[r] = true
	}
	for _, r := range now {
		if !known[r] {
			return true
		}
	}
	return false
}

func (p *problems) allocation(at *field.Path, a *resourcev1.AllocationResult, names map[string]bool) {
	devices := at.Child("devices")
	few(p, devices.Child("results"), a.Devices.Results, resourcev1.AllocationResultsMaxSize, func(at *field.Path, r *resourcev1.DeviceRequestAllocationResult) {
		p.requestRef(at.Child("request"), r.Request, names)
		p.csiDriver(at.Child("driver"), r.Driver)
		p.poolName(at.Child("pool"), r.Pool)
		p.label(at.Child("device"), r.Device)
		p.bindingConditions(at, r.BindingConditions, r.BindingFailureConditions)
		for i := range r.Tolerations {
			p.deviceToleration(at.Child("tolerations").Index(i), &r.Tolerations[i])
		}
		if r.ShareID != nil {
			p.uuid(at.Child("shareID"), string(*r.ShareID))
		}
	})
	const most = 2 * resourcev1.DeviceConfigMaxSize // of the class and of the claim
	few(p, devices.Child("config"), a.Devices.Config, most, func(at *field.Path, c *resourcev1.DeviceAllocationConfiguration) {
		mustBeOneOf(p, at.Child("source"), c.Source, resourcev1.AllocationConfigSourceClaim, resourcev1.AllocationConfigSourceClass)
		p.requestRefs(at.Child("requests"), c.Requests, names)
		p.deviceConfig(at, &c.DeviceConfiguration, false)
	})
	if a.NodeSelector != nil {
		p.nodeSelector(at.Child("nodeSelector"), a.NodeSelector)
	}
}

func (p *problems) uuid(at *field.Path, id string) {
	p.add(validate.UUID(context.Background(), operation.Operation{}, at, &id, nil)...)
}

func (p *problems) deviceStatus(at *field.Path, d *resourcev1.AllocatedDeviceStatus, allocated map[string]bool) {
	p.csiDriver(at.Child("driver"), d.Driver)
	p.poolName(at.Child("pool"), d.Pool)
	p.label(at.Child("device"), d.Device)
	if d.ShareID != nil {
		p.uuid(at.Child("shareID"), *d.ShareID)
	}
	if id := deviceOf(d); !allocated[id] {
		p.invalid(at, id, "must be an allocated device in the claim")
	}
	conditions := at.Child("conditions")
	if n := len(d.Conditions); n > resourcev1.AllocatedDeviceStatusMaxConditions {
		p.add(field.TooMany(conditions, n, resourcev1.AllocatedDeviceStatusMaxConditions))
	}
	p.add(metav1validation.ValidateConditions(d.Conditions, conditions)...)
	if d.Data != nil && len(d.Data.Raw) > 0 {
		p.jsonObject(at.Child("data"), d.Data, false, resourcev1.AllocatedDeviceStatusDataMaxLength)
	}
	n, at := d.NetworkData, at.Child("networkData")
	if n == nil {
		return
	}
	if len(n.InterfaceName) > resourcev1.NetworkDeviceDataInterfaceNameMaxLength {
		p.add(field.TooLong(at.Child("interfaceName"), "", resourcev1.NetworkDeviceDataInterfaceNameMaxLength))
	}
	if len(n.HardwareAddress) > resourcev1.NetworkDeviceDataHardwareAddressMaxLength {
		p.add(field.TooLong(at.Child("hardwareAddress"), "", resourcev1.NetworkDeviceDataHardwareAddressMaxLength))
	}
	fewUnique(p, at.Child("ips"), n.IPs, resourcev1.NetworkDeviceDataMaxIPs, func(s *string) string { return *s },
		func(at *field.Path, s *string) { p.add(utilvalidation.IsValidInterfaceAddress(at, *s)...) })
}
