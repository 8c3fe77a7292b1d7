package apiserver

import (
	"net/http"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"github.com/keelson-io/keelson/orchestrator/apiserver/audit"
	"github.com/keelson-io/keelson/orchestrator/apiserver/media"
	"github.com/keelson-io/keelson/orchestrator/apiserver/patch"
	"github.com/keelson-io/keelson/orchestrator/objectstore"
)

// verbTable is what is called for a verb of a resource.
var verbTable = map[string]func(*call) error{
	"get": (*call).get, "list": (*call).list, "watch": (*call).watch, "create": (*call).create, "update": (*call).update,
	"patch": (*call).patch, "delete": (*call).delete, "deletecollection": (*call).deleteCollection,
}

func (c *call) get() error {
	var o metav1.GetOptions
	if err := c.options(&o); err != nil {
		return err
	}
	it, err := c.res.Get(c.ctx(), c.info.Namespace, c.info.Name, o.ResourceVersion)
	if err != nil {
		return err
	}
	return c.item(http.StatusOK, it)
}

// selectors parses the selectors of a query.
func (c *call) selectors(o *metav1.ListOptions) (labels.Selector, fields.Selector, error) {
	ls, err := labels.Parse(o.LabelSelector)
	if err != nil {
		return nil, nil, apierrors.NewBadRequest(err.Error())
	}
	fs, err := fields.ParseSelector(o.FieldSelector)
	if err != nil {
		return nil, nil, apierrors.NewBadRequest(err.Error())
	}
	for _, r := range fs.Requirements() {
		if !c.selectable(r.Field) {
			return nil, nil, apierrors.NewBadRequest(`field label not supported: ` + r.Field)
		}
	}
	return ls, fs, nil
}

func (c *call) selectable(field string) bool {
	if field == "metadata.name" || field == "metadata.namespace" && c.res.Kind.Namespaced {
		return true
	}
	for _, f := range c.res.Kind.FieldNames {
		if f == field {
			return true
		}
	}
	return false
}

func (c *call) listQuery(o *metav1.ListOptions) (q objectstore.ListQuery, err error) {
	q = objectstore.ListQuery{
		Namespace: c.info.Namespace, Limit: o.Limit, Continue: o.Continue, ResourceVersion: o.ResourceVersion, Match: o.ResourceVersionMatch,
	}
	q.Labels, q.Fields, err = c.selectors(o)
	return q, err
}

func (c *call) list() error {
	var o metav1.ListOptions
	if err := c.options(&o); err != nil {
		return err
	}
	q, err := c.listQuery(&o)
	if err != nil {
		return err
	}
	page, err := c.res.List(c.ctx(), q)
	if err != nil {
		return err
	}
	return c.page(page)
}

func (c *call) page(p *objectstore.Page) error {
	c.answeredList(p)
	out := c.begin(http.StatusOK, len(p.Items)*aboutSize)
	if err := c.format.List(out, c.res.Kind, p, c.shown); err != nil {
		return errAborted // half an answer is there: only the end of the connection tells
	}
	_ = out.Close()
	return nil
}

// aboutSize is how long an object's encoded form is taken to be, in bytes.
const aboutSize = 1 << 10

func (c *call) create() error {
	body, err := c.body()
	if err != nil {
		return err
	}
	var o metav1.CreateOptions
	if err := c.options(&o); err != nil {
		return err
	}
	obj, warnings, err := media.Decode(body, c.r.Header.Get("Content-Type"), c.res.Kind, o.FieldValidation)
	if err != nil {
		return err
	}
	c.asked(c.res.Kind.GroupVersionKind, obj)
	t, err := c.target(&o, o.FieldManager, o.FieldValidation, o.DryRun)
	if err != nil {
		return err
	}
	c.warnAll(warnings)
	it, err := c.res.Create(c.ctx(), t, obj)
	if err != nil {
		return err
	}
	return c.item(http.StatusCreated, it)
}

func (c *call) warnAll(texts []string) {
	for _, w := range texts {
		c.warn(w)
	}
}

func (c *call) update() error {
	body, err := c.body()
	if err != nil {
		return err
	}
	var o metav1.UpdateOptions
	if err := c.options(&o); err != nil {
		return err
	}
	obj, warnings, err := media.Decode(body, c.r.Header.Get("Content-Type"), c.res.Kind, o.FieldValidation)
	if err != nil {
		return err
	}
	c.asked(c.res.Kind.GroupVersionKind, obj)
	t, err := c.target(&o, o.FieldManager, o.FieldValidation, o.DryRun)
	if err != nil {
		return err
	}
	c.warnAll(warnings)
	it, created, err := c.res.Update(c.ctx(), t, obj)
	if err != nil {
		return err
	}
	return c.item(createdOr(created), it)
}

func createdOr(created bool) int {
	if created {
		return http.StatusCreated
	}
	return http.StatusOK
}

func (c *call) patch() error {
	body, err := c.body()
	if err != nil {
		return err
	}
	var o metav1.PatchOptions
	if err := c.options(&o); err != nil {
		return err
	}
	t, err := c.target(&o, o.FieldManager, o.FieldValidation, o.DryRun)
	if err != nil {
		return err
	}
	kind := types.PatchType(mediaType(c.r.Header.Get("Content-Type")))
	if err := patch.Check(kind, &o); err != nil {
		return err
	}
	if kind == types.ApplyPatchType || kind == types.ApplyCBORPatchType {
		t.Manager = o.FieldManager
	}
	audit.FromContext(c.ctx()).RequestPatch(body)
	it, created, err := c.res.Patch(c.ctx(), t, kind, body, o.Force != nil && *o.Force)
	if err != nil {
		return err
	}
	return c.item(createdOr(created), it)
}

func (c *call) deleteOptions() (*metav1.DeleteOptions, error) {
	body, err := c.body()
	if err != nil {
		return nil, err
	}
	o := &metav1.DeleteOptions{}
	if len(body) == 0 {
		return o, c.options(o)
	}
	if _, err := media.DecodeInto(body, c.r.Header.Get("Content-Type"), metav1.SchemeGroupVersion.WithKind("DeleteOptions"), o, ""); err != nil {
		return nil, err
	}
	c.asked(metav1.SchemeGroupVersion.WithKind("DeleteOptions"), o)
	return o, media.Invalid("DeleteOptions", validation.ValidateDeleteOptions(o))
}

func (c *call) delete() error {
	o, err := c.deleteOptions()
	if err != nil {
		return err
	}
	t, err := c.target(o, "", "", o.DryRun)
	if err != nil {
		return err
	}
	it, removed, err := c.res.Delete(c.ctx(), t, o)
	switch {
	case err != nil:
		return err
	case !removed:
		return c.item(http.StatusOK, it)
	case c.res.Kind.ReturnDeleted:
		return c.item(http.StatusOK, it)
	}
	return c.any(http.StatusOK, &metav1.Status{TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusSuccess, Details: &metav1.StatusDetails{
		Name: c.info.Name, Group: c.res.Kind.Group, Kind: c.res.Kind.Resource, UID: it.Object.GetUID(),
	}})
}

func (c *call) deleteCollection() error {
	var lo metav1.ListOptions
	if err := c.options(&lo); err != nil {
		return err
	}
	o, err := c.deleteOptions()
	if err != nil {
		return err
	}
	q, err := c.listQuery(&lo)
	if err != nil {
		return err
	}
	t, err := c.target(o, "", "", o.DryRun)
	if err != nil {
		return err
	}
	page, err := c.res.DeleteCollection(c.ctx(), t, q, o)
	if err != nil {
		return err
	}
	return c.page(page)
}
