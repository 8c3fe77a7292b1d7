package main

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestDelete(t *testing.T) {
	t.Parallel()
	k := newKube(t)
	for _, d := range []string{"orphan", "foreground", "background"} {
		k.ok("create deployment " + d + " --image=x")
	}
	k.ok("wait --for=condition=Available deployment --all --timeout=60s")
	deleted := func(kind, name string) string { return kind + ` "` + name + `" deleted from ` + k.ns + ` namespace` }
	k.says(deleted("deployment.apps", "orphan"), "delete deployment orphan --cascade=orphan")
	k.says(deleted("deployment.apps", "foreground"), "delete deployment foreground --cascade=foreground")
	k.says("", "get rs,pods -l app=foreground -o name") // who waits for the owner has waited for what it owns
	k.says(deleted("deployment.apps", "background"), "delete deployment background")
	k.eventually("", "get rs,pods -l app=background -o name")
	k.matches(`replicaset.apps/orphan-\S+\npod/orphan-\S+`, "get rs,pods -l app=orphan -o name")
	k.says("", "get rs -l app=orphan -o jsonpath={.items[0].metadata.ownerReferences}")

	pod := k.ok("get pods -l app=orphan -o name")
	k.matches(`replicaset.apps "orphan-\S+" deleted from \S+ namespace`, "delete rs -l app=orphan --cascade=orphan")
	k.says(pod, "get pods -o name")
	k.says(deleted("pod", pod[len("pod/"):]), "delete "+pod+" --now")
	k.ok("run forced --image=x")
	k.warns("Warning: Immediate deletion does not wait for confirmation that the running resource has been terminated. The resource may continue to run on the cluster indefinitely.",
		"delete pod forced --force --grace-period=0")
	k.fails(`Error from server (NotFound): pods "forced" not found`, "delete pod forced")
	k.says("", "delete pod forced --ignore-not-found")
	k.ok("create configmap a")
	k.says(`configmap "a" deleted from `+k.ns+` namespace (server dry run)`, "delete configmap a --dry-run=server")
	k.ok("create configmap b")
	k.ok("delete configmap a b")
	k.ok("create configmap c")
	k.ok("delete configmap --field-selector metadata.name=c")
	k.says("configmap/kube-root-ca.crt", "get configmap -o name")

	// An object that is held stays until it is let go.
	k.ok("create configmap held")
	k.ok("patch configmap held -p", `{"metadata":{"finalizers":["example.com/hold"]}}`)
	k.ok("delete configmap held --wait=false")
	k.fails("error: timed out waiting for the condition on configmaps/held", "delete configmap held --timeout=1s")
	k.ok("patch configmap held --type=json -p", `[{"op":"remove","path":"/metadata/finalizers"}]`)
	k.says("", "get configmap held --ignore-not-found")
}

// TestNamespace deletes a namespace with all that is in it.
func TestNamespace(t *testing.T) {
	t.Parallel()
	k := newKube(t)
	k.ok("create deployment d --image=x")
	k.ok("create configmap cm")
	k.says(`namespace "`+k.ns+`" deleted`, "delete namespace "+k.ns+" --timeout=50s")
	k.says("", "get deployments,pods,configmaps,serviceaccounts -o name")
	_, errs, code := k.run("", "create configmap late")
	require.Equal(t, 1, code)
	require.Contains(t, errs, `namespaces "`+k.ns+`" not found`)
	k.fails("Warning: deleting cluster-scoped resources, not scoped to the provided namespace\n"+`Error from server (Forbidden): namespaces "default" is forbidden: this namespace may not be deleted`, "delete namespace default")
}

func TestWait(t *testing.T) {
	t.Parallel()
	k := newKube(t)
	k.ok("run p --image=x")
	k.says("pod/p condition met", "wait --for=condition=Ready pod/p --timeout=60s")
	k.says("pod/p condition met", "wait --for=jsonpath={.status.phase}=Running pod/p --timeout=60s")
	k.says("pod/p condition met", "wait --for=jsonpath={.status.podIP} pod -l run=p --timeout=60s")
	k.says("pod/p condition met", "wait --for=create pod/p --timeout=60s")
	k.fails("error: timed out waiting for the condition on pods/p", "wait --for=condition=Nope pod/p --timeout=1s")
	k.fails("error: timed out waiting for the condition on pods/p", "wait --for=delete pod/p --timeout=1s")
	k.ok("delete pod p --wait=false")
	k.ok("wait --for=delete pod/p --timeout=60s")
	k.fails(`Error from server (NotFound): pods "p" not found`, "wait --for=condition=Ready pod/p --timeout=1s")
	k.fails("error: no matching resources found", "wait --for=condition=Ready pod -l run=p --timeout=1s")
}

func TestEvents(t *testing.T) {
	t.Parallel()
	k := newKube(t)
	k.ok("create deployment d --image=x")
	k.ok("rollout status deployment/d --timeout=60s")
	k.eventually("Scheduled", "get events -o jsonpath={.items[?(@.reason=='Scheduled')].reason}")
	k.holds("events", "LAST SEEN TYPE REASON OBJECT MESSAGE", "Scheduled Pod/d-")
	k.holds("events --for deployment/d", "Normal ScalingReplicaSet Deployment/d Scaled up replica set d-", "from 0 to 1")
	require.NotContains(t, k.ok("events --for deployment/d"), "Scheduled")
	k.holds("get events --field-selector involvedObject.kind=ReplicaSet", "Normal SuccessfulCreate replicaset/d-", "Created pod: d-")
	k.holds("get events.events.k8s.io", "LAST SEEN TYPE REASON OBJECT MESSAGE", "deployment/d")
	k.warns("No events found in "+k.ns+" namespace.", "events --types=Warning")
	pod := k.ok("get pods -o jsonpath={.items[0].metadata.name}")
	k.holds("describe pod "+pod, "Events:", "Type Reason Age From Message", "Normal Scheduled", "default-scheduler Successfully assigned "+k.ns+"/"+pod+" to hollow-")
}
