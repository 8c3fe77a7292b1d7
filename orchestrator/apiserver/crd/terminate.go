package crd

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.uber.org/zap"
	"k8s.io/apiextensions-apiserver/pkg/apihelpers"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/keelson-io/keelson/orchestrator/apiserver/admission"
	"github.com/keelson-io/keelson/orchestrator/apiserver/verbs"
	"github.com/keelson-io/keelson/orchestrator/kinds"
	"github.com/keelson-io/keelson/orchestrator/objectstore"
)

// How often it is looked whether the objects of a definition are gone: ever less often.
const (
	firstLook = 50 * time.Millisecond
	lastLook  = 5 * time.Second
)

var (
	errRaced = errors.New("the definition has changed meanwhile")
	errLast  = errors.New("nothing else holds the definition")
	errKinds = errors.New("its schema cannot be read")
)

// terminate begins to remove the objects of a definition that is being deleted. It is closed for new ones already.
func (m *Manager) terminate(ctx context.Context, d *definition) {
	if d.stop != nil || d.object.DeletionTimestamp == nil || !apihelpers.CRDHasFinalizer(d.object, apiextensionsv1.CustomResourceCleanupFinalizer) {
		return
	}
	ctx, d.stop = context.WithCancel(ctx)
	t := &termination{m: m, name: d.object.Name, uid: d.object.UID, established: apihelpers.IsCRDConditionTrue(d.object, apiextensionsv1.Established)}
	if d.compiled != nil {
		t.kind = d.compiled.stored
	}
	m.wg.Go(func() { t.run(ctx) })
}

// termination is the end of a definition.
type termination struct {
	m           *Manager
	name        string
	uid         types.UID
	kind        *kinds.Kind // as which objects are stored; nil: it cannot be made
	established bool        // there may be objects
}

// run deletes the objects, waits until they are gone, and lets the definition go. It ends when the definition is gone.
func (t *termination) run(ctx context.Context) {
	for look := firstLook; ; look = min(2*look, lastLook) {
		last, err := t.step(ctx)
		switch {
		case err == nil && last:
			return
		case err != nil && ctx.Err() == nil:
			t.m.cfg.Logger.Warn("custom resource definition: termination", zap.String("name", t.name), zap.Error(err))
		}
		if !t.m.sleep(ctx, look) {
			return
		}
	}
}

// step tries to end it.
func (t *termination) step(ctx context.Context) (last bool, err error) {
	if !t.established {
		return true, t.release(ctx, "NeverEstablished", "resource was never established")
	}
	if err := t.write(ctx, "InstanceDeletionInProgress", "CustomResource deletion is in progress"); err != nil {
		return false, err
	}
	if t.kind == nil {
		return false, errors.Join(errKinds, t.write(ctx, "InstanceDeletionFailed", "could not list instances: "+errKinds.Error()))
	}
	left, err := t.empty(ctx)
	switch {
	case err != nil:
		return false, errors.Join(err, t.write(ctx, "InstanceDeletionFailed", "could not issue all deletes: "+err.Error()))
	case left > 0:
		return false, nil
	}
	return true, t.release(ctx, "InstanceDeletionCompleted", "removed all instances")
}

// empty deletes all objects, and returns how many there were. Objects are not converted for it: their webhook may be gone.
func (t *termination) empty(ctx context.Context) (int, error) {
	objects := t.m.cfg.Objects.Collection(t.kind)
	defer t.m.cfg.Objects.Remove(t.kind)
	page, err := objects.List(ctx, objectstore.ListQuery{})
	if err != nil {
		return 0, err
	}
	r := &verbs.Resource{Kind: t.kind, Objects: objects, Admission: admission.NewChain(), Clock: t.m.cfg.Clock}
	for _, it := range page.Items {
		if it.Object.GetDeletionTimestamp() != nil {
			continue
		}
		target := &verbs.Target{Namespace: it.Object.GetNamespace(), Name: it.Object.GetName()}
		if _, _, err := r.Delete(ctx, target, &metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			return 0, fmt.Errorf("delete %s/%s: %w", target.Namespace, target.Name, err)
		}
	}
	return len(page.Items), nil
}

func (t *termination) condition(c *apiextensionsv1.CustomResourceDefinition, status apiextensionsv1.ConditionStatus, reason, text string) {
	apihelpers.SetCRDCondition(c, apiextensionsv1.CustomResourceDefinitionCondition{
		Type: apiextensionsv1.Terminating, Status: status, Reason: reason, Message: text,
	})
}

// write sets the condition, if the definition is still there.
func (t *termination) write(ctx context.Context, reason, text string) error {
	_, err := t.m.cfg.Definitions.Update(ctx, "", t.name, func(current *objectstore.Item) (kinds.Object, error) {
		c := current.Object.(*apiextensionsv1.CustomResourceDefinition).DeepCopy()
		if c.UID != t.uid {
			return nil, errOther
		}
		t.condition(c, apiextensionsv1.ConditionTrue, reason, text)
		return c, nil
	})
	return ignoreGone(err)
}

// release removes the finalizer, and the definition if that was the last one.
func (t *termination) release(ctx context.Context, reason, text string) error {
	const ours = apiextensionsv1.CustomResourceCleanupFinalizer
	for {
		_, err := t.m.cfg.Definitions.Update(ctx, "", t.name, func(current *objectstore.Item) (kinds.Object, error) {
			c := current.Object.(*apiextensionsv1.CustomResourceDefinition).DeepCopy()
			switch apihelpers.CRDRemoveFinalizer(c, ours); {
			case c.UID != t.uid:
				return nil, errOther
			case len(c.Finalizers) == 0:
				return nil, errLast
			}
			t.condition(c, apiextensionsv1.ConditionFalse, reason, text)
			return c, nil
		})
		if !errors.Is(err, errLast) {
			return ignoreGone(err)
		}
		_, err = t.m.cfg.Definitions.Delete(ctx, "", t.name, func(current *objectstore.Item) error {
			switch c := current.Object.(*apiextensionsv1.CustomResourceDefinition); {
			case c.UID != t.uid:
				return errOther
			case slices.ContainsFunc(c.Finalizers, func(f string) bool { return f != ours }):
				return errRaced
			}
			return nil
		})
		if !errors.Is(err, errRaced) {
			return ignoreGone(err)
		}
	}
}

func ignoreGone(err error) error {
	if apierrors.IsNotFound(err) || errors.Is(err, errOther) {
		return nil
	}
	return err
}
