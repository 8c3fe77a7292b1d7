package main

import (
	"encoding/json"
	"net/http"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/keelson-io/keelson/peers/platform"
)

func TestDiscovery(t *testing.T) {
	t.Parallel()
	k := newKube(t)
	versions := strings.Fields(k.ok("api-versions"))
	require.Subset(t, versions, []string{
		"admissionregistration.k8s.io/v1", "apiextensions.k8s.io/v1", "apps/v1", "authentication.k8s.io/v1", "authorization.k8s.io/v1", "batch/v1",
		"certificates.k8s.io/v1", "coordination.k8s.io/v1", "discovery.k8s.io/v1", "events.k8s.io/v1", "flowcontrol.apiserver.k8s.io/v1",
		"networking.k8s.io/v1", "node.k8s.io/v1", "policy/v1", "rbac.authorization.k8s.io/v1", "scheduling.k8s.io/v1", "storage.k8s.io/v1", "v1",
	})
	rows := map[string][]string{}
	table := cells(k.ok("api-resources -o wide"))
	require.Equal(t, []string{"NAME", "SHORTNAMES", "APIVERSION", "NAMESPACED", "KIND", "VERBS", "CATEGORIES"}, table[0])
	for _, r := range table[1:] {
		if rows[r[0]] == nil { // the core's nodes and pods stand before those of metrics.k8s.io
			rows[r[0]] = r[1:]
		}
	}
	const verbs = "create,delete,deletecollection,get,list,patch,update,watch"
	require.Equal(t, []string{"deploy", "apps/v1", "true", "Deployment", verbs, "all"}, rows["deployments"])
	require.Equal(t, []string{"no", "v1", "false", "Node", verbs}, rows["nodes"])
	require.Equal(t, []string{"crd,crds", "apiextensions.k8s.io/v1", "false", "CustomResourceDefinition", verbs, "api-extensions"}, rows["customresourcedefinitions"])
	require.Equal(t, []string{"authorization.k8s.io/v1", "false", "SubjectAccessReview", "create"}, rows["subjectaccessreviews"])
	k.says("nodes.metrics.k8s.io\npods.metrics.k8s.io", "api-resources --api-group=metrics.k8s.io -o name")
	k.says("clusterrolebindings.rbac.authorization.k8s.io\nclusterroles.rbac.authorization.k8s.io", "api-resources --namespaced=false --api-group=rbac.authorization.k8s.io -o name")
	require.NotContains(t, k.ok("api-resources --verbs=list -o name"), "subjectaccessreviews")
}

func TestExplain(t *testing.T) {
	t.Parallel()
	k := newKube(t)
	k.holds("explain deployment.spec.strategy", "GROUP: apps\nKIND: Deployment\nVERSION: v1", "FIELD: strategy <DeploymentStrategy>", "DESCRIPTION:",
		"The deployment strategy to use to replace existing pods with new ones.", "FIELDS:", "rollingUpdate\t<RollingUpdateDeployment>", "type\t<string>")
	all := k.holds("explain deployment --recursive", "FIELDS:", "apiVersion\t<string>", "managedFields\t<[]ManagedFieldsEntry>", "spec\t<DeploymentSpec> -required-",
		"selector\t<LabelSelector> -required-", "containers\t<[]Container> -required-", "limits\t<map[string]Quantity>", "status\t<DeploymentStatus>", "updatedReplicas\t<integer>")
	require.Greater(t, strings.Count(all, "\n"), 900)
	k.holds("explain cronjob --api-version=batch/v1", "KIND: CronJob", "spec\t<CronJobSpec> -required-")
	k.holds("explain pod.spec.containers.imagePullPolicy", "FIELD: imagePullPolicy <string>", "ENUM:", "Always", "IfNotPresent", "Never")
	k.holds("explain pods --output=plaintext-openapiv2", "KIND: Pod", "spec\t<Object>")
	k.fails(`the server doesn't have a resource type "nope"`, "explain nope")
	_, errs, code := k.run("", "explain pod.spec.nope")
	require.Equal(t, 1, code)
	require.Contains(t, errs, `field "nope" does not exist`)
}

