package main

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// web is an application: a Deployment with its Service, ConfigMap and Secret.
const web = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {app: web}}
spec:
  replicas: 3
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - name: nginx
        image: nginx:1.27
        ports: [{containerPort: 80, name: http}]
        resources: {requests: {cpu: 10m, memory: 16Mi}, limits: {memory: 64Mi}}
        envFrom: [{configMapRef: {name: conf}}]
        env: [{name: PASS, valueFrom: {secretKeyRef: {name: pass, key: word}}}]
        volumeMounts: [{name: c, mountPath: /c}]
        readinessProbe: {httpGet: {path: /, port: http}}
      volumes: [{name: c, configMap: {name: conf}}]
---
apiVersion: v1
kind: Service
metadata: {name: web, labels: {app: web}}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: http}]}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: conf, labels: {app: web}}
data: {a: b}
---
apiVersion: v1
kind: Secret
metadata: {name: pass, labels: {app: web}}
stringData: {word: secret}
`

// web applies the application, and waits until it runs.
func (k *kube) web() {
	k.t.Helper()
	k.write("web.yaml", web)
	k.says("deployment.apps/web created\nservice/web created\nconfigmap/conf created\nsecret/pass created", "apply -f web.yaml")
	k.ok("rollout status deployment/web --timeout=60s")
}

func (k *kube) deployment(name string) *appsv1.Deployment {
	k.t.Helper()
	d, err := k.client.AppsV1().Deployments(k.ns).Get(k.t.Context(), name, metav1.GetOptions{})
	require.NoError(k.t, err)
	return d
}

func (k *kube) data(name string) map[string]string {
	k.t.Helper()
	c, err := k.client.CoreV1().ConfigMaps(k.ns).Get(k.t.Context(), name, metav1.GetOptions{})
	require.NoError(k.t, err)
	return c.Data
}

// configMap is one with data, as a manifest.
func configMap(name, data string) string {
	return "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: " + name + "}\ndata: {" + data + "}\n"
}

func TestApply(t *testing.T) {
	t.Parallel()
	k := newKube(t)
	k.web()
	d := k.deployment("web")
	require.Equal(t, int32(3), d.Status.ReadyReplicas)
	require.Equal(t, "nginx:1.27", d.Spec.Template.Spec.Containers[0].Image)
	s, err := k.client.CoreV1().Secrets(k.ns).Get(t.Context(), "pass", metav1.GetOptions{})
	require.NoError(t, err)
	require.Equal(t, "secret", string(s.Data["word"]))
	require.Equal(t, map[string]string{"a": "b"}, k.data("conf"))
}

func TestApplyAgain(t *testing.T) {
	t.Parallel()
	k := newKube(t)
	k.write("a.yaml", configMap("cm", "a: x, b: x"))
	k.says("configmap/cm created", "apply -f a.yaml")
	k.says("configmap/cm unchanged", "apply -f a.yaml")
	k.says("configmap/cm patched", "patch configmap cm --type merge -p", `{"data": {"mine": "z"}}`)
	k.write("a.yaml", configMap("cm", "b: new"))
	k.says("configmap/cm configured (server dry run)", "apply -f a.yaml --dry-run=server")
	k.says("configmap/cm configured (dry run)", "apply -f a.yaml --dry-run=client")
	require.Equal(t, map[string]string{"a": "x", "b": "x", "mine": "z"}, k.data("cm"))
	k.says("configmap/cm configured", "apply -f a.yaml")
	require.Equal(t, map[string]string{"b": "new", "mine": "z"}, k.data("cm"), "what is no longer in the manifest goes, what others added stays")
	k.holds("apply view-last-applied configmap/cm", "data:", "b: new")
	k.ok("create configmap other --from-literal=a=b")
	k.write("b.yaml", configMap("other", "a: c"))
	k.warns("Warning: resource configmaps/other is missing the kubectl.kubernetes.io/last-applied-configuration annotation which is required by kubectl apply. kubectl apply should only be used on resources created declaratively by either kubectl create --save-config or kubectl apply. The missing annotation will be patched automatically.",
		"apply -f b.yaml")
	require.Equal(t, "c", k.data("other")["a"])
}

func TestApplyServerSide(t *testing.T) {
	t.Parallel()
	k := newKube(t)
	k.write("a.yaml", configMap("cm", `a: "1", b: "2"`))
	k.says("configmap/cm serverside-applied", "apply --server-side -f a.yaml")
	k.write("a.yaml", configMap("cm", `a: "9", b: "2"`))
	_, errs, code := k.run("", "apply --server-side --field-manager=other -f a.yaml")
	require.Equal(t, 1, code)
	require.True(t, strings.HasPrefix(errs, `error: Apply failed with 1 conflict: conflict with "kubectl": .data.a`+"\n"), errs)
	require.Equal(t, "1", k.data("cm")["a"])
	k.says("configmap/cm serverside-applied (server dry run)", "apply --server-side --dry-run=server --field-manager=other --force-conflicts -f a.yaml")
	require.Equal(t, "1", k.data("cm")["a"])
	k.says("configmap/cm serverside-applied", "apply --server-side --field-manager=other --force-conflicts -f a.yaml")
	require.Equal(t, "9", k.data("cm")["a"])

	// Who applies nothing of a field gives it up; it stays while another has it.
	k.write("a.yaml", configMap("cm", `a: "9"`))
	k.says("configmap/cm serverside-applied", "apply --server-side --field-manager=other -f a.yaml")
	require.Equal(t, map[string]string{"a": "9", "b": "2"}, k.data("cm"))
	k.says(`kubectl {"f:data":{"f:b":{}}}`+"\n"+`other {"f:data":{"f:a":{}}}`, "get configmap cm --show-managed-fields -o",
		`go-template={{range .metadata.managedFields}}{{.manager}} {"f:data":{ {{- range $f, $v := index .fieldsV1 "f:data"}}"{{$f}}":{}{{end -}} }}{{"\n"}}{{end}}`)
	k.write("a.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: cm}\n")
	k.ok("apply --server-side -f a.yaml")
	require.Equal(t, map[string]string{"a": "9"}, k.data("cm"))
	require.NotContains(t, k.ok("get configmap cm -o yaml"), "managedFields")
}

func TestApplyPrune(t *testing.T) {
	t.Parallel()
	k := newKube(t)
	labelled := func(name string) string {
		return "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: " + name + ", labels: {p: all}}\n"
	}
	k.write("a.yaml", labelled("one")+labelled("two"))
	k.says("configmap/one created\nconfigmap/two created", "apply -f a.yaml")
	k.write("a.yaml", labelled("two"))
	k.says("configmap/two unchanged\nconfigmap/one pruned", "apply --prune -l p=all --prune-allowlist core/v1/ConfigMap -f a.yaml")
	k.says("configmap/two", "get configmap -l p=all -o name")
}

func TestValidation(t *testing.T) {
	t.Parallel()
	k := newKube(t)
	k.write("typo.yaml", `
