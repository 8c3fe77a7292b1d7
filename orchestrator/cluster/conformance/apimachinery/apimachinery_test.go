package apimachinery

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/keelson-io/keelson/orchestrator/cluster/conformance"
)

func TestConformance(t *testing.T) {
	conformance.Test(t, conformance.Behaviours{
		"Discovery should locate the groupVersion and a resource within each APIGroup":                                                                                                    resourceOfEach,
		"Discovery should validate PreferredVersion for each APIGroup":                                                                                                                    preferredVersions,
		"Garbage collector should delete pods created by rc when not orphaning":                                                                                                           podsGoWithController,
		"Garbage collector should delete RS created by deployment when not orphaning":                                                                                                     setsGoWithDeployment,
		"Garbage collector should orphan RS created by deployment when deleteOptions.PropagationPolicy is Orphan":                                                                         setsAreOrphaned,
		"Garbage collector should orphan pods created by rc if delete options say so [Serial]":                                                                                            podsAreOrphaned,
		"Garbage collector should keep the rc around until all its pods are deleted if the deleteOptions says so [Serial]":                                                                controllerGoesLast,
		"Garbage collector should not delete dependents that have both valid owner and owner that's waiting for dependents to be deleted [Serial]":                                        secondOwnerKeeps,
		"Garbage collector should not be blocked by dependency circle":                                                                                                                    circleGoes,
		"Namespaces should apply a finalizer to a Namespace [Serial]":                                                                                                                     namespaceFinalizer,
		"Namespaces should apply an update to a Namespace [Serial]":                                                                                                                       namespaceUpdate,
		"Namespaces should apply changes to a namespace status [Serial]":                                                                                                                  namespaceStatus,
		"Namespaces should ensure that all pods are removed when a namespace is deleted [Serial]":                                                                                         namespaceTakesPods,
		"Namespaces should ensure that all services are removed when a namespace is deleted [Serial]":                                                                                     namespaceTakesServices,
		"Namespaces should patch a Namespace [Serial]":                                                                                                                                    namespacePatch,
		"OrderedNamespaceDeletion namespace deletion should delete pod first":                                                                                                             podsGoFirst,
		"ResourceQuota should apply changes to a resourcequota status":                                                                                                                    quotaStatus,
		"ResourceQuota should be able to update and delete ResourceQuota.":                                                                                                                quotaUpdate,
		"ResourceQuota should create a ResourceQuota and capture the life of a configMap.":                                                                                                quotaOfConfigMaps,
		"ResourceQuota should create a ResourceQuota and capture the life of a pod.":                                                                                                      quotaOfPods,
		"ResourceQuota should create a ResourceQuota and capture the life of a replica set.":                                                                                              quotaOfReplicaSets,
		"ResourceQuota should create a ResourceQuota and capture the life of a replication controller.":                                                                                   quotaOfControllers,
		"ResourceQuota should create a ResourceQuota and capture the life of a secret.":                                                                                                   quotaOfSecrets,
		"ResourceQuota should create a ResourceQuota and capture the life of a service.":                                                                                                  quotaOfServices,
		"ResourceQuota should create a ResourceQuota and ensure its status is promptly calculated.":                                                                                       quotaIsCalculated,
		"ResourceQuota should manage the lifecycle of a ResourceQuota":                                                                                                                    quotaLifecycle,
		"ResourceQuota should verify ResourceQuota with best effort scope.":                                                                                                               quotaBestEffort,
		"ResourceQuota should verify ResourceQuota with terminating scopes.":                                                                                                              quotaTerminating,
		"Servers with support for API chunking should return chunks of results for list calls":                                                                                            chunks,
		"Servers with support for API chunking should support continue listing from the last key if the original version has been compacted away, though the list is inconsistent [Slow]": chunksAfterCompaction,
		"Servers with support for Table transformation should return a 406 for a backend which does not implement metadata":                                                               noTableOfReviews,
		"StorageVersionMigration CRUD Tests storagemigration.k8s.io/v1 StorageVersionMigration":                                                                                           migrations,
		"Watchers should be able to restart watching from the last resource version observed by the previous watch":                                                                       watchAgain,
		"Watchers should be able to start watching from a specific resource version":                                                                                                      watchFrom,
		"Watchers should observe add, update, and delete watch notifications on configmaps":                                                                                               watchSelected,
		"Watchers should observe an object deletion if it stops meeting the requirements of the selector":                                                                                 watchUnselected,
		"Watchers should receive events on concurrent watches in same order":                                                                                                              watchOrder,
		"server version should find the server version":                                                                                                                                   serverVersion,
	})
}

func serverVersion(t *testing.T, e *conformance.Env) {
	v, err := e.Client.Discovery().ServerVersion()
	require.NoError(t, err)
	require.Equal(t, "1", v.Major)
	require.Regexp(t, `^\d+`, v.Minor)
}

// eventually waits until f returns no error, as long as the behaviour has.
func eventually(t *testing.T, e *conformance.Env, f func() error) {
	t.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := f()
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-e.Ctx.Done():
			require.NoError(t, err)
			return
		}
	}
}

// gone is for eventually: get has to say that there is no such object.
func gone[T any](get func() (T, error)) func() error {
	return func() error {
		_, err := get()
		if apierrors.IsNotFound(err) {
			return nil
		}
		return fmt.Errorf("still there: %v", err)
	}
}

// retried updates an object that others update, too.
func retried[T any](t *testing.T, e *conformance.Env, update func() (T, error)) (updated T) {
	t.Helper()
	eventually(t, e, func() (err error) {
		if updated, err = update(); !apierrors.IsConflict(err) {
			require.NoError(t, err)
		}
		return err
	})
	return updated
}
