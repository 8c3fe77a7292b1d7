package kinds

import "slices"

// Builtin returns all built-in kinds.
func Builtin() []*Kind {
	return slices.Concat(
		coreKinds(),
		podKinds(),
		eventsKinds(),
		apiextensionsKinds(),
		apiregistrationKinds(),
		admissionKinds(),
		appsKinds(),
		autoscalingKinds(),
		batchKinds(),
		certificatesKinds(),
		coordinationKinds(),
		deviceKinds(),
		discoveryKinds(),
		flowcontrolKinds(),
		networkingKinds(),
		policyKinds(),
		rbacKinds(),
		runtimeKinds(),
		serviceAddressKinds(),
		schedulingKinds(),
		storageKinds(),
		storagemigrationKinds(),
	)
}

// coreKinds are those of the core group.
func coreKinds() []*Kind {
	return []*Kind{
		namespaceKind(), nodeKind(), serviceKind(), endpointsKind(), configMapKind(), secretKind(), serviceAccountKind(),
		limitRangeKind(), resourceQuotaKind(), persistentVolumeKind(), persistentVolumeClaimKind(),
	}
}
