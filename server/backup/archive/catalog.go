package archive

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/keelson-io/keelson/server/backup/store"
)

const (
	infoName = "archive.json"
	format   = 1
	maxInfo  = 64 << 10 // bytes of a JSON object
)

// Info is archive.json.
type Info struct {
	Format  int    `json:"format"`
	Cluster string `json:"cluster"` // id, hexadecimal
}

// Catalog is what an archive holds.
type Catalog struct {
	Chains  []*Chain // by age, the oldest first
	Foreign []string // objects that are no part of an archive
}

// Chain is one history.
type Chain struct {
	Name     string
	Bases    []*Base    // by index
	Segments []*Segment // by first index
}

// ReadInfo reads archive.json; store.ErrNotFound if there is no archive.
func ReadInfo(ctx context.Context, st store.Store) (Info, error) {
	var i Info
	err := readJSON(ctx, st, infoName, &i)
	if err == nil && i.Format != format {
		err = fmt.Errorf("%s: the archive has format %d: this program knows format %d", st, i.Format, format)
	}
	return i, err
}

// Found makes an archive of a cluster, or finds out whether the one that is there is of it.
func Found(ctx context.Context, st store.Store, cluster uint64) error {
	id := fmt.Sprintf("%x", cluster)
	have, err := ReadInfo(ctx, st)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return writeJSON(ctx, st, infoName, Info{format, id})
	case err != nil:
		return err
	case have.Cluster != id:
		return fmt.Errorf("%s is the archive of cluster %s, and the endpoints are of cluster %s: name another place", st, have.Cluster, id)
	}
	return nil
}

func readJSON(ctx context.Context, st store.Store, name string, v any) error {
	r, err := st.Get(ctx, name)
	if err != nil {
		return err
	}
	defer r.Close()
	b, err := io.ReadAll(io.LimitReader(r, maxInfo))
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("%s: %w", name, damaged("%v", err))
	}
	return nil
}

func writeJSON(ctx context.Context, st store.Store, name string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	b = append(b, '\n')
	return st.Put(ctx, name, strings.NewReader(string(b)), int64(len(b)))
}

// Read lists an archive. store.ErrNotFound: there is none.
func Read(ctx context.Context, st store.Store) (*Catalog, error) {
	if _, err := ReadInfo(ctx, st); errors.Is(err, store.ErrNotFound) {
		return nil, fmt.Errorf("%s: there is no archive: %w", st, store.ErrNotFound)
	} else if err != nil {
		return nil, err
	}
	objects, err := st.List(ctx, "")
	if err != nil {
		return nil, err
	}
	cat, chains := &Catalog{}, map[string]*Chain{}
	for _, o := range objects {
		if o.Name == infoName || o.Name == agentName {
			continue
		}
		b, s, err := parseName(o.Name, o.Size)
		if err != nil {
			cat.Foreign = append(cat.Foreign, o.Name)
			continue
		}
		name := ""
		if b != nil {
			name = b.Chain
		} else {
			name = s.Chain
		}
		c := chains[name]
		if c == nil {
			c = &Chain{Name: name}
			chains[name] = c
			cat.Chains = append(cat.Chains, c)
		}
		if b != nil {
			c.Bases = append(c.Bases, b)
		} else {
			c.Segments = append(c.Segments, s)
		}
	}
	slices.SortFunc(cat.Chains, func(a, b *Chain) int { return strings.Compare(a.Name, b.Name) })
	for _, c := range cat.Chains {
		slices.SortStableFunc(c.Bases, func(a, b *Base) int { return compare(a.Index, b.Index) })
		slices.SortStableFunc(c.Segments, func(a, b *Segment) int {
			if a.First != b.First {
				return compare(a.First, b.First)
			}
			return compare(b.Last, a.Last) // the longer one first
		})
	}
	return cat, nil
}

func compare(a, b uint64) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// Chain returns a chain by its name, nil if there is none.
func (c *Catalog) Chain(name string) *Chain {
	i := sort.Search(len(c.Chains), func(i int) bool { return c.Chains[i].Name >= name })
	if i < len(c.Chains) && c.Chains[i].Name == name {
		return c.Chains[i]
	}
	return nil
}

// Latest is the chain that began last, nil if there is none.
func (c *Catalog) Latest() *Chain {
	if len(c.Chains) == 0 {
		return nil
	}
	return c.Chains[len(c.Chains)-1]
}

// From returns the segments that hold the entries after an index without a gap, and the last entry that they reach.
func (c *Chain) From(index uint64) (segments []*Segment, last uint64) {
	last = index
	for _, s := range c.Segments {
		switch {
		case s.Last <= last:
			continue
		case s.First > last+1:
			return segments, last
		}
		segments = append(segments, s)
		last = s.Last
	}
	return segments, last
}

// Span is what of a chain can be restored: everything from the first base on up to the first gap.
type Span struct {
	Chain                    *Chain
	First                    *Base
	FirstRevision            int64
	LastRevision             int64 // 0: not known
	LastIndex                uint64
	Since, Until             time.Time
	Bases, Segments, Objects int
	Bytes                    int64
}

// Spans returns what can be restored of a chain. More than one: objects between them are missing.
func (c *Chain) Spans() []Span {
	var spans []Span
	for _, b := range c.Bases {
		if n := len(spans); n > 0 && b.Index <= spans[n-1].LastIndex {
			s := &spans[n-1]
			s.Bases++
			s.Bytes += b.Size
			continue
		}
		s := Span{Chain: c, First: b, FirstRevision: b.Revision, LastRevision: b.Revision, Since: b.Time, Until: b.Time, Bases: 1, Bytes: b.Size}
		segments, last := c.From(b.Index)
		s.LastIndex, s.Segments = last, len(segments)
		for _, seg := range segments {
			s.Bytes += seg.Size
			s.LastRevision, s.Until = seg.After, later(s.Until, seg.To)
		}
		spans = append(spans, s)
	}
	return spans
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
