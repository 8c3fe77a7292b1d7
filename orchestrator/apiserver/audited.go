package apiserver

import (
	"context"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"

	"github.com/keelson-io/keelson/orchestrator/apiserver/audit"
	"github.com/keelson-io/keelson/orchestrator/apiserver/media"
	"github.com/keelson-io/keelson/orchestrator/objectstore"
)

// asked notes what a request sent for the audit log. The object is copied if it has to be written down.
func (c *call) asked(kind schema.GroupVersionKind, o runtime.Object) {
	e := audit.FromContext(c.ctx())
	if e.Wants(auditv1.LevelRequest) {
		o = o.DeepCopyObject()
		o.GetObjectKind().SetGroupVersionKind(kind)
	}
	e.RequestObject(o)
}

// answered notes an object that is answered with. It is one of the kind, whatever form the answer has.
func (c *call) answered(it *objectstore.Item) {
	audit.FromContext(c.ctx()).ResponseObject(it.Object)
}

// answeredAny notes what is answered with and is no stored object.
func (c *call) answeredAny(o runtime.Object) { audit.FromContext(c.ctx()).ResponseObject(o) }

// answeredList notes a list that is answered with.
func (c *call) answeredList(p *objectstore.Page) {
	e := audit.FromContext(c.ctx())
	if !e.Wants(auditv1.LevelRequestResponse) {
		return
	}
	items := make([]runtime.Object, len(p.Items))
	for i, it := range p.Items {
		items[i] = it.Object
	}
	l := c.res.Kind.NewList()
	if meta.SetList(l, items) != nil {
		return // it is no list
	}
	if m, err := meta.ListAccessor(l); err == nil {
		m.SetResourceVersion(itoa(p.Revision))
		m.SetContinue(p.Continue)
		m.SetRemainingItemCount(p.Remaining)
	}
	l.GetObjectKind().SetGroupVersionKind(c.res.Kind.List())
	e.ResponseObject(l)
}

// refused notes an error that is answered with.
func refused(ctx context.Context, err error) {
	if e := audit.FromContext(ctx); e.Wants(auditv1.LevelMetadata) {
		e.ResponseObject(media.StatusOf(err))
	}
}
