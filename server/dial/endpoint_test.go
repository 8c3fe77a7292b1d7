package dial

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestParse(t *testing.T) {
	for _, c := range []struct {
		ep     string
		secure bool
		want   Endpoint
		target string
	}{
		{"a:1", false, Endpoint{"tcp", "a:1", false}, "dns:///a:1"},
		{" a:1", true, Endpoint{"tcp", "a:1", true}, "dns:///a:1"},
		{"http://a:1", true, Endpoint{"tcp", "a:1", false}, "dns:///a:1"},
		{"https://a:1/x", false, Endpoint{"tcp", "a:1", true}, "dns:///a:1"},
		{"unix:///tmp/s", false, Endpoint{"unix", "/tmp/s", false}, "unix:/tmp/s"},
		{"unix://s:0", true, Endpoint{"unix", "s:0", true}, "unix:s:0"},
		{"unixs:///tmp/s", false, Endpoint{"unix", "/tmp/s", true}, "unix:/tmp/s"},
	} {
		got := Parse(c.ep, c.secure)
		require.Equal(t, c.want, got, c.ep)
		require.Equal(t, c.target, got.Target())
	}
}
