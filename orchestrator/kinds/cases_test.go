package kinds

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/yaml"
)

// testCase is an object in testdata, and what its kind says about it.
type testCase struct {
	Name     string          `json:"name"`
	Object   json.RawMessage `json:"object"`
	Old      json.RawMessage `json:"old"`      // before an update
	Status   bool            `json:"status"`   // it is the status that is updated
	Errors   []string        `json:"errors"`   // of the validation, in their order
	Warnings []string        `json:"warnings"` // all
	Row      []any           `json:"row"`      // of the table, a day after the creation
	Defaults json.RawMessage `json:"defaults"` // parts of the object with its defaults
	Prepared json.RawMessage `json:"prepared"` // parts of the object as it is stored
}

func TestCases(t *testing.T) {
	s, err := NewSet(Builtin()...)
	require.NoError(t, err)
	files, err := filepath.Glob("testdata/*.yaml")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, f := range files {
		text, err := os.ReadFile(f)
		require.NoError(t, err)
		var cases []testCase
		require.NoError(t, yaml.UnmarshalStrict(text, &cases), f)
		for _, c := range cases {
			t.Run(filepath.Base(f)+"/"+c.Name, func(t *testing.T) { c.run(t, s) })
		}
	}
}

// object decodes and defaults an object, and checks that it stays the same if it is defaulted again, and encoded and decoded.
func (c *testCase) object(t *testing.T, s *Set, text []byte) (*Kind, Object) {
	var m metav1.TypeMeta
	require.NoError(t, json.Unmarshal(text, &m))
	k := s.ByKind(m.GroupVersionKind())
	require.NotNil(t, k, "kind %s", m.GroupVersionKind())
	o := k.New()
	require.NoError(t, yaml.UnmarshalStrict(text, o))
	if k.Default == nil {
		return k, o
	}
	k.Default(o)
	again := o.DeepCopyObject().(Object)
	k.Default(again)
	require.Equal(t, o, again, "defaults are not idempotent")
	encoded, err := json.Marshal(o)
	require.NoError(t, err)
	decoded := k.New()
	require.NoError(t, json.Unmarshal(encoded, decoded))
	k.Default(decoded)
	recoded, err := json.Marshal(decoded)
	require.NoError(t, err)
	require.JSONEq(t, string(encoded), string(recoded), "defaults change what was stored")
	return k, o
}

func (c *testCase) run(t *testing.T, s *Set) {
	k, o := c.object(t, s, c.Object)
	contains(t, c.Defaults, o)
	var old Object
	if c.Old != nil {
		_, old = c.object(t, s, c.Old)
	}
	c.prepare(k, o, old)
	contains(t, c.Prepared, o)
	errs := c.validate(k, o, old)
	got := make([]string, len(errs))
	for i, e := range errs {
		got[i] = e.Error()
	}
	if len(c.Errors) > 0 || len(got) > 0 {
		require.Equal(t, c.Errors, got)
	}
	if k.Warnings != nil && (c.Warnings != nil || len(c.Errors) == 0) {
		require.Equal(t, c.Warnings, k.Warnings(o, old))
	}
	if c.Row != nil {
		row, err := json.Marshal(k.Row(o, o.GetCreationTimestamp().Add(24*time.Hour)))
		require.NoError(t, err)
		want, err := json.Marshal(c.Row)
		require.NoError(t, err)
		require.JSONEq(t, string(want), string(row))
		require.Len(t, c.Row, len(k.Columns))
	}
}

func (c *testCase) prepare(k *Kind, o, old Object) {
	switch {
	case old == nil && k.Create != nil:
		k.Create(o)
	case old == nil:
	case c.Status && k.UpdateStatus != nil:
		k.UpdateStatus(o, old)
	case !c.Status && k.Update != nil:
		k.Update(o, old)
	}
}

func (c *testCase) validate(k *Kind, o, old Object) (errs field.ErrorList) {
	if c.Status {
		return k.ValidateStatus(o, old)
	}
	if k.Validate != nil && (old == nil || !k.Ratchets) {
		errs = k.Validate(o)
	}
	if old != nil && k.ValidateUpdate != nil {
		errs = append(errs, k.ValidateUpdate(o, old)...)
	}
	return errs
}

// contains checks that an object has some parts.
func contains(t *testing.T, parts []byte, o Object) {
	if parts == nil {
		return
	}
	text, err := json.Marshal(o)
	require.NoError(t, err)
	var is, want any
	require.NoError(t, json.Unmarshal(text, &is))
	require.NoError(t, json.Unmarshal(parts, &want))
	require.Equal(t, want, pruned(is, want))
}

// pruned is what of a value another one has, too.
func pruned(is, want any) any {
	switch w := want.(type) {
	case map[string]any:
		m, ok := is.(map[string]any)
		if !ok {
			return is
		}
		out := make(map[string]any, len(w))
		for k, v := range w {
			out[k] = pruned(m[k], v)
		}
		return out
	case []any:
		l, ok := is.([]any)
		if !ok || len(l) != len(w) {
			return is
		}
		out := make([]any, len(w))
		for i := range w {
			out[i] = pruned(l[i], w[i])
		}
		return out
	}
	return is
}
