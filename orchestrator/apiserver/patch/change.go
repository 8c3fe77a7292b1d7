package patch

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/mergepatch"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"k8s.io/apimachinery/pkg/util/validation/field"
	kjson "sigs.k8s.io/json"

	"github.com/keelson-io/keelson/orchestrator/apiserver/verbs"
	"github.com/keelson-io/keelson/orchestrator/kinds"
)

// maxOperations bounds JSON patches.
const maxOperations = 10000

// operation is one of a JSON patch; for finding fields that nobody knows.
type operation struct {
	Op    string `json:"op"`
	Path  string `json:"path"`
	From  string `json:"from"`
	Value any    `json:"value"`
}

// change applies a JSON, merge or strategic merge patch.
func (p *Patcher) change(current kinds.Object, body []byte, o verbs.PatchOptions) (kinds.Object, []string, error) {
	strict, err := misspelt(body, o)
	if err != nil {
		return nil, nil, err
	}
	_, free := current.(runtime.Unstructured)
	var content map[string]any
	switch {
	case o.Type == types.StrategicMergePatchType && !free:
		content, err = p.strategic(current, body)
	case o.Type == types.JSONPatchType, o.Type == types.MergePatchType:
		content, err = jsonChange(current, body, o.Type)
	default:
		return nil, nil, unsupported(free)
	}
	if err != nil {
		return nil, nil, err
	}
	changed, unknown, err := p.object(content)
	if err != nil {
		return nil, nil, badPatch(body, err)
	}
	strict = append(strict, unknown...)
	switch {
	case len(strict) == 0, o.Validation == metav1.FieldValidationIgnore:
		return changed, nil, nil
	case o.Validation == metav1.FieldValidationStrict:
		return nil, nil, badPatch(body, runtime.NewStrictDecodingError(strict))
	}
	warnings := make([]string, len(strict))
	for i, e := range strict {
		warnings[i] = e.Error()
	}
	return changed, warnings, nil
}

// unsupported is the answer to a patch of a type that the kind does not take.
func unsupported(free bool) error {
	text := "the body of the request was in an unknown format - accepted media types include: application/json-patch+json, application/merge-patch+json, "
	if !free {
		text += "application/strategic-merge-patch+json, "
	}
	e := apierrors.NewGenericServerResponse(http.StatusUnsupportedMediaType, "", schema.GroupResource{}, "", "", 0, false)
	e.ErrStatus.Reason = metav1.StatusReasonUnsupportedMediaType
	e.ErrStatus.Message = text + "application/apply-patch+yaml"
	return e
}

func badPatch(body []byte, err error) error {
	return apierrors.NewInvalid(schema.GroupKind{}, "", field.ErrorList{field.Invalid(field.NewPath("patch"), string(body), err.Error())})
}

// misspelt finds duplicate fields in a patch, and unknown ones in JSON patches.
func misspelt(body []byte, o verbs.PatchOptions) ([]error, error) {
	if o.Validation == metav1.FieldValidationIgnore {
		return nil, nil
	}
	if o.Type == types.JSONPatchType {
		var ops []operation
		strict, err := kjson.UnmarshalStrict(body, &ops)
		if err != nil {
			return nil, apierrors.NewBadRequest(fmt.Sprintf("error decoding patch: %v", err))
		}
		for i, e := range strict {
			strict[i] = fmt.Errorf("json patch %w", e)
		}
		return strict, nil
	}
	strict, err := kjson.UnmarshalStrict(body, &map[string]any{})
	if err != nil {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("error decoding patch: %v", err))
	}
	return strict, nil
}

func (p *Patcher) strategic(current kinds.Object, body []byte) (map[string]any, error) {
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(current)
	if err != nil {
		return nil, err
	}
	change := map[string]any{}
	if err := kjson.UnmarshalCaseSensitivePreserveInts(body, &change); err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	out, err := strategicpatch.StrategicMergeMapPatch(content, change, p.kind.New())
	return out, strategicError(err)
}

// strategicError says whose fault it was.
func strategicError(err error) error {
	for _, bad := range []error{
		mergepatch.ErrBadJSONDoc, mergepatch.ErrBadPatchFormatForPrimitiveList, mergepatch.ErrBadPatchFormatForRetainKeys,
		mergepatch.ErrBadPatchFormatForSetElementOrderList, mergepatch.ErrUnsupportedStrategicMergePatchFormat,
	} {
		if errors.Is(err, bad) {
			return apierrors.NewBadRequest(err.Error())
		}
	}
	if errors.Is(err, mergepatch.ErrNoListOfLists) || errors.Is(err, mergepatch.ErrPatchContentNotMatchRetainKeys) {
		return unprocessable(err)
	}
	return err
}

func unprocessable(err error) error {
	return apierrors.NewGenericServerResponse(http.StatusUnprocessableEntity, "", schema.GroupResource{}, "", err.Error(), 0, false)
}

// jsonChange applies a JSON or merge patch.
func jsonChange(current kinds.Object, body []byte, kind types.PatchType) (map[string]any, error) {
	doc, err := json.Marshal(current)
	if err != nil {
		return nil, err
	}
	var out []byte
	if kind == types.MergePatchType {
		if out, err = jsonpatch.MergePatch(doc, body); err != nil {
			return nil, apierrors.NewBadRequest(err.Error())
		}
	} else {
		ops, err := jsonpatch.DecodePatch(body)
		switch {
		case err != nil:
			return nil, apierrors.NewBadRequest(err.Error())
		case len(ops) > maxOperations:
			return nil, apierrors.NewRequestEntityTooLargeError(fmt.Sprintf("The allowed maximum operations in a JSON patch is %d, got %d", maxOperations, len(ops)))
		}
		if out, err = ops.Apply(doc); err != nil {
			return nil, unprocessable(err)
		}
	}
	content := map[string]any{}
	if err := kjson.UnmarshalCaseSensitivePreserveInts(out, &content); err != nil {
		return nil, badPatch(body, err)
	}
	return content, nil
}

// coerced makes a free object one of the kind, and says which of its fields nobody knows.
func (p *Patcher) coerced(o kinds.Object) (kinds.Object, []error, error) {
	if p.kind.Coerce == nil {
		return o, nil, nil
	}
	unknown, err := p.kind.Coerce(o)
	if err != nil {
		return nil, nil, err
	}
	errs := make([]error, len(unknown))
	for i, path := range unknown {
		errs[i] = fmt.Errorf("unknown field %q", path)
	}
	return o, errs, nil
}

// object makes an object of its content, and says which of its fields nobody knows.
func (p *Patcher) object(content map[string]any) (kinds.Object, []error, error) {
	o := p.kind.New()
	if u, free := o.(runtime.Unstructured); free {
		u.SetUnstructuredContent(content)
		return p.coerced(o)
	}
	err := runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(content, o, true)
	if strict, ok := runtime.AsStrictDecodingError(err); ok {
		return o, strict.Errors(), nil
	}
	return o, nil, err
}
