package main

import (
	"bufio"
	"encoding/json"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	"sigs.k8s.io/yaml"
)

func TestGet(t *testing.T) {
	t.Parallel()
	k := newKube(t)
	k.web()

	// Tables.
	for what, columns := range map[string]string{
		"deployment":          "NAME READY UP-TO-DATE AVAILABLE AGE CONTAINERS IMAGES SELECTOR",
		"replicaset":          "NAME DESIRED CURRENT READY AGE CONTAINERS IMAGES SELECTOR",
		"pod":                 "NAME READY STATUS RESTARTS AGE IP NODE NOMINATED_NODE READINESS_GATES",
		"service":             "NAME TYPE CLUSTER-IP EXTERNAL-IP PORT(S) AGE SELECTOR",
		"endpointslice":       "NAME ADDRESSTYPE PORTS ENDPOINTS AGE",
		"configmap":           "NAME DATA AGE",
		"secret":              "NAME TYPE DATA AGE",
		"node":                "NAME STATUS ROLES AGE VERSION INTERNAL-IP EXTERNAL-IP OS-IMAGE KERNEL-VERSION CONTAINER-RUNTIME",
		"namespace":           "NAME STATUS AGE",
		"serviceaccount":      "NAME AGE",
		"event":               "LAST_SEEN TYPE REASON OBJECT SUBOBJECT SOURCE MESSAGE FIRST_SEEN COUNT NAME",
		"clusterrole":         "NAME CREATED_AT",
		"priorityclass":       "NAME VALUE GLOBAL-DEFAULT AGE PREEMPTIONPOLICY",
		"clusterrolebindings": "NAME ROLE AGE USERS GROUPS SERVICEACCOUNTS",
	} {
		header := strings.Join(strings.Fields(strings.ReplaceAll(strings.Join(cells(k.ok("get " + what + " -o wide"))[0], "\t"), " ", "_")), " ")
		require.Equal(t, columns, header, what)
	}
	row := cells(k.ok("get deployment web -o wide"))[1]
	require.Equal(t, []string{"web", "3/3", "3", "3"}, row[:4])
	require.Equal(t, []string{"nginx", "nginx:1.27", "app=web"}, row[5:])
	row = cells(k.ok("get secret pass"))[1]
	require.Equal(t, []string{"pass", "Opaque", "1"}, row[:3])
	require.Len(t, cells(k.ok("get pods --no-headers")), 3)
	require.Equal(t, "app=web", cells(k.ok("get deployment --show-labels"))[1][5])
	require.Equal(t, "web", cells(k.ok("get deployment -L app"))[1][5])
	out := k.ok("get deployment,replicaset,service,configmap -l app=web")
	require.Regexp(t, `(?s)^NAME .*deployment\.apps/web .*\n\nNAME .*replicaset\.apps/web-.*\n\nNAME .*service/web .*\n\nNAME .*configmap/conf `, out)
	out = k.ok("get all")
	require.Regexp(t, `(?s)pod/web-.*service/web.*deployment\.apps/web.*replicaset\.apps/web-`, out)
	require.NotContains(t, out, "configmap")

	// Formats.
	var d appsv1.Deployment
	require.NoError(t, json.Unmarshal([]byte(k.ok("get deployment web -o json")), &d))
	require.Equal(t, k.deployment("web").Spec, d.Spec)
	var fromYAML appsv1.Deployment
	require.NoError(t, yaml.UnmarshalStrict([]byte(k.ok("get deployment web -o yaml")), &fromYAML))
	require.Equal(t, d, fromYAML)
	k.says("Running Running Running", "get pods -o jsonpath={.items[*].status.phase}")
	k.says("web", "get service -o", "jsonpath={.items[?(@.spec.ports[0].port==80)].metadata.name}")
	k.says("", "get deployment web -o jsonpath={.spec.nope}")
	k.says("NAME   IMAGE\nweb    nginx:1.27", "get deployment -o custom-columns=NAME:.metadata.name,IMAGE:.spec.template.spec.containers[0].image")
	k.says("deployment.apps/web\nservice/web", "get deployment/web service/web -o name")
	k.says("web has 3", "get deployment web -o", "go-template={{.metadata.name}} has {{.spec.replicas}}")
	k.write("template", "{{range .items}}{{.metadata.name}},{{end}}")
	k.says("web,", "get deployment -o go-template-file=template")
	k.write("columns", "N  R\n.metadata.name .spec.replicas\n")
	k.says("N     R\nweb   3", "get deployment -o custom-columns-file=columns")
	k.ok("get deployment -o kyaml")
}

