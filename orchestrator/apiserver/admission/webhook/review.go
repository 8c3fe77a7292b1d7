package webhook

import (
	"encoding/json"
	"errors"
	"fmt"

	admissionapi "k8s.io/api/admission/v1"
	admissionbeta "k8s.io/api/admission/v1beta1"
	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"github.com/keelson-io/keelson/orchestrator/apiserver/admission"
	"github.com/keelson-io/keelson/orchestrator/apiserver/admission/match"
)

// encoded is a view in JSON, made once for all hooks that see it.
type encoded struct {
	*match.View
	object, old, options []byte
}

func encode(v *match.View) (*encoded, error) {
	e := &encoded{View: v}
	for _, part := range []struct {
		to *[]byte
		o  runtime.Object
	}{{&e.object, v.Object}, {&e.old, v.Old}, {&e.options, v.Options}} {
		if part.o == nil {
			continue
		}
		b, err := json.Marshal(part.o)
		if err != nil {
			return nil, fmt.Errorf("encode %s: %w", v.ObjectKind, err)
		}
		*part.to = b
	}
	return e, nil
}

// review is a request and the place for its answer, in one of two versions.
type review struct {
	uid      types.UID
	version  string
	body     []byte
	response runtime.Object
}

func newReview(versions []string, uid types.UID, a *admission.Attributes, e *encoded) (*review, error) {
	for _, version := range versions {
		r := &review{uid: uid, version: version}
		switch version {
		case "v1":
			r.response = &admissionapi.AdmissionReview{}
		case "v1beta1":
			r.response = &admissionbeta.AdmissionReview{}
		default:
			continue
		}
		// Both versions have the same fields.
		body, err := json.Marshal(&admissionapi.AdmissionReview{
			TypeMeta: metav1.TypeMeta{APIVersion: admissionapi.GroupName + "/" + version, Kind: "AdmissionReview"},
			Request:  admissionRequest(uid, a, e),
		})
		if err != nil {
			return nil, fmt.Errorf("encode AdmissionReview: %w", err)
		}
		r.body = body
		return r, nil
	}
	return nil, errors.New("webhook does not accept known AdmissionReview versions (v1, v1beta1)")
}

func admissionRequest(uid types.UID, a *admission.Attributes, e *encoded) *admissionapi.AdmissionRequest {
	gvk, gvr := metav1.GroupVersionKind(e.ObjectKind), metav1.GroupVersionResource(e.Kind.GroupVersionResource())
	askedGVK, askedGVR := metav1.GroupVersionKind(a.ObjectKind), metav1.GroupVersionResource(a.Kind.GroupVersionResource())
	r := &admissionapi.AdmissionRequest{
		UID: uid, Kind: gvk, Resource: gvr, SubResource: a.Subresource,
		RequestKind: &askedGVK, RequestResource: &askedGVR, RequestSubResource: a.Subresource,
		Name: a.Name, Namespace: a.Namespace, Operation: admissionapi.Operation(a.Operation), DryRun: &a.DryRun,
		Object: runtime.RawExtension{Raw: e.object}, OldObject: runtime.RawExtension{Raw: e.old}, Options: runtime.RawExtension{Raw: e.options},
	}
	if u := a.User; u != nil {
		r.UserInfo = authenticationv1.UserInfo{Username: u.Name, UID: u.UID, Groups: u.Groups}
		for k, v := range u.Extra {
			if r.UserInfo.Extra == nil {
				r.UserInfo.Extra = map[string]authenticationv1.ExtraValue{}
			}
			r.UserInfo.Extra[k] = v
		}
	}
	return r
}

// answer is a response whose form is right.
type answer struct {
	allowed     bool
	result      *metav1.Status
	patch       []byte
	patchType   admissionapi.PatchType
	annotations map[string]string
	warnings    []string
}

// answer checks the response to a review.
func (r *review) answer(mutating bool) (*answer, error) {
	switch review := r.response.(type) {
	case *admissionapi.AdmissionReview:
		return r.answerV1(review, mutating)
	case *admissionbeta.AdmissionReview:
		// Its senders were never held to uid and patchType.
		in := review.Response
		if in == nil {
			return nil, errors.New("webhook response was absent")
		}
		out := &answer{allowed: in.Allowed, result: in.Result, annotations: in.AuditAnnotations, warnings: in.Warnings}
		if mutating && len(in.Patch) > 0 {
			out.patch, out.patchType = in.Patch, admissionapi.PatchTypeJSONPatch
		}
		return out, nil
	}
	return nil, fmt.Errorf("unexpected response type %T", r.response)
}

func (r *review) answerV1(review *admissionapi.AdmissionReview, mutating bool) (*answer, error) {
	in, want := review.Response, admissionapi.SchemeGroupVersion.WithKind("AdmissionReview")
	switch {
	case in == nil:
		return nil, errors.New("webhook response was absent")
	case in.UID != r.uid:
		return nil, fmt.Errorf("expected response.uid=%q, got %q", r.uid, in.UID)
	case review.GroupVersionKind() != want:
		return nil, fmt.Errorf("expected webhook response of %v, got %v", want.String(), review.GroupVersionKind().String())
	case !mutating && len(in.Patch) > 0:
		return nil, errors.New("validating webhook may not return response.patch")
	case !mutating && in.PatchType != nil:
		return nil, errors.New("validating webhook may not return response.patchType")
	case len(in.Patch) > 0 && in.PatchType == nil:
		return nil, errors.New("webhook returned response.patch but not response.patchType")
	case len(in.Patch) == 0 && in.PatchType != nil:
		return nil, errors.New("webhook returned response.patchType but not response.patch")
	case in.PatchType != nil && *in.PatchType == "":
		return nil, fmt.Errorf("webhook returned invalid response.patchType of %q", *in.PatchType)
	}
	out := &answer{allowed: in.Allowed, result: in.Result, annotations: in.AuditAnnotations, warnings: in.Warnings, patch: in.Patch}
	if in.PatchType != nil {
		out.patchType = *in.PatchType
	}
	return out, nil
}
