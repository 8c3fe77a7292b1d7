package devices

import (
	"testing"
	"time"

	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/keelson-io/keelson/orchestrator/cluster/conformance"
)

func TestConformance(t *testing.T) {
	conformance.Test(t, conformance.Behaviours{
		"[DRA] CRUD Tests resource.k8s.io/v1 DeviceClass":           deviceClass,
		"[DRA] CRUD Tests resource.k8s.io/v1 DeviceTaintRule":       deviceTaintRule,
		"[DRA] CRUD Tests resource.k8s.io/v1 ResourceClaim":         resourceClaim,
		"[DRA] CRUD Tests resource.k8s.io/v1 ResourceClaimTemplate": resourceClaimTemplate,
		"[DRA] CRUD Tests resource.k8s.io/v1 ResourceSlice":         resourceSlice,
	})
}

func deviceClass(t *testing.T, e *conformance.Env) {
	conformance.Operations[*resourcev1.DeviceClass]{
		Resource: resourcev1.SchemeGroupVersion.WithResource("deviceclasses"), Kind: "DeviceClass",
		Make: func(int) *resourcev1.DeviceClass {
			return &resourcev1.DeviceClass{Spec: resourcev1.DeviceClassSpec{
				Selectors: []resourcev1.DeviceSelector{{CEL: &resourcev1.CELDeviceSelector{Expression: "false"}}},
			}}
		},
		Update:  func(o *resourcev1.DeviceClass) { o.Spec.Selectors[0].CEL.Expression = "1 == 0" },
		Patches: []conformance.Patch{{Type: types.StrategicMergePatchType, Data: `{"spec":{"selectors":[{"cel":{"expression":"1 == 0"}}]}}`}},
	}.Run(t, e)
}

func deviceTaintRule(t *testing.T, e *conformance.Env) {
	now := metav1.NewTime(time.Now().Truncate(time.Second))
	conformance.Operations[*resourcev1.DeviceTaintRule]{
		Resource: resourcev1.SchemeGroupVersion.WithResource("devicetaintrules"), Kind: "DeviceTaintRule",
		Make: func(int) *resourcev1.DeviceTaintRule {
			return &resourcev1.DeviceTaintRule{Spec: resourcev1.DeviceTaintRuleSpec{
				Taint: resourcev1.DeviceTaint{Key: "testing", Effect: resourcev1.DeviceTaintEffectNone},
			}}
		},
		Update: func(o *resourcev1.DeviceTaintRule) {
			o.Spec.Taint.Effect = resourcev1.DeviceTaintEffectNoExecute
			o.Spec.Taint.TimeAdded = nil // which is set anew
		},
		Status: func(o *resourcev1.DeviceTaintRule) {
			o.Status.Conditions = append(o.Status.Conditions, metav1.Condition{
				Type: "Testing", Status: metav1.ConditionTrue, LastTransitionTime: now, Reason: "Conformance", Message: "It runs.",
			})
		},
		Patches: []conformance.Patch{{Type: types.StrategicMergePatchType, Data: `{"spec":{"taint":{"effect":"NoExecute"}}}`}},
		StatusPatches: []conformance.Patch{{Type: types.StrategicMergePatchType, Data: `{"status":{"conditions":[{"type":"Testing","status":"True",` +
			`"lastTransitionTime":"` + now.UTC().Format(time.RFC3339) + `","reason":"Conformance","message":"It runs."}]}}`}},
	}.Run(t, e)
}

const testLabel = "test.dra.example.com"

// labelled are patches that set a label, for specs that may not change.
func labelled() []conformance.Patch {
	const merge = `{"metadata":{"labels":{"` + testLabel + `":"test"}}}`
	return []conformance.Patch{
		{Type: types.ApplyPatchType, Data: merge},
		{Type: types.StrategicMergePatchType, Data: merge},
		{Type: types.MergePatchType, Data: merge},
		{Type: types.JSONPatchType, Data: `[{"op":"add","path":"/metadata/labels/` + testLabel + `","value":"test"}]`},
	}
}

func claimSpec() resourcev1.ResourceClaimSpec {
	return resourcev1.ResourceClaimSpec{Devices: resourcev1.DeviceClaim{Requests: []resourcev1.DeviceRequest{{
		Name: "req-0", Exactly: &resourcev1.ExactDeviceRequest{DeviceClassName: "dra.example.com"},
	}}}}
}

func resourceClaim(t *testing.T, e *conformance.Env) {
	const merge = `{"status":{"allocation":{}}}`
	conformance.Operations[*resourcev1.ResourceClaim]{
		Resource: resourcev1.SchemeGroupVersion.WithResource("resourceclaims"), Kind: "ResourceClaim", Namespaced: true,
		Make:    func(int) *resourcev1.ResourceClaim { return &resourcev1.ResourceClaim{Spec: claimSpec()} },
		Update:  func(o *resourcev1.ResourceClaim) { metav1.SetMetaDataLabel(&o.ObjectMeta, testLabel, "test") },
		Status:  func(o *resourcev1.ResourceClaim) { o.Status.Allocation = &resourcev1.AllocationResult{} },
		Patches: labelled(),
		StatusPatches: []conformance.Patch{
			{Type: types.ApplyPatchType, Data: merge},
			{Type: types.StrategicMergePatchType, Data: merge},
			{Type: types.MergePatchType, Data: merge},
			{Type: types.JSONPatchType, Data: `[{"op":"add","path":"/status/allocation","value":{}}]`},
		},
	}.Run(t, e)
}

func resourceClaimTemplate(t *testing.T, e *conformance.Env) {
	conformance.Operations[*resourcev1.ResourceClaimTemplate]{
		Resource: resourcev1.SchemeGroupVersion.WithResource("resourceclaimtemplates"), Kind: "ResourceClaimTemplate", Namespaced: true,
		Make: func(int) *resourcev1.ResourceClaimTemplate {
			return &resourcev1.ResourceClaimTemplate{Spec: resourcev1.ResourceClaimTemplateSpec{Spec: claimSpec()}}
		},
		Update:  func(o *resourcev1.ResourceClaimTemplate) { metav1.SetMetaDataLabel(&o.ObjectMeta, testLabel, "test") },
		Patches: labelled(),
	}.Run(t, e)
}

func resourceSlice(t *testing.T, e *conformance.Env) {
	conformance.Operations[*resourcev1.ResourceSlice]{
		Resource: resourcev1.SchemeGroupVersion.WithResource("resourceslices"), Kind: "ResourceSlice",
		Make: func(int) *resourcev1.ResourceSlice {
			return &resourcev1.ResourceSlice{Spec: resourcev1.ResourceSliceSpec{
				Driver: "dra.example.com", NodeName: ptr.To("no-such-node"),
				Pool: resourcev1.ResourcePool{Name: "cluster", Generation: 1, ResourceSliceCount: 1},
			}}
		},
		Update:  func(o *resourcev1.ResourceSlice) { o.Spec.Devices = []resourcev1.Device{{Name: "device-0"}} },
		Patches: []conformance.Patch{{Type: types.StrategicMergePatchType, Data: `{"spec":{"devices":[{"name":"device-0"}]}}`}},
	}.Run(t, e)
}
