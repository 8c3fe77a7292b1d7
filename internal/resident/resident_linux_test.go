package resident

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func total(t *testing.T) (kilobytes int) {
	t.Helper()
	maps, err := executable()
	require.NoError(t, err)
	require.NotEmpty(t, maps)
	for _, m := range maps {
		require.Less(t, m.start, m.end)
		kilobytes += m.kilobytes
	}
	return kilobytes
}

// TestTrim gives back pages of the executable, and the program goes on.
func TestTrim(t *testing.T) {
	before := total(t)
	require.NoError(t, Trim())
	after := total(t)
	require.Positive(t, after, "what runs is there again")
	require.Less(t, after, before)
}
