package apiserver

import (
	"context"
	"encoding/json"
	"time"

	"go.uber.org/zap"
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"github.com/keelson-io/keelson/orchestrator/apiserver/fairness"
	"github.com/keelson-io/keelson/orchestrator/apiserver/request"
	"github.com/keelson-io/keelson/orchestrator/apiserver/rights"
	"github.com/keelson-io/keelson/orchestrator/apiserver/verbs"
	"github.com/keelson-io/keelson/orchestrator/kinds"
)

// Who writes the objects of flow control, as in kube-apiserver.
const (
	flowProducer = "api-priority-and-fairness-config-producer-v1"
	flowConsumer = "api-priority-and-fairness-config-consumer-v1"
)

const (
	flowEvery = time.Minute // between two looks at the default objects, if none of them changes
	flowPause = time.Second // between two rounds at least
)

// ownTarget is a write of the server itself.
func ownTarget(manager, namespace, name string, options runtime.Object) *verbs.Target {
	return &verbs.Target{
		Namespace: namespace, Name: name, Manager: manager, User: &request.User{Name: "system:apiserver", Groups: []string{rights.Masters}},
		Options: options, Warn: func(string) {}, Annotate: func(string, string) {},
	}
}

// keepFlow keeps the default objects of flow control, and the conditions of flow schemas, until the context ends.
func (a *API) keepFlow(ctx context.Context) {
	every := a.cfg.Clock.NewTicker(flowEvery)
	defer every.Stop()
	for {
		if err := a.flowRound(ctx); err != nil && ctx.Err() == nil {
			a.cfg.Logger.Warn("the objects of flow control are not as they should be", zap.Error(err))
		}
		pause := a.cfg.Clock.NewTimer(flowPause)
		select {
		case <-pause.C():
		case <-ctx.Done():
		}
		pause.Stop()
		select {
		case <-every.C():
		case <-a.flow.Changed():
		case <-ctx.Done():
			return
		}
	}
}

// flowRound puts in order what is not.
func (a *API) flowRound(ctx context.Context) error {
	for _, d := range fairness.Defaults() {
		if err := a.ensureFlow(ctx, d); err != nil {
			return err
		}
	}
	for _, o := range a.flow.Objects() {
		if !fairness.Obsolete(o) {
			continue
		}
		gvk := flowcontrolv1.SchemeGroupVersion.WithKind("PriorityLevelConfiguration")
		if _, ok := o.(*flowcontrolv1.FlowSchema); ok {
			gvk.Kind = "FlowSchema"
		}
		uid := o.GetUID()
		_, _, err := a.resourceOf(gvk).Delete(ctx, ownTarget(flowProducer, "", o.GetName(), nil), &metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &uid}})
		if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
			return err
		}
	}
	for _, d := range a.flow.Danglings(a.cfg.Clock.Now()) {
		if err := a.setDangling(ctx, d); err != nil && !apierrors.IsNotFound(err) {
			return err
		}
	}
	return nil
}

// ensureFlow creates a default object, or brings it up to date if it follows its default.
func (a *API) ensureFlow(ctx context.Context, d fairness.Default) error {
	res := a.resourceOf(d.GetObjectKind().GroupVersionKind())
	if res == nil {
		return nil // not served
	}
	it, err := res.Get(ctx, "", d.GetName(), "0")
	if apierrors.IsNotFound(err) {
		_, err = res.Create(ctx, ownTarget(flowProducer, "", d.GetName(), &metav1.CreateOptions{}), d.DeepCopyObject().(kinds.Object))
		if apierrors.IsAlreadyExists(err) {
			return nil // another API server was faster, or the cache is behind
		}
		return err
	}
	if err != nil {
		return err
	}
	next := d.Reconcile(it.Object)
	if next == nil {
		return nil
	}
	_, _, err = res.Update(ctx, ownTarget(flowProducer, "", d.GetName(), &metav1.UpdateOptions{}), next)
	if apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
		return nil // its change comes yet
	}
	return err
}

// setDangling applies a flow schema's condition.
func (a *API) setDangling(ctx context.Context, d fairness.Dangling) error {
	body, err := json.Marshal(map[string]any{
		"apiVersion": flowcontrolv1.SchemeGroupVersion.String(), "kind": "FlowSchema", "metadata": map[string]any{"name": d.Schema},
		"status": flowcontrolv1.FlowSchemaStatus{Conditions: []flowcontrolv1.FlowSchemaCondition{d.Condition}},
	})
	if err != nil {
		return err
	}
	res := a.resourceOf(flowcontrolv1.SchemeGroupVersion.WithKind("FlowSchema"))
	if res == nil {
		return nil // not served
	}
	t := ownTarget(flowConsumer, "", d.Schema, &metav1.PatchOptions{})
	t.Subresource = "status"
	_, _, err = res.Patch(ctx, t, types.ApplyPatchType, body, true)
	return err
}
