package auth

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/utils/ptr"

	"github.com/keelson-io/keelson/orchestrator/cluster/conformance"
)

func newKey(t *testing.T) *ecdsa.PrivateKey {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	return key
}

// selfSigned is a certificate in PEM, that the key signed for itself.
func selfSigned(t *testing.T, key *ecdsa.PrivateKey, c x509.Certificate) []byte {
	c.SerialNumber, c.BasicConstraintsValid = big.NewInt(1), true
	der, err := x509.CreateCertificate(rand.Reader, &c, &c, &key.PublicKey, key)
	require.NoError(t, err)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func authority(t *testing.T, name string) string {
	return string(selfSigned(t, newKey(t), x509.Certificate{
		Subject: pkix.Name{CommonName: name}, IsCA: true, NotBefore: time.Now(), NotAfter: time.Now().Add(time.Hour),
	}))
}

func quoted(t *testing.T, s any) string {
	b, err := json.Marshal(s)
	require.NoError(t, err)
	return string(b)
}

func trustBundles(t *testing.T, e *conformance.Env) {
	updated := authority(t, "updated")
	merge := `{"spec":{"trustBundle":` + quoted(t, updated) + `}}`
	conformance.Operations[*certificatesv1.ClusterTrustBundle]{
		Resource: certificatesv1.SchemeGroupVersion.WithResource("clustertrustbundles"), Kind: "ClusterTrustBundle",
		Make: func(int) *certificatesv1.ClusterTrustBundle {
			return &certificatesv1.ClusterTrustBundle{Spec: certificatesv1.ClusterTrustBundleSpec{TrustBundle: authority(t, "initial")}}
		},
		Update: func(o *certificatesv1.ClusterTrustBundle) { o.Spec.TrustBundle = updated },
		Patches: []conformance.Patch{
			{Type: types.ApplyPatchType, Data: merge},
			{Type: types.StrategicMergePatchType, Data: merge},
			{Type: types.MergePatchType, Data: merge},
			{Type: types.JSONPatchType, Data: `[{"op":"replace","path":"/spec/trustBundle","value":` + quoted(t, updated) + `}]`},
		},
	}.Run(t, e)
}

func podCertificateRequests(t *testing.T, e *conformance.Env) {
	key, begin := newKey(t), time.Now().Add(-time.Minute).Truncate(time.Second)
	stub, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	require.NoError(t, err)
	chain := selfSigned(t, key, x509.Certificate{
		Subject: pkix.Name{CommonName: "e2e.example.com"}, NotBefore: begin, NotAfter: begin.Add(time.Hour), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	})
	at := func(d time.Duration) *metav1.Time { return &metav1.Time{Time: begin.Add(d)} }
	status := certificatesv1.PodCertificateRequestStatus{
		CertificateChain: string(chain), NotBefore: at(0), NotAfter: at(time.Hour), BeginRefreshAt: at(15 * time.Minute),
		Conditions: []metav1.Condition{{
			Type: certificatesv1.PodCertificateRequestConditionTypeIssued, Status: metav1.ConditionTrue, Reason: "Conformance", LastTransitionTime: *at(0),
		}},
	}
	const label = "test.podcertificaterequest.example.com"
	labels, merge := `{"metadata":{"labels":{"`+label+`":"test"}}}`, `{"status":`+quoted(t, status)+`}`
	add := func(path string, v any) string {
		return fmt.Sprintf(`{"op":"add","path":"/status/%s","value":%s}`, path, quoted(t, v))
	}
	conformance.Operations[*certificatesv1.PodCertificateRequest]{
		Resource: certificatesv1.SchemeGroupVersion.WithResource("podcertificaterequests"), Kind: "PodCertificateRequest", Namespaced: true,
		Make: func(int) *certificatesv1.PodCertificateRequest {
			return &certificatesv1.PodCertificateRequest{Spec: certificatesv1.PodCertificateRequestSpec{
				SignerName: "example.com/" + e.NS, PodName: "test-pod", PodUID: "12345678-1234-1234-1234-123456789012",
				ServiceAccountName: "default", ServiceAccountUID: "12345678-1234-1234-1234-123456789013",
				NodeName: "test-node", NodeUID: "12345678-1234-1234-1234-123456789014",
				MaxExpirationSeconds: ptr.To[int32](86400), StubPKCS10Request: stub,
			}}
		},
		Update: func(o *certificatesv1.PodCertificateRequest) { metav1.SetMetaDataLabel(&o.ObjectMeta, label, "test") },
		Status: func(o *certificatesv1.PodCertificateRequest) { status.DeepCopyInto(&o.Status) },
		Patches: []conformance.Patch{
			{Type: types.ApplyPatchType, Data: labels},
			{Type: types.StrategicMergePatchType, Data: labels},
			{Type: types.MergePatchType, Data: labels},
			{Type: types.JSONPatchType, Data: `[{"op":"add","path":"/metadata/labels/` + label + `","value":"test"}]`},
		},
		StatusPatches: []conformance.Patch{
			{Type: types.ApplyPatchType, Data: merge},
			{Type: types.StrategicMergePatchType, Data: merge},
			{Type: types.MergePatchType, Data: merge},
			{Type: types.JSONPatchType, Data: "[" + add("certificateChain", status.CertificateChain) + "," + add("notBefore", status.NotBefore) + "," +
				add("notAfter", status.NotAfter) + "," + add("beginRefreshAt", status.BeginRefreshAt) + "," + add("conditions", status.Conditions) + "]"},
		},
	}.Run(t, e)
}

func longCertificate(t *testing.T, e *conformance.Env) {
	refusesCertificate(t, e, 91*24*60*60+1, "if provided, maxExpirationSeconds must be <= 7862400")
}

func shortCertificate(t *testing.T, e *conformance.Env) {
	refusesCertificate(t, e, 3599, "if provided, maxExpirationSeconds must be >= 3600")
}

// refusesCertificate creates a pod that wants a certificate for too long or too short a time.
func refusesCertificate(t *testing.T, e *conformance.Env, seconds int32, message string) {
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "certified"},
		Spec: corev1.PodSpec{
			Containers: []corev1.Container{{Name: "c", Image: "registry.k8s.io/pause:3.10", VolumeMounts: []corev1.VolumeMount{{Name: "v", MountPath: "/v"}}}},
			Volumes: []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{
				Sources: []corev1.VolumeProjection{{PodCertificate: &corev1.PodCertificateProjection{
					SignerName: "example.com/" + e.NS, KeyType: "ECDSAP256", CredentialBundlePath: "bundle.pem", MaxExpirationSeconds: &seconds,
				}}},
			}}}},
		},
	}
	pods := e.Client.CoreV1().Pods(e.NS)
	_, err := pods.Create(e.Ctx, pod, metav1.CreateOptions{})
	require.True(t, apierrors.IsInvalid(err), "%v", err)
	require.ErrorContains(t, err, message)
	pod.Spec.Volumes[0].Projected.Sources[0].PodCertificate.MaxExpirationSeconds = ptr.To[int32](3600)
	_, err = pods.Create(e.Ctx, pod, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
	require.NoError(t, err)
}

