package main

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestScale(t *testing.T) {
	t.Parallel()
	k := newKube(t)
	k.ok("create deployment d --image=x")
	k.says("deployment.apps/d scaled", "scale deployment/d --replicas=3")
	require.Equal(t, int32(3), *k.deployment("d").Spec.Replicas)
	k.ok("wait --for=jsonpath={.status.readyReplicas}=3 deployment/d --timeout=60s")
	k.fails("error: Expected replicas to be 9, was 3", "scale deployment/d --replicas=4 --current-replicas=9")
	k.says("deployment.apps/d scaled", "scale deployment/d --replicas=0 --current-replicas=3")
	k.eventually("", "get pods -o name")
	k.fails(`Error from server (NotFound): deployments.apps "nope" not found`, "scale deployment/nope --replicas=1")
	k.says("scale.autoscaling/d patched", "patch deployment d --subresource scale --type merge -p", `{"spec":{"replicas":2}}`)
	require.Equal(t, int32(2), *k.deployment("d").Spec.Replicas)
	k.says("2 app=d", "get deployment d --subresource scale -o", "jsonpath={.spec.replicas} {.status.selector}")
	rs := k.ok("get rs -o name")
	k.says(rs+" scaled", "scale "+rs+" --replicas=2")
}

func TestRollout(t *testing.T) {
	t.Parallel()
	k := newKube(t)
	k.web()
	images := func() string {
		return k.ok("get rs --sort-by=.metadata.annotations.deployment\\.kubernetes\\.io/revision -o jsonpath={.items[*].spec.template.spec.containers[0].image}")
	}
	k.says("deployment.apps/web image updated", "set image deployment/web nginx=nginx:1.28")
	k.says("deployment.apps/web annotated", "annotate deployment/web kubernetes.io/change-cause=newer")
	out := k.ok("rollout status deployment/web --timeout=60s")
	require.True(t, strings.HasSuffix(out, `deployment "web" successfully rolled out`), out)
	require.Equal(t, int32(3), k.deployment("web").Status.UpdatedReplicas)
	require.Equal(t, "nginx:1.27 nginx:1.28", images())
	k.matches("deployment.apps/web \nREVISION  CHANGE-CAUSE\n1         <none>\n2         newer", "rollout history deployment/web")
	k.holds("rollout history deployment/web --revision=2", "deployment.apps/web with revision #2\nPod Template:", "Labels: app=web", "pod-template-hash=",
		"Annotations: kubernetes.io/change-cause: newer", "Image: nginx:1.28")

	k.says("deployment.apps/web paused", "rollout pause deployment/web")
	k.fails(`error: deployments.apps "web" is already paused`, "rollout pause deployment/web")
	k.ok("set image deployment/web *=nginx:1.29")
	k.ok("wait deployment/web --timeout=60s --for=jsonpath={.status.observedGeneration}=" + k.ok("get deployment web -o jsonpath={.metadata.generation}"))
	require.Equal(t, "nginx:1.27 nginx:1.28", images(), "nothing happens while it is paused")
	_, errs, code := k.run("", "rollout undo deployment/web")
	require.Equal(t, 1, code)
	require.Contains(t, errs, "error: you cannot rollback a paused deployment; resume it first with 'kubectl rollout resume' and try again")
	k.says("deployment.apps/web resumed", "rollout resume deployment/web")
	k.fails(`error: deployments.apps "web" is not paused`, "rollout resume deployment/web")
	k.ok("rollout status deployment/web --timeout=60s")
	require.Equal(t, "nginx:1.27 nginx:1.28 nginx:1.29", images())

	k.says("deployment.apps/web restarted", "rollout restart deployment/web")
	k.ok("rollout status deployment/web --timeout=60s")
	require.Contains(t, k.deployment("web").Spec.Template.Annotations, "kubectl.kubernetes.io/restartedAt")
	k.says("deployment.apps/web rolled back", "rollout undo deployment/web --to-revision=1")
	k.ok("rollout status deployment/web --timeout=60s")
	require.Equal(t, "nginx:1.27", k.deployment("web").Spec.Template.Spec.Containers[0].Image)
	require.Equal(t, "nginx:1.28 nginx:1.29 nginx:1.29 nginx:1.27", images(), "the first revision is now the last")
	_, errs, _ = k.run("", "rollout undo deployment/web --to-revision=77")
	require.Contains(t, errs, "error: unable to find specified revision 77 in history")
	k.says("deployment.apps/web rolled back", "rollout undo deployment/web")
	k.ok("rollout status deployment/web --timeout=60s")
	require.Equal(t, "nginx:1.29", k.deployment("web").Spec.Template.Spec.Containers[0].Image)
}

// TestSet changes parts of a template.
func TestSet(t *testing.T) {
	t.Parallel()
	k := newKube(t)
	k.ok("create deployment d --image=x")
	k.ok("create serviceaccount bob")
	k.ok("create service clusterip s --tcp=80")
	k.ok("create rolebinding rb --clusterrole=view --user=a")
	k.says("deployment.apps/d env updated", "set env deployment/d A=B")
	k.says("deployment.apps/d resource requirements updated", "set resources deployment/d --limits=cpu=1")
	k.says("deployment.apps/d serviceaccount updated", "set serviceaccount deployment/d bob")
	spec := k.deployment("d").Spec.Template.Spec
	require.Equal(t, "A", spec.Containers[0].Env[0].Name)
	require.Equal(t, "1", spec.Containers[0].Resources.Limits.Cpu().String())
	require.Equal(t, "bob", spec.ServiceAccountName)
	k.says("# Deployment d, container x\nA=B", "set env deployment/d --list")
	k.says("service/s selector updated", "set selector service/s a=b")
	k.says(`{"a":"b"}`, "get service s -o jsonpath={.spec.selector}")
	k.says("rolebinding.rbac.authorization.k8s.io/rb subjects updated", "set subject rolebinding rb --group=g")
	k.says("a g", "get rolebinding rb -o jsonpath={.subjects[*].name}")
}