// TestCustom uses a kind of the user's own as if it were built in.
func TestCustom(t *testing.T) {
	t.Parallel()
	k := newKube(t)
	group := k.ns + ".example.com"
	k.write("crd.yaml", `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: gadgets.`+group+`}
spec:
  group: `+group+`
  scope: Namespaced
  names: {plural: gadgets, singular: gadget, kind: Gadget, categories: [toys]}
  versions:
  - name: v1
    served: true
    storage: true
    subresources: {status: {}, scale: {specReplicasPath: .spec.size, statusReplicasPath: .status.size}}
    additionalPrinterColumns: [{name: Size, type: integer, jsonPath: .spec.size}]
    selectableFields: [{jsonPath: .spec.colour}]
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec:
            type: object
            description: What it is to be.
            required: [size]
            properties:
              size: {type: integer, minimum: 1, description: How large it is.}
              colour: {type: string, default: red}
              parts: {type: array, items: {type: string}}
          status: {type: object, properties: {size: {type: integer}}}
`)
	k.says("customresourcedefinition.apiextensions.k8s.io/gadgets."+group+" created", "apply -f crd.yaml")
	defer k.ok("delete -f crd.yaml --wait=false")
	k.ok("wait --for=condition=Established crd/gadgets." + group + " --timeout=60s")
	gadget := func(spec string) string {
		return "apiVersion: " + group + "/v1\nkind: Gadget\nmetadata: {name: g}\nspec: {" + spec + "}\n"
	}
	k.write("g.yaml", gadget("size: 3"))
	k.says("gadget."+group+"/g created", "apply -f g.yaml")
	k.says("gadget."+group+"/g unchanged", "apply -f g.yaml")
	require.Equal(t, []string{"NAME", "SIZE"}, cells(k.ok("get gadgets." + group))[0])
	require.Equal(t, []string{"g", "3"}, cells(k.ok("get gadgets." + group))[1])
	k.says("gadget."+group+"/g", "get gadgets."+group+" --field-selector spec.colour=red -o name")
	k.says("gadget."+group+"/g scaled", "scale gadgets."+group+"/g --replicas=5")
	k.says("gadget."+group+"/g patched", "patch gadgets."+group+" g --subresource=status --type=merge -p", `{"status":{"size":4},"spec":{"size":9}}`)
	k.says("5 4", "get gadgets."+group+" g -o", "jsonpath={.spec.size} {.status.size}")
	k.holds("describe gadgets."+group+" g", "Name: g", "API Version: "+group+"/v1", "Kind: Gadget", "Spec:", "Colour: red", "Size: 5", "Status:", "Size: 4")
	k.holds("explain gadgets."+group+" --recursive", "KIND: Gadget", "spec\t<Object>", "parts\t<[]string>", "size\t<integer> -required-")
	k.holds("explain gadgets."+group+".spec.size", "How large it is.")
	k.write("g.yaml", gadget("size: 0, color: x"))
	_, errs, code := k.run("", "apply -f g.yaml")
	require.Equal(t, 1, code)
	require.Contains(t, errs, `strict decoding error: unknown field "spec.color"`)
	_, errs, code = k.run("", "apply --validate=ignore -f g.yaml")
	require.Equal(t, 1, code)
	require.Contains(t, errs, `The Gadget "g" is invalid: spec.size: Invalid value: 0: spec.size in body should be greater than or equal to 1`)
}

func TestVersionsAndDump(t *testing.T) {
	t.Parallel()
	k := newKube(t)
	k.warns("", "version") // nothing about versions that differ too much
	var v struct {
		ClientVersion, ServerVersion struct{ GitVersion, Major, Minor string }
	}
	require.NoError(t, json.Unmarshal([]byte(k.ok("version -o json")), &v))
	require.Equal(t, "1", v.ServerVersion.Major)
	require.Equal(t, "37", v.ServerVersion.Minor)
	require.Equal(t, v.ClientVersion.GitVersion+"+keelson", v.ServerVersion.GitVersion)

	k.ok("create deployment d --image=x")
	k.says("Cluster info dumped to out", "cluster-info dump --output-directory=out --namespaces="+k.ns)
	for _, f := range []string{"nodes.json", k.ns + "/deployments.json", k.ns + "/events.json", k.ns + "/pods.json"} {
		require.FileExists(t, filepath.Join(k.dir, "out", f))
	}
}

// TestProxy reads and writes through a proxy, which does not let everything through.
func TestProxy(t *testing.T) {
	t.Parallel()
	k := newKube(t)
	k.ok("run p --image=x")
	said := k.proxy("--port=0", "--reject-paths=^/api/.*/secrets")
	url := "http://" + strings.TrimPrefix(said, "Starting to serve on ") + "/api/v1/namespaces/" + k.ns
	c := &http.Client{Transport: &http.Transport{}}
	var p corev1.Pod
	fetch(t, c, url+"/pods/p", &p)
	require.Equal(t, "p", p.Name)
	r, err := c.Post(url+"/configmaps", "application/json", strings.NewReader(`{"metadata":{"name":"cm"},"data":{"a":"b"}}`))
	require.NoError(t, err)
	require.NoError(t, r.Body.Close())
	require.Equal(t, http.StatusCreated, r.StatusCode)
	require.Equal(t, "b", k.data("cm")["a"])
	r, err = c.Get(url + "/secrets")
	require.NoError(t, err)
	require.NoError(t, r.Body.Close())
	require.Equal(t, http.StatusForbidden, r.StatusCode)
	c.CloseIdleConnections()
}

// TestKeelsonKubectl: the kubectl within Keelson is the same.
func TestKeelsonKubectl(t *testing.T) {
	t.Parallel()
	k := newKube(t)
	program, err := platform.Find("keelson", "make build")
	require.NoError(t, err)
	own := *k
	own.program = []string{program, "kubectl"}
	own.write("web.yaml", web)
	own.says("deployment.apps/web created\nservice/web created\nconfigmap/conf created\nsecret/pass created", "apply -f web.yaml")
	require.True(t, strings.HasSuffix(own.ok("rollout status deployment/web --timeout=60s"), "successfully rolled out"))
	for _, line := range []string{
		"version", "api-versions", "api-resources", "explain pod.spec --recursive", "get deployment web -o yaml", "get pods -o wide --sort-by=.metadata.name",
		"get service -o jsonpath={.items[*].spec.clusterIP}", "auth whoami", "auth can-i --list", "kustomize --help", "apply -f web.yaml --dry-run=server",
		"frobnicate", "get --nope", "get nopes",
	} {
		a, aErr, aCode := k.run("", line)
		b, bErr, bCode := own.run("", line)
		require.Equal(t, withoutAges(a), withoutAges(b), line)
		require.Equal(t, aErr, bErr, line)
		require.Equal(t, aCode, bCode, line)
	}
	_, errs, code := own.run("", "get pod nope")
	require.Equal(t, 1, code)
	require.Equal(t, `Error from server (NotFound): pods "nope" not found`, errs)
	var d appsv1.Deployment
	require.NoError(t, json.Unmarshal([]byte(own.ok("get deployment web -o json")), &d))
	require.Equal(t, int32(3), d.Status.AvailableReplicas)
}

// withoutAges drops what changes while one waits.
func withoutAges(s string) string { return ages.ReplaceAllString(s, " AGE ") }

var ages = regexp.MustCompile(` \d+s `)
