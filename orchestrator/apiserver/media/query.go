package media

import (
	"fmt"
	"net/url"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Query reads options from the query of a URL. 400 for what cannot be read, 422 for what is not allowed.
func Query(q url.Values, into any) error {
	var err error
	var kind string
	var errs field.ErrorList
	switch o := into.(type) {
	case *metav1.GetOptions:
		err = metav1.Convert_url_Values_To_v1_GetOptions(&q, o, nil)
	case *metav1.ListOptions:
		err = metav1.Convert_url_Values_To_v1_ListOptions(&q, o, nil)
	case *metav1.TableOptions:
		err = metav1.Convert_url_Values_To_v1_TableOptions(&q, o, nil)
	case *metav1.DeleteOptions:
		if err = metav1.Convert_url_Values_To_v1_DeleteOptions(&q, o, nil); err == nil {
			kind, errs = "DeleteOptions", validation.ValidateDeleteOptions(o)
		}
	case *metav1.CreateOptions:
		if err = metav1.Convert_url_Values_To_v1_CreateOptions(&q, o, nil); err == nil {
			kind, errs = "CreateOptions", validation.ValidateCreateOptions(o)
		}
	case *metav1.UpdateOptions:
		if err = metav1.Convert_url_Values_To_v1_UpdateOptions(&q, o, nil); err == nil {
			kind, errs = "UpdateOptions", validation.ValidateUpdateOptions(o)
		}
	case *metav1.PatchOptions: // validated with the patch's type
		err = metav1.Convert_url_Values_To_v1_PatchOptions(&q, o, nil)
	default:
		err = fmt.Errorf("media: %T cannot be read from a query", into)
	}
	if err != nil {
		return apierrors.NewBadRequest(err.Error())
	}
	return Invalid(kind, errs)
}

// Invalid is a 422 about options, nil if there are no errors.
func Invalid(kind string, errs field.ErrorList) error {
	if len(errs) == 0 {
		return nil
	}
	return apierrors.NewInvalid(schema.GroupKind{Group: metav1.GroupName, Kind: kind}, "", errs)
}