func signingRequests(t *testing.T, e *conformance.Env) {
	requests, signer := e.Client.CertificatesV1().CertificateSigningRequests(), "example.com/"+e.NS
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "e2e.example.com"}}, newKey(t))
	require.NoError(t, err)
	request := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
	conformance.Operations[*certificatesv1.CertificateSigningRequest]{
		Resource: certificatesv1.SchemeGroupVersion.WithResource("certificatesigningrequests"), Kind: "CertificateSigningRequest",
		Make: func(int) *certificatesv1.CertificateSigningRequest {
			return &certificatesv1.CertificateSigningRequest{Spec: certificatesv1.CertificateSigningRequestSpec{
				Request: request, SignerName: signer, ExpirationSeconds: ptr.To[int32](3600),
				Usages: []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageKeyEncipherment, certificatesv1.UsageServerAuth},
			}}
		},
		With: func(x *certificatesv1.CertificateSigningRequest) {
			require.Equal(t, ptr.To[int32](3600), x.Spec.ExpirationSeconds)
			l, err := requests.List(e.Ctx, metav1.ListOptions{FieldSelector: "spec.signerName=" + signer})
			require.NoError(t, err)
			require.Len(t, l.Items, 3)
			approveAndSign(t, e, x, l.ResourceVersion)
		},
	}.Run(t, e)
}