apiVersion: apps/v1
kind: Deployment
metadata: {name: typo}
spec:
  replcas: 3
  selector: {matchLabels: {app: typo}}
  template:
    metadata: {labels: {app: typo}}
    spec: {containers: [{name: x, imagee: y, image: z}]}
`)
	const unknown = `unknown field "spec.replcas", unknown field "spec.template.spec.containers[0].imagee"`
	k.fails(`Error from server (BadRequest): error when creating "typo.yaml": Deployment in version "v1" cannot be handled as a Deployment: strict decoding error: `+unknown, "apply -f typo.yaml")
	k.fails(`Error from server (BadRequest): error when creating "typo.yaml": Deployment in version "v1" cannot be handled as a Deployment: strict decoding error: `+unknown, "create -f typo.yaml")
	k.warns("Warning: unknown field \"spec.replcas\"\nWarning: unknown field \"spec.template.spec.containers[0].imagee\"", "apply --validate=warn -f typo.yaml")
	k.ok("delete -f typo.yaml")
	k.warns("", "apply --validate=ignore -f typo.yaml")
	require.Equal(t, int32(1), *k.deployment("typo").Spec.Replicas)
	k.fails(`Error from server (AlreadyExists): error when creating "typo.yaml": deployments.apps "typo" already exists`, "create --validate=ignore -f typo.yaml")

	k.failsInput("apiVersion: v1\nkind: Pod\nmetadata: {name: P_}\nspec: {restartPolicy: Now, containers: [{name: x, image: one}, {name: x}]}\n", `The Pod "P_" is invalid: 
