package kinds

import (
	"testing"

	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/api/meta"
)

// TestShape checks what must hold for every kind.
func TestShape(t *testing.T) {
	for _, k := range Builtin() {
		t.Run(k.Group+"/"+k.Kind, func(t *testing.T) {
			o := k.New()
			require.NotEmpty(t, k.Singular)
			require.True(t, meta.IsListType(k.NewList()))
			if k.Default != nil {
				k.Default(o)
				again := o.DeepCopyObject()
				k.Default(again.(Object))
				require.Equal(t, o, again, "defaulting twice")
			}
			if k.Fields != nil {
				fields := k.Fields(o)
				require.Len(t, fields, len(k.FieldNames))
				for _, f := range k.FieldNames {
					require.Contains(t, fields, f)
				}
			}
			if k.Validate != nil {
				k.Validate(o)
			}
			if k.Update != nil {
				k.Update(o, k.New())
			}
		})
	}
}
