package insight

import (
	"bytes"
	"slices"
	"strings"
)

const (
	// maxDepth is how many slashes a prefix has at most; one at the beginning of a key does not count.
	maxDepth = 6
	// maxLength bounds prefixes and keys that are remembered, in bytes.
	maxLength = 256
)

// ends appends where the prefixes of a key end. The prefix at place i has the depth i.
func ends(to []int, key []byte) []int {
	for at := 1; at < len(key) && len(to) < maxDepth; {
		i := bytes.IndexByte(key[at:], '/')
		if i < 0 || at+i >= maxLength {
			break
		}
		at += i + 1
		to = append(to, at)
	}
	return to
}

// isKey says whether a key is remembered as a whole.
func isKey(key []byte) bool { return len(key) > 0 && len(key) <= maxLength && key[len(key)-1] != '/' }

// span is the part of a range's first key that all keys of the range have in common, as a prefix.
func span(key, end []byte) []byte {
	n := 0
	for n < len(key) && n < len(end) && key[n] == end[n] {
		n++
	}
	if n < len(key) && len(end) == n+1 && end[n] == key[n]+1 {
		n++ // the range of a prefix
	}
	return key[:bytes.LastIndexByte(key[:n], '/')+1]
}

// within says whether a prefix, or a key if whole, is a part of another prefix.
func within(part, of string) bool { return len(part) > len(of) && strings.HasPrefix(part, of) }

// nearlyAll is how much of a prefix one of its parts must have to stand for it.
const nearlyAll = 0.9

// distinct leaves out prefixes that one of their parts stands for, of a list sorted by prefix.
func distinct[P any](sorted []P, prefix func(*P) string, weight func(*P) float64) []P {
	dull := make([]bool, len(sorted))
	var around []int // the prefixes that the present one is in
	for i := range sorted {
		for len(around) > 0 && !within(prefix(&sorted[i]), prefix(&sorted[around[len(around)-1]])) {
			around = around[:len(around)-1]
		}
		for _, a := range around {
			dull[a] = dull[a] || weight(&sorted[i]) >= nearlyAll*weight(&sorted[a])
		}
		around = append(around, i)
	}
	i := -1
	return slices.DeleteFunc(sorted, func(P) bool { i++; return dull[i] })
}
