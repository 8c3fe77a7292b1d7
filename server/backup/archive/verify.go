package archive

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/keelson-io/keelson/server/backup/store"
)

// Report is what Verify found.
type Report struct {
	Objects  int
	Bytes    int64
	Problems []string // in words; none: all is as it was written
}

func (r *Report) problem(format string, args ...any) {
	r.Problems = append(r.Problems, fmt.Sprintf(format, args...))
}

// Verify reads everything back and checks it: checksums, contents against names, and that no entry is missing in a chain. An
// error means that it could not go on.
func Verify(ctx context.Context, st store.Store, cat *Catalog) (*Report, error) {
	info, err := ReadInfo(ctx, st)
	if err != nil {
		return nil, err
	}
	r := &Report{}
	for _, name := range cat.Foreign {
		r.problem("%s is no part of an archive", name)
	}
	for _, c := range cat.Chains {
		for _, b := range c.Bases {
			r.Objects, r.Bytes = r.Objects+1, r.Bytes+b.Size
			if err := CopyBase(ctx, st, b, io.Discard); err != nil {
				r.problem("%v", err)
			}
		}
		for _, s := range c.Segments {
			r.Objects, r.Bytes = r.Objects+1, r.Bytes+s.Size
			if err := verifySegment(ctx, st, s, info); err != nil {
				r.problem("%v", err)
			}
		}
		r.gaps(c)
		if err := ctx.Err(); err != nil {
			return nil, err
		}
	}
	return r, nil
}

func verifySegment(ctx context.Context, st store.Store, s *Segment, info Info) error {
	rd, err := OpenSegment(ctx, st, s)
	if err != nil {
		return err
	}
	defer rd.Close()
	if of := fmt.Sprintf("%x", rd.Head().ClusterId); of != info.Cluster {
		return fmt.Errorf("%s: it is of cluster %s", s.Name(), of)
	}
	for {
		switch _, err := rd.Next(); {
		case err == nil:
		case errors.Is(err, io.EOF) && rd.Tail().Index == s.Last:
			return nil
		case errors.Is(err, io.EOF):
			return fmt.Errorf("%s: %w", s.Name(), damaged("its last entry is %d", rd.Tail().Index))
		default:
			return fmt.Errorf("%s: %w", s.Name(), err)
		}
	}
}

// gaps finds the entries that a chain lacks.
func (r *Report) gaps(c *Chain) {
	if len(c.Segments) == 0 {
		return
	}
	last := c.Segments[0].First - 1
	for _, s := range c.Segments {
		if s.First > last+1 {
			r.problem("chain %s: the entries %d to %d are missing", c.Name, last+1, s.First-1)
		}
		last = max(last, s.Last)
	}
	for _, b := range c.Bases {
		if b.Index+1 < c.Segments[0].First {
			r.problem("chain %s: the entries %d to %d are missing, after the base of revision %d", c.Name, b.Index+1, c.Segments[0].First-1, b.Revision)
		}
	}
}
