package kinds

import (
	"testing"

	"github.com/stretchr/testify/require"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	"sigs.k8s.io/yaml"
)

const fullAutoscaler = `
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: a, namespace: d, annotations: {mine: x}}
spec:
  minReplicas: 0
  maxReplicas: 5
  scaleTargetRef: {apiVersion: v1, kind: ReplicationController, name: web}
  metrics:
  - {type: Object, object: {describedObject: {apiVersion: v1, kind: Service, name: s}, metric: {name: rate, selector: {matchLabels: {a: b}}}, target: {type: Value, value: "7"}}}
  - {type: Object, object: {describedObject: {apiVersion: v1, kind: Service, name: s}, metric: {name: rate}, target: {type: AverageValue, averageValue: "7"}}}
  - {type: Pods, pods: {metric: {name: rate}, target: {type: AverageValue, averageValue: 100m}}}
  - {type: ContainerResource, containerResource: {name: memory, container: c, target: {type: AverageValue, averageValue: 1Gi}}}
  - {type: External, external: {metric: {name: queue}, target: {type: Value, value: "3"}}}
  - {type: Resource, resource: {name: memory, target: {type: Utilization, averageUtilization: 10}}}
  - {type: Resource, resource: {name: cpu, target: {type: Utilization, averageUtilization: 50}}}
  behavior:
    scaleUp: {stabilizationWindowSeconds: 1, selectPolicy: Min, policies: [{type: Pods, value: 4, periodSeconds: 15}], tolerance: 10m}
status:
  observedGeneration: 3
  lastScaleTime: "2026-01-01T00:00:00Z"
  currentReplicas: 3
  desiredReplicas: 4
  currentMetrics:
  - {type: Object, object: {describedObject: {apiVersion: v1, kind: Service, name: s}, metric: {name: rate}, current: {value: "5"}}}
  - {type: Pods, pods: {metric: {name: rate}, current: {averageValue: "5"}}}
  - {type: ContainerResource, containerResource: {name: memory, container: c, current: {averageValue: "5", averageUtilization: 4}}}
  - {type: External, external: {metric: {name: queue}, current: {value: "5"}}}
  - {type: Resource, resource: {name: cpu, current: {averageValue: "5", averageUtilization: 9}}}
  conditions: [{type: AbleToScale, status: "True", reason: Ready, message: m, observedGeneration: 3, lastTransitionTime: "2026-01-01T00:00:00Z"}]
`

// What version 1 has no fields for survives in annotations.
func TestAutoscalerVersions(t *testing.T) {
	in := &autoscalingv2.HorizontalPodAutoscaler{}
	require.NoError(t, yaml.UnmarshalStrict([]byte(fullAutoscaler), in))
	old := oldAutoscaler(in)
	require.Equal(t, "autoscaling/v1", old.APIVersion)
	require.EqualValues(t, 50, *old.Spec.TargetCPUUtilizationPercentage)
	require.EqualValues(t, 9, *old.Status.CurrentCPUUtilizationPercentage)
	require.Equal(t, "x", old.Annotations["mine"])
	require.JSONEq(t, `{"ScaleUp":{"StabilizationWindowSeconds":1,"SelectPolicy":"Min","Policies":[{"Type":"Pods","Value":4,"PeriodSeconds":15}],"Tolerance":"10m"},"ScaleDown":null}`,
		old.Annotations[behaviorNote])
	again := newAutoscaler(old)
	want, err := yaml.Marshal(in)
	require.NoError(t, err)
	got, err := yaml.Marshal(again)
	require.NoError(t, err)
	require.Equal(t, string(want), string(got))
	require.Len(t, in.Annotations, 1, "the object that was given is not changed")
}

// The parts of version 1 are spread over fields and annotations.
func TestAutoscalerParts(t *testing.T) {
	set, err := NewSet(Builtin()...)
	require.NoError(t, err)
	k := set.ByKind(autoscalingv1.SchemeGroupVersion.WithKind("HorizontalPodAutoscaler"))
	in := &autoscalingv2.HorizontalPodAutoscaler{}
	require.NoError(t, yaml.UnmarshalStrict([]byte(fullAutoscaler), in))
	full := oldAutoscaler(in)

	other := full.DeepCopy()
	other.Annotations[metricsNote] = `[{"type":"Resource","resource":{"name":"memory","targetAverageValue":"1Gi"}}]`
	require.False(t, k.Spec.Same(full, other), "metrics belong to the spec")
	require.True(t, k.Status.Same(full, other))
	k.Spec.Copy(other, full)
	require.Equal(t, full, other)

	k.Status.Clear(other)
	require.NotContains(t, other.Annotations, conditionsNote)
	require.NotContains(t, other.Annotations, statusesNote)
	require.Zero(t, other.Status)
	require.True(t, k.Spec.Same(full, other))
}
