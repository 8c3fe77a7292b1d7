package media

import (
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/duration"

	"github.com/keelson-io/keelson/orchestrator/kinds"
	"github.com/keelson-io/keelson/orchestrator/objectstore"
)

// Options are what a request says about its answer beside the Accept header.
type Options struct {
	Include metav1.IncludeObjectPolicy // of objects in a table's rows
	Now     time.Time                  // ages are counted to it
}

// defaultColumns are those of kinds without any.
func defaultColumns() []metav1.TableColumnDefinition {
	doc := metav1.ObjectMeta{}.SwaggerDoc()
	return []metav1.TableColumnDefinition{
		{Name: "Name", Type: "string", Format: "name", Description: doc["name"]},
		{Name: "Age", Type: "string", Description: doc["creationTimestamp"]},
	}
}

func defaultRow(o kinds.Object, now time.Time) []any {
	age := "<unknown>"
	if t := o.GetCreationTimestamp(); !t.IsZero() {
		age = duration.HumanDuration(now.Sub(t.Time))
	}
	return []any{o.GetName(), age}
}

// tableOf shows items as a table. A stream names the columns once.
func (f *Format) tableOf(k *kinds.Kind, items []*objectstore.Item, o Options) *metav1.Table {
	t := &metav1.Table{TypeMeta: f.typeMeta("Table"), Rows: make([]metav1.TableRow, 0, len(items))}
	if len(items) == 1 {
		t.ResourceVersion = items[0].Object.GetResourceVersion()
	}
	if !f.headed {
		if t.ColumnDefinitions = k.Columns; k.Columns == nil || k.Row == nil {
			t.ColumnDefinitions = defaultColumns()
		}
		f.headed = f.stream
	}
	for _, it := range items {
		t.Rows = append(t.Rows, f.row(k, it, o))
	}
	return t
}

func (f *Format) row(k *kinds.Kind, it *objectstore.Item, o Options) metav1.TableRow {
	r := metav1.TableRow{}
	if k.Row != nil && k.Columns != nil {
		r.Cells = k.Row(it.Object, o.Now)
	} else {
		r.Cells = defaultRow(it.Object, o.Now)
	}
	switch o.Include {
	case metav1.IncludeNone:
	case metav1.IncludeObject:
		r.Object.Object = it.Object
	default:
		r.Object.Object = f.metadataOf(it)
	}
	return r
}

func (f *Format) typeMeta(kind string) metav1.TypeMeta {
	v := f.as.Version
	if v == "" {
		v = "v1"
	}
	return metav1.TypeMeta{Kind: kind, APIVersion: schema.GroupVersion{Group: metav1.GroupName, Version: v}.String()}
}

// metadataOf shows an item's metadata alone.
func (f *Format) metadataOf(it *objectstore.Item) *metav1.PartialObjectMetadata {
	return &metav1.PartialObjectMetadata{TypeMeta: f.typeMeta("PartialObjectMetadata"), ObjectMeta: objectMeta(it.Object)}
}

func (f *Format) metadataList(l *listing) *metav1.PartialObjectMetadataList {
	out := &metav1.PartialObjectMetadataList{TypeMeta: f.typeMeta("PartialObjectMetadataList"), ListMeta: l.meta()}
	out.Items = make([]metav1.PartialObjectMetadata, len(l.page.Items))
	for i, it := range l.page.Items {
		out.Items[i] = *f.metadataOf(it)
	}
	return out
}

// objectMeta returns the metadata of any object.
func objectMeta(o kinds.Object) metav1.ObjectMeta {
	if a, ok := o.(metav1.ObjectMetaAccessor); ok {
		if m, ok := a.GetObjectMeta().(*metav1.ObjectMeta); ok {
			return *m
		}
	}
	if u, ok := o.(runtime.Unstructured); ok {
		var m metav1.PartialObjectMetadata
		if runtime.DefaultUnstructuredConverter.FromUnstructured(u.UnstructuredContent(), &m) == nil {
			return m.ObjectMeta
		}
	}
	return metav1.ObjectMeta{
		Name: o.GetName(), GenerateName: o.GetGenerateName(), Namespace: o.GetNamespace(), UID: o.GetUID(),
		ResourceVersion: o.GetResourceVersion(), Generation: o.GetGeneration(), CreationTimestamp: o.GetCreationTimestamp(),
		DeletionTimestamp: o.GetDeletionTimestamp(), DeletionGracePeriodSeconds: o.GetDeletionGracePeriodSeconds(),
		Labels: o.GetLabels(), Annotations: o.GetAnnotations(), OwnerReferences: o.GetOwnerReferences(),
		Finalizers: o.GetFinalizers(), ManagedFields: o.GetManagedFields(),
	}
}
