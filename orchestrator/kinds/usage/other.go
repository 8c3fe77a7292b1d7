package usage

import (
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/component-helpers/storage/volume"
	"k8s.io/utils/ptr"
)

var (
	services     = schema.GroupResource{Resource: "services"}
	volumeClaims = schema.GroupResource{Resource: "persistentvolumeclaims"}
	deviceClaims = schema.GroupResource{Group: resourcev1.GroupName, Resource: "resourceclaims"}
	serviceNames = []corev1.ResourceName{
		CountName(services), corev1.ResourceServices, corev1.ResourceServicesNodePorts, corev1.ResourceServicesLoadBalancers,
	}
)

func knowsService(name corev1.ResourceName) bool { return slices.Contains(serviceNames, name) }

func ofService(o runtime.Object, _ time.Time) corev1.ResourceList {
	out := corev1.ResourceList{
		CountName(services): number(1), corev1.ResourceServices: number(1),
		corev1.ResourceServicesNodePorts: number(0), corev1.ResourceServicesLoadBalancers: number(0),
	}
	s, ok := o.(*corev1.Service)
	if !ok {
		return out
	}
	all := int64(len(s.Spec.Ports))
	switch s.Spec.Type {
	case corev1.ServiceTypeNodePort:
		out[corev1.ResourceServicesNodePorts] = number(all)
	case corev1.ServiceTypeLoadBalancer:
		// What will be allocated is not there yet: it is the intent that counts.
		if !ptr.Deref(s.Spec.AllocateLoadBalancerNodePorts, true) {
			all = 0
			for _, p := range s.Spec.Ports {
				if p.NodePort != 0 {
					all++
				}
			}
		}
		out[corev1.ResourceServicesNodePorts], out[corev1.ResourceServicesLoadBalancers] = number(all), number(1)
	}
	return out
}

// ofClass comes between the name of a storage class and what is limited for it.
const ofClass = ".storageclass.storage.k8s.io/"

func knowsVolumeClaim(name corev1.ResourceName) bool {
	plain := name
	if i := strings.Index(string(name), ofClass); i >= 0 {
		plain = name[i+len(ofClass):]
	} else if name == CountName(volumeClaims) {
		return true
	}
	return plain == corev1.ResourcePersistentVolumeClaims || plain == corev1.ResourceRequestsStorage
}

func ofVolumeClaim(o runtime.Object, _ time.Time) corev1.ResourceList {
	out := corev1.ResourceList{CountName(volumeClaims): number(1), corev1.ResourcePersistentVolumeClaims: number(1)}
	claim, ok := o.(*corev1.PersistentVolumeClaim)
	if !ok {
		return out
	}
	class := corev1.ResourceName(volume.GetPersistentVolumeClaimClass(claim))
	if class != "" {
		out[class+ofClass+corev1.ResourcePersistentVolumeClaims] = number(1)
	}
	if size, ok := storage(claim); ok {
		out[corev1.ResourceRequestsStorage] = size
		if class != "" {
			out[class+ofClass+corev1.ResourceRequestsStorage] = size
		}
	}
	return out
}

// storage is what a claim asks for, or what it got if that is more, in whole bytes.
func storage(claim *corev1.PersistentVolumeClaim) (resource.Quantity, bool) {
	size, ok := claim.Spec.Resources.Requests[corev1.ResourceStorage]
	if !ok {
		return size, false
	}
	if got, ok := claim.Status.AllocatedResources[corev1.ResourceStorage]; ok && got.Cmp(size) > 0 {
		size = got
	}
	size = size.DeepCopy()
	size.RoundUp(0)
	return size, true
}

// VolumeClaimTakesOther says whether a change of a claim's status changes what it takes, or which quotas are about it.
func VolumeClaimTakesOther(o, old *corev1.PersistentVolumeClaim) bool {
	return old.Status.AllocatedResources.Storage().Cmp(*o.Status.AllocatedResources.Storage()) != 0 ||
		!slices.Equal(attributesClasses(old), attributesClasses(o))
}

func volumeClaimInScope(s scope, o runtime.Object) (bool, error) {
	claim, ok := o.(*corev1.PersistentVolumeClaim)
	if !ok {
		return false, fmt.Errorf("expected a persistent volume claim, got %T", o)
	}
	if s.ScopeName != corev1.ResourceQuotaScopeVolumeAttributesClass {
		return false, nil
	}
	return selects(s, attributesClasses(claim))
}

// attributesClasses are those that a claim has, had, or is to have.
func attributesClasses(claim *corev1.PersistentVolumeClaim) (out []string) {
	names := []string{ptr.Deref(claim.Spec.VolumeAttributesClassName, ""), ptr.Deref(claim.Status.CurrentVolumeAttributesClassName, "")}
	if m := claim.Status.ModifyVolumeStatus; m != nil {
		names = append(names, m.TargetVolumeAttributesClassName)
	}
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		if name != "" {
			out = append(out, name)
		}
	}
	return out
}

func knowsDeviceClaim(name corev1.ResourceName) bool {
	return name == CountName(deviceClaims) || strings.HasSuffix(string(name), corev1.ResourceClaimsPerClass)
}

// ofDeviceClaim counts the most devices of each class that a claim may get.
func ofDeviceClaim(o runtime.Object, _ time.Time) corev1.ResourceList {
	out := corev1.ResourceList{CountName(deviceClaims): number(1)}
	claim, ok := o.(*resourcev1.ResourceClaim)
	if !ok {
		return out
	}
	devices := map[string]int64{}
	for _, r := range claim.Spec.Devices.Requests {
		if r.Exactly != nil && len(r.FirstAvailable) == 0 {
			devices[r.Exactly.DeviceClassName] += atMost(r.Exactly.AllocationMode, r.Exactly.Count)
		}
		most := map[string]int64{}
		for _, s := range r.FirstAvailable {
			most[s.DeviceClassName] = max(most[s.DeviceClassName], atMost(s.AllocationMode, s.Count))
		}
		for class, n := range most {
			devices[class] += n
		}
	}
	for class, n := range devices {
		out[corev1.ResourceName(class+corev1.ResourceClaimsPerClass)] = number(n)
	}
	return out
}

func atMost(mode resourcev1.DeviceAllocationMode, count int64) int64 {
	switch mode {
	case resourcev1.DeviceAllocationModeExactCount:
		return count
	case resourcev1.DeviceAllocationModeAll:
		return resourcev1.AllocationResultsMaxSize
	}
	return 0
}
