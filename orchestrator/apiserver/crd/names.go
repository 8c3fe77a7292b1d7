package crd

import (
	"errors"
	"fmt"
	"reflect"
	"slices"

	"k8s.io/apiextensions-apiserver/pkg/apihelpers"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"

	"github.com/keelson-io/keelson/orchestrator/kinds"
)

// names are those that others have in a group: of resources, plural, singular and short, and of kinds and their lists.
type names struct{ resources, kinds map[string]bool }

func newNames() *names { return &names{resources: map[string]bool{}, kinds: map[string]bool{}} }

// addKind takes the names of a built-in kind.
func (n *names) addKind(k *kinds.Kind) {
	n.add(apiextensionsv1.CustomResourceDefinitionNames{
		Plural: k.Resource, Singular: k.Singular, ShortNames: k.ShortNames, Kind: k.Kind, ListKind: k.List().Kind,
	})
}

// add takes the names that a definition was granted. Those that were not granted are empty.
func (n *names) add(a apiextensionsv1.CustomResourceDefinitionNames) {
	for _, name := range append([]string{a.Plural, a.Singular}, a.ShortNames...) {
		n.resources[name] = true
	}
	n.kinds[a.Kind], n.kinds[a.ListKind] = true, true
}

// grant gives a definition the names that it asks for, as far as others do not have them, and sets its conditions.
func (n *names) grant(c *apiextensionsv1.CustomResourceDefinition) {
	want, have := &c.Spec.Names, &c.Status.AcceptedNames
	granted := apiextensionsv1.CustomResourceDefinitionCondition{
		Type: apiextensionsv1.NamesAccepted, Status: apiextensionsv1.ConditionTrue, Reason: "NoConflicts", Message: "no conflicts found",
	}
	refuse := func(reason string, err error) {
		granted.Status, granted.Reason, granted.Message = apiextensionsv1.ConditionFalse, reason, err.Error()
	}
	one := func(reason, want string, have *string, taken map[string]bool) {
		if want != *have && taken[want] {
			refuse(reason, inUse(want))
			return
		}
		*have = want
	}
	one("PluralConflict", want.Plural, &have.Plural, n.resources)
	one("SingularConflict", want.Singular, &have.Singular, n.resources)
	if !reflect.DeepEqual(want.ShortNames, have.ShortNames) {
		if err := n.shortNames(want.ShortNames, have.ShortNames); err != nil {
			refuse("ShortNamesConflict", err)
		} else {
			have.ShortNames = want.ShortNames
		}
	}
	one("KindConflict", want.Kind, &have.Kind, n.kinds)
	one("ListKindConflict", want.ListKind, &have.ListKind, n.kinds)
	have.Categories = want.Categories
	apihelpers.SetCRDCondition(c, granted)
	if apihelpers.IsCRDConditionTrue(c, apiextensionsv1.Established) {
		return
	}
	established := apiextensionsv1.CustomResourceDefinitionCondition{
		Type: apiextensionsv1.Established, Status: apiextensionsv1.ConditionFalse, Reason: "NotAccepted", Message: "not all names are accepted",
	}
	if granted.Status == apiextensionsv1.ConditionTrue {
		established.Reason, established.Message = "Installing", "the initial names have been accepted"
	}
	apihelpers.SetCRDCondition(c, established)
}

func (n *names) shortNames(want, have []string) error {
	var errs []error
	for _, name := range want {
		if !slices.Contains(have, name) && n.resources[name] {
			errs = append(errs, inUse(name))
		}
	}
	return utilerrors.NewAggregate(errs)
}

var errInUse = errors.New("is already in use")

func inUse(name string) error { return fmt.Errorf("%q %w", name, errInUse) }
