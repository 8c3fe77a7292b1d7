package crd

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"go.uber.org/zap"
	"k8s.io/apiextensions-apiserver/pkg/apihelpers"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/keelson-io/keelson/orchestrator/kinds"
	"github.com/keelson-io/keelson/orchestrator/objectstore"
)

// describe writes the status that a definition should have, except for Established.
func (m *Manager) describe(ctx context.Context, d *definition) error {
	named := equality.Semantic.DeepEqual(d.object.Spec.Names, d.object.Status.AcceptedNames) &&
		apihelpers.IsCRDConditionTrue(d.object, apiextensionsv1.NamesAccepted)
	if named && d.judged == d.object {
		return nil
	}
	change := func(c *apiextensionsv1.CustomResourceDefinition) {
		if !named {
			m.taken(d).grant(c)
		}
		judge(c)
	}
	c := d.object.DeepCopy()
	if change(c); equality.Semantic.DeepEqual(c.Status, d.object.Status) {
		d.judged = d.object
		return nil
	}
	return m.write(ctx, d, change)
}

// taken are the names that are not free for a definition.
func (m *Manager) taken(d *definition) *names {
	n := newNames()
	for _, k := range m.cfg.Builtin {
		if k.Group == d.object.Spec.Group {
			n.addKind(k)
		}
	}
	for _, other := range m.known {
		if other != d && other.object.Spec.Group == d.object.Spec.Group {
			n.add(other.object.Status.AcceptedNames)
		}
	}
	return n
}

var errOther = errors.New("there is another definition of this name now")

// write changes the stored definition. If it is gone that is not an error.
func (m *Manager) write(ctx context.Context, d *definition, change func(*apiextensionsv1.CustomResourceDefinition)) error {
	uid := d.object.UID
	it, err := m.cfg.Definitions.Update(ctx, "", d.object.Name, func(current *objectstore.Item) (kinds.Object, error) {
		c := current.Object.(*apiextensionsv1.CustomResourceDefinition).DeepCopy()
		if c.UID != uid {
			return nil, errOther
		}
		change(c)
		return c, nil
	})
	switch {
	case apierrors.IsNotFound(err), errors.Is(err, errOther):
		return nil
	case err != nil:
		return fmt.Errorf("write status: %w", err)
	}
	m.take(it)
	return nil
}

// serve compiles what has changed, and says what is to be served if that has.
func (m *Manager) serve(order []*definition) {
	table := make(map[string][]*kinds.Kind, len(order))
	for _, d := range order {
		if m.compile(d); d.kinds != nil {
			table[d.object.Name] = d.kinds
		}
	}
	if m.table == nil || !maps.EqualFunc(m.table, table, slices.Equal[[]*kinds.Kind]) {
		m.cfg.Serve(maps.Clone(table))
	}
	if m.table == nil {
		close(m.ready)
	}
	m.table = table
	for _, d := range order {
		if d.kinds != nil && d.since.IsZero() {
			d.since = m.cfg.Clock.Now()
		}
	}
}

// compile makes the kinds of a definition that has its names, unless they are made already.
func (m *Manager) compile(d *definition) {
	c, was := d.object, d.of
	if was == c {
		return // comparing schemas takes long
	}
	d.of = c
	switch {
	case !apihelpers.IsCRDConditionTrue(c, apiextensionsv1.NamesAccepted) && !apihelpers.IsCRDConditionTrue(c, apiextensionsv1.Established):
		d.compiled, d.kinds, d.of = nil, nil, nil
		return
	case was == nil || !equality.Semantic.DeepEqual(was.Spec, c.Spec) || !equality.Semantic.DeepEqual(was.Status.AcceptedNames, c.Status.AcceptedNames):
		var err error
		if d.compiled, err = compile(c, m.cfg.Converter); err != nil {
			m.cfg.Logger.Error("custom resource definition cannot be served", zap.String("name", c.Name), zap.Error(err))
		}
	case terminating(was) != terminating(c):
		d.compiled = d.compiled.closed(terminating(c))
	default:
		return
	}
	d.kinds = nil
	if d.compiled != nil {
		d.kinds = d.compiled.served
	}
}

// establish says that a definition is established once it was served for long enough. It returns how long that is yet.
func (m *Manager) establish(ctx context.Context, d *definition) (time.Duration, error) {
	if d.kinds == nil || d.object.DeletionTimestamp != nil || apihelpers.IsCRDConditionTrue(d.object, apiextensionsv1.Established) ||
		!apihelpers.IsCRDConditionTrue(d.object, apiextensionsv1.NamesAccepted) {
		return 0, nil
	}
	if left := d.since.Add(m.cfg.EstablishDelay).Sub(m.cfg.Clock.Now()); left > 0 {
		return left, nil
	}
	return 0, m.write(ctx, d, func(c *apiextensionsv1.CustomResourceDefinition) {
		if apihelpers.IsCRDConditionTrue(c, apiextensionsv1.NamesAccepted) {
			apihelpers.SetCRDCondition(c, apiextensionsv1.CustomResourceDefinitionCondition{
				Type: apiextensionsv1.Established, Status: apiextensionsv1.ConditionTrue, Reason: "InitialNamesAccepted", Message: "the initial names have been accepted",
			})
		}
	})
}
