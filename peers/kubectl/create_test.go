package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestCreate makes an object with each subcommand of create, and sees in one path of each that it is what was asked for.
func TestCreate(t *testing.T) {
	t.Parallel()
	k := newKube(t)
	key, cert := certificate(t)
	k.write("key.pem", key)
	k.write("cert.pem", cert)
	k.write("dir/f", "text")
	global := k.ns // names of what has no namespace
	for _, c := range []struct{ line, made, path, want string }{
		{"configmap cm --from-literal=a=b --from-file=dir", "configmap/cm", "{.data.a} {.data.f}", "b text"},
		{"secret generic sec --from-literal=a=b", "secret/sec", "{.type} {.data.a}", "Opaque Yg=="},
		{"secret docker-registry reg --docker-username=u --docker-password=p --docker-server=s", "secret/reg", "{.type}", "kubernetes.io/dockerconfigjson"},
		{"secret tls tls --cert cert.pem --key key.pem", "secret/tls", "{.type} {.data['tls\\.crt']}", "kubernetes.io/tls " + base64.StdEncoding.EncodeToString([]byte(cert))},
		{"serviceaccount bob", "serviceaccount/bob", "{.metadata.name}", "bob"},
		{"role r --verb=get,list --resource=pods,deployments.apps", "role.rbac.authorization.k8s.io/r", "{.rules[*].resources} {.rules[0].verbs}", `["pods"] ["deployments"] ["get","list"]`},
		{"rolebinding rb --role r --serviceaccount " + k.ns + ":bob", "rolebinding.rbac.authorization.k8s.io/rb", "{.subjects[0].name} {.roleRef.name}", "bob r"},
		{"clusterrole " + global + " --verb=get --resource=nodes --resource-name=n", "clusterrole.rbac.authorization.k8s.io/" + global, "{.rules[0].resourceNames}", `["n"]`},
		{"clusterrolebinding " + global + " --clusterrole " + global + " --user jane --group g", "clusterrolebinding.rbac.authorization.k8s.io/" + global, "{.subjects[*].name}", "jane g"},
		{"quota q --hard=pods=20,services=50", "resourcequota/q", "{.spec.hard.pods}", "20"},
		{"poddisruptionbudget pdb --selector app=d --min-available=1", "poddisruptionbudget.policy/pdb", "{.spec.minAvailable}", "1"},
		{"ingress ing --rule=foo.com/bar=svc:8080,tls=tls --class=x", "ingress.networking.k8s.io/ing", "{.spec.rules[0].host} {.spec.tls[0].secretName}", "foo.com tls"},
		{"job j --image busybox -- echo hi", "job.batch/j", "{.spec.template.spec.containers[0].command} {.spec.template.spec.restartPolicy}", `["echo","hi"] Never`},
		{"cronjob cj --image busybox --schedule=@daily -- date", "cronjob.batch/cj", "{.spec.schedule} {.spec.concurrencyPolicy}", "@daily Allow"},
		{"job j2 --from cronjob/cj", "job.batch/j2", "{.metadata.ownerReferences[0].name}", "cj"},
		{"deployment d --image nginx --replicas 2 --port 80", "deployment.apps/d", "{.spec.replicas} {.spec.template.spec.containers[0].ports[0].containerPort}", "2 80"},
		{"service clusterip s1 --tcp=80:8080", "service/s1", "{.spec.type} {.spec.ports[0].targetPort}", "ClusterIP 8080"},
		{"service clusterip s0 --clusterip=None", "service/s0", "{.spec.clusterIP}", "None"},
		{"service nodeport s2 --tcp=80", "service/s2", "{.spec.type}", "NodePort"},
		{"service loadbalancer s3 --tcp=80", "service/s3", "{.spec.type}", "LoadBalancer"},
		{"service externalname s4 --external-name=x.com", "service/s4", "{.spec.externalName}", "x.com"},
		{"priorityclass " + global + " --value=10 --description=ho", "priorityclass.scheduling.k8s.io/" + global, "{.value} {.preemptionPolicy}", "10 PreemptLowerPriority"},
		{"namespace " + global + "-b", "namespace/" + global + "-b", "{.status.phase}", "Active"},
	} {
		k.says(c.made+" created (server dry run)", "create --dry-run=server "+c.line)
		k.fails("Error from server (NotFound): "+notFound(c.made), "get "+c.made)
		k.says(c.made+" created", "create "+c.line)
		k.says(c.want, "get "+c.made+" -o", "jsonpath="+c.path)
		_, errs, code := k.run("", "create "+c.line)
		require.Equal(t, 1, code)
		require.Contains(t, errs, "already exists")
	}
	k.ok("delete clusterrole,clusterrolebinding,priorityclass " + global)
	k.ok("delete --wait=false namespace " + global + "-b")
	require.Regexp(t, `^80:3\d{4}/TCP$`, cells(k.ok("get service s2"))[1][4])
}