func TestGetSome(t *testing.T) {
	t.Parallel()
	k := newKube(t)
	for _, v := range []string{"c=1", "a=2", "b=3"} {
		name, value, _ := strings.Cut(v, "=")
		k.ok("create configmap " + name + " --from-literal=v=" + value)
		k.ok("label configmap " + name + " l=" + value)
	}
	const names = "jsonpath={.items[*].metadata.name}"
	get := func(want, line string) { t.Helper(); k.says(want, "get configmap -o "+names+" "+line) }
	get("a b c kube-root-ca.crt", "")
	get("a b c kube-root-ca.crt", "--chunk-size=1")
	get("c a b", "-l l --sort-by=.data.v")
	get("b", "-l l=3")
	get("c a", "-l l!=3,l --sort-by=.data.v")
	k.says("a b", "get configmap -o", names, "-l", "l in (2, 3)")
	get("kube-root-ca.crt", "-l !l")
	get("b", "--field-selector metadata.name=b")
	get("a c", "--field-selector metadata.name!=b,metadata.name!=kube-root-ca.crt")
	k.fails(`Error from server (BadRequest): Unable to find "/v1, Resource=configmaps" that match label selector "", field selector "data.v=1": field label not supported: data.v`, "get configmap --field-selector data.v=1")
	k.fails(`Error from server (BadRequest): Unable to find "/v1, Resource=configmaps" that match label selector "a in", field selector "": unable to parse requirement: found '' expected: '('`, "get configmap -l", "a in")
	k.fails(`Error from server (NotFound): configmaps "nope" not found`, "get configmap nope")
	k.says("", "get configmap nope --ignore-not-found")
	k.fails(`error: the server doesn't have a resource type "nopes"`, "get nopes")
	k.warns("No resources found in "+k.ns+" namespace.", "get pods")
	require.Contains(t, k.ok("get configmap -A"), k.ns)
	k.says("ok", "get --raw /healthz")
	k.fails("Error from server (NotFound): the server could not find the requested resource", "get --raw /nope")
	k.warns("Warning: v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice\nNo resources found in "+k.ns+" namespace.", "get endpoints")
}

// TestWatch sees what happens, as it happens.
func TestWatch(t *testing.T) {
	t.Parallel()
	k := newKube(t)
	k.ok("create configmap first --from-literal=a=b")
	watch := func(args ...string) (next func() string) {
		cmd := exec.CommandContext(t.Context(), k.program[0], append(append(k.program[1:], "-n", k.ns, "get", "configmap", "--field-selector", "metadata.name!=kube-root-ca.crt"), args...)...)
		cmd.Env = k.env
		out, err := cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		t.Cleanup(func() { _ = cmd.Wait() }) // it was killed
		lines := bufio.NewScanner(out)
		return func() string {
			require.True(t, lines.Scan(), lines.Err())
			return strings.Join(strings.Fields(lines.Text()), " ")
		}
	}
	table, events := watch("-w"), watch("-w", "--output-watch-events", "-o", `jsonpath={.type} {.object.metadata.name} {.object.metadata.labels.l}{"\n"}`)
	require.Equal(t, "NAME DATA AGE", table())
	require.Regexp(t, `^first 1 \d+s$`, table())
	require.Equal(t, "ADDED first", events())
	k.ok("create configmap second --from-literal=a=b --from-literal=c=d")
	require.Regexp(t, `^second 2 \d+s$`, table())
	require.Equal(t, "ADDED second", events())
	k.ok("label configmap first l=v")
	require.Regexp(t, `^first 1 \d+s$`, table())
	require.Equal(t, "MODIFIED first v", events())
	k.ok("delete configmap second")
	require.Regexp(t, `^second 2 \d+s$`, table(), "a table shows the last state")
	require.Equal(t, "DELETED second", events())
}
