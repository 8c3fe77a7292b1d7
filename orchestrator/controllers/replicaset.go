package controllers

import (
	"context"

	"go.uber.org/zap"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/ptr"

	"github.com/keelson-io/keelson/internal/clock"
)

// NewReplicaSet makes the controller that keeps the pods of replica sets.
func NewReplicaSet(client kubernetes.Interface, i informers.SharedInformerFactory, events record.EventRecorder, c clock.Clock, lg *zap.Logger) (Controller, error) {
	return newReplicaController(client, i, events, c, lg, replicaKind{
		kind: "ReplicaSet", informer: i.Apps().V1().ReplicaSets().Informer(),
		convert: func(o any) (*replicated, error) { return fromReplicaSet(client, o) },
		update: func(ctx context.Context, r *replicated, s replicaStatus) error {
			rs := r.object.(*appsv1.ReplicaSet).DeepCopy()
			st := &rs.Status
			st.Replicas, st.FullyLabeledReplicas, st.ReadyReplicas, st.AvailableReplicas = s.Replicas, s.FullyLabeled, s.Ready, s.Available
			st.TerminatingReplicas, st.ObservedGeneration = s.Terminating, s.Observed
			st.Conditions = nil
			for _, c := range r.object.(*appsv1.ReplicaSet).Status.Conditions {
				if c.Type != appsv1.ReplicaSetReplicaFailure {
					st.Conditions = append(st.Conditions, c)
				}
			}
			if f := s.Failure; f != nil {
				st.Conditions = append(st.Conditions, appsv1.ReplicaSetCondition{
					Type: appsv1.ReplicaSetReplicaFailure, Status: corev1.ConditionTrue, LastTransitionTime: f.Since, Reason: f.Reason, Message: f.Message,
				})
			}
			_, err := client.AppsV1().ReplicaSets(rs.Namespace).UpdateStatus(ctx, rs, metav1.UpdateOptions{})
			return err
		},
	})
}

func fromReplicaSet(client kubernetes.Interface, x any) (*replicated, error) {
	rs := x.(*appsv1.ReplicaSet)
	sel, err := metav1.LabelSelectorAsSelector(rs.Spec.Selector)
	if err != nil {
		return nil, err
	}
	s := &rs.Status
	r := &replicated{
		owner: owner{
			object: rs, meta: rs, kind: appsv1.SchemeGroupVersion.WithKind("ReplicaSet"), selector: sel,
			fresh: again(client.AppsV1().ReplicaSets(rs.Namespace).Get, rs.Name),
		},
		replicas: ptr.Deref(rs.Spec.Replicas, 1), minReady: rs.Spec.MinReadySeconds, template: &rs.Spec.Template, generation: rs.Generation,
		status: replicaStatus{
			Replicas: s.Replicas, FullyLabeled: s.FullyLabeledReplicas, Ready: s.ReadyReplicas, Available: s.AvailableReplicas,
			Terminating: s.TerminatingReplicas, Observed: s.ObservedGeneration,
		},
	}
	for _, c := range s.Conditions {
		if c.Type == appsv1.ReplicaSetReplicaFailure && c.Status == corev1.ConditionTrue {
			r.status.Failure = &replicaFailure{c.Reason, c.Message, c.LastTransitionTime}
		}
	}
	return r, nil
}

// NewReplicationController makes the controller that keeps the pods of replication controllers.
func NewReplicationController(client kubernetes.Interface, i informers.SharedInformerFactory, events record.EventRecorder, c clock.Clock, lg *zap.Logger) (Controller, error) {
	return newReplicaController(client, i, events, c, lg, replicaKind{
		kind: "ReplicationController", informer: i.Core().V1().ReplicationControllers().Informer(),
		convert: func(o any) (*replicated, error) { return fromReplicationController(client, o), nil },
		update: func(ctx context.Context, r *replicated, s replicaStatus) error {
			rc := r.object.(*corev1.ReplicationController).DeepCopy()
			st := &rc.Status
			st.Replicas, st.FullyLabeledReplicas, st.ReadyReplicas, st.AvailableReplicas = s.Replicas, s.FullyLabeled, s.Ready, s.Available
			st.ObservedGeneration = s.Observed
			st.Conditions = nil
			for _, c := range r.object.(*corev1.ReplicationController).Status.Conditions {
				if c.Type != corev1.ReplicationControllerReplicaFailure {
					st.Conditions = append(st.Conditions, c)
				}
			}
			if f := s.Failure; f != nil {
				st.Conditions = append(st.Conditions, corev1.ReplicationControllerCondition{
					Type: corev1.ReplicationControllerReplicaFailure, Status: corev1.ConditionTrue, LastTransitionTime: f.Since, Reason: f.Reason, Message: f.Message,
				})
			}
			_, err := client.CoreV1().ReplicationControllers(rc.Namespace).UpdateStatus(ctx, rc, metav1.UpdateOptions{})
			return err
		},
	})
}

func fromReplicationController(client kubernetes.Interface, x any) *replicated {
	rc := x.(*corev1.ReplicationController)
	s := &rc.Status
	r := &replicated{
		owner: owner{
			object: rc, meta: rc, kind: corev1.SchemeGroupVersion.WithKind("ReplicationController"),
			selector: labels.Set(rc.Spec.Selector).AsSelectorPreValidated(), fresh: again(client.CoreV1().ReplicationControllers(rc.Namespace).Get, rc.Name),
		},
		replicas: ptr.Deref(rc.Spec.Replicas, 1), minReady: rc.Spec.MinReadySeconds, template: rc.Spec.Template, generation: rc.Generation,
		status: replicaStatus{
			Replicas: s.Replicas, FullyLabeled: s.FullyLabeledReplicas, Ready: s.ReadyReplicas, Available: s.AvailableReplicas, Observed: s.ObservedGeneration,
		},
	}
	for _, c := range s.Conditions {
		if c.Type == corev1.ReplicationControllerReplicaFailure && c.Status == corev1.ConditionTrue {
			r.status.Failure = &replicaFailure{c.Reason, c.Message, c.LastTransitionTime}
		}
	}
	return r
}
