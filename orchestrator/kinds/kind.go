package kinds

import (
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Object is an API object with metadata.
type Object interface {
	runtime.Object
	metav1.Object
}

// Kind describes one kind of object in one version.
type Kind struct {
	schema.GroupVersionKind
	Resource   string // plural in URLs, "pods"
	Singular   string // "pod"
	ListKind   string // "": the kind and "List"
	ShortNames []string
	Categories []string // "all"
	Namespaced bool
	// Place is where the objects are stored: /registry/<Place>/[<namespace>/]<name>.
	Place string
	// Stored is the kind that is stored, nil for this one.
	Stored *Conversion
	// Verbs are those that are served; nil: all of AllVerbs.
	Verbs []string

	New     func() Object         // an empty object
	NewList func() runtime.Object // an empty list

	// Schema is that of objects without a Go type; nil: there is a type, or they may hold anything. Nobody may change it.
	Schema *apiextensionsv1.JSONSchemaProps

	// NameErrors says what is wrong with a name, or with the prefix of a generated one.
	NameErrors func(name string, prefix bool) []string
	// Strategy is what is done with an object when it is written; see with.
	Strategy
	Lifecycle

	// Scale is the subresource scale, nil if there is none.
	Scale *Scale
	// Subresources are served by code that the API server has under these names: "binding", "eviction", "finalize", "token",
	// "approval", "ephemeralcontainers", "resize", "log", "exec", ...
	Subresources []Subresource

	// FieldNames are the keys of Fields.
	FieldNames []string
	// Columns are a table's; nil: Name and Age.
	Columns []metav1.TableColumnDefinition
}

// Strategy is the functions of a kind. Each may be nil.
type Strategy struct {
	// Default fills in what was left out. It must not depend on time, randomness or other objects.
	Default func(o Object)
	// Coerce makes of decoded JSON what a type of Go would have made of it: what is unknown is dropped, and its paths are
	// returned; what cannot be decoded is an error. Nil: the kind has such a type.
	Coerce func(o Object) (unknown []string, err error)
	// Create prepares an object for its creation after it was defaulted: it drops what users may not set. Status and
	// generation are done for every kind.
	Create func(o Object)
	// Requested notes in a new object who asked for it, whatever it says.
	Requested func(o Object, by authenticationv1.UserInfo)
	// Update prepares an object for an update: it carries over what users may not change. Status and generation are done
	// for every kind.
	Update func(o, old Object)
	// Delete prepares an object for its deletion, when it is first asked for: it may add finalizers.
	Delete func(o Object)
	// Validate returns what is wrong with an object. Metadata is checked for every kind.
	Validate func(o Object) field.ErrorList
	// ValidateUpdate returns what is wrong with a change, beyond Validate, which is called too.
	ValidateUpdate func(o, old Object) field.ErrorList
	// Ratchets says that Validate is not called at an update, as what was wrong before may stay wrong: ValidateUpdate says it
	// all.
	Ratchets bool
	// Warnings are told to the user; old is nil at a creation.
	Warnings func(o, old Object) []string

	// Spec and Status are nil if the kind has no such part. A change of the spec raises the generation. A kind with a Status
	// has the subresource status, and Status can be changed through it only.
	Spec, Status Part
	// UpdateStatus and ValidateStatus are Update and ValidateUpdate for the subresource status.
	UpdateStatus   func(o, old Object)
	ValidateStatus func(o, old Object) field.ErrorList
	// Stamp gives the time to what has changed, after UpdateStatus, and after the Prepare of a Subresource.
	Stamp func(o, old Object, now metav1.Time)

	// Fields are the selectable fields beside metadata.name and metadata.namespace, by their path.
	Fields func(o Object) map[string]string
	// Row returns the cells of the columns. It must be a function of the object and the time alone.
	Row func(o Object, now time.Time) []any
	// Grace returns how long the deletion of an object takes, in seconds, given what the request asked for (nil: nothing);
	// nil: it is deleted at once.
	Grace func(o Object, asked *int64) *int64
	// Held says whether an object that is being deleted is held by something beside its finalizers.
	Held func(o Object) bool
}

// Lifecycle is what requests may do with objects of a kind.
type Lifecycle struct {
	// Generation says that generations are counted.
	Generation bool
	// Unconditional allows updates without a resourceVersion.
	Unconditional bool
	// CreateOnUpdate allows an update to create.
	CreateOnUpdate bool
	// Orphan says that dependents are orphaned unless a request says otherwise.
	Orphan bool
	// StatusAtCreation lets a creation set the status.
	StatusAtCreation bool
	// TTL is how long an object lives, 0: for ever.
	TTL time.Duration
	// Closed refuses new objects: the kind is about to go.
	Closed bool
	// Deprecation is a warning for every request, "" is none.
	Deprecation string
	// ReturnDeleted says that who deletes an object gets it back, rather than a Status.
	ReturnDeleted bool
}

// Conversion says how a kind is stored as another. Objects are not changed: the results are new ones, or the same if there is
// nothing to convert.
type Conversion struct {
	Kind *Kind
	// To returns an object as it is stored.
	To func(o Object) (Object, error)
	// From returns stored objects, of which there is at least one, as this kind, in their order.
	From func(o ...Object) ([]Object, error)
}

// Subresource is a part of an object with a URL of its own.
type Subresource struct {
	Name  string
	Kind  schema.GroupVersionKind // of what it exchanges
	Verbs []string                // "create", "get", "patch", "update"

	// Prepare is set if the subresource is a part of the object that is read and written as the object itself: it gives what
	// was sent all but that part. Otherwise the API server has code of its own for it.
	Prepare func(o, old Object)
	// Validate returns what is wrong with a change by the subresource.
	Validate func(o, old Object) field.ErrorList
}

// Subresource returns the subresource of a name, or nil.
func (k *Kind) Subresource(name string) *Subresource {
	for i := range k.Subresources {
		if s := &k.Subresources[i]; s.Name == name {
			return s
		}
	}
	return nil
}

// Scale tells where the number of replicas is.
type Scale struct {
	// Replicas returns the wanted number; what is 0 was never set.
	Replicas func(o Object) int32
	// SetReplicas sets the wanted number.
	SetReplicas func(o Object, n int32)
	// Observed returns the number that there is.
	Observed func(o Object) int32
	// Selector returns the label selector of the replicas in its string form.
	Selector func(o Object) string
}

// AllVerbs are the verbs of a kind.
var AllVerbs = []string{"create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"}

// List is the name of a list of the kind.
func (k *Kind) List() schema.GroupVersionKind {
	if k.ListKind != "" {
		return k.GroupVersion().WithKind(k.ListKind)
	}
	return k.GroupVersion().WithKind(k.Kind + "List")
}

// GroupVersionResource is the kind's resource.
func (k *Kind) GroupVersionResource() schema.GroupVersionResource {
	return k.GroupVersion().WithResource(k.Resource)
}

// GroupResource is the kind's resource without its version, as errors name it.
func (k *Kind) GroupResource() schema.GroupResource {
	return schema.GroupResource{Group: k.Group, Resource: k.Resource}
}
