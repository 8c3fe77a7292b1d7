package patch

import (
	"context"
	"fmt"
	"reflect"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"github.com/keelson-io/keelson/orchestrator/apiserver/media"
	"github.com/keelson-io/keelson/orchestrator/apiserver/verbs"
	"github.com/keelson-io/keelson/orchestrator/kinds"
)

// Patcher is described in the package comment.
type Patcher struct {
	kind     *kinds.Kind
	versions []*kinds.Kind // that are stored as the same, among them the kind
	types    func() (managedfields.TypeConverter, error)
	mu       sync.Mutex
	managers map[string]*managedfields.FieldManager // by subresource
}

// New makes a Patcher. types may be called more than once; it knows all versions. versions are the kinds that are stored as
// the same, in which somebody else may have set fields; k need not be among them.
func New(k *kinds.Kind, types func() (managedfields.TypeConverter, error), versions ...*kinds.Kind) *Patcher {
	return &Patcher{kind: k, versions: append([]*kinds.Kind{k}, versions...), types: types, managers: map[string]*managedfields.FieldManager{}}
}

// Types describes the fields of the kind's objects.
func (p *Patcher) Types() (managedfields.TypeConverter, error) { return p.types() }

// manager returns the field manager of a subresource.
func (p *Patcher) manager(subresource string) (*managedfields.FieldManager, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if m := p.managers[subresource]; m != nil {
		return m, nil
	}
	tc, err := p.types()
	if err != nil {
		return nil, fmt.Errorf("patch: types of %s: %w", p.kind.GroupVersionKind, err)
	}
	gv := p.kind.GroupVersion()
	m, err := managedfields.NewDefaultCRDFieldManager(newLean(tc), converter{p.versions}, defaulter{p.kind}, creater{p.kind}, p.kind.GroupVersionKind, gv,
		subresource, p.reset(subresource))
	if err != nil {
		return nil, err
	}
	p.managers[subresource] = m
	return m, nil
}

// reset returns the fields that a request to a subresource cannot set, which therefore nobody comes to own by it.
func (p *Patcher) reset(subresource string) map[fieldpath.APIVersion]fieldpath.Filter {
	var out *fieldpath.Set
	switch {
	case subresource == "" && p.kind.Status != nil:
		out = fieldpath.NewSet(fieldpath.MakePathOrDie("status"))
	case subresource == "status":
		out = fieldpath.NewSet(fieldpath.MakePathOrDie("spec"), fieldpath.MakePathOrDie("metadata", "deletionTimestamp"))
	default:
		return nil
	}
	return map[fieldpath.APIVersion]fieldpath.Filter{fieldpath.APIVersion(p.kind.GroupVersion().String()): fieldpath.NewExcludeSetFilter(out)}
}

// Track implements verbs.Patcher.
func (p *Patcher) Track(current, changed kinds.Object, o verbs.PatchOptions) (kinds.Object, error) {
	m, err := p.manager(o.Subresource)
	if err != nil {
		return nil, err
	}
	if current == nil {
		current = p.empty()
	}
	changed.GetObjectKind().SetGroupVersionKind(p.kind.GroupVersionKind)
	if same(current, changed) {
		changed.SetManagedFields(current.GetManagedFields())
		return changed, nil
	}
	return m.UpdateNoErrors(shallow(current), changed, o.Manager).(kinds.Object), nil
}

func (p *Patcher) empty() kinds.Object {
	o := p.kind.New()
	o.GetObjectKind().SetGroupVersionKind(p.kind.GroupVersionKind)
	return o
}

// Apply implements verbs.Patcher.
func (p *Patcher) Apply(_ context.Context, current kinds.Object, body []byte, o verbs.PatchOptions) (kinds.Object, []string, error) {
	if o.Type == types.ApplyPatchType || o.Type == types.ApplyCBORPatchType {
		changed, err := p.apply(current, body, o)
		return changed, nil, err
	}
	return p.change(current, body, o)
}

// apply is server-side apply.
func (p *Patcher) apply(current kinds.Object, body []byte, o verbs.PatchOptions) (kinds.Object, error) {
	content, err := applied(body, o)
	if err != nil {
		return nil, err
	}
	m, err := p.manager(o.Subresource)
	if err != nil {
		return nil, err
	}
	out, err := m.Apply(shallow(current), content, o.Manager, o.Force)
	if err != nil {
		return nil, err
	}
	changed, ok := out.(kinds.Object)
	if !ok {
		return nil, fmt.Errorf("patch: %T is no object", out)
	}
	return changed, nil
}

