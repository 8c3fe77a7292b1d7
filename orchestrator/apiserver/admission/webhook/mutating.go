package webhook

import (
	"context"
	"encoding/json"
	"fmt"
	"reflect"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	admissionapi "k8s.io/api/admission/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/sets"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"
	kjson "sigs.k8s.io/json"

	"github.com/keelson-io/keelson/orchestrator/apiserver/admission"
	"github.com/keelson-io/keelson/orchestrator/apiserver/admission/match"
	"github.com/keelson-io/keelson/orchestrator/apiserver/audit"
	"github.com/keelson-io/keelson/orchestrator/kinds"
)

// rounds is what is kept of a first round for a second one.
type rounds struct {
	last    runtime.Object // as it was after the round
	called  sets.Set[string]
	pending sets.Set[string] // to be called again
}

// changed makes the hooks that were called so far, and want it, be called again.
func (r *rounds) changed() {
	r.pending = r.pending.Union(r.called)
	r.called = nil
}

// Mutate calls the webhooks that match, one after the other.
func (p *Mutating) Mutate(ctx context.Context, a *admission.Attributes) error {
	if match.Exempt(a) {
		return nil
	}
	hooks, err := p.source.hooks(ctx)
	if err != nil || len(hooks) == 0 {
		return err
	}
	state, round := admission.State[rounds](a, p), 0
	if a.Reinvoked() {
		round = 1
		if len(state.called) > 0 && !equality.Semantic.DeepEqual(state.last, a.Object) {
			state.changed()
		}
	}
	views := p.matcher.Views(a)
	for i, h := range hooks {
		view, err := p.asks(ctx, h, a, views)
		if err != nil {
			return err
		}
		if view == nil || a.Reinvoked() && !state.pending.Has(h.id) {
			continue
		}
		note := &annotator{a: a, h: h, round: round, index: i}
		changed, err := p.one(ctx, h, a, views, view, note)
		if changed {
			state.changed()
			a.Reinvoke()
		}
		if h.reinvoke {
			if state.called == nil {
				state.called = sets.New[string]()
			}
			state.called.Insert(h.id)
		}
		if err == nil {
			continue
		}
		if !p.passOver(h, err) {
			return forClient(err)
		}
		if ctx.Err() != nil {
			return timedOut()
		}
		note.failedOpen()
		p.metrics.failOpen.WithLabelValues(h.name, p.source.stage).Inc()
	}
	if len(state.called) > 0 && !a.Reinvoked() && a.Object != nil {
		state.last = a.Object.DeepCopyObject()
	}
	return nil
}

// one calls a hook and applies its patch.
func (p *Mutating) one(ctx context.Context, h *hook, a *admission.Attributes, views *match.Views, view *match.View, note *annotator) (changed bool, err error) {
	defer func() { note.mutated(changed) }()
	e, err := encode(view)
	if err != nil {
		return false, apierrors.NewInternalError(err)
	}
	start := p.clock.Now()
	out, err := p.call(ctx, h, a, e)
	if err == nil {
		changed, err = p.patch(ctx, h, a, views, e, out, note)
	}
	p.metrics.called(h, p.source.stage, a.Operation, p.clock.Now().Sub(start), err)
	out.tell(h, a)
	return changed, err
}

// patch applies what a hook answered to the request's object.
func (p *Mutating) patch(ctx context.Context, h *hook, a *admission.Attributes, views *match.Views, e *encoded, out *answer, note *annotator) (bool, error) {
	if len(out.patch) == 0 {
		return false, nil
	}
	patch, err := jsonpatch.DecodePatch(out.patch)
	switch {
	case err != nil:
		return false, &callError{h.name, fmt.Errorf("received undecodable patch in webhook response: %w", err), 503}
	case len(patch) == 0:
		return false, nil
	case e.Object == nil:
		return false, apierrors.NewInternalError(fmt.Errorf("admission webhook %q attempted to modify the object, which is not supported for this operation", h.name))
	case out.patchType != admissionapi.PatchTypeJSONPatch:
		return false, &callError{h.name, fmt.Errorf("unsupported patch type %q", out.patchType), 400}
	}
	patched, err := patch.Apply(e.object)
	if err != nil {
		return false, apierrors.NewInternalError(err)
	}
	o, err := decode(patched, e.Object)
	if err != nil {
		return false, apierrors.NewInternalError(err)
	}
	changed := !equality.Semantic.DeepEqual(e.Object, o)
	note.patched(ctx, patch, out.patchType)
	if typed, ok := o.(kinds.Object); ok && e.Kind.Default != nil && e.ObjectKind == e.Kind.GroupVersionKind {
		e.Kind.Default(typed)
	}
	if err := views.Replace(ctx, e.Version, o); err != nil {
		return false, apierrors.NewInternalError(err)
	}
	return changed, nil
}

// decode returns a new object of the type of another one.
func decode(b []byte, like runtime.Object) (runtime.Object, error) {
	if _, ok := like.(*unstructured.Unstructured); ok {
		o := &unstructured.Unstructured{}
		if err := o.UnmarshalJSON(b); err != nil {
			return nil, fmt.Errorf("decode patched object: %w", err)
		}
		return o, nil
	}
	o, ok := reflect.New(reflect.TypeOf(like).Elem()).Interface().(runtime.Object)
	if !ok {
		return nil, fmt.Errorf("decode patched object: %T is no object", like)
	}
	if err := kjson.UnmarshalCaseSensitivePreserveInts(b, o); err != nil {
		return nil, fmt.Errorf("decode patched object: %w", err)
	}
	return o, nil
}

// annotator tells the audit log what a hook did.
type annotator struct {
	a            *admission.Attributes
	h            *hook
	round, index int
}

func (n *annotator) key(prefix string) string {
	return fmt.Sprintf("%sround_%d_index_%d", prefix, n.round, n.index)
}

type annotation struct {
	Configuration string `json:"configuration"`
	Webhook       string `json:"webhook"`
	Mutated       *bool  `json:"mutated,omitempty"`
	Patch         any    `json:"patch,omitempty"`
	PatchType     string `json:"patchType,omitempty"`
}

func (n *annotator) add(prefix string, v annotation) {
	v.Configuration, v.Webhook = n.h.configuration, n.h.name
	if b, err := json.Marshal(v); err == nil {
		n.a.AddAnnotation(n.key(prefix), string(b))
	}
}

func (n *annotator) failedOpen() {
	n.a.AddAnnotation(n.key("failed-open.mutation.webhook.admission.k8s.io/"), n.h.name)
}

func (n *annotator) mutated(changed bool) {
	n.add("mutation.webhook.admission.k8s.io/", annotation{Mutated: &changed})
}

// patched notes a patch only where the log has the request's object, too: there may be secrets in it.
func (n *annotator) patched(ctx context.Context, patch jsonpatch.Patch, t admissionapi.PatchType) {
	if audit.FromContext(ctx).Wants(auditv1.LevelRequest) {
		n.add("patch.webhook.admission.k8s.io/", annotation{Patch: patch, PatchType: string(t)})
	}
}
