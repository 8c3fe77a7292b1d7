package kinds

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/yaml"
)

// changeFile is the form of testdata/core/*.yaml: a good object, and changes of it.
type changeFile struct {
	Base  json.RawMessage
	Cases []struct {
		Name string
		// Base takes the place of the file's.
		Base json.RawMessage
		// Object is a merge patch of Base. Was is one of the object to get the old object, if an update is tested.
		Object, Was json.RawMessage
		Status      bool // the update is one of the status
		// Errors and Warnings are what is said of the object, in this order.
		Errors, Warnings []string
		// Becomes is a merge patch that does not change the object after it was defaulted and prepared.
		Becomes json.RawMessage
		// Row is a part of the cells, by the names of their columns.
		Row map[string]string
	}
}

// TestChanges does what the files say: objects are defaulted, prepared and checked as the API server does it.
func TestChanges(t *testing.T) {
	set, err := NewSet(Builtin()...)
	require.NoError(t, err)
	files, err := filepath.Glob("testdata/core/*.yaml")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, name := range files {
		text, err := os.ReadFile(name)
		require.NoError(t, err)
		var f changeFile
		require.NoError(t, yaml.UnmarshalStrict(text, &f), name)
		for _, c := range f.Cases {
			t.Run(strings.TrimSuffix(filepath.Base(name), ".yaml")+"/"+c.Name, func(t *testing.T) {
				base := f.Base
				if c.Base != nil {
					base = c.Base
				}
				text := patched(t, base, c.Object)
				var meta metav1.TypeMeta
				require.NoError(t, json.Unmarshal(text, &meta))
				k := set.ByKind(schema.FromAPIVersionAndKind(meta.APIVersion, meta.Kind))
				require.NotNil(t, k, "%v", meta)
				o := decoded(t, k, text)
				var old Object
				if c.Was != nil {
					old = decoded(t, k, patched(t, text, c.Was))
					prepareNew(k, old)
				}
				errs := process(k, o, old, c.Status)
				requireLines(t, c.Errors, messages(errs))
				if k.Warnings != nil && len(errs) == 0 {
					requireLines(t, c.Warnings, k.Warnings(o, old))
				}
				if c.Becomes != nil {
					now, err := json.Marshal(o)
					require.NoError(t, err)
					require.JSONEq(t, string(patched(t, now, c.Becomes)), string(now))
				}
				requireRow(t, k, o, c.Row)
			})
		}
	}
}

var testTime = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// process does with an object what a request does. old is nil at a creation.
func process(k *Kind, o, old Object, status bool) field.ErrorList {
	if old == nil {
		prepareNew(k, o)
		if k.Validate == nil {
			return nil
		}
		return k.Validate(o)
	}
	if k.Default != nil {
		k.Default(o)
	}
	var errs field.ErrorList
	if status {
		if k.Spec != nil {
			k.Spec.Copy(o, old)
		}
		if k.UpdateStatus != nil {
			k.UpdateStatus(o, old)
		}
		if k.Stamp != nil {
			k.Stamp(o, old, metav1.NewTime(testTime))
		}
		return k.ValidateStatus(o, old)
	}
	if k.Status != nil {
		k.Status.Copy(o, old)
	}
	if k.Update != nil {
		k.Update(o, old)
	}
	if k.Validate != nil && !k.Ratchets {
		errs = k.Validate(o)
	}
	if k.ValidateUpdate != nil {
		errs = append(errs, k.ValidateUpdate(o, old)...)
	}
	return errs
}

// prepareNew prepares a new object, but leaves it its status, which tests may need.
func prepareNew(k *Kind, o Object) {
	if k.Default != nil {
		k.Default(o)
		again := o.DeepCopyObject().(Object)
		k.Default(again)
		if a, _ := json.Marshal(again); string(a) != toJSON(o) {
			panic("defaulting twice changes " + k.Kind)
		}
	}
	if k.Create != nil {
		k.Create(o)
	}
}

func toJSON(o any) string {
	b, err := json.Marshal(o)
	if err != nil {
		panic(err)
	}
	return string(b)
}

func patched(t *testing.T, text, patch []byte) []byte {
	if patch == nil {
		return text
	}
	text, err := jsonpatch.MergePatch(text, patch)
	require.NoError(t, err)
	return text
}

func decoded(t *testing.T, k *Kind, text []byte) Object {
	o := k.New()
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	require.NoError(t, d.Decode(o), "%s", text)
	return o
}

func messages(errs field.ErrorList) []string {
	var all []string
	for _, e := range errs {
		all = append(all, e.Error())
	}
	return all
}

// requireLines compares texts, of which those that are expected may end with "..." where the rest does not matter.
func requireLines(t *testing.T, want, got []string) {
	t.Helper()
	for i := range min(len(want), len(got)) {
		if prefix, cut := strings.CutSuffix(want[i], "..."); cut && strings.HasPrefix(got[i], prefix) {
			got[i] = want[i]
		}
	}
	require.Equal(t, strings.Join(want, "\n"), strings.Join(got, "\n"))
}

func requireRow(t *testing.T, k *Kind, o Object, want map[string]string) {
	t.Helper()
	if len(want) == 0 {
		return
	}
	cells := k.Row(o, testTime)
	require.Len(t, cells, len(k.Columns))
	got := map[string]string{}
	for i, c := range k.Columns {
		if _, ok := want[c.Name]; ok {
			got[c.Name] = fmt.Sprint(cells[i])
		}
	}
	require.Equal(t, want, got)
}
