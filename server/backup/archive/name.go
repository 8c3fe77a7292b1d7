package archive

import (
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

const (
	chainsDir  = "chains/"
	baseSuffix = ".db.zst"
	segSuffix  = ".seg"
)

// Base is a snapshot of the database, as its name describes it.
type Base struct {
	Chain       string
	Index, Term uint64    // of the last entry in it
	Revision    int64     // of the store
	Time        time.Time // when it was received: nothing in it happened later
	Sum         [32]byte  // SHA-256 of the database
	Size        int64     // in bytes, of the object
}

// Segment is a run of entries, as its name describes it.
type Segment struct {
	Chain         string
	First, Last   uint64 // indexes of entries
	Before, After int64  // revisions before the first and after the last entry, 0: not known
	From, To      time.Time
	Sum           [32]byte // SHA-256 of the object
	Size          int64    // in bytes, of the object
}

// Name is the name of the object.
func (b *Base) Name() string {
	return fmt.Sprintf("%s%s/base-%016x-%016x-%d-%d-%x%s", chainsDir, b.Chain, b.Index, b.Term, b.Revision, b.Time.UnixMilli(), b.Sum, baseSuffix)
}

// Name is the name of the object.
func (s *Segment) Name() string {
	return fmt.Sprintf("%s%s/log-%016x-%016x-%d-%d-%d-%d-%x%s", chainsDir, s.Chain, s.First, s.Last, s.Before, s.After,
		s.From.UnixMilli(), s.To.UnixMilli(), s.Sum, segSuffix)
}

// NewChain names a chain that begins now.
func NewChain(now time.Time, cluster, random uint64) string {
	return fmt.Sprintf("%s-%016x-%08x", now.UTC().Format("20060102T150405Z"), cluster, uint32(random))
}

// errForeign is what an object has that is no part of an archive.
var errForeign = errors.New("not a part of an archive")

// parseName reads the name of a base or a segment.
func parseName(name string, size int64) (b *Base, s *Segment, err error) {
	chain, rest, ok := strings.Cut(strings.TrimPrefix(name, chainsDir), "/")
	if !ok || !strings.HasPrefix(name, chainsDir) {
		return nil, nil, errForeign
	}
	f := fields{parts: strings.Split(rest, "-")}
	switch {
	case len(f.parts) == 6 && f.parts[0] == "base" && strings.HasSuffix(rest, baseSuffix):
		b = &Base{Chain: chain, Index: f.hex(1), Term: f.hex(2), Revision: f.number(3), Time: f.time(4), Sum: f.sum(5, baseSuffix), Size: size}
		if f.err == nil && b.Name() == name {
			return b, nil, nil
		}
	case len(f.parts) == 8 && f.parts[0] == "log" && strings.HasSuffix(rest, segSuffix):
		s = &Segment{
			Chain: chain, First: f.hex(1), Last: f.hex(2), Before: f.number(3), After: f.number(4), From: f.time(5), To: f.time(6),
			Sum: f.sum(7, segSuffix), Size: size,
		}
		if f.err == nil && s.First <= s.Last && s.First > 0 && s.Name() == name {
			return nil, s, nil
		}
	}
	return nil, nil, errForeign
}

// fields reads the parts of a name.
type fields struct {
	parts []string
	err   error
}

func (f *fields) hex(i int) uint64 {
	n, err := strconv.ParseUint(f.parts[i], 16, 64)
	f.err = errors.Join(f.err, err)
	return n
}

func (f *fields) number(i int) int64 {
	n, err := strconv.ParseUint(f.parts[i], 10, 63)
	f.err = errors.Join(f.err, err)
	return int64(n)
}

func (f *fields) time(i int) time.Time { return time.UnixMilli(f.number(i)) }

func (f *fields) sum(i int, suffix string) (sum [32]byte) {
	digits := strings.TrimSuffix(f.parts[i], suffix)
	if len(digits) != hex.EncodedLen(len(sum)) {
		f.err = errors.Join(f.err, errForeign)
		return sum
	}
	_, err := hex.Decode(sum[:], []byte(digits))
	f.err = errors.Join(f.err, err)
	return sum
}

// Milli is a time that a name can hold, given in Unix nanoseconds, and not earlier.
func Milli(ns int64) time.Time { return time.UnixMilli((ns + 999_999) / 1_000_000) }