* metadata.name: Invalid value: "P_": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')
* spec.containers[1].image: Required value
* spec.containers[1].name: Duplicate value: "x"
* spec.restartPolicy: Unsupported value: "Now": supported values: "Always", "OnFailure", "Never"`, "create -f -")
	k.failsInput("apiVersion: v1\nkind: Nope\nmetadata: {name: x}\n", `error: resource mapping not found for name: "x" namespace: "" from "STDIN": no matches for kind "Nope" in version "v1"`+"\nensure CRDs are installed first", "apply -f -")
	k.failsInput("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x, namespace: elsewhere}\n",
		`error: the namespace from the provided object "elsewhere" does not match the namespace "`+k.ns+`". You must pass '--namespace=elsewhere' to perform this operation.`, "apply -f -")
}

func TestKustomize(t *testing.T) {
	t.Parallel()
	k := newKube(t)
	k.write("base/kustomization.yaml", "resources: [cm.yaml]\nnamePrefix: kz-\nconfigMapGenerator:\n- name: g\n  literals: [a=b]\n")
	k.write("base/cm.yaml", configMap("cm", "z: x"))
	k.says("configmap/kz-cm created\nconfigmap/kz-g-4h2mbtbbt6 created", "apply -k base")
	require.Equal(t, map[string]string{"a": "b"}, k.data("kz-g-4h2mbtbbt6"))
	k.says("configmap/kz-cm\nconfigmap/kz-g-4h2mbtbbt6", "get -k base -o name")
	k.holds("kustomize base", "kind: ConfigMap", "name: kz-g-4h2mbtbbt6")
	k.ok("delete -k base")
	k.says("", "get configmap -o name --field-selector metadata.name!=kube-root-ca.crt")
}

func TestDiff(t *testing.T) {
	t.Parallel()
	k := newKube(t)
	k.write("a.yaml", configMap("cm", "a: x, b: x"))
	out, _, code := k.run("", "diff -f a.yaml")
	require.Equal(t, 1, code)
	require.Contains(t, out, "+  a: x\n")
	k.ok("apply -f a.yaml")
	k.says("", "diff -f a.yaml")
	k.write("a.yaml", configMap("cm", "a: new, c: x"))
	out, _, code = k.run("", "diff -f a.yaml")
	require.Equal(t, 1, code)
	require.Contains(t, out, "-  a: x\n-  b: x\n+  a: new\n+  c: x\n")
	out, errs, code := k.run("", "diff --server-side --force-conflicts -f a.yaml")
	require.Equal(t, 1, code, errs)
	require.Contains(t, out, "-  a: x\n+  a: new\n   b: x\n+  c: x\n", "what was applied on the client's side has another manager")
	require.Equal(t, "x", k.data("cm")["a"])
}

func TestReplace(t *testing.T) {
	t.Parallel()
	k := newKube(t)
	k.write("a.yaml", configMap("cm", "a: x"))
	k.fails(`Error from server (NotFound): error when replacing "a.yaml": configmaps "cm" not found`, "replace -f a.yaml")
	k.ok("create -f a.yaml")
	uid := k.ok("get configmap cm -o jsonpath={.metadata.uid}")
	k.write("a.yaml", configMap("cm", "b: z"))
	k.says("configmap/cm replaced", "replace -f a.yaml")
	require.Equal(t, map[string]string{"b": "z"}, k.data("cm"))
	k.says(uid, "get configmap cm -o jsonpath={.metadata.uid}")
	k.says("configmap \"cm\" deleted from "+k.ns+" namespace\nconfigmap/cm replaced", "replace --force -f a.yaml")
	require.NotEqual(t, uid, k.ok("get configmap cm -o jsonpath={.metadata.uid}"))

	// One that was made from an older version is refused.
	old := k.ok("get configmap cm -o json")
	k.ok("label configmap cm a=b")
	k.failsInput(old, `Error from server (Conflict): error when replacing "STDIN": Operation cannot be fulfilled on configmaps "cm": the object has been modified; please apply your changes to the latest version and try again`, "replace -f -")
}

func TestEdit(t *testing.T) {
	t.Parallel()
	k := newKube(t)
	edit := func(script string) {
		k.write("editor", "#!/bin/sh\n"+script+"\n")
		k.env = append(k.env, "KUBE_EDITOR="+k.dir+"/editor")
	}
	k.ok("create configmap cm --from-literal=a=old")
	k.ok("create deployment d --image=x --replicas=2")
	edit(`sed -i 's/a: old/a: new/' "$1"`)
	k.says("configmap/cm edited", "edit configmap cm")
	require.Equal(t, "new", k.data("cm")["a"])
	edit("true")
	_, errs, code := k.run("", "edit configmap cm")
	require.Zero(t, code)
	require.Equal(t, "Edit cancelled, no changes made.", errs)
	edit(`sed -i 's/replicas: 2/replicas: -2/' "$1"`)
	_, errs, code = k.run("", "edit deployment d")
	require.Equal(t, 1, code)
	require.Contains(t, errs, `error: deployments.apps "d" is invalid`)
	edit(`grep -q 'spec.replicas: Invalid value: -2: must be greater than or equal to 0' "$1" && sed -i 's/replicas: -2/replicas: 1/' "$1" || sed -i 's/replicas: 2/replicas: -2/' "$1"`)
	out, errs, code := k.run("", "edit deployment d")
	require.Zero(t, code, errs)
	require.Equal(t, "deployment.apps/d edited", out, "the second time the editor is told what was wrong")
	require.Equal(t, int32(1), *k.deployment("d").Spec.Replicas)
}
