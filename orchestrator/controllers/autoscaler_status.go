package controllers

import (
	"context"
	"fmt"
	"slices"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func stamp(t time.Time) *metav1.Time { return &metav1.Time{Time: t} }

// condition sets a condition of the autoscaler's status.
func (w *scaling) condition(t autoscalingv2.HorizontalPodAutoscalerConditionType, status corev1.ConditionStatus, reason, message string) {
	all := &w.of.Status.Conditions
	i := slices.IndexFunc(*all, func(c autoscalingv2.HorizontalPodAutoscalerCondition) bool { return c.Type == t })
	if i < 0 {
		i = len(*all)
		*all = append(*all, autoscalingv2.HorizontalPodAutoscalerCondition{Type: t})
	}
	c := &(*all)[i]
	if c.Status != status {
		c.LastTransitionTime = *stamp(w.now)
	}
	generation := w.of.Generation
	c.Status, c.Reason, c.Message, c.ObservedGeneration = status, reason, message, &generation
}

func (w *scaling) has(t autoscalingv2.HorizontalPodAutoscalerConditionType) bool {
	return slices.ContainsFunc(w.of.Status.Conditions, func(c autoscalingv2.HorizontalPodAutoscalerCondition) bool {
		return c.Type == t && c.Status == corev1.ConditionTrue
	})
}

// writeStatus writes the status if it is another one than it was.
func (w *scaling) writeStatus(ctx context.Context, was *autoscalingv2.HorizontalPodAutoscalerStatus) error {
	generation := w.of.Generation
	w.of.Status.ObservedGeneration = &generation
	if equality.Semantic.DeepEqual(was, &w.of.Status) {
		return nil
	}
	_, err := w.client.AutoscalingV2().HorizontalPodAutoscalers(w.of.Namespace).UpdateStatus(ctx, w.of, metav1.UpdateOptions{})
	if err = ignoreMissing(err); err != nil {
		w.warn("FailedUpdateStatus", err)
		return fmt.Errorf("failed to update status for %s: %w", w.of.Name, err)
	}
	return nil
}
