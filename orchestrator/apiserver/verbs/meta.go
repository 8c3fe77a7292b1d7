package verbs

import (
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/google/uuid"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/validate/content"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/keelson-io/keelson/orchestrator/kinds"
)

// Names that are generated: a prefix of at most maxPrefix bytes and suffixBytes of an alphabet without vowels, so that no
// word comes out, and without letters and digits that look alike.
const (
	maxNameBytes = 63
	suffixBytes  = 5
	maxPrefix    = maxNameBytes - suffixBytes
	suffixRunes  = "bcdfghjklmnpqrstvwxz2456789"
)

func generateName(prefix string) string {
	if len(prefix) > maxPrefix {
		prefix = prefix[:maxPrefix]
	}
	b := []byte(prefix)
	for range suffixBytes {
		b = append(b, suffixRunes[rand.IntN(len(suffixRunes))])
	}
	return string(b)
}

// namespaceMatches puts an object into the namespace of the request, or says that it names another one. Objects in no namespace
// may name any.
func namespaceMatches(k *kinds.Kind, o kinds.Object, namespace string) error {
	switch {
	case !k.Namespaced:
		if o.GetNamespace() != "" {
			o.SetNamespace("")
		}
	case o.GetNamespace() == namespace:
	case o.GetNamespace() == "":
		o.SetNamespace(namespace)
	default:
		return apierrors.NewBadRequest("the namespace of the provided object does not match the namespace sent on the request")
	}
	return nil
}

// nameMatches gives an object the name of the request, or says that it has another one.
func nameMatches(o kinds.Object, name string) error {
	switch o.GetName() {
	case "":
		o.SetName(name)
	case name:
	default:
		return apierrors.NewBadRequest(fmt.Sprintf("the name of the object (%s) does not match the name on the URL (%s)", o.GetName(), name))
	}
	return nil
}

// fillNew gives a new object what every object has.
func fillNew(k *kinds.Kind, o kinds.Object, now time.Time) {
	o.SetDeletionTimestamp(nil)
	o.SetDeletionGracePeriodSeconds(nil)
	o.SetSelfLink("")
	o.SetResourceVersion("")
	o.SetCreationTimestamp(metav1.Time{Time: now.Truncate(time.Second)})
	o.SetUID(types.UID(uuid.NewString()))
	if o.GetName() == "" && o.GetGenerateName() != "" {
		o.SetName(generateName(o.GetGenerateName()))
	}
	if !k.StatusAtCreation {
		clearStatus(k, o)
	}
	o.SetGeneration(0)
	if k.Generation {
		o.SetGeneration(1)
	}
}

func clearStatus(k *kinds.Kind, o kinds.Object) {
	if k.Status != nil {
		k.Status.Clear(o)
	}
}

func copyPart(p kinds.Part, o, from kinds.Object) {
	if p != nil {
		p.Copy(o, from)
	}
}

// carryOver gives a changed object the metadata that a request cannot change.
func carryOver(o, old kinds.Object) {
	o.SetSelfLink("")
	o.SetGeneration(old.GetGeneration())
	if t := o.GetCreationTimestamp(); t.IsZero() {
		o.SetCreationTimestamp(old.GetCreationTimestamp())
	}
	if o.GetUID() == "" {
		o.SetUID(old.GetUID())
	}
	if o.GetDeletionTimestamp() == nil {
		o.SetDeletionTimestamp(old.GetDeletionTimestamp())
	}
	if o.GetDeletionGracePeriodSeconds() == nil {
		o.SetDeletionGracePeriodSeconds(old.GetDeletionGracePeriodSeconds())
	}
}

// countGeneration raises the generation if what a user wants has changed.
func countGeneration(k *kinds.Kind, o, old kinds.Object) {
	if k.Generation && k.Spec != nil && !k.Spec.Same(o, old) {
		o.SetGeneration(old.GetGeneration() + 1)
	}
}

func nameErrors(k *kinds.Kind) validation.ValidateNameFunc {
	return func(name string, prefix bool) []string {
		errs := pathErrors(name, prefix)
		if k.NameErrors != nil {
			errs = append(errs, k.NameErrors(name, prefix)...)
		}
		return errs
	}
}

// pathErrors says what makes a name, or the prefix of one, unfit for a URL.
func pathErrors(name string, prefix bool) []string {
	errs := content.IsPathSegmentName(name)
	if prefix { // "." and ".." may yet become something
		errs = content.IsPathSegmentName(name + "a")
	}
	return errs
}

// validateNew returns a 422 with everything that is wrong with a new object.
func validateNew(k *kinds.Kind, o kinds.Object) error {
	errs := validation.ValidateObjectMetaAccessor(o, k.Namespaced, nameErrors(k), field.NewPath("metadata"))
	if k.Validate != nil {
		errs = append(errs, k.Validate(o)...)
	}
	return invalid(k, o, errs)
}

// validateChange returns a 422 with everything that is wrong with a changed object.
func validateChange(k *kinds.Kind, o, old kinds.Object, subresource string) error {
	errs := validation.ValidateObjectMetaAccessorUpdate(o, old, field.NewPath("metadata"))
	part := k.Subresource(subresource)
	switch {
	case subresource == "status":
		if k.ValidateStatus != nil {
			errs = append(errs, k.ValidateStatus(o, old)...)
		}
	case part != nil && part.Prepare != nil:
		if part.Validate != nil {
			errs = append(errs, part.Validate(o, old)...)
		}
	default:
		if k.Validate != nil && !k.Ratchets {
			errs = append(errs, k.Validate(o)...)
		}
		if k.ValidateUpdate != nil {
			errs = append(errs, k.ValidateUpdate(o, old)...)
		}
	}
	return invalid(k, o, errs)
}

func invalid(k *kinds.Kind, o kinds.Object, errs field.ErrorList) error {
	if len(errs) == 0 {
		return nil
	}
	return apierrors.NewInvalid(k.GroupVersionKind.GroupKind(), o.GetName(), errs)
}

func nameRequired() field.ErrorList {
	return field.ErrorList{field.Required(field.NewPath("metadata", "name"), "name or generateName is required")}
}
