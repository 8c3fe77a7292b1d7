package config

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestPrefixQuota(t *testing.T) {
	file := filepath.Join(t.TempDir(), "keelson.yaml")
	require.NoError(t, os.WriteFile(file, []byte("prefix-quota: [\"/a/=1MiB,10keys\", \"/b/=5keys\"]\n"), 0o600))
	for _, c := range []struct {
		name    string
		args    []string
		want    []PrefixQuota
		wantErr string
	}{
		{name: "none"},
		{name: "both bounds", args: []string{"--prefix-quota=/app1/=100MiB,10000keys"}, want: []PrefixQuota{{"/app1/", 100 << 20, 10000}}},
		{name: "several flags", args: []string{"--prefix-quota=/a/=1024", "--prefix-quota=/a/b=7keys"}, want: []PrefixQuota{{"/a/", 1024, 0}, {"/a/b", 0, 7}}},
		{name: "several in one", args: []string{"--prefix-quota=/a=b/=1KiB,2keys,/c/=3keys"}, want: []PrefixQuota{{"/a=b/", 1024, 2}, {"/c/", 0, 3}}},
		{name: "file", args: []string{"--config-file=" + file}, want: []PrefixQuota{{"/a/", 1 << 20, 10}, {"/b/", 0, 5}}},
		{name: "no prefix", args: []string{"--prefix-quota==1KiB"}, wantErr: "has not the form"},
		{name: "no bound", args: []string{"--prefix-quota=/a/"}, wantErr: "has not the form"},
		{name: "empty bound", args: []string{"--prefix-quota=/a/="}, wantErr: "is neither a size"},
		{name: "no size", args: []string{"--prefix-quota=/a/=many"}, wantErr: `"many" is neither a size`},
		{name: "nothing", args: []string{"--prefix-quota=/a/=0keys"}, wantErr: "is neither a size"},
		{name: "two sizes", args: []string{"--prefix-quota=/a/=1KiB,2KiB"}, wantErr: "two bounds of the same kind"},
		{name: "twice", args: []string{"--prefix-quota=/a/=1KiB", "--prefix-quota=/a/=2keys"}, wantErr: `"/a/" is given twice`},
		{name: "twice in one", args: []string{"--prefix-quota=/a/=1KiB,/a/=2keys"}, wantErr: `"/a/" is given twice`},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := Parse(c.args, nil)
			if c.wantErr != "" {
				require.ErrorContains(t, err, c.wantErr)
				return
			}
			require.NoError(t, err)
			require.Equal(t, c.want, got.Limits.Prefixes)
			again := []PrefixQuota(nil)
			require.NoError(t, prefixQuotas{&again}.Set(prefixQuotas{&got.Limits.Prefixes}.String()))
			require.Equal(t, c.want, again, "what is printed can be read")
		})
	}
}

// FuzzPrefixQuota reads anything; what it takes it prints, and takes again.
func FuzzPrefixQuota(f *testing.F) {
	for _, s := range []string{"/app1/=100MiB,10000keys", "/a=b/=1KiB,/c/=3keys", "=", "a=9223372036854775807keys", "a=8EiB"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		var once, twice []PrefixQuota
		if (prefixQuotas{&once}).Set(s) != nil {
			return
		}
		for _, q := range once {
			require.NotEmpty(t, q.Prefix)
			require.Positive(t, q.Bytes+q.Keys)
		}
		require.NoError(t, prefixQuotas{&twice}.Set(prefixQuotas{&once}.String()))
		require.Equal(t, once, twice)
	})
}
