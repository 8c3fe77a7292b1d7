package main

import (
	"testing"

	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestLabelAndAnnotate(t *testing.T) {
	t.Parallel()
	k := newKube(t)
	k.ok("create deployment d --image=x --replicas=2")
	k.ok("rollout status deployment/d --timeout=60s")
	k.says("deployment.apps/d labeled", "label deployment/d tier=front")
	k.fails("error: 'tier' already has a value (front), and --overwrite is false", "label deployment/d tier=back")
	k.says("deployment.apps/d labeled", "label deployment/d tier=back --overwrite")
	require.Equal(t, "back", k.deployment("d").Labels["tier"])
	k.matches(`pod/d-\S+ labeled\npod/d-\S+ labeled`, "label pods -l app=d x=y")
	k.matches(`(app=d\ntier=back|tier=back\napp=d)`, "label deployment/d --list") // kubectl does not sort them
	k.says("deployment.apps/d unlabeled", "label deployment/d tier-")
	k.says("deployment.apps/d not labeled", "label deployment/d app=d")
	k.says("deployment.apps/d annotated", "annotate deployment/d", "note=hello world")
	require.Equal(t, "hello world", k.deployment("d").Annotations["note"])
	k.says("deployment.apps/d annotated", "annotate deployment/d note-")
	require.NotContains(t, k.deployment("d").Annotations, "note")
	k.fails(`The Deployment "d" is invalid: metadata.labels: Invalid value: "-": a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')`,
		"patch deployment d -p", `{"metadata":{"labels":{"a":"-"}}}`)
}

func TestPatch(t *testing.T) {
	t.Parallel()
	k := newKube(t)
	k.ok("create deployment d --image=x")
	const patched = "deployment.apps/d patched"
	// A strategic patch finds the container by its name, a merge patch replaces the list.
	k.says(patched, "patch deployment d -p", `{"spec":{"template":{"spec":{"containers":[{"name":"x","env":[{"name":"Q","value":"1"}]}]}}}}`)
	c := k.deployment("d").Spec.Template.Spec.Containers
	require.Len(t, c, 1)
	require.Equal(t, "x", c[0].Image)
	require.Equal(t, "Q", c[0].Env[0].Name)
	k.says(patched, "patch deployment d --type merge -p", `{"spec":{"minReadySeconds":1,"template":{"spec":{"containers":[{"name":"y","image":"z"}]}}}}`)
	c = k.deployment("d").Spec.Template.Spec.Containers
	require.Equal(t, "z", c[0].Image)
	require.Empty(t, c[0].Env)
	k.says(patched, "patch deployment d --type json -p", `[{"op":"test","path":"/spec/minReadySeconds","value":1},{"op":"replace","path":"/spec/minReadySeconds","value":0}]`)
	require.Zero(t, k.deployment("d").Spec.MinReadySeconds)
	k.says("deployment.apps/d patched (no change)", "patch deployment d -p", `{"spec":{"minReadySeconds":0}}`)
	k.fails("The request is invalid: the server rejected our request due to an error in our request", "patch deployment d --type json -p",
		`[{"op":"test","path":"/spec/minReadySeconds","value":7}]`)
	k.fails(`The Deployment "d" is invalid: spec.template.spec.containers[0].imagePullPolicy: Unsupported value: "Sometimes": supported values: "Always", "IfNotPresent", "Never"`,
		"patch deployment d -p", `{"spec":{"template":{"spec":{"containers":[{"name":"y","imagePullPolicy":"Sometimes"}]}}}}`)
	k.fails("The Deployment \"d\" is invalid: \n* spec.template.metadata.labels: Invalid value: {\"app\":\"d\"}: `selector` does not match template `labels`\n* spec.selector: Invalid value: {\"matchLabels\":{\"app\":\"q\"}}: field is immutable",
		"patch deployment d --type merge -p", `{"spec":{"selector":{"matchLabels":{"app":"q"}}}}`)
	k.warns("Warning: unknown field \"spec.nope\"", "patch deployment d -p", `{"spec":{"nope":1}}`)

	// The subresource status takes the status, and nothing else.
	k.ok("run p --image=x")
	k.ok("wait --for=condition=Ready pod/p --timeout=60s")
	k.says("pod/p patched", "patch pod p --subresource status -p", `{"status":{"message":"told"},"metadata":{"labels":{"run":"other"}},"spec":{"activeDeadlineSeconds":5}}`)
	p, err := k.client.CoreV1().Pods(k.ns).Get(t.Context(), "p", metav1.GetOptions{})
	require.NoError(t, err)
	require.Equal(t, "told", p.Status.Message)
	require.Nil(t, p.Spec.ActiveDeadlineSeconds)
	k.ok("patch pod p -p", `{"status":{"message":"again"}}`)
	k.says("told", "get pod p -o jsonpath={.status.message}")
	k.fails(`Error from server (NotFound): pods "nope" not found`, "patch pod nope -p", "{}")
}