// notFound are the words for an object, given as type/name, that there is not.
func notFound(made string) string {
	kind, name, _ := strings.Cut(made, "/")
	singular, group, _ := strings.Cut(kind, ".")
	plural := singular + "s"
	if strings.HasSuffix(singular, "ss") {
		plural = singular + "es"
	}
	if group != "" {
		plural += "." + group
	}
	return plural + ` "` + name + `" not found`
}

// certificate makes a key and a certificate of it, in PEM.
func certificate(t *testing.T) (key, cert string) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "x"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, c, c, k.Public(), k)
	require.NoError(t, err)
	b, err := x509.MarshalPKCS8PrivateKey(k)
	require.NoError(t, err)
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: b})), string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

func TestRunAndExpose(t *testing.T) {
	t.Parallel()
	k := newKube(t)
	k.says("pod/p created", "run p --image=busybox --restart=Never --labels=a=b --env=K=V --port=80 -- sleep 1d")
	p, err := k.client.CoreV1().Pods(k.ns).Get(t.Context(), "p", metav1.GetOptions{})
	require.NoError(t, err)
	require.Equal(t, map[string]string{"a": "b"}, p.Labels)
	require.Equal(t, []string{"sleep", "1d"}, p.Spec.Containers[0].Args)
	require.Equal(t, corev1.PullAlways, p.Spec.Containers[0].ImagePullPolicy)
	require.Equal(t, "default", p.Spec.ServiceAccountName)
	k.says("service/p exposed", "expose pod p --port=90 --target-port=80")
	k.eventually("80", "get endpointslice -l kubernetes.io/service-name=p -o jsonpath={.items[0].ports[0].port}")
	k.matches(`pod/q created\nservice/q created`, "run q --image=x --port=80 --expose")

	k.ok("create deployment d --image=x --port=8080")
	k.says("service/d exposed", "expose deployment d --port=80 --type=NodePort")
	s, err := k.client.CoreV1().Services(k.ns).Get(t.Context(), "d", metav1.GetOptions{})
	require.NoError(t, err)
	require.Equal(t, map[string]string{"app": "d"}, s.Spec.Selector)
	require.NotZero(t, s.Spec.Ports[0].NodePort)
	require.Equal(t, 80, s.Spec.Ports[0].TargetPort.IntValue())
	k.fails(`Error from server (AlreadyExists): services "d" already exists`, "expose deployment d --port=80")

	var dry corev1.Pod
	require.NoError(t, json.Unmarshal([]byte(k.ok("run dry --image=x --dry-run=server -o json")), &dry))
	require.NotEmpty(t, dry.UID)
	require.Empty(t, dry.ResourceVersion)
	require.Equal(t, "kube-api-access-", dry.Spec.Volumes[0].Name[:16])
	k.fails(`Error from server (NotFound): pods "dry" not found`, "get pod dry")
}

func TestToken(t *testing.T) {
	t.Parallel()
	k := newKube(t)
	k.ok("create serviceaccount bob")
	token := k.ok("create token bob --duration=1h --audience=them")
	part, err := base64.RawURLEncoding.DecodeString(strings.Split(token, ".")[1])
	require.NoError(t, err)
	var claims struct {
		Aud      []string
		Sub      string
		Iat, Exp int64
	}
	require.NoError(t, json.Unmarshal(part, &claims))
	require.Equal(t, []string{"them"}, claims.Aud)
	require.Equal(t, "system:serviceaccount:"+k.ns+":bob", claims.Sub)
	require.Equal(t, int64(3600), claims.Exp-claims.Iat)
	r, err := k.client.AuthenticationV1().TokenReviews().Create(t.Context(), &authenticationv1.TokenReview{
		Spec: authenticationv1.TokenReviewSpec{Token: token, Audiences: []string{"them"}},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	require.True(t, r.Status.Authenticated, r.Status.Error)
	k.fails(`error: failed to create token: serviceaccounts "nobody" not found`, "create token nobody")

	// One for the API server lets its bearer in.
	k.ok("create rolebinding bob --clusterrole=view --serviceaccount=" + k.ns + ":bob")
	own := k.ok("create token bob")
	k.env = append(k.env, "KUBECONFIG=/dev/null")
	k.write("ca.crt", k.data("kube-root-ca.crt")["ca.crt"])
	as := "--server=" + up.URL + " --certificate-authority=ca.crt --token=" + own + " "
	k.says("system:serviceaccount:"+k.ns+":bob", as+"auth whoami -o jsonpath={.status.userInfo.username}")
	k.says("configmap/kube-root-ca.crt", as+"get configmap -o name")
	k.fails(`Error from server (Forbidden): secrets is forbidden: User "system:serviceaccount:`+k.ns+`:bob" cannot list resource "secrets" in API group "" in the namespace "`+k.ns+`"`, as+"get secrets")
	k.fails("error: You must be logged in to the server (Unauthorized)", strings.Replace(as, own, own+"x", 1)+"get secrets")
}