// applied reads an applied configuration.
func applied(body []byte, o verbs.PatchOptions) (*unstructured.Unstructured, error) {
	u := &unstructured.Unstructured{}
	strict, err := media.DecodeFree(body, o.Type == types.ApplyCBORPatchType, u)
	if err != nil {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("error decoding YAML: %v", err))
	}
	if len(strict) > 0 && o.Validation != metav1.FieldValidationIgnore {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("error decoding YAML: %v", runtime.NewStrictDecodingError(strict)))
	}
	return u, nil
}

// Check says what is wrong with the type (415) and the options (422) of a patch.
func Check(kind types.PatchType, o *metav1.PatchOptions) error {
	switch kind {
	case types.JSONPatchType, types.MergePatchType, types.StrategicMergePatchType, types.ApplyPatchType, types.ApplyCBORPatchType:
	default:
		return unsupported(false)
	}
	return media.Invalid("PatchOptions", validation.ValidatePatchOptions(o, kind))
}

// shallow copies an object so that its metadata can be replaced.
func shallow(o kinds.Object) kinds.Object {
	v := reflect.ValueOf(o)
	if _, free := o.(runtime.Unstructured); free || v.Kind() != reflect.Pointer {
		return o.DeepCopyObject().(kinds.Object)
	}
	c := reflect.New(v.Type().Elem())
	c.Elem().Set(v.Elem())
	return c.Interface().(kinds.Object)
}

// same says whether two objects have the same content, so that there is nothing to note.
func same(a, b kinds.Object) bool {
	x, y := shallow(a), shallow(b)
	for _, o := range []kinds.Object{x, y} {
		o.SetManagedFields(nil)
	}
	return reflect.DeepEqual(x, y)
}

// converter, defaulter and creater tell the field manager about the kind, and about the others that are stored as it is.
type (
	converter struct{ versions []*kinds.Kind }
	defaulter struct{ kind *kinds.Kind }
	creater   struct{ kind *kinds.Kind }
)

// find returns the kind of a name, or nil. An object that does not say what it is is of the kind itself.
func (c converter) find(gvk schema.GroupVersionKind) *kinds.Kind {
	if gvk.Empty() {
		return c.versions[0]
	}
	for _, k := range c.versions {
		if k.GroupVersionKind == gvk {
			return k
		}
	}
	return nil
}

// ConvertToVersion returns an object in another version, as an object of the kind's type.
func (c converter) ConvertToVersion(o runtime.Object, gv runtime.GroupVersioner) (runtime.Object, error) {
	var to *kinds.Kind
	for _, k := range c.versions {
		if want, ok := gv.KindForGroupVersionKinds([]schema.GroupVersionKind{k.GroupVersionKind}); ok && want == k.GroupVersionKind && to == nil {
			to = k
		}
	}
	from := c.find(o.GetObjectKind().GroupVersionKind())
	if to == nil || from == nil {
		return nil, runtime.NewNotRegisteredErrForTarget("patch", reflect.TypeOf(o), gv)
	}
	typed, err := ofType(from, o)
	if err != nil || from == to {
		return typed, err
	}
	return convert(typed, from, to)
}

// ofType makes free content an object of the kind's type.
func ofType(k *kinds.Kind, o runtime.Object) (kinds.Object, error) {
	u, free := o.(*unstructured.Unstructured)
	target := k.New()
	if _, wantFree := target.(runtime.Unstructured); !free || wantFree {
		typed, ok := o.(kinds.Object)
		if !ok {
			return nil, fmt.Errorf("patch: %T is no object", o)
		}
		return typed, nil
	}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, target); err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	target.GetObjectKind().SetGroupVersionKind(k.GroupVersionKind)
	return target, nil
}

// convert makes an object one of another kind that is stored as its own is.
func convert(o kinds.Object, from, to *kinds.Kind) (kinds.Object, error) {
	var err error
	if from.Stored != nil {
		if o, err = from.Stored.To(o); err != nil {
			return nil, err
		}
	}
	if to.Stored != nil {
		all, err := to.Stored.From(o)
		if err != nil {
			return nil, err
		}
		o = all[0]
	}
	o.GetObjectKind().SetGroupVersionKind(to.GroupVersionKind)
	return o, nil
}

func (c converter) Convert(in, out, _ any) error {
	return fmt.Errorf("patch: no conversion of %T to %T", in, out)
}

func (c converter) ConvertFieldLabel(_ schema.GroupVersionKind, label, value string) (string, string, error) {
	return label, value, nil
}

func (d defaulter) Default(o runtime.Object) {
	if obj, ok := o.(kinds.Object); ok && d.kind.Default != nil {
		d.kind.Default(obj)
	}
}

func (c creater) New(schema.GroupVersionKind) (runtime.Object, error) {
	o := c.kind.New()
	o.GetObjectKind().SetGroupVersionKind(c.kind.GroupVersionKind)
	return o, nil
}
