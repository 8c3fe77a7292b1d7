package insight

import (
	"cmp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/keelson-io/keelson/mvcc"
)

// Row is all keys in their order, each as long as what is stored for it.
type Row interface {
	// Weigh counts the keys from one on up to another one (exclusive; nil: all), and sums up their bytes.
	Weigh(from string, to *string) (keys, bytes int64)
	// KeyAt returns the key at a place of the row, in bytes; false behind the last one.
	KeyAt(offset int64) (string, bool)
}

// Big is a prefix and what is in it.
type Big struct {
	Prefix      string
	Key         bool // it is a whole key
	Keys, Bytes int64
}

// looks is how many keys name candidates.
const looks = 512

// small is what is not worth telling, as the part of all bytes that it is.
const small = 200

// Biggest returns the prefixes with the most bytes, at most n. It finds all that have at least 1/100 of the bytes.
func Biggest(row Row, n int) []Big {
	var all []Big
	_, total := row.Weigh("", nil)
	for _, prefix := range candidates(row) {
		b := Big{Prefix: prefix, Key: isKey([]byte(prefix))}
		to := mvcc.PrefixEnd(prefix)
		if b.Key {
			next := prefix + "\x00"
			to = &next
		}
		if b.Keys, b.Bytes = row.Weigh(prefix, to); b.Bytes*small >= total {
			all = append(all, b)
		}
	}
	slices.SortFunc(all, func(a, b Big) int { return strings.Compare(a.Prefix, b.Prefix) })
	all = distinct(all, func(b *Big) string { return b.Prefix }, func(b *Big) float64 { return float64(b.Bytes) })
	slices.SortFunc(all, func(a, b Big) int {
		return cmp.Or(cmp.Compare(b.Bytes, a.Bytes), strings.Compare(a.Prefix, b.Prefix))
	})
	return all[:min(n, len(all))]
}

// candidates are prefixes, and whole keys, that were seen at two places at least.
func candidates(row Row) (all []string) {
	_, total := row.Weigh("", nil)
	seen := map[string]int{}
	var at []int
	for i := range int64(looks) {
		key, ok := row.KeyAt(total/looks*i + total%looks*i/looks)
		if !ok {
			break
		}
		at = ends(at[:0], []byte(key))
		for _, end := range at {
			seen[key[:end]]++
		}
		if isKey([]byte(key)) {
			seen[key]++
		}
	}
	for prefix, times := range seen {
		if times > 1 {
			all = append(all, prefix)
		}
	}
	return all
}

// keep is how long the answer of a Sizes is good for.
const keep = 5 * time.Second

// Sizes keeps what Biggest found for some seconds, so that many who ask cost no more than one.
type Sizes struct {
	mu   sync.Mutex
	at   time.Time
	most int
	list []Big
}

// Biggest returns the prefixes with the most bytes, at most n, and as of when.
func (s *Sizes) Biggest(now time.Time, n int, find func(n int) []Big) ([]Big, time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if age := now.Sub(s.at); age < 0 || age >= keep || n > s.most {
		s.list, s.most, s.at = find(n), n, now
	}
	return s.list[:min(n, len(s.list))], s.at
}
