package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestAuth(t *testing.T) {
	t.Parallel()
	k := newKube(t)
	k.ok("create serviceaccount bob")
	k.ok("create role r --verb=get,list --resource=pods,deployments.apps --resource=services/proxy")
	k.ok("create rolebinding rb --role r --serviceaccount " + k.ns + ":bob")
	bob := " --as system:serviceaccount:" + k.ns + ":bob"
	no := func(line string) {
		t.Helper()
		out, _, code := k.run("", line)
		require.Equal(t, 1, code)
		require.Equal(t, "no", out)
	}
	k.says("yes", "auth can-i * *")
	k.says("yes", "auth can-i get pods"+bob)
	k.says("yes", "auth can-i list deployments.apps"+bob)
	k.says("yes", "auth can-i get services --subresource=proxy"+bob)
	no("auth can-i get secrets" + bob)
	no("auth can-i delete pods" + bob)
	no("auth can-i get pods --namespace default" + bob)
	no("auth can-i get pods --subresource log" + bob)
	k.says("yes", "auth can-i get /healthz"+bob)
	no("auth can-i get /metrics" + bob)
	k.warns("Warning: resource 'nodes' is not namespace scoped", "auth can-i list nodes")
	k.holds("auth can-i --list"+bob, "Resources Non-Resource URLs Resource Names Verbs", "selfsubjectreviews.authentication.k8s.io [] [] [create]", "pods [] [] [get list]",
		"services/proxy [] [] [get list]", "deployments.apps [] [] [get list]", "[/api/*] [] [get]", "[/version] [] [get]")
	k.holds("auth can-i --list", "*.* [] [] [*]", "[*] [] [*]")

	k.holds("auth whoami", "ATTRIBUTE VALUE", "Username kubernetes-admin", "Groups [system:masters system:authenticated]")
	k.holds("auth whoami --as jane --as-group g --as-uid u --as-user-extra reason=x", "Username jane", "UID u", "Groups [g system:authenticated]", "Extra: reason [x]")
	_, errs, code := k.run("", "get pods --as jane --token "+k.ok("create token bob")+" --certificate-authority="+k.authority()+" --server="+up.URL+" --kubeconfig=/dev/null")
	require.Equal(t, 1, code)
	require.Regexp(t, `^Error from server \(Forbidden\): .* User "system:serviceaccount:`+k.ns+`:bob" cannot impersonate`, errs)
	k.fails(`Error from server (Forbidden): secrets is forbidden: User "jane" cannot list resource "secrets" in API group "" in the namespace "`+k.ns+`"`, "get secrets --as jane")
	k.fails(`Error from server (Forbidden): pods "x" is forbidden: User "jane" cannot delete resource "pods" in API group "" in the namespace "`+k.ns+`"`, "delete pod x --as jane")
	_, errs, code = k.run("", "create role more --verb=delete --resource=pods --as=jane")
	require.Equal(t, 1, code)
	require.Contains(t, errs, `Error from server (Forbidden): roles.rbac.authorization.k8s.io is forbidden: User "jane" cannot create resource "roles" in API group "rbac.authorization.k8s.io"`)

	// What somebody does not have, they cannot give.
	k.ok("create rolebinding editor --clusterrole=admin --user=jane")
	k.says("yes", "auth can-i create roles --as jane")
	_, errs, code = k.run("", "create role more --verb=get --resource=nodes --as=jane")
	require.Equal(t, 1, code)
	require.Contains(t, errs, `user "jane" (groups=["system:authenticated"]) is attempting to grant RBAC permissions not currently held:`+"\n"+`{APIGroups:[""], Resources:["nodes"], Verbs:["get"]}`)

	k.write("rbac.yaml", "apiVersion: rbac.authorization.k8s.io/v1\nkind: Role\nmetadata: {name: r, namespace: "+k.ns+"}\nrules: [{apiGroups: [\"\"], resources: [secrets], verbs: [get]}]\n")
	k.says("role.rbac.authorization.k8s.io/r reconciled", "auth reconcile -f rbac.yaml")
	k.says("yes", "auth can-i get secrets"+bob)
	k.says("yes", "auth can-i get pods"+bob)
}

// authority writes the cluster's authority into a file.
func (k *kube) authority() string {
	k.t.Helper()
	k.write("ca.crt", k.data("kube-root-ca.crt")["ca.crt"])
	return "ca.crt"
}

// TestCertificate asks for a certificate, approves it, and uses it.
func TestCertificate(t *testing.T) {
	t.Parallel()
	k := newKube(t)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "jane", Organization: []string{"devs"}}}, key)
	require.NoError(t, err)
	request := base64.StdEncoding.EncodeToString(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
	csr := func(name string) {
		k.write(name+".yaml", "apiVersion: certificates.k8s.io/v1\nkind: CertificateSigningRequest\nmetadata: {name: "+name+"}\nspec: {signerName: kubernetes.io/kube-apiserver-client, usages: [client auth], expirationSeconds: 3600, request: "+request+"}\n")
		k.ok("create -f " + name + ".yaml")
	}
	yes, no := k.ns+"-yes", k.ns+"-no"
	csr(yes)
	csr(no)
	row := cells(k.ok("get csr " + yes))
	require.Equal(t, []string{"NAME", "AGE", "SIGNERNAME", "REQUESTOR", "REQUESTEDDURATION", "CONDITION"}, row[0])
	require.Equal(t, []string{"kubernetes.io/kube-apiserver-client", "kubernetes-admin", "60m", "Pending"}, row[1][2:])
	const prefix = "certificatesigningrequest.certificates.k8s.io/"
	k.says(prefix+no+" denied", "certificate deny "+no)
	require.Equal(t, "Denied", cells(k.ok("get csr " + no))[1][5])
	k.says(prefix+yes+" approved", "certificate approve "+yes)
	k.ok("wait csr/" + yes + " --timeout=60s --for=jsonpath={.status.certificate}")
	require.Equal(t, "Approved,Issued", cells(k.ok("get csr " + yes))[1][5])
	k.holds("describe csr "+yes, "Name: "+yes, "Requesting User: kubernetes-admin", "Signer: kubernetes.io/kube-apiserver-client", "Requested Duration: 60m",
		"Status: Approved,Issued", "Subject:", "Common Name: jane", "Organization: devs")

	cert, err := base64.StdEncoding.DecodeString(k.ok("get csr " + yes + " -o jsonpath={.status.certificate}"))
	require.NoError(t, err)
	k.write("cert.pem", string(cert))
	b, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(t, err)
	k.write("key.pem", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: b})))
	k.says("jane devs system:authenticated", "--kubeconfig=/dev/null --server="+up.URL+" --certificate-authority="+k.authority()+
		" --client-certificate=cert.pem --client-key=key.pem auth whoami -o", "jsonpath={.status.userInfo.username} {.status.userInfo.groups[0]} {.status.userInfo.groups[1]}")
	k.ok("delete csr " + yes + " " + no)
}
