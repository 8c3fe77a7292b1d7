package utl

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/dustin/go-humanize"
	"github.com/olekukonko/tablewriter"
	"github.com/olekukonko/tablewriter/tw"
)

func formats() []string { return []string{"fields", "json", "protobuf", "simple", "table"} }

// checkFormat is called before the work, so that nobody waits for a result that cannot be printed.
func (u *utl) checkFormat() error {
	if !slices.Contains(formats(), u.format) {
		return exit(ExitBadFeature, errors.New("unsupported output format"))
	}
	return nil
}

// field is a named part of a result, in the forms that the output formats need.
type field struct {
	column string // its heading in a table
	cell   string
	name   string // in the format "fields"
	value  any
}

// result is what a command found out. Its JSON is that of the format "json".
type result interface{ fields() []field }

func (s Status) fields() []field {
	return []field{
		{"hash", fmt.Sprintf("%x", s.Hash), "Hash", s.Hash},
		{"revision", fmt.Sprint(s.Revision), "Revision", s.Revision},
		{"total keys", fmt.Sprint(s.TotalKey), "Keys", s.TotalKey},
		{"total size", humanize.Bytes(uint64(s.TotalSize)), "Size", s.TotalSize},
		{"version", s.Version, "Version", s.Version},
	}
}

func (h KVHash) fields() []field {
	return []field{
		{"hash", fmt.Sprint(h.Hash), "Hash", h.Hash},
		{"hash revision", fmt.Sprint(h.HashRevision), "Hash revision", h.HashRevision},
		{"compact revision", fmt.Sprint(h.CompactRevision), "Compact revision", h.CompactRevision},
	}
}

// print writes a result in the format that was asked for.
func (u *utl) print(r result) error {
	fields := r.fields()
	var header, row []string
	for _, f := range fields {
		header, row = append(header, f.column), append(row, f.cell)
	}
	switch u.format {
	case "simple":
		fmt.Fprintln(u.out, strings.Join(row, ", "))
	case "fields":
		for _, f := range fields {
			fmt.Fprintf(u.out, "%q : %v\n", f.name, f.value)
		}
	case "json":
		b, err := json.Marshal(r)
		if err != nil {
			return err
		}
		fmt.Fprintln(u.out, string(b))
	case "table":
		cfg := tablewriter.NewConfigBuilder().WithRowAlignment(tw.AlignRight).Build()
		t := tablewriter.NewTable(u.out, tablewriter.WithConfig(cfg))
		t.Header(header)
		if err := t.Append(row); err != nil {
			return err
		}
		return t.Render()
	default: // etcdutl has no message for these results either
		return exit(ExitBadFeature, fmt.Errorf("%s not supported as output format", u.format))
	}
	return nil
}
