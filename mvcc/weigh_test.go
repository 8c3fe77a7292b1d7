package mvcc

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestPrefixEnd(t *testing.T) {
	for prefix, want := range map[string]string{"a": "b", "a/": "a0", "a\xff": "b", "a\x7f": "a\x80", "é": "ê", "a\xfe\xff\xff": "a\xff"} {
		require.Equal(t, want, *PrefixEnd(prefix), "%q", prefix)
	}
	for _, prefix := range []string{"", "\xff", "\xff\xff"} {
		require.Nil(t, PrefixEnd(prefix), "%q", prefix)
	}
}
