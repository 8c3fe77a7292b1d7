package bench

import (
	"fmt"
	"math/rand/v2"
	"strings"
)

// Space is a set of keys with a common prefix and a common length, in order. They are one string, so that an operation gets
// its key without making it.
type Space struct {
	Prefix string
	Len    int
	width  int
	blob   string
}

// newSpace makes n keys. name gives what follows the prefix in the i-th, at the same length for all.
func newSpace(prefix string, n int, name func(i int) string) *Space {
	s := &Space{Prefix: prefix, Len: n}
	var b strings.Builder
	for i := range n {
		key := prefix + name(i)
		if i == 0 {
			s.width = len(key)
			b.Grow(s.width * n)
		} else if len(key) != s.width {
			panic(fmt.Sprintf("bench: key %q is not %d bytes long", key, s.width))
		}
		b.WriteString(key)
	}
	s.blob = b.String()
	return s
}

// plainSpace is the key space of most workloads.
func plainSpace(n int) *Space {
	return newSpace("bench/keys/", n, func(i int) string { return fmt.Sprintf("%010d", i) })
}

// Key is the i-th key.
func (s *Space) Key(i int) string { return s.blob[i*s.width : (i+1)*s.width] }

// Random is any key.
func (s *Space) Random(rng *rand.Rand) string { return s.Key(rng.IntN(s.Len)) }
