package audit

import (
	"context"
	"encoding/json"
	"slices"
	"sync"

	authenticationv1 "k8s.io/api/authentication/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"

	"github.com/keelson-io/keelson/orchestrator/apiserver/request"
)

// Entry is what is known of one request.
type Entry struct {
	log *Log
	id  types.UID

	mu      sync.Mutex
	event   auditv1.Event
	verdict Verdict
	judged  bool // the policy was applied; before that everything is kept
	long    bool
	status  int // that was sent, 0: none yet
}

type entryKey struct{}

// FromContext returns the Entry of a request, nil if it has none.
func FromContext(ctx context.Context) *Entry {
	e, _ := ctx.Value(entryKey{}).(*Entry)
	return e
}

// Annotate notes something about a context's request. It fits identity's and admission's hooks.
func Annotate(ctx context.Context, key, value string) { FromContext(ctx).Annotate(key, value) }

// ID is the request's.
func (e *Entry) ID() types.UID {
	if e == nil {
		return ""
	}
	return e.id
}

// Wants reports whether a level, or more, is written of this request. Who would have to encode an object asks first.
func (e *Entry) Wants(level auditv1.Level) bool {
	if e == nil {
		return false
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.wants(level)
}

func (e *Entry) wants(level auditv1.Level) bool {
	return e.judged && rank(e.verdict.Level) >= rank(level)
}

func rank(l auditv1.Level) int {
	return slices.Index([]auditv1.Level{auditv1.LevelNone, auditv1.LevelMetadata, auditv1.LevelRequest, auditv1.LevelRequestResponse}, l)
}

// Annotate notes something. What was noted under a key stays.
func (e *Entry) Annotate(key, value string) {
	if e == nil {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.judged && !e.wants(auditv1.LevelMetadata) {
		return
	}
	if e.event.Annotations == nil {
		e.event.Annotations = map[string]string{}
	}
	if _, ok := e.event.Annotations[key]; !ok {
		e.event.Annotations[key] = value
	}
}

// Impersonated notes for whom the user acts, and the verb that let him.
func (e *Entry) Impersonated(u *request.User, constraint string) {
	if e == nil {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.wants(auditv1.LevelMetadata) {
		return
	}
	info := userInfo(u)
	e.event.ImpersonatedUser = &info
	if constraint != "" {
		e.event.AuthenticationMetadata = &auditv1.AuthenticationMetadata{ImpersonationConstraint: constraint}
	}
}

func userInfo(u *request.User) authenticationv1.UserInfo {
	info := authenticationv1.UserInfo{Username: u.Name, UID: u.UID, Groups: u.Groups}
	for k, v := range u.Extra {
		if info.Extra == nil {
			info.Extra = map[string]authenticationv1.ExtraValue{}
		}
		info.Extra[k] = v
	}
	return info
}

// RequestObject notes the object of a request, before it is changed.
func (e *Entry) RequestObject(o runtime.Object) {
	if !e.Wants(auditv1.LevelMetadata) {
		return
	}
	m, _ := meta.Accessor(o)
	encoded := e.encode(o, auditv1.LevelRequest)
	e.mu.Lock()
	defer e.mu.Unlock()
	if m != nil {
		if e.event.ObjectRef == nil {
			e.event.ObjectRef = &auditv1.ObjectReference{}
		}
		fill(&e.event.ObjectRef.Namespace, m.GetNamespace())
		fill(&e.event.ObjectRef.Name, m.GetName())
		fill(&e.event.ObjectRef.UID, m.GetUID())
		fill(&e.event.ObjectRef.ResourceVersion, m.GetResourceVersion())
	}
	e.event.RequestObject = encoded
}

func fill[T comparable](to *T, value T) {
	var zero T
	if *to == zero {
		*to = value
	}
}

// RequestPatch notes a patch, which has to be JSON; what is not is left out.
func (e *Entry) RequestPatch(patch []byte) {
	if !e.Wants(auditv1.LevelRequest) || !json.Valid(patch) {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.event.RequestObject = unknown(slices.Clone(patch))
}

// ResponseObject notes what was answered.
func (e *Entry) ResponseObject(o runtime.Object) {
	if !e.Wants(auditv1.LevelMetadata) {
		return
	}
	encoded := e.encode(o, auditv1.LevelRequestResponse)
	e.mu.Lock()
	defer e.mu.Unlock()
	if s, ok := o.(*metav1.Status); ok {
		e.event.ResponseStatus = &metav1.Status{Status: s.Status, Message: s.Message, Reason: s.Reason, Details: s.Details, Code: s.Code}
	}
	e.event.ResponseObject = encoded
}

// encode returns an object for an event of a level, nil if it is of none.
func (e *Entry) encode(o runtime.Object, level auditv1.Level) *runtime.Unknown {
	if !e.Wants(level) {
		return nil
	}
	if e.verdict.OmitManagedFields {
		o = withoutManagedFields(o)
	}
	raw, err := json.Marshal(o)
	if err != nil {
		e.log.failed("an object cannot be encoded", err, e.id)
		return nil
	}
	return unknown(raw)
}

func unknown(raw []byte) *runtime.Unknown {
	return &runtime.Unknown{Raw: raw, ContentType: runtime.ContentTypeJSON}
}

// withoutManagedFields returns a copy of an object, list or table without them.
func withoutManagedFields(o runtime.Object) runtime.Object {
	drop := func(o runtime.Object) error {
		if m, err := meta.Accessor(o); err == nil {
			m.SetManagedFields(nil)
		}
		return nil
	}
	c := o.DeepCopyObject()
	if t, ok := c.(*metav1.Table); ok {
		for i := range t.Rows {
			if r := t.Rows[i].Object.Object; r != nil {
				_ = drop(r)
			}
		}
		return c
	}
	if meta.IsListType(c) {
		_ = meta.EachListItem(c, drop) // it fails for what is no list only
		return c
	}
	_ = drop(c)
	return c
}
