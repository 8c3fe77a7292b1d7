package restore

import (
	"fmt"
	"time"

	"github.com/keelson-io/keelson/server/backup/archive"
)

// Target is a moment. The zero value is the latest.
type Target struct {
	Revision int64     // 0: by time
	Time     time.Time // zero: the latest
	Chain    string    // "": the latest chain that has the moment
}

// Plan is what a restore reads.
type Plan struct {
	Target
	Base     *archive.Base
	Segments []*archive.Segment // with the entries after the base, in order
	Notes    []string           // what the user should know
}

// Choose finds what a restore has to read.
func Choose(cat *archive.Catalog, t Target) (*Plan, error) {
	spans, err := spansOf(cat, t.Chain)
	if err != nil {
		return nil, err
	}
	if t.Revision < 0 {
		return nil, fmt.Errorf("there is no revision %d", t.Revision)
	}
	for i := len(spans) - 1; i >= 0; i-- {
		s := &spans[i]
		if !t.notBefore(s) {
			continue
		}
		if t.after(s) {
			if t.Revision > 0 || i < len(spans)-1 && t.Chain == "" {
				return nil, t.missing(spans, i)
			}
			return t.plan(s, fmt.Sprintf("the archive knows nothing after %s: what is restored is how it was then", stamp(s.Until))), nil
		}
		return t.plan(s), nil
	}
	return nil, fmt.Errorf("the archive begins with revision %d at %s: nothing before that can be restored", spans[0].FirstRevision, stamp(spans[0].Since))
}

// spansOf returns what can be restored, the oldest first.
func spansOf(cat *archive.Catalog, chain string) ([]archive.Span, error) {
	var spans []archive.Span
	for _, c := range cat.Chains {
		if chain == "" || c.Name == chain {
			spans = append(spans, c.Spans()...)
		}
	}
	switch {
	case len(spans) > 0:
		return spans, nil
	case chain != "":
		return nil, fmt.Errorf("the archive has no chain %q that can be restored", chain)
	}
	return nil, fmt.Errorf("the archive has no base yet: nothing can be restored")
}

// notBefore says whether the moment does not lie before a span.
func (t *Target) notBefore(s *archive.Span) bool {
	switch {
	case t.Revision > 0:
		return s.FirstRevision <= t.Revision
	case !t.Time.IsZero():
		return !s.Since.After(t.Time)
	}
	return true
}

// after says whether the moment lies behind a span, as far as that is known.
func (t *Target) after(s *archive.Span) bool {
	switch {
	case t.Revision > 0:
		return s.LastRevision > 0 && s.LastRevision < t.Revision
	case !t.Time.IsZero():
		return s.Until.Before(t.Time)
	}
	return false
}

// missing says that the moment lies behind span i.
func (t *Target) missing(spans []archive.Span, i int) error {
	s := &spans[i]
	what := fmt.Sprintf("revision %d", t.Revision)
	if t.Revision == 0 {
		what = stamp(t.Time)
	}
	if i == len(spans)-1 {
		return fmt.Errorf("%s is not in the archive: it ends with revision %d at %s", what, s.LastRevision, stamp(s.Until))
	}
	next := &spans[i+1]
	return fmt.Errorf("%s is in a gap of the archive: nothing is known between revision %d at %s (the end of chain %s) and revision %d at %s (chain %s)",
		what, s.LastRevision, stamp(s.Until), s.Chain.Name, next.FirstRevision, stamp(next.Since), next.Chain.Name)
}

// plan chooses the base that is nearest before the moment.
func (t *Target) plan(s *archive.Span, notes ...string) *Plan {
	p := &Plan{Target: *t, Base: s.First, Notes: notes}
	for _, b := range s.Chain.Bases {
		switch {
		case b.Index > s.LastIndex && b != s.First || b.Index < s.First.Index:
			continue
		case t.Revision > 0 && b.Revision >= t.Revision, !t.Time.IsZero() && t.Revision == 0 && b.Time.After(t.Time):
			continue // a base of the revision itself may have more than the moment of the revision
		case b.Index > p.Base.Index:
			p.Base = b
		}
	}
	if t.Revision > 0 && p.Base.Revision == t.Revision {
		p.Notes = append(p.Notes, "the archive begins with this revision: changes of leases, users and members shortly after it may be in it")
	}
	p.Segments, _ = s.Chain.From(p.Base.Index)
	return p
}

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000Z") }
