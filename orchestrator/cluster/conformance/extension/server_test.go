package extension

import (
	"encoding/json"
	"encoding/pem"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admission/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// Keys and values that the webhooks look for.
const (
	sign      = "webhook-e2e-test"
	disallow  = "webhook-disallow"
	lasting   = "webhook-nondeletable"
	forever   = "wait-forever"
	started   = "mutation-start"
	stage1    = "mutation-stage-1"
	stage2    = "mutation-stage-2"
	addition  = "added-label"
	delay     = 3 * time.Second
	attachPod = "to-be-attached-pod"
	mutatePod = "webhook-to-be-mutated"
)

// webhookServer is a server of webhooks in the process of the test.
type webhookServer struct {
	url string
	ca  []byte // PEM
}

// serveWebhooks starts a server that ends with the test.
func serveWebhooks(t *testing.T) *webhookServer {
	t.Helper()
	mux := http.NewServeMux()
	for path, review := range map[string]func(*http.Request, *admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse{
		"/always-deny":              deny,
		"/always-allow-delay":       allowLater,
		"/pods":                     admitPod,
		"/pods/attach":              admitAttachment,
		"/configmaps":               admitData("configmap contains unwanted key and value", "configmap"),
		"/custom-resource":          admitData("custom resource contains unwanted data", "custom resource"),
		"/crd":                      admitDefinition,
		"/mutating-configmaps":      mutateData,
		"/mutating-custom-resource": mutateData,
		"/mutating-pods":            mutatePods,
		"/add-label":                addLabel,
	} {
		mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) { answer(w, r, review) })
	}
	mux.HandleFunc("/convert", convert)
	s := httptest.NewUnstartedServer(mux)
	s.Config.ErrorLog = log.New(io.Discard, "", 0) // some clients are meant not to trust it
	s.StartTLS()
	t.Cleanup(s.Close)
	return &webhookServer{url: s.URL, ca: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})}
}

func answer(w http.ResponseWriter, r *http.Request, review func(*http.Request, *admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse) {
	var in admissionv1.AdmissionReview
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil || in.Request == nil {
		http.Error(w, "no AdmissionReview", http.StatusBadRequest)
		return
	}
	in.Response = review(r, in.Request)
	in.Response.UID, in.Request = in.Request.UID, nil
	w.Header().Set("Content-Type", runtime.ContentTypeJSON)
	_ = json.NewEncoder(w).Encode(&in) // the client is gone
}

func allowed() *admissionv1.AdmissionResponse { return &admissionv1.AdmissionResponse{Allowed: true} }

func denied(message string) *admissionv1.AdmissionResponse {
	return &admissionv1.AdmissionResponse{Result: &metav1.Status{Message: message}}
}

func patched(patch string) *admissionv1.AdmissionResponse {
	kind := admissionv1.PatchTypeJSONPatch
	return &admissionv1.AdmissionResponse{Allowed: true, Patch: []byte(patch), PatchType: &kind}
}

// decode decodes what a review is about. What cannot be decoded is denied.
func decode(raw runtime.RawExtension, into any) *admissionv1.AdmissionResponse {
	if err := json.Unmarshal(raw.Raw, into); err != nil {
		return denied("cannot decode: " + err.Error())
	}
	return nil
}

func deny(*http.Request, *admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse {
	return denied("this webhook denies all requests")
}

func allowLater(r *http.Request, _ *admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse {
	select {
	case <-time.After(delay):
	case <-r.Context().Done():
	}
	return allowed()
}

func admitPod(r *http.Request, in *admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse {
	pod := &corev1.Pod{}
	if refusal := decode(in.Object, pod); refusal != nil {
		return refusal
	}
	var faults []string
	switch pod.Labels[sign] {
	case disallow:
		faults = append(faults, "the pod contains unwanted label")
	case forever:
		<-r.Context().Done()
	}
	for _, c := range pod.Spec.Containers {
		if strings.Contains(c.Name, disallow) {
			faults = append(faults, "the pod contains unwanted container name")
		}
	}
	if len(faults) > 0 {
		return denied(strings.Join(faults, "; "))
	}
	return allowed()
}

// admitAttachment denies what `kubectl attach to-be-attached-pod -i -c=container1` asks for.
func admitAttachment(_ *http.Request, in *admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse {
	options := &corev1.PodAttachOptions{}
	if refusal := decode(in.Object, options); refusal != nil {
		return refusal
	}
	switch {
	case in.Operation != admissionv1.Connect || in.Resource != metav1.GroupVersionResource{Version: "v1", Resource: "pods"} || in.SubResource != "attach":
		return denied("not an attachment")
	case options.Kind != "PodAttachOptions":
		return denied("not the options of an attachment")
	case in.Name != attachPod, !options.Stdin, options.Container != "container1":
		return allowed()
	}
	return denied("attaching to pod '" + attachPod + "' is not allowed")
}

// withData is an object that has texts in a field data.
type withData struct {
	Data map[string]string `json:"data"`
}

func admitData(unwanted, what string) func(*http.Request, *admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse {
	return func(_ *http.Request, in *admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse {
		var o withData
		raw := in.Object
		if in.Operation == admissionv1.Delete {
			raw = in.OldObject
		}
		if refusal := decode(raw, &o); refusal != nil {
			return refusal
		}
		out := allowed()
		switch {
		case o.Data[sign] == disallow && in.Operation != admissionv1.Delete:
			out.Allowed, out.Result = false, &metav1.Status{Reason: metav1.StatusReason("the " + unwanted)}
		case o.Data[sign] == lasting && in.Operation == admissionv1.Delete:
			out.Allowed, out.Result = false, &metav1.Status{Reason: metav1.StatusReason("the " + what + " cannot be deleted because it contains unwanted key and value")}
		}
		return out
	}
}

// mutateData takes data one stage on.
func mutateData(_ *http.Request, in *admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse {
	var o withData
	switch refusal := decode(in.Object, &o); {
	case refusal != nil:
		return refusal
	case o.Data[stage1] == "yes":
		return patched(`[{"op": "add", "path": "/data/` + stage2 + `", "value": "yes"}]`)
	case o.Data[started] == "yes":
		return patched(`[{"op": "add", "path": "/data/` + stage1 + `", "value": "yes"}]`)
	}
	return allowed()
}

func mutatePods(_ *http.Request, in *admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse {
	pod := &corev1.Pod{}
	switch refusal := decode(in.Object, pod); {
	case refusal != nil:
		return refusal
	case pod.Name != mutatePod || len(pod.Spec.InitContainers) > 0:
		return allowed()
	}
	return patched(`[{"op": "add", "path": "/spec/initContainers", "value": [{"image": "webhook-added-image", "name": "webhook-added-init-container", "resources": {}}]}]`)
}

func admitDefinition(_ *http.Request, in *admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse {
	o := &metav1.PartialObjectMetadata{}
	switch refusal := decode(in.Object, o); {
	case refusal != nil:
		return refusal
	case in.Resource.Resource != "customresourcedefinitions":
		return denied("not a definition")
	case o.Labels[sign] == disallow:
		return denied("the crd contains unwanted label")
	}
	return allowed()
}

func addLabel(_ *http.Request, in *admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse {
	o := &metav1.PartialObjectMetadata{}
	switch refusal := decode(in.Object, o); {
	case refusal != nil:
		return refusal
	case len(o.Labels) == 0:
		return patched(`[{"op": "add", "path": "/metadata/labels", "value": {"` + addition + `": "yes"}}]`)
	}
	return patched(`[{"op": "add", "path": "/metadata/labels/` + addition + `", "value": "yes"}]`)
}
