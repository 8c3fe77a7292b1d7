package admission

import (
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/keelson-io/keelson/orchestrator/kinds"
)

func labelled(name, mode, level string) *corev1.Namespace {
	return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"pod-security.kubernetes.io/" + mode: level}}}
}

func privilegedPod() *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "strict"}, Spec: corev1.PodSpec{HostNetwork: true, Containers: []corev1.Container{{
		Name: "c", Image: "i", SecurityContext: &corev1.SecurityContext{Privileged: ptr.To(true)},
	}}}}
}

const violation = ` PodSecurity "baseline:latest": host namespaces (hostNetwork=true), privileged (container "c" must not set securityContext.privileged=true)`

func TestPodSecurity(t *testing.T) {
	registry := prometheus.NewRegistry()
	p, err := NewPodSecurity(table{all: map[string]kinds.Object{
		"namespaces//strict": labelled("strict", "enforce", "baseline"), "namespaces//open": namespace("open", corev1.NamespaceActive),
		"namespaces//warn": labelled("warn", "warn", "baseline"), "namespaces//audit": labelled("audit", "audit", "baseline"),
	}}, registry)
	require.NoError(t, err)
	var warnings []string
	notes := map[string]string{}
	ask := func(namespace string, change func(a *Attributes)) error {
		warnings, notes = nil, map[string]string{}
		a := &Attributes{Operation: Create, Kind: kind("", "pods"), Namespace: namespace, Name: "p", Object: privilegedPod(),
			Warn: func(s string) { warnings = append(warnings, s) }, Annotate: func(k, v string) { notes[k] = v }}
		if change != nil {
			change(a)
		}
		return p.Validate(t.Context(), a)
	}
	err = ask("strict", nil)
	require.True(t, apierrors.IsForbidden(err))
	require.EqualError(t, err, `pods "p" is forbidden: violates`+violation)
	require.Equal(t, map[string]string{"pod-security.kubernetes.io/enforce-policy": "baseline:latest"}, notes)
	require.NoError(t, ask("open", nil))
	require.NoError(t, ask("warn", nil))
	require.Equal(t, []string{"would violate" + violation}, warnings)
	require.NoError(t, ask("audit", nil))
	require.Contains(t, notes["pod-security.kubernetes.io/audit-violations"], "would violate PodSecurity")

	require.NoError(t, ask("strict", func(a *Attributes) { a.Operation, a.Old = Update, privilegedPod() }), "nothing changed")
	require.Error(t, ask("strict", func(a *Attributes) {
		a.Operation, a.Old, a.Subresource = Update, privilegedPod(), "ephemeralcontainers"
		a.Object.(*corev1.Pod).Spec.EphemeralContainers = []corev1.EphemeralContainer{{EphemeralContainerCommon: corev1.EphemeralContainerCommon{Name: "e"}}}
	}))
	require.NoError(t, ask("strict", func(a *Attributes) { a.Subresource = "status" }))
	require.NoError(t, ask("strict", func(a *Attributes) { a.Operation, a.Old, a.Object = Delete, a.Object, nil }))

	deployment := func(a *Attributes) {
		a.Kind = kind("apps", "deployments")
		a.Object = &appsv1.Deployment{Spec: appsv1.DeploymentSpec{Template: corev1.PodTemplateSpec{Spec: privilegedPod().Spec}}}
	}
	require.NoError(t, ask("strict", deployment), "only pods are refused")
	require.NoError(t, ask("warn", deployment))
	require.Len(t, warnings, 1)
	n, err := testutil.GatherAndCount(registry, "pod_security_evaluations_total")
	require.NoError(t, err)
	require.Positive(t, n)
}

func TestPodSecurityOfNamespaces(t *testing.T) {
	p, err := NewPodSecurity(table{all: map[string]kinds.Object{"pods/strict/p": privilegedPod()}}, nil)
	require.NoError(t, err)
	var warnings []string
	a := &Attributes{Operation: Create, Kind: kind("", "namespaces"), Namespace: "strict", Name: "strict", Object: labelled("strict", "enforce", "nonsense"),
		Warn: func(s string) { warnings = append(warnings, s) }}
	require.True(t, apierrors.IsInvalid(p.Validate(t.Context(), a)))
	a.Operation, a.Old, a.Object = Update, namespace("strict", corev1.NamespaceActive), labelled("strict", "enforce", "baseline")
	require.NoError(t, p.Validate(t.Context(), a))
	require.Equal(t, []string{`existing pods in namespace "strict" violate the new PodSecurity enforce level "baseline:latest"`, "p: host namespaces, privileged"}, warnings)
}
