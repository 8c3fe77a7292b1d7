package client

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestParseEndpoint(t *testing.T) {
	for ep, want := range map[string]address{
		"127.0.0.1:2379":          {"tcp", "127.0.0.1:2379", "127.0.0.1", securityOptional},
		"http://a.b:1":            {"tcp", "a.b:1", "a.b", securityNone},
		"https://[::1]:1":         {"tcp", "[::1]:1", "::1", securityRequired},
		"unix:rel/sock":           {"unix", "rel/sock", "sock", securityOptional},
		"unix:///abs/sock":        {"unix", "/abs/sock", "sock", securityOptional},
		"unixs://localhost:12345": {"unix", "localhost:12345", "localhost:12345", securityRequired},
	} {
		got, err := parseEndpoint(ep)
		require.NoError(t, err, ep)
		require.Equal(t, want, got, ep)
	}
}

func TestPrefixEnd(t *testing.T) {
	for in, want := range map[string]string{
		"a": "b", "a\xff": "b", "\xff\xff": "\x00", "": "\x00", "foo/": "foo0",
	} {
		require.Equal(t, want, PrefixEnd(in), "%q", in)
	}
}

func FuzzParseEndpoint(f *testing.F) {
	f.Add("http://x:1")
	f.Add("unix:///a")
	f.Fuzz(func(t *testing.T, ep string) {
		a, err := parseEndpoint(ep)
		if err == nil && a.addr == "" {
			t.Fatalf("%q: no address and no error", ep)
		}
	})
}
