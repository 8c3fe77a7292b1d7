package archive

import (
	"context"
	"time"

	"github.com/keelson-io/keelson/server/backup/store"
)

// Policy says what of an archive is kept. What either field wants is kept; with neither everything is.
type Policy struct {
	For   time.Duration // every moment since so long ago can be restored; 0: no wish
	Bases int           // the latest so many bases, and what follows them; 0: no wish
}

// Any says whether anything may be deleted.
func (p Policy) Any() bool { return p.For > 0 || p.Bases > 0 }

// Expired returns the names of the objects that a policy lets go: bases first, oldest first, so that what is left at any moment
// promises nothing that is gone. The latest base stays, whatever the policy.
func (c *Catalog) Expired(p Policy, now time.Time) []string {
	if !p.Any() {
		return nil
	}
	first := c.firstKept(p, now)
	if first == nil {
		return nil
	}
	var bases, segments []string
	for _, chain := range c.Chains {
		older := chain.Name < first.Chain
		for _, b := range chain.Bases {
			if older || chain.Name == first.Chain && b.Index < first.Index {
				bases = append(bases, b.Name())
			}
		}
		for _, s := range chain.Segments {
			if older || chain.Name == first.Chain && s.Last <= first.Index {
				segments = append(segments, s.Name())
			}
		}
	}
	return append(bases, segments...)
}

// firstKept is the base from which on everything is kept, nil if there is no base at all.
func (c *Catalog) firstKept(p Policy, now time.Time) *Base {
	var all []*Base
	for _, chain := range c.Chains {
		all = append(all, chain.Bases...)
	}
	if len(all) == 0 {
		return nil
	}
	first := len(all) - 1
	if p.Bases > 0 {
		first = max(0, len(all)-p.Bases)
	}
	if p.For > 0 {
		since := now.Add(-p.For)
		for first > 0 && all[first].Time.After(since) {
			first--
		}
	}
	return all[first]
}

// Prune deletes what a policy lets go and returns the names.
func Prune(ctx context.Context, st store.Store, p Policy, now time.Time) ([]string, error) {
	cat, err := Read(ctx, st)
	if err != nil {
		return nil, err
	}
	names := cat.Expired(p, now)
	for i, name := range names {
		if err := st.Delete(ctx, name); err != nil {
			return names[:i], err
		}
	}
	return names, nil
}