// approveAndSign writes both parts of a request's status.
func approveAndSign(t *testing.T, e *conformance.Env, x *certificatesv1.CertificateSigningRequest, since string) {
	requests := e.Client.CertificatesV1().CertificateSigningRequests()
	resources, err := e.Client.Discovery().ServerResourcesForGroupVersion(certificatesv1.SchemeGroupVersion.String())
	require.NoError(t, err)
	var names []string
	for _, r := range resources.APIResources {
		names = append(names, r.Name)
	}
	require.Subset(t, names, []string{"certificatesigningrequests/approval", "certificatesigningrequests/status"})
	w := conformance.Observe[*certificatesv1.CertificateSigningRequest](t, e, requests.Watch, metav1.ListOptions{
		ResourceVersion: since, FieldSelector: "metadata.name=" + x.Name,
	})
	for _, sub := range []string{"approval", "status"} {
		u, err := e.Dynamic(t).Resource(certificatesv1.SchemeGroupVersion.WithResource("certificatesigningrequests")).Get(e.Ctx, x.Name, metav1.GetOptions{}, sub)
		require.NoError(t, err)
		require.Equal(t, "CertificateSigningRequest", u.GetKind())
		require.Equal(t, x.UID, u.GetUID())
	}
	patch := func(data, sub string) *certificatesv1.CertificateSigningRequest {
		x, err := requests.Patch(e.Ctx, x.Name, types.MergePatchType, []byte(data), metav1.PatchOptions{}, sub)
		require.NoError(t, err)
		return x
	}
	condition := func(kind string) certificatesv1.CertificateSigningRequestCondition {
		return certificatesv1.CertificateSigningRequestCondition{Type: certificatesv1.RequestConditionType(kind), Status: corev1.ConditionTrue, Reason: "Conformance"}
	}
	x = patch(`{"metadata":{"annotations":{"patchedapproval":"true"}},"status":{"conditions":[{"type":"ApprovalPatch","status":"True","reason":"e2e"}]}}`, "approval")
	require.Len(t, x.Status.Conditions, 1)
	require.EqualValues(t, "ApprovalPatch", x.Status.Conditions[0].Type)
	require.Equal(t, "true", x.Annotations["patchedapproval"])
	x.Status.Conditions = append(x.Status.Conditions, condition(string(certificatesv1.CertificateApproved)))
	x, err = requests.UpdateApproval(e.Ctx, x.Name, x, metav1.UpdateOptions{})
	require.NoError(t, err)
	require.Len(t, x.Status.Conditions, 2)
	require.Equal(t, certificatesv1.CertificateApproved, x.Status.Conditions[1].Type)

	issued := selfSigned(t, newKey(t), x509.Certificate{NotBefore: time.Now(), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"e2e.example.com"}})
	x = patch(`{"metadata":{"annotations":{"patchedstatus":"true"}},"status":{"certificate":"`+base64.StdEncoding.EncodeToString(issued)+`"}}`, "status")
	require.Equal(t, issued, x.Status.Certificate)
	require.Equal(t, "true", x.Annotations["patchedstatus"])
	x.Status.Conditions = append(x.Status.Conditions, condition("StatusUpdate"))
	x, err = requests.UpdateStatus(e.Ctx, x, metav1.UpdateOptions{})
	require.NoError(t, err)
	require.Len(t, x.Status.Conditions, 3)
	require.EqualValues(t, "StatusUpdate", x.Status.Conditions[2].Type)
	w.Until(watch.Modified, "all of it is seen", func(y *certificatesv1.CertificateSigningRequest) bool { return y.ResourceVersion == x.ResourceVersion })
}
