package controllers

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"go.uber.org/zap"
	storagemigrationv1 "k8s.io/api/storagemigration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/tools/cache"

	"github.com/keelson-io/keelson/internal/clock"
)

const (
	migrationManager = "storage-version-migrator-controller"
	migrationPage    = 500
	// migrationPatience is how long a resource is waited for that does not exist, and migrationRetry how often it is looked for.
	migrationPatience = time.Minute
	migrationRetry    = 5 * time.Second
)

// migration has all objects of a resource stored again, so that none is stored any longer in a version, or encrypted with a
// key, that is to go. A patch that changes nothing does that: the API server stores what it would store otherwise now.
type migration struct {
	*loop
	client     kubernetes.Interface
	metadata   metadata.Interface
	resources  func() ([]schema.GroupVersionResource, error)
	migrations cache.Indexer
	clock      clock.Clock
}

// NewMigration makes the controller of storage version migrations. resources lists what can be listed and patched, each in one
// version; with an error, what it lists is not all.
func NewMigration(client kubernetes.Interface, md metadata.Interface, resources func() ([]schema.GroupVersionResource, error), i informers.SharedInformerFactory, c clock.Clock, lg *zap.Logger) (Controller, error) {
	mi := i.Storagemigration().V1().StorageVersionMigrations().Informer()
	m := &migration{loop: newLoop("storage-version-migration", lg), client: client, metadata: md, resources: resources, migrations: mi.GetIndexer(), clock: c}
	m.sync = m.syncOne
	return m, m.watch(mi, objects(func(o *storagemigrationv1.StorageVersionMigration) { m.add(o) }))
}

// Run works until ctx ends.
func (m *migration) Run(ctx context.Context) error { return m.run(ctx, 1) }

func (m *migration) syncOne(ctx context.Context, name string) error {
	x, exists, err := m.migrations.GetByKey(name)
	if err != nil || !exists {
		return err
	}
	o := x.(*storagemigrationv1.StorageVersionMigration).DeepCopy()
	ended := func(t storagemigrationv1.MigrationConditionType) bool {
		return meta.IsStatusConditionTrue(o.Status.Conditions, string(t))
	}
	if ended(storagemigrationv1.MigrationSucceeded) || ended(storagemigrationv1.MigrationFailed) {
		return nil
	}
	r, found, err := m.resource(o.Spec.Resource)
	switch {
	case err != nil && !found:
		return err
	case !found && m.clock.Now().Sub(o.CreationTimestamp.Time) < migrationPatience: // it may be being defined
		m.after(o, migrationRetry)
		return nil
	case !found:
		return m.end(ctx, o, storagemigrationv1.MigrationFailed, "there is no such resource that can be listed and patched")
	}
	if o.Status.ResourceVersion == "" {
		if o, err = m.begin(ctx, o, r); err != nil {
			return ignoreMissing(err)
		}
	}
	err = m.migrate(ctx, r)
	switch {
	case apierrors.IsInvalid(err), apierrors.IsForbidden(err), apierrors.IsBadRequest(err): // trying again would not help
		return m.end(ctx, o, storagemigrationv1.MigrationFailed, err.Error())
	case err != nil:
		return err
	}
	return m.end(ctx, o, storagemigrationv1.MigrationSucceeded, "all objects are stored as they are to be")
}

func (m *migration) resource(of metav1.GroupResource) (found schema.GroupVersionResource, ok bool, err error) {
	all, err := m.resources()
	for _, r := range all {
		if r.Group == of.Group && r.Resource == of.Resource {
			return r, true, nil
		}
	}
	return found, false, err
}

// begin notes the version from which on everything is stored as it is to be.
func (m *migration) begin(ctx context.Context, o *storagemigrationv1.StorageVersionMigration, r schema.GroupVersionResource) (*storagemigrationv1.StorageVersionMigration, error) {
	l, err := m.metadata.Resource(r).List(ctx, metav1.ListOptions{Limit: 1})
	if err != nil {
		return nil, err
	}
	o.Status.ResourceVersion = l.ResourceVersion
	m.condition(o, storagemigrationv1.MigrationRunning, metav1.ConditionTrue, "MigrationRunning", "objects are being stored again")
	return m.client.StoragemigrationV1().StorageVersionMigrations().UpdateStatus(ctx, o, metav1.UpdateOptions{})
}

func (m *migration) condition(o *storagemigrationv1.StorageVersionMigration, t storagemigrationv1.MigrationConditionType, s metav1.ConditionStatus, reason, message string) {
	meta.SetStatusCondition(&o.Status.Conditions, metav1.Condition{
		Type: string(t), Status: s, Reason: reason, Message: message, LastTransitionTime: metav1.Time{Time: m.clock.Now().Truncate(time.Second)},
	})
}

func (m *migration) end(ctx context.Context, o *storagemigrationv1.StorageVersionMigration, as storagemigrationv1.MigrationConditionType, message string) error {
	m.condition(o, storagemigrationv1.MigrationRunning, metav1.ConditionFalse, "MigrationEnded", "")
	m.condition(o, as, metav1.ConditionTrue, "Migration"+string(as), message)
	_, err := m.client.StoragemigrationV1().StorageVersionMigrations().UpdateStatus(ctx, o, metav1.UpdateOptions{})
	return ignoreMissing(err)
}

// migrate has all objects of a resource stored again. Those that somebody else has written meanwhile need not be.
func (m *migration) migrate(ctx context.Context, r schema.GroupVersionResource) error {
	all := m.metadata.Resource(r)
	for next := ""; ; {
		l, err := all.List(ctx, metav1.ListOptions{Limit: migrationPage, Continue: next})
		if err != nil {
			return err
		}
		for i := range l.Items {
			o := &l.Items[i]
			patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": o.UID, "resourceVersion": o.ResourceVersion}})
			if err != nil {
				return err
			}
			in := metadata.ResourceInterface(all)
			if o.Namespace != "" {
				in = all.Namespace(o.Namespace)
			}
			_, err = in.Patch(ctx, o.Name, types.MergePatchType, patch, metav1.PatchOptions{FieldManager: migrationManager})
			if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
				return fmt.Errorf("%s: %w", keyOf(o), err)
			}
		}
		if next = l.Continue; next == "" {
			return nil
		}
	}
}
