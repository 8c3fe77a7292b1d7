package images

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/keelson-io/keelson/internal/testkit"
)

// manyFiles is a layer of small files, as those of languages with packages are.
func manyFiles(n int) content {
	c := content{}
	for i := range n {
		c[fmt.Sprintf("usr/lib/d%d/", i%100)] = nil
		c[fmt.Sprintf("usr/lib/d%d/f%d", i%100, i)] = text(fmt.Sprintf("file %d\n", i))
	}
	return c
}

// BenchmarkMount is a mount of an image of ten layers and its end: what a container costs beside its processes.
func BenchmarkMount(b *testing.B) {
	testkit.Root(b)
	s := open(b, Config{})
	var layers []content
	for i := range 10 {
		layers = append(layers, content{"d/": nil, fmt.Sprintf("d/f%d", i): text("x")})
	}
	ref := have(b, s, "ten:v1", layers...)
	for _, readOnly := range []bool{false, true} {
		b.Run(map[bool]string{false: "writable", true: "readonly"}[readOnly], func(b *testing.B) {
			target := filepath.Join(b.TempDir(), "target")
			for b.Loop() {
				require.NoError(b, s.Mount(context.Background(), MountRequest{Key: "k", Image: ref, Target: target, ReadOnly: readOnly}))
				require.NoError(b, s.Unmount("k"))
			}
		})
	}
	b.Run("again", func(b *testing.B) { // as after a restart of the agent
		req := MountRequest{Key: "k", Image: ref, Target: filepath.Join(b.TempDir(), "target")}
		require.NoError(b, s.Mount(context.Background(), req))
		for b.Loop() {
			require.NoError(b, s.Mount(context.Background(), req))
		}
		require.NoError(b, s.Unmount("k"))
	})
}

// BenchmarkUnpack is the first mount of an image that was pulled without being unpacked: a layer of two thousand files, and one of
// 32 MiB.
func BenchmarkUnpack(b *testing.B) {
	testkit.Root(b)
	for name, layer := range map[string]content{"files": manyFiles(2000), "bytes": {"big": make([]byte, 32<<20)}} {
		b.Run(name, func(b *testing.B) {
			s := open(b, Config{})
			ref := have(b, s, "big:v1", layer)
			if name == "bytes" {
				b.SetBytes(int64(len(layer["big"])))
			}
			for b.Loop() {
				b.StopTimer()
				for _, key := range held(b, s, layersDir) {
					if key != emptyLayer {
						require.NoError(b, os.RemoveAll(filepath.Join(s.dir, layersDir, key)))
					}
				}
				b.StartTimer()
				require.NoError(b, s.Mount(context.Background(), MountRequest{Key: "k", Image: ref, Target: filepath.Join(b.TempDir(), "target")}))
				b.StopTimer()
				require.NoError(b, s.Unmount("k"))
				b.StartTimer()
			}
		})
	}
}
